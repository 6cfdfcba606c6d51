"""The command explains itself, and docs/commands.md says the same."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from app.cli import app

# DESIGN section 3, as far as the service needs them; more verbs are welcome.
NEEDED = {
    *("cxr serve", "cxr listen", "cxr work", "cxr send", "cxr score"),
    *(f"cxr audit {verb}" for verb in ("list", "show", "export", "verify", "snapshot")),
    *(f"cxr jobs {verb}" for verb in ("list", "requeue", "release", "purge")),
    *(f"cxr model {verb}" for verb in ("list", "show", "promote", "rollback", "build-untrained")),
    *(f"cxr db {verb}" for verb in ("upgrade", "check", "backup")),
    *(f"cxr config {verb}" for verb in ("show", "check", "example")),
}


def walk(group: Any, path: str = "cxr") -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from walk(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


VERBS = dict(walk(typer.main.get_command(app)))


def test_every_verb_of_the_design_exists() -> None:
    assert set(VERBS) >= NEEDED


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does_with_an_example_that_exists(verb: str) -> None:
    command = VERBS[verb]
    said, found, example = f"{command.help or ''}\n{command.epilog or ''}".partition("Example:")
    assert said.strip()
    assert found
    words = shlex.split(example.strip().splitlines()[0])
    assert [part for part in verb.split() if part not in words] == [], "the example is of another verb"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known | {"--config", "--set"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_does(verb: str) -> None:
    silent = [p.name for p in VERBS[verb].params if not p.hidden and not p.help]
    assert silent == []


def test_the_pages_are_what_the_code_says(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_verb_and_option_stands_on_the_page(root: Path) -> None:
    """Apart from the generator: it can't leave out what it does not know."""
    text = (root / "docs" / "commands.md").read_text()
    sections = {part.split("`", 1)[0]: part for part in text.split("\n## `")[1:]}
    for verb, command in VERBS.items():
        for parameter in command.params:
            is_everywhere = (
                parameter.opts[0] in ("--config", "--set", "--data-dir") and parameter.opts[0] in sections["cxr"]
            )
            if parameter.param_type_name == "option" and not parameter.hidden and not is_everywhere:
                assert f"`{parameter.opts[0]}`" in sections[verb]
    assert set(sections) == set(VERBS) | {"cxr"}
