"""Films that lie turned or mirrored, or have pixels that are not square, come to the model as upright ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxr.pixels.geometry import UPRIGHT, Geometry, read_geometry
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe

Make = Callable[..., Dataset]
SIDE = 64

# Patient Orientation of a film, and the film made of an upright one (rows to the left, columns to the feet)
LYING: dict[tuple[str, str], Callable[[NDArray[Any]], NDArray[Any]]] = {
    ("L", "F"): lambda upright: upright,
    ("R", "F"): lambda upright: upright[:, ::-1],
    ("L", "H"): lambda upright: upright[::-1],
    ("R", "H"): lambda upright: upright[::-1, ::-1],
    ("F", "L"): lambda upright: upright.T,
    ("H", "L"): lambda upright: upright[::-1].T,
    ("F", "R"): lambda upright: upright[:, ::-1].T,
    ("H", "R"): lambda upright: upright[::-1, ::-1].T,
}


def film(make: Make, pixels: NDArray[Any], **elements: Any) -> Dataset:
    rows, columns = pixels.shape
    return make(rows=rows, columns=columns, PixelData=pixels.astype("<u2").tobytes(), **elements)


@pytest.fixture
def upright() -> NDArray[np.uint16]:
    return np.random.default_rng(3).integers(0, 4096, (SIDE, 48)).astype(np.uint16)


@pytest.mark.parametrize("orientation", LYING, ids="".join)
def test_a_film_is_turned_upright(orientation: tuple[str, str], upright: NDArray[Any], synthetic_xray: Make) -> None:
    recipe = PixelRecipe(size=SIDE)
    lying = film(synthetic_xray, LYING[orientation](upright), PatientOrientation=list(orientation))
    np.testing.assert_array_equal(to_model_input(lying, recipe), to_model_input(film(synthetic_xray, upright), recipe))
    geometry = read_geometry(lying)
    assert geometry.is_upright is (orientation == ("L", "F"))
    assert geometry.shape(lying.Rows, lying.Columns) == upright.shape
    # A reflection changes the sides: the determinant of the two directions against those of an upright film.
    along, down = orientation
    assert geometry.changes_sides is (((along in "RH") + (down in "RH") + (along in "HF")) % 2 == 1)


@pytest.mark.parametrize(
    "orientation", [["RA", "F"], ["A", "H"], ["P", "F"], ["R"], ["R", "L"], ["H", "F"], ["X", "H"]]
)
def test_an_orientation_that_is_not_of_a_frontal_film_turns_nothing(
    orientation: list[str], synthetic_xray: Make
) -> None:
    assert read_geometry(synthetic_xray(PatientOrientation=orientation)) == UPRIGHT


def test_a_tilt_does_not_count(synthetic_xray: Make) -> None:
    assert read_geometry(synthetic_xray(PatientOrientation=["RF", "FL"])) == Geometry(is_mirrored=True)


@pytest.mark.parametrize(
    "keyword", ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"]
)
@pytest.mark.parametrize("orientation", [["L", "F"], ["F", "L"]])
def test_pixels_are_made_square(keyword: str, orientation: list[str], synthetic_xray: Make) -> None:
    y, x = np.mgrid[0:160, 0:160] / 160
    grey = np.round(2000 + 1500 * np.sin(7 * x + 2) * np.cos(5 * y))
    recipe = PixelRecipe(size=64)
    whole = to_model_input(film(synthetic_xray, grey), recipe)[..., 0]
    half_the_rows = grey.reshape(80, 2, 160).mean(axis=1)  # a pixel is twice as high as wide
    lying = half_the_rows if orientation == ["L", "F"] else half_the_rows.T
    pair = [2, 1] if orientation == ["L", "F"] else [1, 2]
    if keyword != "PixelAspectRatio":
        pair = [0.1 * value for value in pair]
    squared = to_model_input(film(synthetic_xray, lying, PatientOrientation=orientation, **{keyword: pair}), recipe)
    assert np.abs(squared[..., 0] - whole).mean() < 0.02
    assert read_geometry(film(synthetic_xray, lying, PatientOrientation=orientation, **{keyword: pair})).shape(
        *lying.shape
    ) == (160, 160)
    ignored = to_model_input(film(synthetic_xray, lying, PatientOrientation=orientation), recipe)[..., 0]
    assert np.abs(ignored - whole).mean() > 0.05


def test_the_calibrated_spacing_goes_before_the_others(synthetic_xray: Make) -> None:
    made = synthetic_xray(PixelSpacing=[0.2, 0.1], ImagerPixelSpacing=[0.1, 0.1], PixelAspectRatio=[1, 4])
    assert read_geometry(made).aspect == pytest.approx(2)
    del made.PixelSpacing
    assert read_geometry(made).aspect == 1


@pytest.mark.parametrize("pair", [[0, 1], [-1, 1], [1, 0], [1], [1, 1, 1], [1, 9], [1000000, 1], [0.1, 0.1004]])
def test_impossible_and_equal_spacings_leave_pixels_square(pair: list[float], synthetic_xray: Make) -> None:
    assert read_geometry(synthetic_xray(PixelSpacing=pair)).aspect == 1


def test_training_and_serving_of_square_upright_pixels_is_what_it_was(synthetic_xray: Make) -> None:
    plain = synthetic_xray(PatientOrientation=None)
    told = synthetic_xray(PixelSpacing=[0.143, 0.143], PatientOrientation=["L", "F"])
    np.testing.assert_array_equal(to_model_input(plain), to_model_input(told))
