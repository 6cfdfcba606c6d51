"""The recipe is strict, frozen, and has one digest for one procedure."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from cxr.errors import IncompatiblePackage
from cxr.pixels.recipe import DEFAULT_RECIPE, MIDRC_EMORY_RECIPE, RECIPES, TRAINING_RECIPE, PixelRecipe

OTHER_VALUES: dict[str, Any] = {
    "size": 320,
    "fit": "stretch",
    "resample": "nearest",
    "scaling": "percentile",
    "low_percentile": 1.0,
    "high_percentile": 99.0,
    "max_saturated": 1.0,
    "min_spread": 0.0,
    "modality_lut": False,
    "inversion": False,
    "padding": False,
    "grey_levels": 256,
    "colour": "luminance",
    "raster": "robust",
}


def test_digests_are_what_packages_in_service_were_made_with() -> None:
    # A change here makes every existing package unusable: raise RECIPE_VERSION instead, and say so.
    assert DEFAULT_RECIPE.digest == "f909bccc47521311f3a5707f57fa96ab6a8d64c5cd42df86b8ecb013a418e36b"
    assert MIDRC_EMORY_RECIPE.digest == "21d8194ef91450f4294ac44126fc935ffece28e44b993bd711a1843263b88574"


@pytest.mark.parametrize("name", RECIPES)
def test_json_and_back_is_the_same_recipe(name: str) -> None:
    recipe = RECIPES[name]
    again = PixelRecipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert again.digest == recipe.digest
    assert hash(again) == hash(recipe)


def test_every_field_counts_for_the_digest() -> None:
    assert set(OTHER_VALUES) | {"version"} == set(DEFAULT_RECIPE.to_dict())
    digests = {DEFAULT_RECIPE.digest}
    for name, value in OTHER_VALUES.items():
        digests.add(dataclasses.replace(DEFAULT_RECIPE, **{name: value}).digest)
    assert len(digests) == len(OTHER_VALUES) + 1


def test_a_field_of_a_later_version_leaves_old_packages_as_they_are() -> None:
    quantised = dataclasses.replace(DEFAULT_RECIPE, quantised=True)
    assert "quantised" not in DEFAULT_RECIPE.to_dict()
    assert quantised.to_dict() == DEFAULT_RECIPE.to_dict() | {"quantised": True}
    assert quantised.digest != DEFAULT_RECIPE.digest
    assert PixelRecipe.from_dict(quantised.to_dict()) == quantised == TRAINING_RECIPE
    assert PixelRecipe.from_dict(DEFAULT_RECIPE.to_dict() | {"quantised": False}).digest == DEFAULT_RECIPE.digest


LATER_VALUES: dict[str, Any] = {
    "quantised": True,
    "borders": "crop",
    "margin": 0.05,
    "detail": 128,
    "contrast": "equalise",
}


@pytest.mark.parametrize("name", LATER_VALUES)
def test_every_later_field_counts_where_it_changes_something(name: str) -> None:
    changed = dataclasses.replace(DEFAULT_RECIPE, **{name: LATER_VALUES[name]})
    assert changed.to_dict() == DEFAULT_RECIPE.to_dict() | {name: LATER_VALUES[name]}
    assert changed.digest != DEFAULT_RECIPE.digest
    assert PixelRecipe.from_dict(changed.to_dict()) == changed


def test_every_field_is_an_early_or_a_later_one() -> None:
    assert {"version", *OTHER_VALUES, *LATER_VALUES} == set(PixelRecipe.__dataclass_fields__)


def test_a_number_has_one_digest_however_json_writes_it() -> None:
    values = DEFAULT_RECIPE.to_dict() | {"max_saturated": 1}
    assert PixelRecipe.from_dict(values).digest == dataclasses.replace(DEFAULT_RECIPE, max_saturated=1.0).digest


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_RECIPE.size = 320  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"version": 2}, "version"),
        ({"version": "1"}, "version"),
        ({"version": True}, "version"),
        ({"size": 0}, "size"),
        ({"size": 4097}, "size"),
        ({"size": 224.0}, "size"),
        ({"size": True}, "size"),
        ({"fit": "crop"}, "fit"),
        ({"fit": ["pad"]}, "fit"),
        ({"resample": "cubic"}, "resample"),
        ({"scaling": None}, "scaling"),
        ({"colour": "yes"}, "colour"),
        ({"raster": ""}, "raster"),
        ({"quantised": 1}, "quantised"),
        ({"modality_lut": 1}, "modality_lut"),
        ({"inversion": "true"}, "inversion"),
        ({"padding": None}, "padding"),
        ({"grey_levels": 1}, "grey_levels"),
        ({"grey_levels": 256.0}, "grey_levels"),
        ({"low_percentile": 99.9}, "low_percentile"),
        ({"low_percentile": -1}, "low_percentile"),
        ({"high_percentile": 100.1}, "high_percentile"),
        ({"high_percentile": float("nan")}, "high_percentile"),
        ({"high_percentile": "99"}, "high_percentile"),
        ({"max_saturated": 0}, "max_saturated"),
        ({"max_saturated": True}, "max_saturated"),
        ({"min_spread": 1}, "min_spread"),
        ({"borders": "cut"}, "borders"),
        ({"contrast": True}, "contrast"),
        ({"margin": 0.26}, "margin"),
        ({"margin": -0.1}, "margin"),
        ({"detail": 15}, "detail"),
        ({"detail": 128.0}, "detail"),
    ],
)
def test_what_is_not_accepted_is_an_incompatible_package(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(IncompatiblePackage, match=named):
        PixelRecipe.from_dict(DEFAULT_RECIPE.to_dict() | changed)
    with pytest.raises(ValueError, match=named):
        PixelRecipe(**changed)


def test_every_fault_is_named_at_once_and_no_value_repeated() -> None:
    changes = {"size": 5, "fit": "VALUE", "low_percentile": 100.0, "margin": "VALUE"}
    with pytest.raises(IncompatiblePackage) as caught:
        PixelRecipe.from_dict(DEFAULT_RECIPE.to_dict() | changes)
    message = str(caught.value)
    assert all(f"{name}: " in message for name in ("size", "fit", "margin"))
    assert "greater than or equal to 16" in message
    assert "'pad' or 'stretch'" in message
    assert "VALUE" not in message
    with pytest.raises(IncompatiblePackage, match="0 <= low < high <= 100"):
        PixelRecipe.from_dict(DEFAULT_RECIPE.to_dict() | {"low_percentile": 100.0})


def test_unknown_and_absent_keys_are_refused_and_unknown_ones_not_repeated() -> None:
    with pytest.raises(IncompatiblePackage, match="1 unknown") as caught:
        PixelRecipe.from_dict(DEFAULT_RECIPE.to_dict() | {"PEER": 1})
    assert "PEER" not in str(caught.value)
    short = DEFAULT_RECIPE.to_dict()
    del short["fit"]
    with pytest.raises(IncompatiblePackage, match="lacks fit"):
        PixelRecipe.from_dict(short)


@pytest.mark.parametrize("values", [{}, [], "x", None])
def test_what_is_no_recipe_at_all_is_refused(values: Any) -> None:
    with pytest.raises(IncompatiblePackage):
        PixelRecipe.from_dict(values)
