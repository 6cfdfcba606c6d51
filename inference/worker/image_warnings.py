"""Warnings about images and scores that are unreliable: quality checks and the package's input gate."""

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
        Package in use.
    component
        Its input gate; None: it has none, and images are checked for quality only.
    space
        Distribution of the training images' features; None: no input gate.
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
            If the input gate can't be read.
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
            Input of the model, with the unmasked picture, whose quality is checked.
        output
            Outputs of the model for the batch.
        row
            Index of the image in the batch.
        shape
            Rows and columns of the received image; None: unknown.
        geometry
            Orientation of the received image, by its header.

        Returns
        -------
        tuple[str, ...]
            Codes of ``cxr.pixels.quality_checks.WARNINGS``.
        """
        codes = quality_warnings(seen.plain, shape and geometry.shape(*shape))
        if not geometry.is_upright:
            codes += (TURNED,)
        if seen.is_one_sided:
            codes += (ONE_LUNG,)
        if self._is_outlier(output, row):
            codes += (OUTLIER,)
        if self._is_unsure(output, row):
            codes += (UNSURE,)
        return codes

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
