"""Every step survives the way to float32 and back, and 8-bit grey lies on the steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import DEFAULT_RECIPE, TRAINING_RECIPE
from cxr.pixels.sixteen_bit import STEPS, from_steps, to_steps


def test_every_step_comes_back() -> None:
    steps = np.arange(STEPS + 1).astype(np.uint16)
    np.testing.assert_array_equal(to_steps(from_steps(steps)), steps)
    assert from_steps(steps)[[0, -1]].tolist() == [0, 1]


def test_eight_bit_grey_is_not_changed() -> None:
    grey = np.arange(256).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(from_steps(to_steps(grey)), grey)


@pytest.mark.parametrize("size", [32, 224])
def test_a_quantised_recipe_gives_the_nearest_step(size: int) -> None:
    picture = np.random.default_rng(0).integers(0, 65536, (90, 70), dtype=np.uint16)
    exact = to_model_input(picture, dataclasses.replace(DEFAULT_RECIPE, size=size))
    rounded = to_model_input(picture, dataclasses.replace(TRAINING_RECIPE, size=size))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() <= 0.51 / STEPS  # the product is rounded to float32
    np.testing.assert_array_equal(from_steps(to_steps(rounded)), rounded)
