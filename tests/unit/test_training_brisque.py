"""BRISQUE as the published package computes it, and pictures that are left out by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from training.inputs.brisque import brisque
from training.packaging.build import package_run
from training.recipe import load_recipe
from training.runs.brisque_filter import describe_exclusions
from training.runs.train import Options, pretrain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def blurred(deviation: float) -> np.ndarray:
    random = np.random.default_rng(0)
    for each in (0.5, 1.5, 2.5, 3.5):
        picture = cv2.GaussianBlur(random.integers(0, 256, (96, 80)).astype(np.uint8), (0, 0), each)
        if each == deviation:
            return (picture / 255).astype(np.float32)
    raise AssertionError(deviation)


# What `brisque` 0.2.0 gives for these pictures (BRISQUE(url=False).score, three equal channels, NumPy 2.2).
@pytest.mark.parametrize(("deviation", "expected"), [(1.5, 42.80753), (2.5, 68.71209), (3.5, 77.03119)])
def test_it_is_the_packages_number(deviation: float, expected: float) -> None:
    assert brisque(blurred(deviation)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("images/covid19/cxnet_467.jpg", 28.05649),
        ("images/covid19/hannover_54da03cf.jpg", 0.92486),
        ("images/normal/nih_00003956_001.jpg", 32.50873),
    ],
)
def test_it_is_the_packages_number_of_real_films(shared_data: Path, file: str, expected: float) -> None:
    film = cv2.resize(
        cv2.imread(str(shared_data / file), cv2.IMREAD_GRAYSCALE), (200, 200), interpolation=cv2.INTER_AREA
    )
    assert brisque((film / 255).astype(np.float32)[:, :, np.newaxis]) == pytest.approx(expected, abs=0.01)


def test_without_contrast_there_is_no_score() -> None:
    assert brisque(np.zeros((64, 64, 1), np.float32)) is None


def test_pictures_are_left_out_and_named(tmp_path: Path, draw_cases: Callable[..., Path]) -> None:
    manifest = draw_cases(tmp_path / "drawn", 32)
    unnatural = sorted(range(32), key=lambda number: number % 8)[:8]
    for number in unnatural:  # an even ramp: no photograph
        picture = np.tile(np.linspace(number, 250, 70).astype(np.uint8), (80, 1))
        cv2.imwrite(str(tmp_path / "drawn" / f"image{number}.png"), picture)
    overrides = [
        "weights={source='random'}", "network={architecture='tiny'}", "pixels.size=64", "stages.1.epochs=1",
        'task.classes=["covid19"]', "split.fractions=[0.5,0.25,0.25]", "stages.1.batch_size=8",
    ]  # fmt: skip
    plain = load_recipe("default-pretrain", overrides)
    assert "brisque_below" not in plain.to_document()
    recipe = load_recipe("default-pretrain", [*overrides, "brisque_below=90"])
    options = Options(cache=tmp_path / "cache", processes=1)
    run = pretrain(recipe, manifest, tmp_path / "run", now=NOW, options=options)
    scores = pd.read_csv(run.folder / "brisque.csv")
    beyond = scores[scores["brisque"] >= 90]["image_id"].tolist()
    assert 0 < len(beyond) < 32
    said = json.loads((run.folder / "left_out.json").read_text())["brisque"]
    assert said == {"below": 90, "count": len(beyond), "image_ids": beyond}
    assert scores[scores["left_out"] == "yes"]["image_id"].tolist() == beyond
    predicted = pd.concat([pd.read_csv(run.folder / f"predictions_{side}.csv") for side in ("val", "test")])
    assert set(predicted["image_id"]).isdisjoint(beyond)
    assert describe_exclusions(run).startswith(
        f"{len(beyond)} of 32 images are excluded for a BRISQUE score of 90 or more"
    )
    package = package_run(run.folder, tmp_path / "package", replicates=100, options=options)
    assert "in service none is" in (package.folder / "MODEL_CARD.md").read_text()
