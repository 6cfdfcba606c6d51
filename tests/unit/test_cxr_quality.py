"""Quality checks: real frontal films pass them, their negatives and empty pictures do not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cxr.pixels.model_input import to_model_input
from cxr.pixels.quality_checks import ASPECT, CLIPPED, FLAT, INVERTED, WARNINGS, heart_side, quality_warnings
from cxr.pixels.recipe import TRAINING_RECIPE


def chest(lungs: float = 0.3, between: float = 0.7) -> NDArray[np.float32]:
    """Something with two dark fields and a bright middle, in many greys."""
    picture = np.random.default_rng(0).normal(0.5, 0.08, (100, 100))
    picture[20:60, 15:42] += lungs - 0.5
    picture[20:60, 58:85] += lungs - 0.5
    picture[:, 45:55] += between - 0.5
    return picture.clip(0.01, 0.99).astype(np.float32)[..., None]


def test_a_chest_passes() -> None:
    assert quality_warnings(chest(), (2000, 1700)) == ()
    assert quality_warnings(chest()) == ()


def test_a_negative_is_found() -> None:
    assert quality_warnings(1 - chest()) == (INVERTED,)
    assert quality_warnings(chest(0.54, 0.5)) == ()  # hardly any difference: nothing is said
    assert quality_warnings(chest(0.58, 0.5)) == (INVERTED,)


@pytest.mark.parametrize(("grey", "rows"), [(0.0, 55), (1.0, 30)])
def test_a_picture_that_is_mostly_one_end_is_clipped(grey: float, rows: int) -> None:
    picture = chest()
    picture[:rows] = grey
    assert CLIPPED in quality_warnings(picture)
    picture = chest()
    picture[: rows - 15] = grey
    assert CLIPPED not in quality_warnings(picture)


def test_an_empty_picture_is_flat() -> None:
    assert FLAT in quality_warnings(np.full((64, 64, 1), 0.4, np.float32))


@pytest.mark.parametrize(("greys", "is_flat"), [(10, True), (13, False)])  # 3.3 and 3.7 bits
def test_a_picture_of_few_greys_is_flat(greys: int, is_flat: bool) -> None:
    picture = np.tile(np.linspace(0.05, 0.95, greys, dtype=np.float32), (130, 130 // greys))[..., None]
    assert (FLAT in quality_warnings(picture)) is is_flat


def test_the_heart_is_on_the_right_of_an_upright_film() -> None:
    picture = chest()
    assert abs(heart_side(picture)) < 0.1
    picture[50:80, 55:75] += 0.3
    assert heart_side(picture) > 0.3
    assert heart_side(picture[:, ::-1]) < -0.3


@pytest.mark.parametrize(
    ("row", "column", "is_seen"),
    [(55, 58, True), (69, 69, True), (54, 60, False), (70, 60, False), (60, 57, False), (60, 70, False)],
)
def test_the_heart_is_looked_for_beside_the_lower_spine(row: int, column: int, is_seen: bool) -> None:
    picture = np.full((100, 100, 1), 0.5, np.float32)
    picture[row, column] = 0.9
    assert (heart_side(picture) > 0) is is_seen
    assert (heart_side(picture[:, ::-1]) < 0) is is_seen


def test_a_long_picture_is_named_whichever_way_it_lies() -> None:
    assert quality_warnings(chest(), (1700, 1000)) == (ASPECT,)
    assert quality_warnings(chest(), (1000, 1700)) == (ASPECT,)
    assert quality_warnings(chest(), (1500, 1000)) == ()


def test_every_code_is_explained_and_can_stand_in_a_report() -> None:
    assert all(code.isascii() and code.isidentifier() and sentence.endswith(".") for code, sentence in WARNINGS.items())


def test_real_films_pass_and_their_negatives_are_found(shared_data: Path) -> None:
    with (shared_data / "images.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["is_frontal"] == "yes"][::12]
    films = [to_model_input(shared_data / row["file"], TRAINING_RECIPE) for row in rows]
    warned = [quality_warnings(film) for film in films]
    assert len(films) > 100
    assert sum(map(bool, warned)) <= 0.02 * len(films)
    assert sum(INVERTED in quality_warnings(1 - film) for film in films) >= 0.93 * len(films)
