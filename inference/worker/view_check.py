"""What the pixels say about the view, and what follows from it; the view model itself is ``cxr.package.view_model``'s.

It has an image held for a person, or flags it. Only where the header does not tell the view, the setting
``view.unknown`` says ``model`` and the view model was trained on enough laterals, it decides. What a
person released is scored, whatever it looks like; then the flag alone says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from cxr.domain import JobState, PixelView, UnknownView, View
from cxr.package import load_package
from cxr.package.shipped import view_folder
from cxr.package.view_model import CLASSES, PredictedView, ViewComponent, component_of
from cxr.pixels.geometry import UPRIGHT, Geometry
from cxr.pixels.quality_checks import LOOKS_LATERAL, LOOKS_NOT_A_CHEST, VIEW_FROM_PIXELS, VIEW_UNSURE, heart_side
from cxr.pixels.recipe import PixelRecipe

if TYPE_CHECKING:
    from config.settings import ViewSettings
    from cxr.package import ModelPackage
    from inference.model.model import Model

_FLAGS: Final[Mapping[PredictedView, str]] = {
    PredictedView.LATERAL: LOOKS_LATERAL,
    PredictedView.NOT_A_CHEST: LOOKS_NOT_A_CHEST,
    PredictedView.UNSURE: VIEW_UNSURE,
}
_REASONS: Final[Mapping[PredictedView, str]] = {
    PredictedView.LATERAL: "pixels_lateral",
    PredictedView.NOT_A_CHEST: "pixels_not_a_chest",
    PredictedView.UNSURE: "pixels_unsure",
}

_NOT_AS_ORIENTED: Final = "pixels_not_as_oriented"
_CLEAR_SIDE: Final = 0.18  # wrong in 5 of 100 films

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done with an image upon its pixels.

    Parameters
    ----------
    state
        ``HELD`` or ``NOT_SCORED``; None: it is scored.
    reason
        Why it is not scored: a code of ``cxr.view.decide.PIXEL_REASONS``.
    warnings
        What stands beside its scores: codes of ``cxr.pixels.quality_checks.WARNINGS``.
    facts
        Probabilities, for the audit log.
    """

    state: JobState | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)


SCORED: Final = Verdict()


def judge_turn(picture: Floats, geometry: Geometry) -> Verdict:
    """Have an image held where its header says that it lay turned or mirrored, and its pixels don't agree.

    A view model tells whether a film is upright, not which side is left: for that the heart is looked at. It must
    speak for a reflection, and must not speak against a rotation.

    Parameters
    ----------
    picture
        Turned upright as the header says; shape (size, size, 1), in [0, 1].
    geometry
        How the image lay.
    """
    if geometry.is_upright:
        return SCORED
    side = heart_side(picture)
    if side > (_CLEAR_SIDE if geometry.changes_sides else -_CLEAR_SIDE):
        return SCORED
    return Verdict(JobState.HELD, _NOT_AS_ORIENTED, facts={"heart_side": round(side, 4)})


@dataclass(frozen=True, slots=True)
class ViewCheck:
    """Judges images by their pixels; ``ViewCheck.load`` makes it.

    Parameters
    ----------
    package
        The view model.
    component
        What it says about itself.
    model
        Ready to score.
    settings
        What follows from what it sees.
    """

    package: ModelPackage
    component: ViewComponent
    model: Model
    settings: ViewSettings

    @classmethod
    def load(cls, settings: ViewSettings, load_model: Callable[[ModelPackage], Model]) -> ViewCheck | None:
        """Load the view model that the settings name, or the one that comes with the project.

        Returns
        -------
        ViewCheck | None
            None: it is not wanted, or there is none.

        Raises
        ------
        PackageError
            If it can't be used.
        """
        folder = view_folder(settings.model)
        is_wanted = settings.pixels is not PixelView.OFF or settings.unknown is UnknownView.MODEL
        return None if folder is None or not is_wanted else cls.of(folder, settings, load_model)

    @classmethod
    def of(cls, folder: Path, settings: ViewSettings, load_model: Callable[[ModelPackage], Model]) -> ViewCheck:
        """Load a view model from its folder."""
        package = load_package(folder)
        return cls(package, component_of(package.manifest), load_model(package), settings)

    @property
    def recipe(self) -> PixelRecipe:
        """How pixels become what ``judge`` takes."""
        return self.package.manifest.recipe

    def judge(self, picture: Floats, *, view: View, is_released: bool = False, geometry: Geometry = UPRIGHT) -> Verdict:
        """Say what is done with an image.

        Parameters
        ----------
        picture
            Prepared with ``recipe``; shape (size, size, 1), in [0, 1].
        view
            What its header tells.
        is_released
            Whether a person has sent it to the model.
        geometry
            How the image lay, by its header; the picture is upright.
        """
        chances = self.model.score(picture[None]).probabilities[0]
        seen = self.component.judge(chances.tolist())
        facts = {f"seen_{name}": round(float(chance), 4) for name, chance in zip(CLASSES, chances, strict=True)}
        flags = (_FLAGS[seen],) if seen in _FLAGS else ()
        if is_released:
            return Verdict(warnings=flags, facts=facts)
        if not geometry.is_upright and self.component.is_held(chances.tolist()):
            return Verdict(JobState.HELD, _NOT_AS_ORIENTED, facts=facts)
        turned = judge_turn(picture, geometry)
        if turned.state is not None:
            return Verdict(turned.state, turned.reason, facts={**facts, **turned.facts})
        if view is View.UNKNOWN and self.settings.unknown is UnknownView.MODEL:
            return self._decide(seen, facts)
        if self.settings.pixels is PixelView.HOLD and self.component.is_held(chances.tolist()):
            return Verdict(JobState.HELD, _REASONS[seen], facts=facts)
        return Verdict(warnings=flags if self.settings.pixels is not PixelView.OFF else (), facts=facts)

    def _decide(self, seen: PredictedView, facts: Mapping[str, float]) -> Verdict:
        """Decide about an image whose header does not tell the view."""
        if seen is PredictedView.FRONTAL and self.component.may_decide:
            return Verdict(warnings=(VIEW_FROM_PIXELS,), facts=facts)
        if seen is PredictedView.UNSURE or not self.component.may_decide:
            return Verdict(JobState.HELD, "pixels_unsure", facts=facts)
        return Verdict(JobState.NOT_SCORED, _REASONS[seen], facts=facts)
