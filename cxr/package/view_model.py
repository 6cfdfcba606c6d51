"""The view model: classification of an image as frontal chest, lateral chest, or no chest radiograph.

An ordinary package (``cxr.package.folder``) with three outputs and the component ``view``, which records the number of
lateral images in training. Below ``ENOUGH_LATERALS`` the model may flag an image or hold it for a person, but not
decide on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxr.errors import IncompatiblePackage
from cxr.package.manifest import PackageManifest

COMPONENT: Final = "view"
ENOUGH_LATERALS: Final = 200
"""Real lateral images in training that a view model needs to decide (``view.unknown = model``)."""

FRONTAL: Final = "frontal"
LATERAL: Final = "lateral"
NOT_A_CHEST: Final = "not_a_chest"
CLASSES: Final = (FRONTAL, LATERAL, NOT_A_CHEST)
"""Classes of the graph's outputs, in order."""

Count = Annotated[int, Field(ge=0)]


class PredictedView(StrEnum):
    """Class of an image by its pixels; UNSURE: no class reaches the confidence."""

    FRONTAL = FRONTAL
    LATERAL = LATERAL
    NOT_A_CHEST = NOT_A_CHEST
    UNSURE = "unsure"


class ViewComponent(BaseModel):
    """Content of the component ``view``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    laterals: Count  # real images in training, by class
    frontals: Count
    not_a_chest: Count
    synthetic: Count = 0  # drawn or rearranged pictures of class not_a_chest
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.8  # of a class; below it, UNSURE
    frontal_at_least: Annotated[float, Field(ge=0.5, lt=1)] = 0.5  # of frontal; below it, an image is held

    @property
    def may_decide(self) -> bool:
        """Whether the model may decide on images whose header does not determine the view."""
        return self.laterals >= ENOUGH_LATERALS

    def judge(self, probabilities: Sequence[float]) -> PredictedView:
        """Return the most probable class, or UNSURE below ``confidence``.

        Parameters
        ----------
        probabilities
            Probabilities in [0, 1], in the order of ``CLASSES``.
        """
        probability, name = max(zip(map(float, probabilities), CLASSES, strict=True))
        return PredictedView(name) if probability >= self.confidence else PredictedView.UNSURE

    def is_held(self, probabilities: Sequence[float]) -> bool:
        """Check whether the probability of a frontal chest radiograph is too low to score without a person's release.

        Parameters
        ----------
        probabilities
            Probabilities in [0, 1], in the order of ``CLASSES``.
        """
        return float(probabilities[CLASSES.index(FRONTAL)]) < min(self.frontal_at_least, self.confidence)


def is_view_model(manifest: PackageManifest) -> bool:
    """Check whether a package is a view model."""
    return COMPONENT in manifest.components


def component_of(manifest: PackageManifest) -> ViewComponent:
    """Return the component of a view model.

    Raises
    ------
    IncompatiblePackage
        If the package is not a view model.
    """
    try:
        component = ViewComponent.model_validate(manifest.components.get(COMPONENT))
    except ValidationError:
        component = None
    if component is None or manifest.findings != CLASSES or manifest.activation != "softmax":
        raise IncompatiblePackage(
            "The package is not a view model: name one that `cxr train view` made (setting view.model)."
        )
    return component
