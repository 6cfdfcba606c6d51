"""Several independent labels, from the manifest to a package: what is not said counts nowhere, each label by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.errors import RunError
from cxr.package import load_package
from training.evaluation import read_predictions
from training.packaging.build import package_run
from training.recipe import load_recipe
from training.runs.folder import Run
from training.runs.train import Options, pretrain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CLASSES = ("covid19", "edema", "bright_spot")
RECIPE = (
    "network.architecture=tiny", "pixels.size=64", "stages.1.batch_size=8", "stages.0.batch_size=8",
    "weights.source=random", "split.fractions=[0.5,0.25,0.25]", "stages.1.learning_rate=0.01", "stages.1.epochs=6",
    "augment.cut_out=0.0", 'task.classes=["covid19","edema","bright_spot"]', "task.from_columns=true",
    'task.findings={bright_spot={meaning="Bright spot", code="C0000001", scheme="UMLS"}}', "balance.method=weights",
)  # fmt: skip
COUNT = 96


def columns() -> dict[str, list[str]]:
    """The drawn spot is COVID-19 and, in three of four films, said; edema is anywhere and rare."""
    spot = [str(number % 2) for number in range(COUNT)]
    return {
        "label_covid19": spot,
        "label_edema": [str(int(number % 6 == 0)) for number in range(COUNT)],
        "label_bright_spot": ["" if number % 8 in (0, 1) else spot[number] for number in range(COUNT)],
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, draw_cases: Callable[..., Path]) -> Run:
    folder = tmp_path_factory.mktemp("several")
    drawn = draw_cases(folder / "films", COUNT, **columns())
    return pretrain(
        load_recipe("default-pretrain", RECIPE), drawn, folder / "run", now=NOW, options=Options(processes=1)
    )


def test_the_split_shares_out_each_label(trained: Run) -> None:
    cases = trained.manifest()
    for name in CLASSES:
        present = cases.loc[cases[f"label_{name}"] == 1, "split"].value_counts()
        assert present["train"] / present.sum() == pytest.approx(0.5, abs=0.1), name


def test_each_label_is_learnt_calibrated_and_has_its_threshold(trained: Run) -> None:
    calibration = json.loads((trained.folder / "calibration.json").read_text())
    assert calibration["calibrated"]
    assert [len(calibration[name]) for name in ("scale", "offset", "loss_before")] == [3, 3, 3]
    validation = read_predictions(trained.folder / "predictions_val.csv")
    points = json.loads((trained.folder / "operating_point.json").read_text())
    assert set(points["classes"]) == set(CLASSES)
    for name in CLASSES:
        known = validation.has_truth(name)
        truth = validation.truth(name)[known]
        scores = validation.probability(name)[known]
        # Calibrated by itself: the mean of the scores is the label's own share.
        assert scores.mean() == pytest.approx(truth.mean(), abs=0.12), name
        assert np.mean(scores[truth] >= points["classes"][name]["threshold"]) >= 0.9, name
    assert 0 < validation.has_truth("bright_spot").sum() < len(validation)
    history = pd.read_csv(trained.folder / "history.csv")
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_package_has_every_label_with_its_code(trained: Run, tmp_path: Path) -> None:
    package = load_package(package_run(trained.folder, tmp_path / "package", replicates=50).folder)
    found = {each.finding: (each.code.value, each.code.scheme_designator) for each in package.manifest.classes}
    assert found == {
        "covid19": ("840539006", "SCT"), "edema": ("19242006", "SCT"), "bright_spot": ("C0000001", "UMLS")
    }  # fmt: skip
    assert all(each.threshold is not None for each in package.manifest.classes)


def test_a_label_that_a_side_lacks_is_named(tmp_path: Path, draw_cases: Callable[..., Path]) -> None:
    sides = ["train"] * 24 + ["val"] * 24
    changed = {name: values[:48] for name, values in columns().items()}
    changed["label_edema"] = [*changed["label_edema"][:24], *["0"] * 24]
    drawn = draw_cases(tmp_path / "films", 48, split=sides, **changed)
    recipe = load_recipe("default-pretrain", RECIPE)
    with pytest.raises(RunError, match=r"The val side .* Lacking: edema \(0 with it, 24 without\)"):
        pretrain(recipe, drawn, tmp_path / "run", now=NOW, options=Options(processes=1))
