"""What all pages have in common: links lead somewhere, commands and settings that they name exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from app.cli import app
from config.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
GLOBAL = {"--config", "--set", "--help"}

pytestmark = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in LINK.findall(text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text()), target


def commands_in(text: str) -> Iterator[str]:
    """Every command line of ours that a page gives, in a block or between marks."""
    for language, block in BLOCK.findall(text):
        if language in ("sh", "bash", "shell", "console"):
            for line in block.splitlines():
                code = re.sub(r"(^|\s)#.*", "", line)
                found = re.search(r"(?:^|\s|\$ |/bin/)(cxr (?!-listener|/).*)", code)
                if found:
                    yield found[1]
    without_blocks = BLOCK.sub("", text)
    yield from (span for span in SPAN.findall(without_blocks) if span.startswith("cxr "))


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """Follow the words of a command line to typer's object; return what is left of them."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "list_commands"):
        while rest and rest[0] in ("--config", "--set"):
            rest = rest[2:]
        if not rest or rest[0].startswith("-") or not rest[0].islower():
            return None, rest
        found = command.get_command(None, rest[0])
        assert found is not None, f"there is no {' '.join(words)}"
        command, rest = found, rest[1:]
    return command, rest


def test_commands_exist(path: Path) -> None:
    for line in commands_in(path.read_text()):
        words = shlex.split(re.split(r"\s(?:&&|\||>|2>)\s", line.replace("…", "FILE"))[0])
        if any("|" in word for word in words[:3]):
            continue  # a list of verbs, as in "cxr db upgrade|check"
        command, rest = verb_of(words)
        if command is None:
            continue  # a group, or the command itself
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known | GLOBAL, line


def settings_in(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield f"{above}{name}"
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings_in(inner, f"{above}{name}.")


def test_settings_exist(path: Path) -> None:
    known = set(settings_in(Settings))
    sections = [name for name in known if "." not in name and f"{name}." in " ".join(known)]
    pattern = re.compile(rf"(?:{'|'.join(sections)})(?:\.[a-z_]+)+")
    # A file's name, and a dotted name of Python, is no setting.
    named = {
        span.split(" = ")[0]
        for span in SPAN.findall(BLOCK.sub("", path.read_text()))
        if pattern.fullmatch(span.split(" = ")[0])
    }
    modules = {f"{file.parent.name}.{file.stem}" for file in ROOT.glob("*/*.py")}
    modules |= {f"{folder.parent.name}.{folder.name}" for folder in ROOT.glob("*/*") if folder.is_dir()}
    files = {name for name in named if name.endswith((".sqlite", ".heads", ".key", ".json"))}
    assert named - files - modules <= known


def test_settings_files_load(path: Path, tmp_path: Path) -> None:
    """Each TOML block of a page is a settings file, or part of one."""
    for language, block in BLOCK.findall(path.read_text()):
        if language == "toml":
            file = tmp_path / "cxr.toml"
            file.write_text(block)
            load_settings(file, environ={})
