"""The table of labels that a run prints before its first epoch; an unknown label stops the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from app.cli import app
from cxr.errors import RunError
from training.cases import complete, read_manifest, write_manifest
from training.inputs.label_table import LabelRow, describe, label_table, refuse_unknown_labels
from training.recipe import Task, load_recipe
from training.runs.train import pretrain

ONE = Task(classes=("covid19",))
TINY = ("network.architecture=tiny", "pixels.size=64", "weights.source=random", 'task.classes=["covid19"]',
        "stages.1.epochs=1", "split.fractions=[0.5,0.25,0.25]")  # fmt: skip


def manifest(labels: list[str], **columns: list[Any]) -> pd.DataFrame:
    names = [f"image{place}" for place in range(len(labels))]
    given = {"split": ["train"] * len(labels)} | columns
    return complete(pd.DataFrame({"image_id": names, "path": names, "patient_id": names, "label": labels, **given}))


def test_a_misspelt_label_is_named_with_its_count_and_what_may_be_meant() -> None:
    frame = manifest(["covid19"] * 2 + ["covd19"] * 3 + ["normal", ""])
    with pytest.raises(RunError, match=r"covd19 \(3 images; covid19 is meant\?\)"):
        refuse_unknown_labels(frame, ONE)
    named = manifest(["covid19", "normal", "negative", "lung_opacity", ""])
    refuse_unknown_labels(named, ONE)
    refuse_unknown_labels(named, Task(classes=("covid19",), negative=("normal",)))
    refuse_unknown_labels(frame.assign(label_covid19=1.0), Task(classes=("covid19",), from_columns=True))
    refuse_unknown_labels(frame.assign(view="L"), ONE)  # takes no part


@pytest.mark.parametrize(
    ("task", "meaning"),
    [
        ({"negative": ("*", "covd19")}, "not covid19"),
        ({"labels": {"covid19": ("covid19", "covd19")}}, "covid19"),
        ({"leave_out": ("covd19",)}, "left out: no class"),
    ],
)
def test_a_recipe_that_names_the_label_is_obeyed(task: dict[str, Any], meaning: str) -> None:
    frame = manifest(["covid19", "covd19"])
    wanted = Task(classes=("covid19",), **task)
    refuse_unknown_labels(frame, wanted)
    assert {row.label: row.meaning for row in label_table(frame, wanted, {})} == {
        "covid19": "covid19",
        "covd19": meaning,
    }


def test_a_label_is_not_left_out_and_used() -> None:
    with pytest.raises(ValidationError, match="leave_out"):
        Task(classes=("covid19",), negative=("normal",), leave_out=("normal",))


def test_every_image_is_counted_once_with_what_becomes_of_it() -> None:
    frame = manifest(
        ["covid19", "covid19", "normal", "normal", "normal", "lung_opacity", ""],
        view=["PA", "L", "PA", "PA", "PA", "PA", "PA"],
        split=["train", "train", "val", "test", "test", "train", "train"],
    )
    task = Task(classes=("covid19",), negative=("normal",))
    rows = label_table(frame, task, {"image4": "not prepared, damaged_pixels"})
    assert rows == (
        LabelRow("covid19", "covid19", (1, 0, 0)),
        LabelRow("normal", "not covid19", (0, 1, 1)),
        LabelRow("", "left out: no class", (1, 0, 0)),
        LabelRow("lung_opacity", "left out: no class", (1, 0, 0)),
        LabelRow("normal", "left out: not prepared, damaged_pixels", (0, 0, 1)),
        LabelRow("covid19", "left out: view L", (1, 0, 0)),
    )
    assert describe(rows, "val") == "normal (not covid19) 1"


def test_several_classes_and_columns() -> None:
    frame = manifest(
        ["covid19", "normal", "lung_opacity"], label_covid19=[1, 0, None], label_normal=[0, 1, -1], split=["val"] * 3
    )
    softmax = label_table(frame, Task(classes=("covid19", "normal"), activation="softmax"), {})
    assert [(row.label, row.meaning) for row in softmax] == [
        ("covid19", "covid19"), ("normal", "normal"), ("lung_opacity", "left out: no class")
    ]  # fmt: skip
    columns = label_table(frame, Task(classes=("covid19", "normal"), from_columns=True), {})
    assert [(row.label, row.meaning, row.images[1]) for row in columns] == [
        ("label_covid19 = 1", "covid19", 1),
        ("label_covid19 = 0", "not covid19", 1),
        ("label_covid19 = nothing", "left out: not said", 1),
        ("label_normal = 1", "normal", 1),
        ("label_normal = 0", "not normal", 1),
        ("label_normal = -1 (uncertain)", "left out: not said", 1),
    ]


def test_a_run_prints_the_table_before_it_trains_and_keeps_it(draw_cases: Callable[..., Path], tmp_path: Path) -> None:
    drawn = draw_cases(tmp_path / "drawn", 24)
    options = [part for change in TINY for part in ("--set", change)]
    command = ["train", "pretrain", str(drawn), "-o", str(tmp_path / "run"), "--processes", "1", *options]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert "not covid19" in done.stderr
    rows = json.loads((tmp_path / "run" / "left_out.json").read_text())["labels"]
    assert [(row["label"], row["meaning"], sum(row["images"])) for row in rows] == [
        ("covid19", "covid19", 12), ("normal", "not covid19", 12)
    ]  # fmt: skip


def test_a_run_stops_at_a_misspelt_label_and_writes_nothing(draw_cases: Callable[..., Path], tmp_path: Path) -> None:
    drawn = draw_cases(tmp_path / "drawn", 24)
    cases = read_manifest(drawn)
    cases.loc[cases.index[:4], "label"] = "norml"
    write_manifest(cases, drawn)
    with pytest.raises(RunError, match=r"norml \(4 images; normal is meant\?\)"):
        pretrain(load_recipe("default-pretrain", TINY), drawn, tmp_path / "run", now=datetime.now(UTC))
    assert not (tmp_path / "run").exists()


def test_a_side_of_one_class_names_its_labels(draw_cases: Callable[..., Path], tmp_path: Path) -> None:
    drawn = draw_cases(tmp_path / "drawn", 24)
    cases = read_manifest(drawn)
    cases["label"] = "normal"
    write_manifest(cases, drawn)
    with pytest.raises(RunError, match=r"train side has 12 .* normal \(not covid19\) 12"):
        pretrain(load_recipe("default-pretrain", TINY), drawn, tmp_path / "run", now=datetime.now(UTC))
