"""What follows from what the view model sees: flag, hold, decide; and who may decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from config.checks import faults_at_start
from config.settings import Settings, ViewSettings
from cxr.domain import JobState, View
from cxr.errors import IncompatiblePackage
from cxr.package import ModelPackage
from cxr.package.view_model import CLASSES, ENOUGH_LATERALS, PredictedView, ViewComponent, component_of, is_view_model
from cxr.pixels.geometry import UPRIGHT, Geometry
from cxr.pixels.model_input import to_model_input, to_model_inputs
from cxr.pixels.quality_checks import WARNINGS
from cxr.pixels.recipe import DEFAULT_RECIPE, MIDRC_EMORY_RECIPE, TRAINING_RECIPE
from cxr.view.decide import PIXEL_REASONS
from inference.model.model import Model
from inference.registry import Registry
from inference.worker.view_check import ViewCheck, check_orientation
from training.view_model.network import SIZE

PICTURE = np.zeros((SIZE, SIZE, 1), np.float32)
FRONTAL_HEADER, UNKNOWN = View.FRONTAL, View.UNKNOWN

Make = Callable[..., ModelPackage]
HELD, NOT_SCORED = JobState.HELD, JobState.NOT_SCORED


@pytest.fixture
def check(view_package: Make) -> Callable[..., ViewCheck]:
    """Make a check whose model always sees the same."""

    def make(seen: PredictedView, *, laterals: int = 18, **settings: str) -> ViewCheck:
        package = view_package(seen, laterals=laterals)
        wanted = ViewSettings(**({"model": package.folder} | settings))  # type: ignore[arg-type]
        loaded = ViewCheck.load(wanted, lambda each: Model.load(each, device="cpu"))
        assert loaded is not None
        return loaded

    return make


def lopsided(side: float) -> NDArray[np.float32]:
    """A picture with the heart on the right (1), on the left (-1) or in the middle (0)."""
    picture = np.random.default_rng(0).random((SIZE, SIZE, 1)).astype(np.float32) / 2
    start = round(SIZE * (0.58 if side > 0 else 0.3))
    picture[SIZE // 2 : 3 * SIZE // 4, start : start + SIZE // 8] += abs(side) / 2
    return picture


MIRRORED, ROTATED = Geometry(is_mirrored=True), Geometry(is_mirrored=True, is_upside_down=True)


@pytest.mark.parametrize(
    ("geometry", "side", "seen", "pixels", "is_held"),
    [
        (MIRRORED, 1, PredictedView.FRONTAL, "hold", False),
        (MIRRORED, 0, PredictedView.FRONTAL, "hold", True),  # nothing speaks for it
        (MIRRORED, -1, PredictedView.FRONTAL, "hold", True),
        (MIRRORED, -1, PredictedView.FRONTAL, "flag", True),
        (ROTATED, 1, PredictedView.FRONTAL, "hold", False),
        (ROTATED, 0, PredictedView.FRONTAL, "hold", False),
        (ROTATED, -1, PredictedView.FRONTAL, "hold", True),
        (ROTATED, 1, PredictedView.NOT_A_CHEST, "flag", True),  # turned back, it lies on its side
        (MIRRORED, 1, PredictedView.LATERAL, "flag", True),
        (UPRIGHT, -1, PredictedView.FRONTAL, "hold", False),
    ],
)
def test_a_film_that_was_turned_is_held_where_its_pixels_do_not_agree(
    check: Callable[..., ViewCheck], geometry: Geometry, side: int, seen: PredictedView, pixels: str, is_held: bool
) -> None:
    made = check(seen, pixels=pixels)
    verdict = made.verdict(lopsided(side), view=FRONTAL_HEADER, geometry=geometry)
    assert (verdict.state, verdict.reason) == ((HELD, "pixels_not_as_oriented") if is_held else (None, ""))
    released = made.verdict(lopsided(side), view=FRONTAL_HEADER, geometry=geometry, is_released=True)
    assert released.state is None
    assert check_orientation(lopsided(side), geometry).state is (
        HELD if is_held and seen is PredictedView.FRONTAL else None
    )


@pytest.mark.parametrize(
    ("seen", "pixels", "view", "released", "state", "reason", "warnings"),
    [
        (PredictedView.FRONTAL, "hold", FRONTAL_HEADER, False, None, "", ()),
        (PredictedView.LATERAL, "flag", FRONTAL_HEADER, False, None, "", ("looks_lateral",)),
        (PredictedView.NOT_A_CHEST, "flag", UNKNOWN, False, None, "", ("looks_not_a_chest",)),
        (PredictedView.LATERAL, "hold", FRONTAL_HEADER, False, HELD, "pixels_lateral", ()),
        (PredictedView.NOT_A_CHEST, "hold", UNKNOWN, False, HELD, "pixels_not_a_chest", ()),
        (PredictedView.NOT_A_CHEST, "hold", FRONTAL_HEADER, True, None, "", ("looks_not_a_chest",)),  # a person's word
        (PredictedView.UNSURE, "hold", FRONTAL_HEADER, False, HELD, "pixels_unsure", ()),
        (PredictedView.UNSURE, "hold", UNKNOWN, True, None, "", ("view_unsure",)),
        (PredictedView.LATERAL, "off", FRONTAL_HEADER, False, None, "", ()),
        (PredictedView.UNSURE, "flag", UNKNOWN, False, None, "", ("view_unsure",)),
    ],
)
def test_it_flags_or_holds_and_a_person_goes_first(
    check: Callable[..., ViewCheck], seen: PredictedView, pixels: str, view: View, released: bool,
    state: JobState | None, reason: str, warnings: tuple[str, ...],
) -> None:  # fmt: skip
    verdict = check(seen, pixels=pixels, unknown="model" if pixels == "off" else "score").verdict(
        PICTURE, view=view, is_released=released
    )
    assert (verdict.state, verdict.reason, verdict.warnings) == (state, reason, warnings)
    assert set(verdict.facts) == {f"seen_{name}" for name in CLASSES}
    assert sum(verdict.facts.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("seen", "laterals", "state", "reason", "warnings"),
    [
        (PredictedView.FRONTAL, ENOUGH_LATERALS, None, "", ("view_from_pixels",)),
        (PredictedView.LATERAL, ENOUGH_LATERALS, NOT_SCORED, "pixels_lateral", ()),
        (PredictedView.NOT_A_CHEST, ENOUGH_LATERALS, NOT_SCORED, "pixels_not_a_chest", ()),
        (PredictedView.UNSURE, ENOUGH_LATERALS, HELD, "pixels_unsure", ()),
        # Refused at start; were it not, nothing would be decided.
        (PredictedView.FRONTAL, ENOUGH_LATERALS - 1, HELD, "pixels_unsure", ()),
        (PredictedView.LATERAL, ENOUGH_LATERALS - 1, HELD, "pixels_unsure", ()),
    ],
)
def test_it_decides_about_unknown_views_with_enough_laterals_only(
    check: Callable[..., ViewCheck], seen: PredictedView, laterals: int, state: JobState | None, reason: str,
    warnings: tuple[str, ...],
) -> None:  # fmt: skip
    made = check(seen, laterals=laterals, unknown="model", pixels="flag")
    verdict = made.verdict(PICTURE, view=UNKNOWN)
    assert (verdict.state, verdict.reason, verdict.warnings) == (state, reason, warnings)
    assert made.verdict(PICTURE, view=FRONTAL_HEADER).state is None  # the header tells: it may flag
    assert made.verdict(PICTURE, view=UNKNOWN, is_released=True).state is None


def test_every_code_is_known(check: Callable[..., ViewCheck]) -> None:
    for seen in PredictedView:
        for unknown in ("model", "score"):
            verdict = check(seen, laterals=ENOUGH_LATERALS, unknown=unknown, pixels="hold").verdict(
                PICTURE, view=UNKNOWN
            )
            assert set(verdict.warnings) <= set(WARNINGS)
            assert verdict.reason in {"", *PIXEL_REASONS}


def test_off_is_off_and_nothing_is_nothing(view_package: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = view_package(PredictedView.LATERAL)
    assert ViewCheck.load(ViewSettings(pixels="off", model=package.folder), pytest.fail) is None  # type: ignore[arg-type]
    monkeypatch.setattr("cxr.package.shipped.INSTALLED", tmp_path / "none" / "models")
    assert ViewCheck.load(ViewSettings(), pytest.fail) is None


@pytest.mark.parametrize(
    ("settings", "laterals", "fault"),
    [
        ({"unknown": "model"}, ENOUGH_LATERALS - 1, "trained on 199 laterals; accepted is one that was trained on 200"),
        ({"unknown": "model"}, ENOUGH_LATERALS, None),
        ({"pixels": "hold"}, 18, None),
        ({}, 18, None),
    ],
)
def test_the_start_is_refused_where_few_laterals_would_decide(
    view_package: Make, tmp_path: Path, settings: dict[str, str], laterals: int, fault: str | None
) -> None:
    folder = view_package(PredictedView.FRONTAL, laterals=laterals).folder
    faults = faults_at_start(Settings(data_dir=tmp_path, view=ViewSettings(model=folder, **settings)))  # type: ignore[arg-type]
    assert len(faults) == (fault is not None)
    if fault is not None:
        assert fault in faults[0]
        assert "cxr train view" in faults[0]


def test_the_start_is_refused_without_a_view_model_where_one_is_needed(
    tiny_package: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faults(**view: object) -> tuple[str, ...]:
        return faults_at_start(Settings(data_dir=tmp_path, view=ViewSettings(**view)))  # type: ignore[arg-type]

    (fault,) = faults(model=tiny_package().folder)
    assert "no view model" in fault
    assert len(faults(model=tmp_path / "nothing")) == 1
    monkeypatch.setattr("cxr.package.shipped.INSTALLED", tmp_path / "none" / "models")
    assert faults() == ()
    assert ViewSettings().pixels == "hold"  # by default nothing is held where there is no view model
    (fault,) = faults(pixels="hold")
    assert "view.pixels = hold needs a view model" in fault
    assert "set view.model" in faults(unknown="model")[0]


def test_a_view_model_is_a_package_that_is_not_put_into_service(view_package: Make, tmp_path: Path) -> None:
    package = view_package(PredictedView.FRONTAL)
    assert is_view_model(package.manifest)
    with pytest.raises(IncompatiblePackage, match=r"view\.model"):
        Registry(tmp_path / "models").add(package.folder)


def test_only_a_whole_view_model_is_one(view_package: Make, tiny_package: Make) -> None:
    manifest = view_package(PredictedView.FRONTAL).manifest
    assert component_of(manifest) == ViewComponent(laterals=18, frontals=1, not_a_chest=1)
    for wrong in (
        tiny_package().manifest,
        manifest.model_copy(update={"components": {"view": {"laterals": 18}}}),
        manifest.model_copy(update={"classes": manifest.classes[::-1]}),
    ):
        with pytest.raises(IncompatiblePackage, match="not a view model"):
            component_of(wrong)


def test_what_is_not_certain_is_unsure() -> None:
    component = ViewComponent(laterals=0, frontals=0, not_a_chest=0, confidence=0.8)
    assert component.judge([0.81, 0.1, 0.09]) is PredictedView.FRONTAL
    assert component.judge([0.1, 0.81, 0.09]) is PredictedView.LATERAL
    assert component.judge([0.79, 0.2, 0.01]) is PredictedView.UNSURE


@pytest.mark.parametrize(
    ("frontal", "is_held"), [(0.84, False), (0.62, False), (0.6, False), (0.59, True), (0.0, True)]
)
def test_what_is_hardly_frontal_is_held_and_what_is_rather_frontal_flagged(frontal: float, is_held: bool) -> None:
    component = ViewComponent(laterals=0, frontals=0, not_a_chest=0, frontal_at_least=0.6)
    chances = [frontal, 0.0, 1 - frontal]
    assert component.is_held(chances) is is_held
    assert not (is_held and component.judge(chances) is PredictedView.FRONTAL)


def test_what_it_is_sure_of_is_never_held(view_package: Make) -> None:
    component = ViewComponent(laterals=0, frontals=0, not_a_chest=0, frontal_at_least=0.99)  # of another's making
    assert component.judge([0.9, 0.05, 0.05]) is PredictedView.FRONTAL
    assert not component.is_held([0.9, 0.05, 0.05])
    assert component_of(view_package(PredictedView.FRONTAL).manifest).frontal_at_least == 0.5  # the default


def test_one_decoding_gives_the_same_pictures_as_one_for_each_recipe(
    synthetic_xray: Callable[..., Dataset], tmp_path: Path
) -> None:
    path = tmp_path / "film.dcm"
    synthetic_xray(PhotometricInterpretation="MONOCHROME1").save_as(path, enforce_file_format=True)
    recipes = (
        DEFAULT_RECIPE,
        replace(DEFAULT_RECIPE, size=64, fit="stretch"),  # of the same greys
        replace(TRAINING_RECIPE, size=96, colour="luminance"),
        MIDRC_EMORY_RECIPE,
        DEFAULT_RECIPE,
    )
    for recipe, picture in zip(recipes, to_model_inputs(path, recipes), strict=True):
        np.testing.assert_array_equal(picture, to_model_input(path, recipe))
