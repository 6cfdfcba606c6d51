"""Truths, weights and orders; batches hold what the cache holds, in the order that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.errors import RunError
from cxr.pixels.recipe import PixelRecipe
from training.cases import complete, read_manifest, resolve_paths
from training.inputs.augment import augment
from training.inputs.batches import plain_batches, training_batches
from training.inputs.cache import Cache, build_cache
from training.inputs.epoch_order import epoch_order, training_rows
from training.inputs.label_balance import label_weights, repeat, repeat_factors
from training.inputs.targets import UNKNOWN, sample_weights, select, strata
from training.recipe import Augment, Balance, Task


def manifest(labels: list[str], **columns: list[Any]) -> pd.DataFrame:
    names = [f"image{place}" for place in range(len(labels))]
    return complete(pd.DataFrame({"image_id": names, "path": names, "patient_id": names, "label": labels, **columns}))


def test_one_class_against_every_other_or_against_the_named_ones() -> None:
    frame = manifest(["covid19", "normal", "other", ""])
    every = select(frame, Task(classes=("covid19",)))
    assert every.truths[:, 0].tolist() == [1, 0, 0]
    assert every.left_out == {"view": 0, "label": 1}
    named = select(frame, Task(classes=("covid19",), negative=("normal",)))
    assert named.frame["label"].tolist() == ["covid19", "normal"]


def test_labels_may_be_gathered_into_a_class() -> None:
    frame = manifest(["viral_pneumonia", "other_pneumonia", "normal"])
    task = Task(
        classes=("abnormal",), labels={"abnormal": ("viral_pneumonia", "other_pneumonia")}, negative=("normal",)
    )
    assert select(frame, task).truths[:, 0].tolist() == [1, 1, 0]


def test_classes_that_exclude_each_other_are_one_hot() -> None:
    frame = manifest(["normal", "covid19", "other", "normal"])
    found = select(frame, Task(classes=("covid19", "normal"), activation="softmax"))
    assert found.truths.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert strata(found.truths).tolist() == [1, 0, 1]


def test_truths_from_columns_may_be_unknown() -> None:
    frame = manifest(["", "", ""], label_covid19=[1, 0, None], label_lung_opacity=[-1, 1, None])
    found = select(frame, Task(classes=("covid19", "lung_opacity"), from_columns=True))
    assert found.truths.tolist() == [[1, UNKNOWN], [0, 1]]
    with pytest.raises(RunError, match="label_normal"):
        select(frame, Task(classes=("normal",), from_columns=True))


def test_laterals_take_no_part_unless_asked_for() -> None:
    frame = manifest(["covid19", "normal"], view=["L", "PA"])
    assert select(frame, Task(classes=("covid19",))).left_out["view"] == 1
    assert len(select(frame, Task(classes=("covid19",), views=("L", "PA"))).frame) == 2
    with pytest.raises(RunError, match="task"):
        select(manifest(["other"]), Task(classes=("covid19",), negative=("normal",)))


def test_weights_make_classes_even_and_sources_within_them() -> None:
    frame = manifest(["covid19"] * 2 + ["normal"] * 6, source=["a", "b", *["a"] * 5, "b"])
    cases = select(frame, Task(classes=("covid19",)))
    weights = sample_weights(cases, Balance(method="weights"))
    assert weights.mean() == pytest.approx(1)
    assert weights[:2].sum() == pytest.approx(weights[2:].sum())
    both = sample_weights(cases, Balance(method="weights", by_source=True))
    assert both[:2].sum() == pytest.approx(both[2:].sum())
    assert both[2:7].sum() == pytest.approx(both[7])
    np.testing.assert_array_equal(sample_weights(cases, Balance()), np.ones(8))


def test_sources_alone_are_made_even() -> None:
    frame = manifest(["covid19"] * 3 + ["normal"] * 2, source=["a", "a", "b", "a", "b"])
    weights = sample_weights(select(frame, Task(classes=("covid19",))), Balance(by_source=True))
    assert weights[:2].sum() == pytest.approx(weights[2])
    assert weights[:3].sum() == pytest.approx(3)


def test_the_manifests_own_weights_count() -> None:
    cases = select(manifest(["covid19", "normal"], weight=[3, 1]), Task(classes=("covid19",)))
    assert sample_weights(cases, Balance()).tolist() == [1.5, 0.5]


def test_undersampling_is_done_once_and_oversampling_every_epoch() -> None:
    truths = np.array([[1.0]] * 3 + [[0.0]] * 9, np.float32)
    kept = training_rows(truths, Balance(method="undersample", seed=3))
    assert np.bincount(strata(truths)[kept]).tolist() == [3, 3]
    np.testing.assert_array_equal(kept, training_rows(truths, Balance(method="undersample", seed=3)))
    assert any(
        not np.array_equal(kept, training_rows(truths, Balance(method="undersample", seed=n))) for n in range(4, 9)
    )
    rows = training_rows(truths, Balance(method="oversample"))
    order = epoch_order(rows, truths, Balance(method="oversample"), seed=0, epoch=0)
    assert np.bincount(strata(truths)[order]).tolist() == [9, 9]
    assert set(order) == set(range(12))


# Several independent labels: a frequent one, a rare one, and one that is not always said.
SEVERAL = np.array(
    [[1, 0, UNKNOWN]] * 6 + [[1, 1, 0]] + [[0, 0, 1]] * 3 + [[0, 1, UNKNOWN]] + [[0, 0, 0]] * 5, np.float32
)


def test_each_label_has_weights_of_its_own() -> None:
    weights = np.ones(len(SEVERAL), np.float32)
    balanced = label_weights(SEVERAL, weights)
    for output in range(3):
        yes, no = (SEVERAL[:, output] == 1).sum(), (SEVERAL[:, output] == 0).sum()
        assert balanced[1, output] * yes == pytest.approx(balanced[0, output] * no)
        assert balanced[1, output] * yes + balanced[0, output] * no == pytest.approx(yes + no)
    weights[6] = 3.0  # the image with both
    assert label_weights(SEVERAL, weights)[1, 1] == pytest.approx((1 * 4 + 14 * 1) / (2 * 4))
    one_sided = label_weights(np.zeros((4, 1), np.float32), np.ones(4, np.float32))
    assert one_sided.tolist() == [[1], [1]]


def test_of_several_labels_the_images_weights_are_their_sources() -> None:
    frame = manifest([""] * 4, label_covid19=[1, 0, 0, 0], label_edema=[0, 1, 1, 0], source=["a", "a", "a", "b"])
    cases = select(frame, Task(classes=("covid19", "edema"), from_columns=True))
    weighted = sample_weights(cases, Balance(method="weights"), is_multi_label=True)
    assert weighted.tolist() == [1, 1, 1, 1]  # nothing and edema are no classes that exclude each other
    by_source = sample_weights(cases, Balance(by_source=True), is_multi_label=True)
    assert by_source[:3].sum() == pytest.approx(by_source[3])


def test_images_with_a_rare_label_are_repeated() -> None:
    factors = repeat_factors(SEVERAL)
    share = (7 / 16, 2 / 16, 3 / 9)
    assert factors[0] == 1
    assert factors[6] == pytest.approx(np.sqrt(share[0] / share[1]))
    assert factors[7] == pytest.approx(np.sqrt(share[0] / share[2]))
    assert factors[-1] == 1
    balance = Balance(method="oversample")
    rows = training_rows(SEVERAL, balance)
    orders = [epoch_order(rows, SEVERAL, balance, seed=0, epoch=epoch, is_multi_label=True) for epoch in range(40)]
    assert {len(order) for order in orders} == {round(float(factors.sum()))}
    assert all(set(order) == set(range(16)) for order in orders)
    often = np.mean([np.bincount(order, minlength=16) for order in orders], axis=0)
    np.testing.assert_allclose(often, factors, atol=0.35)
    again = epoch_order(rows, SEVERAL, balance, seed=0, epoch=3, is_multi_label=True)
    np.testing.assert_array_equal(orders[3], again)


def test_repeating_without_a_positive_image_changes_nothing() -> None:
    nothing = np.zeros((5, 2), np.float32)
    rows = np.arange(5)
    np.testing.assert_array_equal(repeat(rows, repeat_factors(nothing), np.random.default_rng(0)), rows)


def test_an_order_is_a_function_of_seed_and_epoch() -> None:
    truths = np.zeros((50, 1), np.float32)
    rows = np.arange(50)
    first = epoch_order(rows, truths, Balance(), seed=0, epoch=0)
    assert sorted(first) == list(range(50))
    np.testing.assert_array_equal(first, epoch_order(rows, truths, Balance(), seed=0, epoch=0))
    for other in ({"seed": 0, "epoch": 1}, {"seed": 1, "epoch": 0}):
        assert not np.array_equal(first, epoch_order(rows, truths, Balance(), **other))
    np.testing.assert_array_equal(first[:7], epoch_order(rows, truths, Balance(), seed=0, epoch=0, limit=7))


@pytest.fixture
def cache(tmp_path: Path, draw_cases: Callable[..., Path]) -> Cache:
    drawn = draw_cases(tmp_path / "images", 10)
    frame = resolve_paths(read_manifest(drawn), drawn.parent)
    return build_cache(frame, PixelRecipe(size=32, quantised=True), tmp_path / "cache", processes=1)


def test_plain_batches_are_the_cache_in_order(cache: Cache) -> None:
    places = np.arange(9, -1, -1)
    truths = np.arange(10, dtype=np.float32)[:, np.newaxis]
    batches = list(plain_batches(cache, places, truths, batch_size=4).as_numpy_iterator())
    assert [len(images) for images, _, _ in batches] == [4, 4, 2]
    images = np.concatenate([each[0] for each in batches])
    for place, image in zip(places, images, strict=True):
        np.testing.assert_array_equal(image, cache.image(int(place)))
    np.testing.assert_array_equal(np.concatenate([each[1] for each in batches]), truths)
    assert {float(weight) for each in batches for weight in each[2]} == {1.0}


def test_training_batches_are_augmented_images_with_their_truths_and_weights(cache: Cache) -> None:
    order = np.array([3, 1, 1, 7])
    truths = (np.arange(10, dtype=np.float32) % 2)[:, np.newaxis]
    weights = np.arange(10, dtype=np.float32)
    settings = Augment(rotation_degrees=7.0, noise=0.02)

    def batches(epoch: int) -> list[Any]:
        found = training_batches(
            cache, np.arange(10), truths, weights, order, settings, seed=5, epoch=epoch, batch_size=3
        )
        return list(found.as_numpy_iterator())

    (first, truth, weight), (rest, _, _) = batches(0)
    assert weight.tolist() == [3, 1, 1]
    assert truth[:, 0].tolist() == [1, 1, 1]
    expected = augment(cache.image(3), settings, seed=5, epoch=0, row=0)
    np.testing.assert_array_equal(first[0], expected)
    assert not np.array_equal(first[1], first[2])  # the same image, twice, changed twice
    assert rest.shape == (1, 32, 32, 1)
    np.testing.assert_array_equal(batches(0)[0][0], first)
    assert not np.array_equal(batches(1)[0][0], first)
