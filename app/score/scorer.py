"""Score single files with the steps of the worker: header, view model, model, input gate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from config.settings import Settings
from cxr.domain import View
from cxr.errors import CxrError, SettingsError

if TYPE_CHECKING:
    from cxr.package import ModelPackage
    from cxr.pixels.geometry import Geometry
    from inference.model.model import Model, ModelOutput
    from inference.worker.image_warnings import InputGate
    from inference.worker.view_check import Verdict, ViewCheck

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FileScore:
    """One line of the output; the first six field names are interface."""

    file: str
    view: str
    reason: str
    finding: str | None = None
    score: float | None = None
    error_code: str | None = None
    error_detail: str | None = None  # sentence
    threshold: float | None = None
    model: str | None = None
    fingerprint: str | None = None
    model_status: str | None = None
    warnings: tuple[str, ...] = ()
    at_or_above: bool | None = None  # whether the score reaches its threshold
    is_predicted: bool | None = None  # softmax: whether its class has the largest probability


class Scorer:
    """Score files with one package; a context manager.

    Parameters
    ----------
    settings
        All settings.
    package
        Folder of a model package; None: the package in service, else the default.
    any_view
        Whether to score images that are not frontal chest images by their header.
    """

    def __init__(self, settings: Settings, package: Path | None, *, any_view: bool) -> None:
        from cxr.package import load_package
        from cxr.package.view_model import is_view_model

        self._expanded = ExitStack()  # a default's temporary folder
        self.package: ModelPackage = load_package(package) if package else self._served(settings)
        if is_view_model(self.package.manifest):
            raise SettingsError("This package classifies views and no finding: name it with the setting view.model.")
        self._settings = settings
        self._any_view = any_view
        self._loaded: Model | None = None
        self._gate: InputGate | None = None
        self._views: list[ViewCheck | None] = []  # empty until it was loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._expanded.close()

    def _served(self, settings: Settings) -> ModelPackage:
        """Return the package in service; without one, expand the default that comes with the project."""
        from cxr.package.shipped import shipped_models
        from inference.registry import Registry

        registry, default, shipped = Registry(settings.models_dir), settings.worker.default_model, shipped_models()
        has_default = shipped is not None and default in shipped.fingerprints
        if shipped is None or not has_default or registry.active_fingerprint() is not None:
            return registry.active()
        return self._expanded.enter_context(shipped.expanded(default))

    def score(self, file: Path, overlay: Path | None) -> list[FileScore]:
        """Return one row per finding, or one row with the reason for the missing score."""
        from cxr.pixels.raster import is_raster

        view, reason = View.UNKNOWN.value, "not_dicom"
        try:
            if not is_raster(file):
                view, reason, is_scorable = self._decide(file)
                if not (is_scorable or self._any_view):
                    return [FileScore(file=str(file), view=view, reason=reason)]
            return list(self._rows(file, view, reason, overlay))
        except CxrError as error:
            return [FileScore(file=str(file), view=view, reason=reason, error_code=error.code, error_detail=str(error))]
        except OSError as error:
            detail = f"The file can't be read: {error.strerror or type(error).__name__}."
            return [
                FileScore(file=str(file), view=view, reason=reason, error_code="unreadable_file", error_detail=detail)
            ]

    def _decide(self, file: Path) -> tuple[str, str, bool]:
        from cxr.dicom import open_dataset, read_header
        from cxr.view import decide_view

        limit = self._settings.listener.max_object_mib * MIB
        decision = decide_view(read_header(open_dataset(file, max_inflated_bytes=limit)))
        is_scorable = decision.is_scorable or decision.view is View.UNKNOWN
        return decision.view.value, decision.reason, is_scorable

    def _rows(self, file: Path, view: str, reason: str, overlay: Path | None) -> Iterator[FileScore]:
        from cxr.pixels.model_input import to_model_input

        manifest = self.package.manifest
        verdict = self._check_view(file, view)
        if verdict.state is not None:
            yield FileScore(file=str(file), view=view, reason=verdict.reason)
            return
        pixels = to_model_input(file, manifest.recipe, max_megapixels=self._settings.worker.max_megapixels)
        masked = self._model().mask_lungs(pixels)
        output = self._model().score(masked.pixels[None])
        warnings = self._input_gate().warnings(
            masked, output, 0, shape=self._shape_of(file), geometry=self._geometry_of(file)
        )
        if overlay is not None:
            self._write_overlay(overlay, masked.pixels, output, warnings)
        largest = int(np.argmax(output.probabilities[0])) if manifest.activation == "softmax" else None
        for number, (entry, probability) in enumerate(zip(manifest.classes, output.probabilities[0], strict=True)):
            yield FileScore(
                file=str(file),
                view=view,
                reason=reason,
                finding=entry.finding,
                score=float(probability),
                threshold=entry.threshold,
                model=f"{manifest.name} {manifest.version}",
                fingerprint=self.package.fingerprint,
                model_status=manifest.status.value,
                warnings=warnings + verdict.warnings,
                at_or_above=None if entry.threshold is None else bool(probability >= entry.threshold),
                is_predicted=None if largest is None else number == largest,
            )

    def _check_view(self, file: Path, view: str) -> Verdict:
        """Check the view by pixels as the worker does; with ``--any-view`` the result is a warning only."""
        from cxr.pixels.model_input import to_model_input
        from inference.model.model import Model
        from inference.worker.view_check import SCORED, ViewCheck

        if not self._views:
            device = self._settings.worker.device
            self._views.append(ViewCheck.load(self._settings.view, lambda each: Model.load(each, device=device)))
        check = self._views[0]
        if check is None:
            return SCORED
        picture = to_model_input(file, check.recipe, max_megapixels=self._settings.worker.max_megapixels)
        return check.verdict(picture, view=View(view), is_released=self._any_view, geometry=self._geometry_of(file))

    def _shape_of(self, file: Path) -> tuple[int, int] | None:
        """Return Rows and Columns of the header, or the size of a picture."""
        from PIL import Image

        from cxr.dicom import open_dataset
        from cxr.pixels.raster import is_raster

        if is_raster(file):
            with Image.open(file) as image:
                return image.height, image.width
        header = open_dataset(file, max_inflated_bytes=self._settings.listener.max_object_mib * MIB)
        return int(header.Rows), int(header.Columns)  # validated by the decoder before

    def _geometry_of(self, file: Path) -> Geometry:
        """Return the orientation and mirroring that the header states; upright for a picture."""
        from cxr.dicom import open_dataset
        from cxr.pixels.geometry import UPRIGHT, read_geometry
        from cxr.pixels.raster import is_raster

        if is_raster(file):
            return UPRIGHT
        return read_geometry(open_dataset(file, max_inflated_bytes=self._settings.listener.max_object_mib * MIB))

    def _model(self) -> Model:
        from inference.model.model import Model

        if self._loaded is None:
            self._loaded = Model.load(
                self.package, device=self._settings.worker.device, runtime=self._settings.worker.runtime
            )
        return self._loaded

    def _input_gate(self) -> InputGate:
        from inference.worker.image_warnings import InputGate

        if self._gate is None:
            self._gate = InputGate.of(self.package)
        return self._gate

    def _write_overlay(
        self, target: Path, pixels: NDArray[np.float32], output: ModelOutput, warnings: tuple[str, ...]
    ) -> None:
        from inference.report.evidence_map import Method, overlay_png
        from inference.worker.scored_image import scored_image

        model = self._model()
        evidence = model.grad_cam(pixels) if output.evidence is None else output.evidence[0]
        if evidence is None:
            raise SettingsError(
                "--overlay needs a model package with an evidence map or features for Grad-CAM; this one has neither."
            )
        scored = scored_image(output.probabilities[0], self.package, model.device, datetime.now(UTC), warnings)
        target.write_bytes(overlay_png(pixels, evidence, scored, Method.of(self.package.manifest)))
