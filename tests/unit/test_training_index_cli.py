from __future__ import annotations

import csv
import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from training.cases import read_manifest
from training.cli.index import ADAPTERS

run = CliRunner().invoke


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["path,label,patient_id,site,acquired_on"]
    for number in range(20):
        (folder / f"{number}.png").touch()
        month, site = number % 10 + 1, ("north", "south")[number % 2]
        lines.append(f"{number}.png,{('normal', 'covid19')[number % 2]},p{number},{site},2020-{month:02}-01")
    (folder / "list.csv").write_text("\n".join([*lines, "gone.png,normal,p99,north,"]) + "\n")
    return folder


def test_index_writes_manifest_and_rejections_and_counts_both(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.csv"
    done = run(app, ["train", "index", "csv", str(data), "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["patients"], summary["rejected"]) == (20, 20, 1)
    assert summary["by"]["label"] == {"normal": 10, "covid19": 10}
    assert summary["rejected_by"] == {"no_file": 1}
    cases = read_manifest(out)
    assert cases.loc[0, "path"] == "data/0.png"  # below the manifest's folder: both can move
    with (tmp_path / "manifest.rejected.csv").open() as stream:
        assert list(csv.reader(stream)) == [
            ["source_file", "line", "reason", "meaning"],
            ["list.csv", "22", "no_file", "The image that the line names is not there."],
        ]


def test_index_shows_tables_of_what_was_taken_and_left_out(data: Path, tmp_path: Path) -> None:
    done = run(app, ["train", "index", "csv", str(data), "-o", str(tmp_path / "m.csv")])
    assert done.exit_code == 0
    for text in ("20 images of 20 known patients", "covid19", "unknown", "list", "1 left out", "no_file"):
        assert text in done.stdout


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_has_a_command_with_help_for_each_option(name: str) -> None:
    done = run(app, ["train", "index", name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    assert f"Example: cxr train index {name} FOLDER -o manifest.csv" in done.output
    adapter = import_module(f"training.adapters.{ADAPTERS[name][0]}").index
    for option in set(inspect.signature(adapter).parameters) - {"root", "watch"}:
        assert f"--{option.replace('_', '-')}" in done.output


def test_a_folder_that_can_not_be_used_ends_with_words_and_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "train", "index", "chexpert", str(tmp_path), "-o", str(tmp_path / "m.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "looked for train.csv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.csv").exists()


def test_listing_verbs_loads_no_table_library() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from app.cli import app; "
        "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0; "
        "print(sorted({'pandas', 'tensorflow', 'keras', 'sklearn', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_split_divides_the_manifest_in_place_and_counts(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.csv"
    run(app, ["train", "index", "csv", str(data), "-o", str(out)])
    done = run(app, ["train", "split", str(out), "--fractions", "0.6,0.2,0.2", "--json"])
    assert done.exit_code == 0, done.output
    sides = {row["side"]: row["images"] for row in json.loads(done.stdout)["sides"]}
    assert sides == {"train": 12, "val": 4, "test": 4}
    assert read_manifest(out)["split"].value_counts().to_dict() == sides
    assert read_manifest(out).loc[0, "path"] == "data/0.png"


def test_split_by_time_by_site_and_for_every_site(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.csv"
    run(app, ["train", "index", "csv", str(data), "-o", str(out)])
    newest = tmp_path / "elsewhere" / "newest.csv"
    done = run(app, ["train", "split", str(out), "-o", str(newest), "--by", "temporal", "--test-from", "2020-09"])
    assert done.exit_code == 0, done.output
    cases = read_manifest(newest)
    assert set(cases.loc[cases["split"] == "test", "acquired_on"]) == {"2020-09-01", "2020-10-01"}
    assert cases.loc[0, "path"] == str(data / "0.png")  # the manifest moved, the images did not
    done = run(app, ["train", "split", str(out), "--every-site"])
    assert done.exit_code == 0, done.output
    for site in ("north", "south"):
        cases = read_manifest(tmp_path / f"manifest.{site}.csv")
        assert set(cases.loc[cases["split"] == "test", "site"]) == {site}


def test_split_says_what_is_wrong(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest.csv"
    run(app, ["train", "index", "csv", str(data), "-o", str(out)])
    assert run(app, ["train", "split", str(out), "--fractions", "half"]).exit_code == 2
    done = run(app, ["train", "split", str(out), "--by", "site", "--site", "east"])
    assert done.exit_code == 1
    assert "accepted are north, south" in str(done.exception)
