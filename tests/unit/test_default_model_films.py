"""The shipped models score six films as they did when they were made; serving's own way, file to score."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cxr.package.shipped import shipped_models
from cxr.pixels.model_input import to_model_input
from inference.model.model import Model
from inference.worker.image_warnings import InputGate

TOLERANCE = 1e-3
FILMS = Path(__file__).parent.parent / "data" / "films"
SCORES = json.loads((FILMS / "scores.json").read_text(encoding="utf-8"))


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (512, 512), dtype=np.uint8)


def page_of_text() -> NDArray[np.uint8]:
    page = np.full((600, 450), 255, np.uint8)
    for line in range(20):
        cv2.putText(page, f"Research use only {line}", (20, 30 + 25 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 0, 2)
    return page


@pytest.mark.parametrize("name", SCORES)
def test_six_films_have_the_scores_that_are_written_down_and_what_is_no_chest_is_odd(name: str) -> None:
    shipped = shipped_models()
    assert shipped is not None
    assert shipped.fingerprints[name] == SCORES[name]["fingerprint"]
    with shipped.expanded(name) as package:
        model = Model.load(package, device="cpu")
        images = np.stack([to_model_input(FILMS / film, package.manifest.recipe) for film in SCORES[name]["films"]])
        output = model.score(images)
        gate = InputGate.of(package)
        assert gate.space is not None and gate.component is not None and output.features is not None
        assert (gate.space.distances(output.features) <= gate.component.distance).all()  # radiographs of chests
        odd = np.stack([to_model_input(picture, package.manifest.recipe) for picture in (noise(), page_of_text())])
        strange = model.score(odd).features
        assert strange is not None and (gate.space.distances(strange) > gate.component.distance).all()
    found = output.probabilities
    np.testing.assert_allclose(found, list(SCORES[name]["films"].values()), rtol=0, atol=TOLERANCE)
