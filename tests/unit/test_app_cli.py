"""The command itself: help, version, and the settings' options before and after the verb."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app

RUNNER = CliRunner()


def test_without_arguments_it_prints_help() -> None:
    done = RUNNER.invoke(app, [])
    assert done.exit_code == 0
    assert "Usage" in done.stdout
    assert "serve" in done.stdout


@pytest.mark.parametrize("arguments", [["-h"], ["serve", "-h"], ["audit", "-h"], ["audit", "list", "-h"]])
def test_short_help_works_at_every_level(arguments: list[str]) -> None:
    done = RUNNER.invoke(app, arguments)
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_version() -> None:
    done = RUNNER.invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.stdout.startswith("cxr-listener ")


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [["--config", "site.toml"], ["--config=site.toml"], ["--set", "listener.port=10404"]],
    ids=["config", "config=", "set"],
)
def test_settings_options_are_taken_before_and_after_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], place: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text("[listener]\nport = 10404\n")
    verb = ["config", "show", "--json"]
    done = RUNNER.invoke(app, [*verb[:place], *options, *verb[place:]])
    assert done.exit_code == 0, done.stderr
    assert '"port": 10404' in done.stdout


def test_the_later_option_overrides_and_the_data_folder_is_an_option_of_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, after = ["--set", "data_dir=first", "--set", "listener.port=1"], ["--set", "listener.port=2"]
    done = RUNNER.invoke(app, [*before, "config", "show", "--json", "--data-dir", "second", *after])
    assert '"data_dir": "second"' in done.stdout
    assert '"port": 2,' in done.stdout


def test_training_keeps_its_own_override() -> None:
    """`cxr train … --set` changes the recipe; the settings' stands before the verb."""
    done = RUNNER.invoke(app, ["train", "finetune", "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "stages.0.epochs" in done.stdout
    assert "listener.port" not in done.stdout
    assert "--data-dir" in done.stdout


def test_completion_completes_verbs() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "cxr"],
        env={**os.environ, "_CXR_COMPLETE": "complete_bash", "COMP_WORDS": "cxr aud", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["audit"]
