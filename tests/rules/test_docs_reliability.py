"""docs/reliability.md: each promise has a command that a reader can run, and what it names exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECTIONS = (
    *("Crash", "Full disk, read-only disk, failing fsync, locked database", "The PACS is away"),
    *("Hostile and broken input", "Access", "Privacy", "Audit", "Time", "Storage Commitment"),
)
SPAN = re.compile(r"`([^`]+)`")


@pytest.fixture
def rows(page: Callable[[str], Any]) -> list[tuple[str, list[list[str]]]]:
    tables = page("reliability.md").tables
    assert set(tables) >= set(SECTIONS), "every part of the promises has its table"
    return list(tables.items())


def named_tests(path: Path) -> set[str]:
    """Names that ``pytest -k`` finds in a file, lower case."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    # Hypothesis' stateful tests are assigned: TestLife = Life.TestCase
    names |= {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {name.lower() for name in names if name.lower().startswith("test")}


def files_of(root: Path, words: list[str]) -> list[list[Path]]:
    """The test files that each path among the words stands for."""
    paths = [root / word for word in words if word.startswith("tests/")]
    assert paths, "it names what it runs"
    found = [sorted(path.rglob("test_*.py")) if path.is_dir() else [path] for path in paths]
    assert [path for group in found for path in group if not path.is_file()] == []
    return found


def check_selection(groups: list[list[Path]], selection: str) -> None:
    """Every word selects a test, and every path has one that is selected."""
    words = [word.lower() for word in selection.split(" or ")]
    names = [set().union(*map(named_tests, group)) for group in groups]
    assert [word for word in words if not any(word in name for group in names for name in group)] == []
    assert all(any(word in name for name in group for word in words) for group in names)


def test_each_promise_says_how_how_often_and_with_what_result(rows: list[tuple[str, list[list[str]]]]) -> None:
    assert [(section, row) for section, table in rows for row in table if len(row) != 5 or not all(row)] == []


def test_each_command_names_what_exists(root: Path, rows: list[tuple[str, list[list[str]]]]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for section, table in rows:
        groups: list[list[Path]] = []
        for row in table:
            commands = [shlex.split(span) for span in SPAN.findall(row[4])]
            assert commands or row[4].startswith("the same"), (section, row[4])
            for words in commands:
                if words[0] == "make":
                    assert words[1] in targets, words
                    continue
                if words[0] == "pytest":
                    groups = files_of(root, words)
                else:  # "the same, `-k ...`"
                    assert words[0] in {"-k", "-m"}, words
                    assert groups, words
                if "-k" in words:
                    check_selection(groups, words[words.index("-k") + 1])
                if "-m" in words:
                    assert words[words.index("-m") + 1] in {"long", "soak"}, words


def test_every_page_of_tests_of_bad_days_is_named(root: Path, rows: list[tuple[str, list[list[str]]]]) -> None:
    """What stands in tests/hostile, and the e2e tests of kills, can't be forgotten on the page."""
    commands = " ".join(row[4] for _, table in rows for row in table)
    files = [*(root / "tests" / "hostile").glob("test_*.py"), *(root / "tests" / "e2e").glob("test_*kill*.py")]
    assert [path.name for path in files if str(path.relative_to(root)) not in commands] == []
