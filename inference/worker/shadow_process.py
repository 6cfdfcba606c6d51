"""What runs in the shadow's process: its model, and one batch after another.

A process of its own, so that nothing that a shadow does can harm the model in service: memory that it
lacks, a crash in native code and a graph that never returns end this process and no other. It
verifies and loads its package exactly as the worker does.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

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
    """One image that was reported, for the shadow to score.

    Parameters
    ----------
    path
        Its file in the spool.
    shape
        Rows and columns; None: not known.
    pixels
        As the model in service was given them, where the shadow's recipe is the same; else None, and
        this process prepares them from the file.
    """

    path: str
    shape: tuple[int, int] | None
    pixels: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images to score, and when that is."""

    images: Sequence[ShadowImage]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The model is ready; ``recipe`` is its pixel recipe's digest."""

    device: str
    recipe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It could not be done; the code of the error, and whether trying again can help."""

    code: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class _Shadow:
    package: ModelPackage
    model: Model
    gate: InputGate

    def score(self, batch: Batch, max_megapixels: int) -> list[ScoredImage | None]:
        """Score a batch; None: that image can't be prepared by the shadow's recipe."""
        seen = {row: each for row, image in enumerate(batch.images) if (each := self._see(image, max_megapixels))}
        found: list[ScoredImage | None] = [None] * len(batch.images)
        if not seen:
            return found
        output = self.model.score(np.stack([each.pixels for each in seen.values()]))
        for place, (row, each) in enumerate(seen.items()):
            warned = self.gate.warnings(each, output, place, shape=batch.images[row].shape)
            found[row] = scored_image(output.probabilities[place], self.package, self.model.device, batch.at, warned)
        return found

    def _see(self, image: ShadowImage, max_megapixels: int) -> GraphInput | None:
        recipe = self.package.manifest.recipe
        try:
            pixels = image.pixels
            if pixels is None:
                pixels = to_model_input(Path(image.path), recipe, max_megapixels=max_megapixels)
            return self.model.see(pixels)
        except (ImageError, OSError):  # retention may have been faster
            return None


def serve(connection: Connection, models_dir: Path, fingerprint: str, settings: WorkerSettings) -> None:
    """Load the shadow, say so, and answer each batch until the pipe is closed.

    Parameters
    ----------
    connection
        To the worker: first ``Loaded`` or ``Refused`` goes out; then a list, or ``Refused``, for each ``Batch``.
    models_dir
        Of the registry.
    fingerprint
        The package's.
    settings
        The ``worker`` table: device, runtime, and how large an image may be.
    """
    _settle()
    try:
        shadow = _load(models_dir, fingerprint, settings)
    except Exception as error:  # noqa: BLE001 (a process loop; whatever it is, the worker hears of it and goes on)
        connection.send(_refused(error))
        return
    connection.send(Loaded(device=shadow.model.device, recipe=shadow.package.manifest.recipe.digest))
    while True:
        try:
            batch: Batch = connection.recv()
        except (EOFError, OSError):  # the worker closed the pipe, or is gone
            return
        try:
            answer: list[ScoredImage | None] | Refused = shadow.score(batch, settings.max_megapixels)
        except Exception as error:  # noqa: BLE001 (the same)
            answer = _refused(error)
        connection.send(answer)


def _load(models_dir: Path, fingerprint: str, settings: WorkerSettings) -> _Shadow:
    package = Registry(models_dir).load(fingerprint)
    return _Shadow(package, Model.load(package, device=settings.device, engine=settings.runtime), InputGate.of(package))


def _refused(error: Exception) -> Refused:
    if isinstance(error, CxrError):
        return Refused(code=error.code, retryable=error.retryable)
    return Refused(code=CxrError.code, retryable=True)


def _settle() -> None:
    """Leave signals to the worker, leave no core and no text behind, and die with the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's image
    logging.disable(logging.CRITICAL)  # libraries log and warn with values of the dataset
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    register_decoders()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
