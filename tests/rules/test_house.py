"""The plan of the house: its page names files that exist, no folder is crowded, no file name stands for two things."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOMS = ("app", "config", "cxr", "db", "inference", "listener", "training")
MOST_MODULES = 20
MIGRATIONS = Path("db/migrations/versions")  # one file for each change of the schema

REPEATED = {
    "app": {},
    "db": {
        "operator_actions.py": "jobs and deliveries: the same commands on either",
        "states.py": "jobs and deliveries: one state machine each",
    },
    "training": {
        "curves.py": "metrics computes what plots draws",
        "loop.py": "runs and lung_masks: one training loop each",
        "network.py": "the classifier and the view model",
        "train.py": "runs, lung_masks and view_model: one training each",
    },
}
"""File names that sibling wings repeat on purpose, with the reason; a command's file is named like its verb."""


def modules(root: Path, room: str) -> list[Path]:
    paths = (path.relative_to(root) for path in (root / room).rglob("*.py"))
    return sorted(path for path in paths if path.name not in {"__init__.py", "__main__.py"})


def test_the_architecture_page_names_files_that_exist(root: Path) -> None:
    text = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", text))
    assert len(named) > 40
    assert sorted(each for each in named if not (root / each).exists()) == []


def test_the_architecture_page_has_every_wing(root: Path) -> None:
    text = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    wings = {path.parent for room in ROOMS for path in modules(root, room) if len(path.parts) > 2}
    assert sorted(f"{wing}/" for wing in wings - {MIGRATIONS} if f"`{wing}/`" not in text) == []


@pytest.mark.parametrize("room", ROOMS)
def test_no_folder_is_crowded(root: Path, room: str) -> None:
    counts: dict[Path, int] = defaultdict(int)
    for path in modules(root, room):
        counts[path.parent] += path.parent != MIGRATIONS
    assert {str(folder): count for folder, count in counts.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_a_file_name_stands_for_one_thing(root: Path, room: str) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules(root, room):
        if path.parent.name != "cli" and path.name != "cli.py":
            places[path.name].append(str(path.parent))
    repeated = {name: folders for name, folders in places.items() if len(folders) > 1}
    assert repeated.keys() == REPEATED.get(room, {}).keys(), repeated


def test_functions_of_db_take_the_session_or_the_database_first(root: Path) -> None:
    misplaced = []
    for path in modules(root, "db"):
        for node in ast.parse((root / path).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and path.parent != MIGRATIONS:
                names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                misplaced += [f"{path}: {node.name}" for name in ("session", "database") if name in names[1:]]
    assert misplaced == []
