"""``cxr rebuild`` by hand: settings that allow none are refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from cxr.errors import SettingsError

RUNNER = CliRunner()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "rebuild.labels, rebuild.manifest: neither is set"),
        (["labels=here.csv", "manifest=here.csv"], "rebuild.labels, rebuild.manifest: both are set"),
        (["labels=absent.csv"], "rebuild.labels: absent.csv is not a file"),
        (["manifest=."], "rebuild.manifest: . is not a file"),
        (["labels=here.csv", "images=absent"], "rebuild.images: absent is not a folder"),
        (["labels=here.csv", "start=here.csv"], "rebuild.start: here.csv is not a folder"),
        (["labels=here.csv", "recipe=absent"], "rebuild.recipe, rebuild.overrides: There is no such recipe"),
    ],
)
def test_a_rebuild_without_usable_settings_is_a_settings_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.csv").touch()
    options = [word for setting in settings for word in ("--set", f"rebuild.{setting}")]
    done = RUNNER.invoke(app, [*options, "rebuild"])
    assert isinstance(done.exception, SettingsError)  # `app.cli.main` prints it and exits with 2
    assert message in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["here.csv"]
