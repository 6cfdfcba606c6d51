"""Out-of-fold predictions: every image once, by a network that has not seen its patient; and what a run starts from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cxr.errors import RunError
from training.cases import read_manifest
from training.cli.main import app
from training.evaluation import read_predictions
from training.packaging.build import package_run
from training.recipe import load_recipe
from training.runs.cross_validation import EVERY_FOLD_TRAINS, OUT_OF_FOLD_FILE, assign_folds, predict_out_of_fold
from training.runs.lineage import count_seen, seen_cases
from training.runs.predict import predict_manifest
from training.runs.train import Options, finetune, pretrain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TINY = ("network.architecture=tiny", "pixels.size=32", "stages.0.batch_size=8", "stages.1.batch_size=8",
        "stages.0.epochs=1", "stages.1.epochs=4", "stages.1.learning_rate=0.01")  # fmt: skip
PRETRAIN = (*TINY, "weights.source=random", 'task.classes=["covid19"]', "augment.cut_out=0.0")
FINETUNE = (*TINY, "split.strategy=patient", "split.fractions=[0.5,0.25,0.25]")
COUNT = 48
WRONG = [7, 20, 33]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, draw_cases: Callable[..., Path]) -> Path:
    """Draw images of 24 patients with two each; the labels of three are wrong."""
    labels = ["covid19" if row % 2 == 1 else "normal" for row in range(COUNT)]
    for row in WRONG:
        labels[row] = "normal" if row % 2 == 1 else "covid19"
    patients = [f"p{row // 2}" for row in range(COUNT)]
    return draw_cases(tmp_path_factory.mktemp("drawn"), COUNT, label=labels, patient_id=patients)


def test_the_verb_lists_the_wrong_labels_of_a_whole_manifest(manifest: Path, tmp_path: Path) -> None:
    sets = [word for override in PRETRAIN for word in ("--set", override)]
    command = ["suspects", str(manifest), "-o", str(tmp_path), "--folds", "3", "--processes", "1", "--json", *sets]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["images"] == COUNT
    whole = read_predictions(tmp_path / OUT_OF_FOLD_FILE)
    assert sorted(whole.frame["image_id"]) == sorted(read_manifest(manifest)["image_id"])
    for fold in range(3):
        learnt = pd.read_csv(tmp_path / f"fold{fold}" / "manifest.csv", dtype=str, keep_default_na=False)
        predicted = read_predictions(tmp_path / f"fold{fold}" / "predictions_test.csv").frame
        assert not set(predicted["patient_id"]) & set(learnt.loc[learnt["split"] != "test", "patient_id"])
    found = pd.read_csv(tmp_path / "suspects.csv")
    assert set(found["basis"]) == {"out of fold"}
    assert len(set(found["image_id"].head(6)) & {f"drawn:{row}" for row in WRONG}) >= 2
    again = CliRunner().invoke(app, command)  # every run is done: they are taken as they are
    assert again.exit_code == 0, again.output
    assert (tmp_path / "suspects.csv").read_text() == found.to_csv(index=False, float_format="%.4f")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60), st.integers(3, 6))
def test_no_patient_is_in_two_folds(cases: list[tuple[int, bool]], folds: int) -> None:
    frame = pd.DataFrame({"image_id": [str(row) for row in range(len(cases))],
                          "patient_id": [f"p{patient}" if patient else "" for patient, _ in cases],
                          "label": ["a" if label else "b" for _, label in cases]})  # fmt: skip
    number = assign_folds(frame, folds, seed=0)
    assert ((number >= 0) & (number < folds)).all()
    known = frame["patient_id"] != ""
    assert (frame[known].groupby(number[known])["patient_id"].unique().explode().value_counts() <= 1).all()


def test_folds_share_out_every_label_and_keep_the_sources_of_training() -> None:
    rows = 212
    frame = pd.DataFrame({"image_id": [str(row) for row in range(rows)],
                          "patient_id": [f"p{row // 2}" for row in range(rows)],
                          "source": ["extra" if row < 12 else "own" for row in range(rows)],
                          "label": "", "label_effusion": [float(row % 8 < 2) for row in range(rows)],
                          "label_nodule": [float(row % 12 < 2) for row in range(rows)]})  # fmt: skip
    columns = ("label_effusion", "label_nodule")
    number = assign_folds(frame, 4, seed=0, stratify=columns, train_only=("extra",))
    assert (number[:12] == EVERY_FOLD_TRAINS).all()
    assert (number[12:] != EVERY_FOLD_TRAINS).all()
    counts = frame[12:].groupby(number[12:])[list(columns)].sum()
    assert (counts.max() - counts.min() <= 4).all()


def test_a_fold_without_a_class_is_refused_before_anything_is_written(
    tmp_path: Path, draw_cases: Callable[..., Path]
) -> None:
    labels = ["covid19" if row < 4 else "normal" for row in range(24)]
    few = draw_cases(tmp_path / "few", 24, label=labels, patient_id=[f"p{row // 2}" for row in range(24)])
    with pytest.raises(RunError, match="covid19 0 with it"):
        predict_out_of_fold(load_recipe("default-pretrain", PRETRAIN), few, tmp_path / "folds", folds=5, now=NOW)
    assert not (tmp_path / "folds").exists()


def test_a_cross_validation_goes_on_where_it_was_killed_and_takes_no_other(manifest: Path, tmp_path: Path) -> None:
    command = [word for override in (*PRETRAIN, "stages.1.epochs=2") for word in ("--set", override)]
    command = ["crossval", str(manifest), "--processes", "1", "--replicates", "100", "--folds", "3", *command]
    folder, whole = tmp_path / "folder", tmp_path / "whole"
    straight = CliRunner().invoke(app, [*command, "-o", str(whole), "--json"])
    assert straight.exit_code == 0, straight.output
    result = json.loads((whole / "metrics.json").read_text())
    assert [fold["images"] for fold in result["folds"]] == [16, 16, 16]
    assert result["pooled"]["images"] == COUNT
    for name in ("CARD.md", "folds.png", "curves.png", "subgroups.png", "confusion.png"):
        assert (whole / name).stat().st_size > 500
    # A folder of which one fold is done and the next has only begun.
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("fold2", "*.png", "CARD.md", "metrics.json"))
    for left in ("fingerprint.json", "model.keras", "predictions_test.csv"):
        (folder / "fold1" / left).unlink()
    kept = (folder / "fold0" / "model.keras").stat().st_mtime_ns
    resumed = CliRunner().invoke(app, [*command, "-o", str(folder)])
    assert resumed.exit_code == 0, resumed.output
    lines = resumed.stdout.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last names the folder
    found = [re.match(rf"\s*{fold} +[78]/16 ", line) for fold in ("1", "2", "3") for line in lines]
    assert sum(each is not None for each in found) == 3
    assert any(line.split()[:3] == ["all", "images", "23/48"] for line in lines)
    assert (folder / "fold0" / "model.keras").stat().st_mtime_ns == kept
    assert _without_runs(folder / "metrics.json") == _without_runs(whole / "metrics.json")
    before = (folder / "fold0.csv").read_bytes()
    other = CliRunner().invoke(app, [*command, "-o", str(folder), "--folds", "4"])
    assert isinstance(other.exception, RunError)
    assert "another number of folds:" in str(other.exception)
    assert (folder / "fold0.csv").read_bytes() == before


def _without_runs(metrics: Path) -> dict[str, Any]:
    """Read the figures without the runs' fingerprints, which the time of their beginning is part of."""
    document: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    for fold in document["folds"]:
        del fold["run"]
    return document


