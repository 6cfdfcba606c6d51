"""Borders, sharpness and contrast are made the same, whatever a source does to its pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cxr.pixels.model_input import to_model_input
from cxr.pixels.normalise import central, equalised, without_borders
from cxr.pixels.recipe import TRAINING_RECIPE

Grey = NDArray[np.float32]

PLAIN = dataclasses.replace(TRAINING_RECIPE, size=64, fit="stretch")
SAME = dataclasses.replace(PLAIN, borders="crop", margin=0.05, detail=48, contrast="equalise")


def picture(rows: int = 200, columns: int = 160) -> Grey:
    """Noise, smooth enough that resampling leaves its structure."""
    coarse = np.random.default_rng(0).random((rows // 8, columns // 8))
    return np.kron(coarse, np.ones((8, 8))).astype(np.float32)


@pytest.mark.parametrize("shade", [0.0, 1.0, 0.3])
def test_margins_that_show_nothing_are_cut_off(shade: float) -> None:
    inner = picture()
    framed = np.pad(inner, ((20, 30), (25, 10)), constant_values=shade).astype(np.float32)
    found = without_borders(framed)
    # To the line of the small picture that borders are looked for in.
    assert np.abs(np.subtract(found.shape, inner.shape)).max() <= 4
    top, left = 20 - (framed.shape[0] - 30 - found.shape[0] - 20), 25
    assert abs(top - 20) <= 4 and abs(left - 25) <= 4


def test_a_picture_without_margins_stays_whole() -> None:
    assert without_borders(picture()).shape == (200, 160)


def test_at_most_a_fifth_of_a_side_is_taken_for_a_margin() -> None:
    framed = np.zeros((300, 300), np.float32)
    framed[140:160, 140:160] = picture(24, 24)[:20, :20]
    assert min(without_borders(framed).shape) >= 180


def test_nothing_to_see_is_nothing_to_cut() -> None:
    assert without_borders(np.full((40, 50), 0.5, np.float32)).shape == (40, 50)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.25))
def test_the_middle_is_never_empty(rows: int, columns: int, margin: float) -> None:
    cut = central(np.zeros((rows, columns), np.float32), margin)
    assert cut.shape[0] >= max(1, rows // 2 - 1) and cut.shape[1] >= max(1, columns // 2 - 1)


def test_equalised_is_the_share_of_darker_pixels() -> None:
    grey = np.array([[0.5, 0.1], [0.1, 0.9]], np.float32)
    np.testing.assert_allclose(equalised(grey), [[2 / 3, 0], [0, 1]], rtol=1e-6)


@pytest.mark.parametrize("power", [0.4, 1.0, 2.5])
def test_a_tone_curve_leaves_no_trace(power: float) -> None:
    grey = picture()
    np.testing.assert_array_equal(equalised(grey**power), equalised(grey))


def test_a_frame_and_another_tone_curve_change_little_of_the_model_s_input() -> None:
    grey = picture(192, 192)
    framed = np.pad(grey**2, 24).astype(np.float32)
    as_it_was = np.abs(to_model_input(framed, PLAIN) - to_model_input(grey, PLAIN)).mean()
    now = np.abs(to_model_input(framed, SAME) - to_model_input(grey, SAME)).mean()
    assert now < 0.3 * as_it_was


def test_detail_takes_what_is_finer_away() -> None:
    fine = np.indices((256, 256)).sum(axis=0).astype(np.float32) % 2
    coarse = dataclasses.replace(PLAIN, size=256, detail=32)
    assert (
        to_model_input(fine, coarse).std() < 0.01 < to_model_input(fine, dataclasses.replace(coarse, detail=None)).std()
    )


@pytest.mark.parametrize("shape", [(1, 2), (17, 5), (600, 400)])
def test_any_shape_comes_out_as_the_model_takes_it(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    made = to_model_input(pixels, SAME)
    assert made.shape == (64, 64, 1) and made.dtype == np.float32
    assert made.min() >= 0 and made.max() <= 1
