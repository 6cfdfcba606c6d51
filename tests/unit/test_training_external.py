"""A real, tiny run judged on its own test images and on another manifest: predict, evaluate, card."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cxr.errors import RunError
from training.cli.main import app
from training.evaluation import read_predictions
from training.packaging.build import package_run
from training.recipe import load_recipe
from training.runs.folder import Run
from training.runs.predict import predict_manifest
from training.runs.train import Options, pretrain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECIPE = ("network.architecture=tiny", "pixels.size=64", "weights.source=random", 'task.classes=["covid19"]',
          "split.fractions=[0.5,0.25,0.25]", "stages.0.batch_size=8", "stages.1.batch_size=8",
          "stages.1.learning_rate=0.01", "stages.1.epochs=2")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, draw_cases: Callable[..., Path]) -> Run:
    manifest = draw_cases(tmp_path_factory.mktemp("drawn"), 48)
    options = Options(cache=tmp_path_factory.mktemp("cache"), processes=1)
    folder = tmp_path_factory.mktemp("runs") / "run"
    return pretrain(load_recipe("default-pretrain", RECIPE), manifest, folder, now=NOW, options=options)


def test_its_own_test_images_get_the_runs_own_predictions(run: Run, tmp_path: Path) -> None:
    found = predict_manifest(run.folder, run.folder / "manifest.csv", tmp_path / "cache", processes=1)
    own = read_predictions(run.folder / "predictions_test.csv")
    sides = pd.read_csv(run.folder / "splits.csv")["split"]
    assert found.seen == int(sides.isin(["train", "val"]).sum())  # nothing that was learnt from is predicted
    again = found.predictions.frame.set_index("image_id").loc[own.frame["image_id"]]
    assert np.allclose(again["prob_covid19"], own.frame["prob_covid19"], atol=1e-6)
    assert len(found.predictions) == len(own)


def test_another_manifest_is_predicted_evaluated_and_stands_in_the_card(
    run: Run, tmp_path: Path, draw_cases: Callable[..., Path]
) -> None:
    other = draw_cases(tmp_path / "other", 24, seed=5, image_id=[f"other:{row}" for row in range(24)],
                       source=["elsewhere"] * 24, view=["L"] * 4 + ["PA"] * 20)  # fmt: skip
    file, shell = tmp_path / "external.csv", CliRunner()
    done = shell.invoke(app, ["predict", str(run.folder), str(other), "-o", str(file), "--processes", "1", "--json"])
    assert done.exit_code == 0, done.output
    # The same patient numbers, at another hospital, are other people.
    assert json.loads(done.output.splitlines()[-1]) == {
        "images": 20,
        "left_out": {"view": 4, "label": 0, "not_prepared": 0, "seen_in_training": 0},
    }
    package = package_run(run.folder, tmp_path / "package", replicates=100)
    arguments = [str(package.folder), str(run.folder / "predictions_test.csv"), "--external", str(file)]
    done = shell.invoke(app, ["card", *arguments, "--replicates", "100", "-o", str(tmp_path / "card.md")])
    assert done.exit_code == 0, done.output
    card = (tmp_path / "card.md").read_text()
    assert "### Side by side" in card
    assert "| external | 20 |" in card
    done = shell.invoke(
        app, ["evaluate", str(run.folder), "-o", str(tmp_path / "out"), "--replicates", "100", "--gallery"]
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "evidence_covid19.png").stat().st_size > 10_000
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    threshold = json.loads((run.folder / "operating_point.json").read_text())["classes"]["covid19"]["threshold"]
    assert metrics["classes"][0]["at_threshold"]["threshold"] == pytest.approx(threshold, abs=1e-5)


def test_a_manifest_of_known_images_is_refused(run: Run, tmp_path: Path) -> None:
    cases = pd.read_csv(run.folder / "manifest.csv", dtype=str, keep_default_na=False)
    cases[cases["split"] == "train"].to_csv(tmp_path / "known.csv", index=False)
    with pytest.raises(RunError, match="trained on every image"):
        predict_manifest(run.folder, tmp_path / "known.csv", tmp_path / "cache", processes=1)
