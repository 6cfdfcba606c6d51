"""What `cxr score` prints: every file by its own name, within 80 columns, and a sentence for each error."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from app.cli import app
from app.score.cli import files_to_score, print_table, remark, threshold_words
from app.score.scorer import FileScore
from cxr.errors import SettingsError
from cxr.package import ModelPackage

RUNNER = CliRunner()


@pytest.fixture
def film(root: Path) -> Path:
    return root / "docs" / "example" / "frontal.dcm"


@pytest.fixture
def folder(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File names that are markup to a careless table, and a file that is no image."""
    monkeypatch.chdir(tmp_path)
    for name in ("films/[b]f[b].dcm", "films/a[/b].dcm", "films/IMG[a].dcm"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(film, target)
    (tmp_path / "films" / "notes.txt").write_text("no image\n")
    return tmp_path


def test_brackets_in_names_stay_and_a_folder_is_searched(folder: Path) -> None:
    done = RUNNER.invoke(app, ["score", "films/notes.txt", "films", "gone.dcm"], env={"COLUMNS": "80"})
    assert done.exit_code == 1, "one file is not there"
    for name in ("films/[b]f[b].dcm", "films/a[/b].dcm", "films/IMG[a].dcm"):
        assert name in done.stdout
    assert "below 0." in done.stdout
    assert "gone.dcm: The file can't be read: No such file or directory." in done.stdout.replace("\n", " ")
    assert "films/notes.txt: " in done.stdout, "named by itself it is told of; in the folder it was left out"
    assert done.stdout.count("notes.txt") == 2
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "no_gpu" not in done.stderr


def test_json_says_on_which_side_of_the_threshold(folder: Path) -> None:
    done = RUNNER.invoke(app, ["score", "films/IMG[a].dcm", "--json"])
    row = json.loads(done.stdout)
    assert row["at_or_above"] is (row["score"] >= row["threshold"])
    assert row["is_predicted"] is None, "sigmoid: there is no class that excludes the others"


@pytest.mark.parametrize("target", ["nowhere/overlay.png", "films"])
def test_an_overlay_that_can_not_be_written_is_refused_before_anything_is_scored(folder: Path, target: str) -> None:
    done = RUNNER.invoke(app, ["score", "films/IMG[a].dcm", "--overlay", target])
    assert isinstance(done.exception, SettingsError)
    assert target in str(done.exception)
    assert done.stdout == ""


def test_files_of_a_folder_are_chosen_by_their_first_bytes(tmp_path: Path) -> None:
    for name, start in {
        "a.png": b"\x89PNG\r\n\x1a\n",
        "b": b"\xff\xd8\xff",
        "c": bytes(128) + b"DICM",
        "d": b"text",
    }.items():
        (tmp_path / name).write_bytes(start)
    assert [path.name for path in files_to_score([tmp_path])] == ["a.png", "b", "c"]
    assert [path.name for path in files_to_score([tmp_path / "d"])] == ["d"]


def row(**values: object) -> FileScore:
    return FileScore(**({"file": "f", "view": "frontal", "reason": "view_position_frontal"} | values))  # type: ignore[arg-type]


def test_remarks_say_why_and_what_to_do() -> None:
    assert remark(row(score=0.5, warnings=("inverted",))) == "inverted"
    assert remark(row(score=0.5, is_predicted=True)) == "predicted class"
    assert remark(row(view="lateral", reason="view_position_lateral")) == (
        "not scored: view_position_lateral, --any-view scores it"
    )
    assert remark(row(error_code="damaged_pixels")) == "damaged_pixels"
    assert threshold_words(row(threshold=0.25, at_or_above=True)) == ">= 0.2500"
    assert threshold_words(row(threshold=0.25, at_or_above=False)) == "below 0.2500"
    assert threshold_words(row()) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_codes_are_not_broken_inside_a_word(width: int, tiny_package: Callable[..., ModelPackage]) -> None:
    stream = io.StringIO()
    long = "some/long/folder/with/many/parts/" * 3 + "film.dcm"
    rows = [row(file=long, finding="covid19", score=0.1, error_code=None), row(file="g", error_code="damaged_pixels")]
    print_table(rows, tiny_package(), Console(file=stream, width=width))
    assert "damaged_pixels" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= width
