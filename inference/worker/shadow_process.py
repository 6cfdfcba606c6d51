"""Code of the shadow's process: load the model, score batches.

The shadow runs in a process of its own so that it can't harm the model in service: lack of memory, a crash in
native code or a graph that never returns ends only this process. It verifies and loads its package as the
worker does.
"""

from __future__ import annotations

import logging
import resource
import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from config.parent_process import end_with_parent
from config.settings import WorkerSettings
from cxr.domain import ScoredImage
from cxr.errors import CxrError, ImageError
from cxr.package import ModelPackage
from cxr.package.lung_mask import GraphInput
from cxr.pixels.decoders import register_decoders
from cxr.pixels.model_input import to_model_input
from inference.model.model import Model
from inference.registry import Registry
from inference.worker.image_warnings import InputGate
from inference.worker.scored_image import scored_image


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowImage:
    """One reported image, to be scored by the shadow.

    Parameters
    ----------
    path
        File in the spool.
    shape
        Rows and columns; None: unknown.
    pixels
        Prepared pixels of the model in service, if the shadow's recipe is the same; None: this process prepares
        the file.
    """

    path: str
    shape: tuple[int, int] | None
    pixels: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowBatch:
    """Images to score, and the time of scoring."""

    images: Sequence[ShadowImage]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowLoaded:
    """Message that the model is loaded; ``recipe`` is the digest of its pixel recipe."""

    device: str
    recipe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowError:
    """Message of a failure: error code, and whether a retry may succeed."""

    code: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class _Shadow:
    package: ModelPackage
    model: Model
    gate: InputGate

    def score(self, batch: ShadowBatch, max_megapixels: int) -> list[ScoredImage | None]:
        """Score a batch; None for an image that can't be prepared with the shadow's recipe."""
        inputs = {row: each for row, image in enumerate(batch.images) if (each := self._prepare(image, max_megapixels))}
        results: list[ScoredImage | None] = [None] * len(batch.images)
        if not inputs:
            return results
        output = self.model.score(np.stack([each.pixels for each in inputs.values()]))
        for index, (row, each) in enumerate(inputs.items()):
            codes = self.gate.warnings(each, output, index, shape=batch.images[row].shape)
            results[row] = scored_image(output.probabilities[index], self.package, self.model.device, batch.at, codes)
        return results

    def _prepare(self, image: ShadowImage, max_megapixels: int) -> GraphInput | None:
        recipe = self.package.manifest.recipe
        try:
            pixels = image.pixels
            if pixels is None:
                pixels = to_model_input(Path(image.path), recipe, max_megapixels=max_megapixels)
            return self.model.mask_lungs(pixels)
        except (ImageError, OSError):  # retention may have removed the file
            return None


def serve(connection: Connection, models_dir: Path, fingerprint: str, settings: WorkerSettings) -> None:
    """Load the shadow, report that it is loaded, and score batches until the pipe is closed.

    Parameters
    ----------
    connection
        Pipe to the worker. First sends ``ShadowLoaded`` or ``ShadowError``; then receives each ``ShadowBatch`` and
        sends a list of scores or ``ShadowError``.
    models_dir
        Folder of the registry.
    fingerprint
        Fingerprint of the package.
    settings
        The ``worker`` table: device, runtime, largest image.
    """
    _set_up_process()
    try:
        shadow = _load(models_dir, fingerprint, settings)
    except Exception as error:  # noqa: BLE001 (every failure is reported to the worker)
        connection.send(_to_error(error))
        return
    connection.send(ShadowLoaded(device=shadow.model.device, recipe=shadow.package.manifest.recipe.digest))
    while True:
        try:
            batch: ShadowBatch = connection.recv()
        except (EOFError, OSError):  # the worker has closed the pipe or has died
            return
        try:
            answer: list[ScoredImage | None] | ShadowError = shadow.score(batch, settings.max_megapixels)
        except Exception as error:  # noqa: BLE001 (as above)
            answer = _to_error(error)
        connection.send(answer)


def _load(models_dir: Path, fingerprint: str, settings: WorkerSettings) -> _Shadow:
    package = Registry(models_dir).load(fingerprint)
    return _Shadow(
        package, Model.load(package, device=settings.device, runtime=settings.runtime), InputGate.of(package)
    )


def _to_error(error: Exception) -> ShadowError:
    if isinstance(error, CxrError):
        return ShadowError(code=error.code, retryable=error.retryable)
    return ShadowError(code=CxrError.code, retryable=True)


def _set_up_process() -> None:
    """Ignore signals, disable core files and logging, and exit when the worker dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's image
    logging.disable(logging.CRITICAL)  # libraries log and warn with values of the dataset
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    register_decoders()
    end_with_parent()
