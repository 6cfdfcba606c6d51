"""Warn of images and scores that should not be relied on: quality checks, and the package's own input gate."""

from __future__ import annotations

from dataclasses import dataclass

from cxr.package import ModelPackage
from cxr.package.input_gate import FeatureSpace, GateComponent, component_of, is_unsure, read_space
from cxr.package.lung_mask import GraphInput
from cxr.pixels.geometry import UPRIGHT, Geometry
from cxr.pixels.quality_checks import ONE_LUNG, OUTLIER, TURNED, UNSURE, quality_warnings
from inference.model.batches import ModelOutput


@dataclass(frozen=True, slots=True)
class InputGate:
    """The checks of one package's images; ``InputGate.of`` makes it.

    Parameters
    ----------
    package
        Whose scores are looked at.
    component
        Its input gate; None: it has none, and images are only checked for quality.
    space
        Where its training images' features lie.
    """

    package: ModelPackage
    component: GateComponent | None
    space: FeatureSpace | None

    @classmethod
    def of(cls, package: ModelPackage) -> InputGate:
        """Read a verified package's input gate.

        Raises
        ------
        IncompatiblePackage, DamagedPackage
            If it can't be read.
        """
        component = component_of(package.manifest)
        return cls(package, component, None if component is None else read_space(package.folder / component.file))

    def warnings(
        self,
        seen: GraphInput,
        output: ModelOutput,
        row: int,
        *,
        shape: tuple[int, int] | None,
        geometry: Geometry = UPRIGHT,
    ) -> tuple[str, ...]:
        """Check one image of a batch.

        Parameters
        ----------
        seen
            What the model saw, and what it was made of: quality is that of the whole film.
        output
            What the model gave for the batch.
        row
            Which image of it.
        shape
            Rows and columns of the received image; None: not known.
        geometry
            How it lay, by its header.

        Returns
        -------
        tuple[str, ...]
            Codes of ``cxr.pixels.quality_checks.WARNINGS``.
        """
        found = quality_warnings(seen.plain, shape and geometry.shape(*shape))
        if not geometry.is_upright:
            found += (TURNED,)
        if seen.is_one_sided:
            found += (ONE_LUNG,)
        if self._is_outlier(output, row):
            found += (OUTLIER,)
        if self._is_unsure(output, row):
            found += (UNSURE,)
        return found

    def _is_outlier(self, output: ModelOutput, row: int) -> bool:
        if self.component is None or self.space is None or output.features is None:
            return False
        return bool(self.space.distances(output.features[row][None])[0] > self.component.distance)

    def _is_unsure(self, output: ModelOutput, row: int) -> bool:
        if self.component is None or self.component.conformal is None:
            return False
        manifest = self.package.manifest
        scores = dict(zip(manifest.findings, map(float, output.probabilities[row]), strict=True))
        return is_unsure(self.component.conformal, scores, is_softmax=manifest.activation == "softmax")
