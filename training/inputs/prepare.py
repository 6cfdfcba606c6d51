"""Prepare images in child processes: on all cores, and a decoder that crashes costs one image."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool

from config.parent_process import end_with_parent
from cxr.errors import CxrError, DamagedPixels, DecoderError
from cxr.pixels.decoders import register_decoders
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe
from cxr.pixels.sixteen_bit import from_steps, to_steps


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The files of an image of a manifest.

    Parameters
    ----------
    image_id
        Its id in the manifest.
    path
        The image.
    mask
        Its lung mask; "": the manifest names none; None: masks are not used.
    mask_model
        Fingerprint of the mask model that the parent process applies to the prepared image; None: none.
    """

    image_id: str
    path: str
    mask: str | None = None
    mask_model: str | None = None


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A prepared image.

    Parameters
    ----------
    file
        State of its files: path, size, modification time; files in the same state are not read again.
    cache_key
        SHA-256 of the content, with lung masks of the content and of the mask or mask model.
    steps
        uint16 (size, size), row by row; None: the cache already holds it.
    """

    file: str
    cache_key: str
    steps: bytes | None


Outcome = PreparedImage | tuple[str, str]
"""Result of preparing an image: the image, or an error code and its message."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Submitted images.

    Parameters
    ----------
    lookups
        For each image its outcome, or the state of its files where it has to be prepared.
    new
        The images to prepare, each with the state of its files.
    future
        The outcomes of the new images; None: there are none.
    """

    lookups: Sequence[str | Outcome]
    new: Sequence[tuple[ImageFiles, str]]
    future: Future[list[Outcome]] | None


class PreparationPool:
    """A pool of processes that prepare images; a context manager.

    Parameters
    ----------
    recipe
        How pixels become the model's input.
    processes
        Number of processes.
    timeout_s
        Longest time for one image, in seconds.
    find_cache_key
        Returns the cache key of files in a state that the cache holds, or None.
    """

    def __init__(
        self, recipe: PixelRecipe, *, processes: int, timeout_s: float, find_cache_key: Callable[[str], str | None]
    ) -> None:
        self._recipe = recipe
        self._timeout_s = timeout_s
        self._find_cache_key = find_cache_key
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPool(max_workers=processes, context=context, initializer=initialise_process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Stopped, not closed: every outcome has been read, or the build has failed.
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def submit(self, sources: Sequence[ImageFiles]) -> Submission:
        """Submit images to the pool; ``outcomes`` waits for their outcomes.

        Submit several at once: a call to a child process costs time, which counts where an image takes few ms.
        """
        lookups = [self._look_up(source) for source in sources]
        new = [(source, file) for source, file in zip(sources, lookups, strict=True) if isinstance(file, str)]
        return Submission(lookups, new, self._schedule(new) if new else None)

    def outcomes(self, submission: Submission) -> Iterator[Outcome]:
        """Wait for submitted images; yield their outcomes in the order of submission."""
        prepared = iter(self._wait(submission))
        for lookup in submission.lookups:
            yield next(prepared) if isinstance(lookup, str) else lookup

    def _look_up(self, source: ImageFiles) -> str | Outcome:
        """Return an image's outcome, or the state of its files where it has to be prepared."""
        try:
            file = _state_of(source)
        except OSError as error:
            return "absent_file", f"The file can't be read ({error.strerror})."
        cache_key = self._find_cache_key(file)
        return file if cache_key is None else PreparedImage(file, cache_key, None)

    def _schedule(self, new: Sequence[tuple[ImageFiles, str]]) -> Future[list[Outcome]]:
        future: Future[list[Outcome]] = self._pool.schedule(
            prepare_images, args=(new, self._recipe), timeout=self._timeout_s * len(new)
        )
        return future

    def _wait(self, submission: Submission) -> list[Outcome]:
        if submission.future is None:
            return []
        try:
            return submission.future.result()
        except (ProcessExpired, TimeoutError):
            if len(submission.new) > 1:  # each by itself, to find the one at fault
                return [self._wait(Submission([], [each], self._schedule([each])))[0] for each in submission.new]
            return [(DecoderError.code, "The process that decoded it crashed or ran out of time.")]


def prepare_images(new: Sequence[tuple[ImageFiles, str]], recipe: PixelRecipe) -> list[Outcome]:
    """Prepare images one after the other, in a child process."""
    return [prepare_image(source, file, recipe) for source, file in new]


def initialise_process() -> None:
    """Set up a child process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    end_with_parent()
    logging.disable(logging.CRITICAL)  # pydicom's log records and warnings contain values of the data set
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)  # each core has its own process
    register_decoders()


def prepare_image(source: ImageFiles, file: str, recipe: PixelRecipe) -> Outcome:
    """Prepare one image; every exception becomes an error code and a message."""
    try:
        cache_key = _digest(source.path)
        grey = to_model_input(Path(source.path), recipe)
        if source.mask is not None:
            cache_key = hashlib.sha256(f"{cache_key} masked by {_digest(source.mask)}".encode()).hexdigest()
            grey = grey * read_mask(Path(source.mask), recipe)
        elif source.mask_model is not None:
            cache_key = hashlib.sha256(f"{cache_key} lungs by {source.mask_model}".encode()).hexdigest()
        steps = to_steps(grey)
        if not np.array_equal(from_steps(steps), grey):
            return "not_quantised", "The pixel recipe's grey does not fit 16 bits: set pixels.quantised = true."
        return PreparedImage(file, cache_key, steps.tobytes())
    except CxrError as error:
        return error.code, str(error)
    except OSError as error:
        return "absent_file", f"The file can't be read ({error.strerror})."
    except Exception as error:  # noqa: BLE001 (the outermost call of the process)
        return DecoderError.code, f"Preparing the image failed unexpectedly ({type(error).__name__})."


def read_mask(path: Path, recipe: PixelRecipe) -> NDArray[np.float32]:
    """Read a lung mask in the geometry of the recipe: float32 (size, size, 1), 1 inside, 0 outside.

    Raises
    ------
    DamagedPixels
        If it can't be decoded as an image, or no pixel is inside.
    """
    inside: NDArray[Any] = to_model_input(path, mask_recipe(recipe)) >= 0.5
    if not inside.any():
        raise DamagedPixels("The lung mask is empty: draw it again, or leave the image out.")
    return inside.astype(np.float32)


def mask_recipe(recipe: PixelRecipe) -> PixelRecipe:
    """Return the recipe that resamples a drawn mask to the geometry of a recipe's images."""
    return dataclasses.replace(
        recipe, resample="nearest", raster="full", colour="luminance", grey_levels=None, contrast="keep"
    )


def _state_of(source: ImageFiles) -> str:
    """Return path, size and modification time of an image's files: a digest would have to read them."""
    parts = []
    for path in (source.path, source.mask):
        if path is not None:
            state = os.stat(path)  # noqa: PTH116 (Path.stat is slower; there are 100,000 files)
            parts.append(f"{path}|{state.st_size}|{state.st_mtime_ns}")
    if source.mask_model is not None:
        parts.append(f"lungs by {source.mask_model}")
    return "|".join(parts)


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
