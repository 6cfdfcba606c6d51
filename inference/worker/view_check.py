"""Check the view by the pixels, with the view model (``cxr.package.view_model``), and decide whether to score.

The check holds an image for a person, or flags it. It decides on its own only if the header does not state the
view, the setting ``view.unknown`` is ``model`` and the view model was trained on enough laterals. An image that a
person has released is always scored, and only flagged.
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
    """Decision on an image by its pixels.

    Parameters
    ----------
    state
        ``HELD`` or ``NOT_SCORED``; None: score it.
    reason
        Reason for not scoring: a code of ``cxr.view.decide.PIXEL_REASONS``.
    warnings
        Warnings beside the scores: codes of ``cxr.pixels.quality_checks.WARNINGS``.
    facts
        Probabilities, for the audit log.
    """

    state: JobState | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)


SCORED: Final = Verdict()


def check_orientation(picture: Floats, geometry: Geometry) -> Verdict:
    """Hold an image that was turned or mirrored by its header, if its pixels contradict the header.

    The view model recognises an upright film, but not its left side; the position of the heart does. A reflection
    requires a heart clearly on the left afterwards, a rotation only that it is not clearly on the right.

    Parameters
    ----------
    picture
        Picture turned upright by the header; shape (size, size, 1), in [0, 1].
    geometry
        Orientation of the received image, by its header.
    """
    if geometry.is_upright:
        return SCORED
    side = heart_side(picture)
    if side > (_CLEAR_SIDE if geometry.changes_sides else -_CLEAR_SIDE):
        return SCORED
    return Verdict(JobState.HELD, _NOT_AS_ORIENTED, facts={"heart_side": round(side, 4)})


@dataclass(frozen=True, slots=True)
class ViewCheck:
    """The view model with its settings; ``ViewCheck.load`` builds it.

    Parameters
    ----------
    package
        Package of the view model.
    component
        Its thresholds and training counts.
    model
        The loaded view model.
    settings
        The ``view`` table of the settings.
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
            None: switched off, or no view model is installed.

        Raises
        ------
        PackageError
            If the view model can't be loaded.
        """
        folder = view_folder(settings.model)
        is_enabled = settings.pixels is not PixelView.OFF or settings.unknown is UnknownView.MODEL
        return None if folder is None or not is_enabled else cls.of(folder, settings, load_model)

    @classmethod
    def of(cls, folder: Path, settings: ViewSettings, load_model: Callable[[ModelPackage], Model]) -> ViewCheck:
        """Load a view model from its folder."""
        package = load_package(folder)
        return cls(package, component_of(package.manifest), load_model(package), settings)

    @property
    def recipe(self) -> PixelRecipe:
        """Pixel recipe of the view model, with which ``verdict``'s picture is prepared."""
        return self.package.manifest.recipe

    def verdict(
        self, picture: Floats, *, view: View, is_released: bool = False, geometry: Geometry = UPRIGHT
    ) -> Verdict:
        """Decide whether an image is scored.

        Parameters
        ----------
        picture
            Upright picture, prepared with ``recipe``; shape (size, size, 1), in [0, 1].
        view
            View by the header.
        is_released
            Whether a person has released the image for scoring.
        geometry
            Orientation of the received image, by its header.
        """
        probabilities = self.model.score(picture[None]).probabilities[0]
        seen = self.component.judge(probabilities.tolist())
        facts = {
            f"seen_{name}": round(float(probability), 4)
            for name, probability in zip(CLASSES, probabilities, strict=True)
        }
        flags = (_FLAGS[seen],) if seen in _FLAGS else ()
        if is_released:
            return Verdict(warnings=flags, facts=facts)
        if not geometry.is_upright and self.component.is_held(probabilities.tolist()):
            return Verdict(JobState.HELD, _NOT_AS_ORIENTED, facts=facts)
        orientation = check_orientation(picture, geometry)
        if orientation.state is not None:
            return Verdict(orientation.state, orientation.reason, facts={**facts, **orientation.facts})
        if view is View.UNKNOWN and self.settings.unknown is UnknownView.MODEL:
            return self._decide_unknown_view(seen, facts)
        if self.settings.pixels is PixelView.HOLD and self.component.is_held(probabilities.tolist()):
            return Verdict(JobState.HELD, _REASONS[seen], facts=facts)
        return Verdict(warnings=flags if self.settings.pixels is not PixelView.OFF else (), facts=facts)

    def _decide_unknown_view(self, seen: PredictedView, facts: Mapping[str, float]) -> Verdict:
        """Decide on an image whose header does not state the view."""
        if seen is PredictedView.FRONTAL and self.component.may_decide:
            return Verdict(warnings=(VIEW_FROM_PIXELS,), facts=facts)
        if seen is PredictedView.UNSURE or not self.component.may_decide:
            return Verdict(JobState.HELD, "pixels_unsure", facts=facts)
        return Verdict(JobState.NOT_SCORED, _REASONS[seen], facts=facts)
