"""The view model: whether a picture is a frontal chest radiograph, a lateral one, or none of a chest.

An ordinary package (``cxr.package.folder``) with three outputs and the component ``view``, which says on how
many laterals it was trained. Few can't decide: below ``ENOUGH_LATERALS`` it may flag an image or have
it held for a person, and no more.
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
"""Real laterals that a view model must have been trained on before it may decide (``view.unknown = model``)."""

FRONTAL: Final = "frontal"
LATERAL: Final = "lateral"
NOT_A_CHEST: Final = "not_a_chest"
CLASSES: Final = (FRONTAL, LATERAL, NOT_A_CHEST)
"""Outputs of the graph, in order."""

Count = Annotated[int, Field(ge=0)]


class Seen(StrEnum):
    """What the pixels show."""

    FRONTAL = FRONTAL
    LATERAL = LATERAL
    NOT_A_CHEST = NOT_A_CHEST
    UNSURE = "unsure"


class ViewComponent(BaseModel):
    """The content of the component."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    laterals: Count  # real images that it was trained on, of each kind
    frontals: Count
    not_a_chest: Count
    synthetic: Count = 0  # made pictures of what is not a chest
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.8  # below it, nothing is said
    frontal_at_least: Annotated[float, Field(ge=0.5, lt=1)] = 0.5  # below it, an image is held for a person

    @property
    def may_decide(self) -> bool:
        """Whether it may decide about images whose header does not tell the view."""
        return self.laterals >= ENOUGH_LATERALS

    def judge(self, probabilities: Sequence[float]) -> Seen:
        """Say what the pixels show.

        Parameters
        ----------
        probabilities
            In the order of ``CLASSES``.
        """
        chance, name = max(zip(map(float, probabilities), CLASSES, strict=True))
        return Seen(name) if chance >= self.confidence else Seen.UNSURE

    def is_held(self, probabilities: Sequence[float]) -> bool:
        """Whether a person should look first: the picture may be anything but a frontal chest radiograph.

        Parameters
        ----------
        probabilities
            In the order of ``CLASSES``.
        """
        return float(probabilities[CLASSES.index(FRONTAL)]) < min(self.frontal_at_least, self.confidence)


def is_view_model(manifest: PackageManifest) -> bool:
    """Whether a package tells the view, and no finding."""
    return COMPONENT in manifest.components


def component_of(manifest: PackageManifest) -> ViewComponent:
    """Return what a view model says about itself.

    Raises
    ------
    IncompatiblePackage
        If the package is none.
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