def test_two_folds_are_too_few(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="least 3 folds"):
        predict_out_of_fold(load_recipe("default-pretrain", PRETRAIN), manifest, tmp_path, folds=2, now=NOW)


def test_what_a_run_starts_from_counts_as_learnt(manifest: Path, tmp_path: Path) -> None:
    options = Options(cache=tmp_path / "cache", processes=1)
    short = "stages.1.epochs=1"
    halves = (*PRETRAIN, short, "split.fractions=[0.5,0.25,0.25]")
    first = pretrain(load_recipe("default-pretrain", halves), manifest, tmp_path / "one", now=NOW, options=options)
    same = load_recipe("default-finetune", (*FINETUNE, short))
    second = finetune(same, manifest, tmp_path / "two", start=first.folder, now=NOW, options=options)
    assert count_seen(second)["test"] == 0  # the same sides
    other = load_recipe("default-finetune", (*FINETUNE, short, "split.seed=3"))
    third = finetune(other, manifest, tmp_path / "three", start=second.folder, now=NOW, options=options)
    known = count_seen(third)["test"]
    assert known > 0
    assert len(seen_cases(third)) == len(set(seen_cases(third)["image_id"]))
    package = package_run(third.folder, tmp_path / "package", replicates=100, options=options)
    assert package.manifest.evaluation["patients_disjoint"] is False
    assert f"{known} test images" in (package.folder / "MODEL_CARD.md").read_text()
    # Predicting the third run's own manifest leaves out what the first has learnt, two runs before.
    found = predict_manifest(third.folder, manifest, tmp_path / "cache", processes=1)
    assert not np.isin(found.predictions.frame["image_id"], seen_cases(first)["image_id"]).any()
    with pytest.raises(RunError, match=r"trained on \d+ of these images"):
        predict_out_of_fold(other, manifest, tmp_path / "folds", folds=3, start=first.folder, now=NOW, options=options)
