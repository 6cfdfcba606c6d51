"""Layout of the help of every command."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from app.cli import app
from app.help_pages import join_lines

RUNNER = CliRunner()


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        yield (*path, name), command
        if hasattr(command, "list_commands"):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_paragraphs_have_one_line_and_examples_keep_theirs() -> None:
    text = "First\nline.\n\nSecond is cut, or\nnot.\n\nExample: cxr a \\\n    b"
    assert join_lines(text) == "First line.\n\nSecond is cut, or not.\n\nExample: cxr a \\\n    b"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_paragraph_is_broken_in_a_sentence(words: tuple[str, ...]) -> None:
    paragraphs = inspect.cleandoc(COMMANDS[words].help or "").split("\n\n")
    assert [each for each in paragraphs if "\n" in each and not each.startswith("Example:")] == []


@pytest.mark.parametrize("words", [(), ("send",), ("audit",), ("audit", "list"), ("model", "promote"), ("train",)])
def test_flags_have_no_type(words: tuple[str, ...]) -> None:
    done = RUNNER.invoke(app, [*words, "-h"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    assert "--help" in done.stdout
    assert "<bool>" not in done.stdout


def test_usage_repeats_an_argument_once() -> None:
    repeated = [
        (words, parameter.metavar)
        for words, command in COMMANDS.items()
        for parameter in command.params
        if parameter.param_type_name == "argument" and "..." in (parameter.metavar or "")
    ]
    assert repeated == []
    assert "{PATH}..." in RUNNER.invoke(app, ["send", "-h"]).stdout
    assert "[ID]..." in RUNNER.invoke(app, ["jobs", "release", "-h"]).stdout
