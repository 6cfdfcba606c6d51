"""Augmentation is a function of (seed, epoch, row), within its bounds, and off means unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.inputs.augment import augment
from training.recipe import Augment, load_recipe

DEFAULT = load_recipe("default-finetune").augment


def picture(size: int = 64) -> NDArray[np.float32]:
    grey = np.zeros((size, size, 1), np.float32)
    grey[20:44, 16:40] = 0.5
    grey[24:30, 20:26] = 0.9
    return grey


def change(settings: Augment, *, seed: int = 0, epoch: int = 0, row: int = 0) -> NDArray[np.float32]:
    return augment(picture(), settings, seed=seed, epoch=epoch, row=row)


def test_it_is_a_function_of_seed_epoch_and_row() -> None:
    first = change(DEFAULT, seed=1, epoch=2, row=3)
    np.testing.assert_array_equal(first, change(DEFAULT, seed=1, epoch=2, row=3))
    for other in (
        {"seed": 2, "epoch": 2, "row": 3},
        {"seed": 1, "epoch": 3, "row": 3},
        {"seed": 1, "epoch": 2, "row": 4},
    ):
        assert not np.array_equal(first, change(DEFAULT, **other))


def test_the_original_stays_and_the_result_is_grey_in_range() -> None:
    original = picture()
    for row in range(50):
        changed = augment(original, DEFAULT, seed=0, epoch=0, row=row)
        assert changed.shape == (64, 64, 1)
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1
    np.testing.assert_array_equal(original, picture())


def test_off_is_off() -> None:
    np.testing.assert_array_equal(change(Augment()), picture())


def test_the_default_never_flips() -> None:
    assert not DEFAULT.flip_horizontal
    assert not DEFAULT.flip_vertical
    for row in range(40):  # the spot stays on the upper left of the square
        changed = change(DEFAULT.model_copy(update={"cut_out": 0.0, "noise": 0.0}), row=row)[:, :, 0]
        bright = np.argwhere(changed > changed.max() * 0.9).mean(axis=0)
        middle = np.argwhere(changed > 0.1).mean(axis=0)
        assert (bright < middle).all()


@pytest.mark.parametrize(("name", "axis"), [("flip_horizontal", 1), ("flip_vertical", 0)])
def test_flips_where_asked_for_half_of_the_time(name: str, axis: int) -> None:
    flipped = [
        np.array_equal(change(Augment().model_copy(update={name: True}), row=row), np.flip(picture(), axis))
        for row in range(100)
    ]
    assert 30 < sum(flipped) < 70


def test_turns_stay_within_their_bound_and_turn_in_black() -> None:
    line = np.zeros((65, 65, 1), np.float32)
    line[32] = 1
    angles = []
    for row in range(200):
        places = np.argwhere(augment(line, Augment(rotation_degrees=7.0), seed=0, epoch=0, row=row)[:, :, 0] > 0.4)
        angles.append(np.degrees(np.arctan(np.polyfit(places[:, 1], places[:, 0], 1)[0])))
    assert 6 < max(angles) < 7.5
    assert -7.5 < min(angles) < -6
    assert augment(np.ones((64, 64, 1), np.float32), DEFAULT, seed=0, epoch=0, row=0).min() == 0


@pytest.mark.parametrize(("settings", "bound"), [(Augment(shift=0.05), 3.2), (Augment(zoom=0.05), 1.7)])
def test_shifts_and_zooms_stay_within_their_bounds(settings: Augment, bound: float) -> None:
    edges = [np.argwhere(change(settings, row=row)[:, :, 0] > 0.25).min(axis=0) - (20, 16) for row in range(100)]
    assert bound / 2 < np.abs(edges).max() <= bound + 1


def test_gamma_noise_and_cut_out_do_what_they_say() -> None:
    gammas = [np.log(change(Augment(gamma=(0.7, 1.4)), row=row)[40, 36, 0]) / np.log(0.5) for row in range(200)]
    assert 0.7 <= min(gammas) < 0.75
    assert 1.3 < max(gammas) <= 1.4
    noisy = [(change(Augment(noise=0.02), row=row) - picture())[22:40, 28:38].std() for row in range(50)]
    assert 0.01 < max(noisy) < 0.025
    holes = [int((augment(np.ones((64, 64, 1), np.float32), Augment(cut_out=0.1), seed=0, epoch=0, row=row) == 0).sum())
             for row in range(100)]  # fmt: skip
    assert max(holes) == 36  # 10 % of 64, rounded: 6 x 6
    assert all(round(hole**0.5) ** 2 == hole for hole in holes)


def test_switching_one_change_off_leaves_the_others_as_they_were() -> None:
    with_noise = change(Augment(rotation_degrees=7.0, gamma=(0.7, 1.4), noise=1e-9), row=5)
    without = change(Augment(rotation_degrees=7.0, gamma=(0.7, 1.4)), row=5)
    np.testing.assert_allclose(with_noise, without, atol=1e-6)
