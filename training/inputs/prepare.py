"""Prepare images for the cache in processes of their own: decoders may crash, and cores are many."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import multiprocessing
import os
import signal
import threading
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

from cxr.errors import CxrError, DamagedPixels, DecoderError
from cxr.pixels.decoders import register_decoders
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe
from cxr.pixels.sixteen_bit import from_steps, to_steps


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """An image of a manifest; ``mask`` is a lung mask's path, "" if it has none, None if none is used.

    ``lungs`` names the mask model that the parent applies to what comes back; None: none.
    """

    image_id: str
    path: str
    mask: str | None = None
    lungs: str | None = None


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One image; ``steps`` is None if the cache already knew its content."""

    file: str  # path, size and time of the file (and mask): the same again is not read again
    key: str  # SHA-256 of the content (and of the mask's, or of the content and the mask model's name)
    steps: bytes | None


Outcome = PreparedImage | tuple[str, str]
"""What comes back: the image, or the code and the words of why not."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Images that were handed over: what is known of each, or else its file's state; and the new ones' future."""

    found: Sequence[str | Outcome]
    new: Sequence[tuple[ImageFiles, str]]
    future: Future[list[Outcome]] | None


class PreparationPool:
    """Processes that prepare images; a context manager.

    Parameters
    ----------
    recipe
        How pixels become the model's input.
    processes
        How many.
    timeout_s
        How long one image may take.
    known
        Gives the key of a file that was seen before, or None.
    """

    def __init__(
        self, recipe: PixelRecipe, *, processes: int, timeout_s: float, known: Callable[[str], str | None]
    ) -> None:
        self._recipe = recipe
        self._timeout_s = timeout_s
        self._known = known
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPool(max_workers=processes, context=context, initializer=start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is not begun is not done: everything that was asked for is back, or the build failed.
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def submit(self, sources: Sequence[ImageFiles]) -> Submission:
        """Hand over some images; ``answers`` waits for what comes back.

        Several at once: of images that take 2 ms, handing each over by itself takes a tenth.
        """
        found = [self._look_up(source) for source in sources]
        new = [(source, file) for source, file in zip(sources, found, strict=True) if isinstance(file, str)]
        return Submission(found, new, self._schedule(new) if new else None)

    def answers(self, handed: Submission) -> Iterator[Outcome]:
        """Wait for images that were handed over, and give them in their order."""
        prepared = iter(self._wait(handed))
        for found in handed.found:
            yield next(prepared) if isinstance(found, str) else found

    def _look_up(self, source: ImageFiles) -> str | Outcome:
        """Give what is known of an image, or its file's state where it has to be prepared."""
        try:
            file = _file_of(source)
        except OSError as error:
            return "absent_file", f"The file can't be read ({error.strerror})."
        key = self._known(file)
        return file if key is None else PreparedImage(file, key, None)

    def _schedule(self, new: Sequence[tuple[ImageFiles, str]]) -> Future[list[Outcome]]:
        future: Future[list[Outcome]] = self._pool.schedule(
            prepare_each, args=(new, self._recipe), timeout=self._timeout_s * len(new)
        )
        return future

    def _wait(self, handed: Submission) -> list[Outcome]:
        if handed.future is None:
            return []
        try:
            return handed.future.result()
        except (ProcessExpired, TimeoutError):
            if len(handed.new) > 1:  # one of them is at fault: each by itself says which
                return [self._wait(Submission([], [each], self._schedule([each])))[0] for each in handed.new]
            return [(DecoderError.code, "The process that decoded it crashed or ran out of time.")]


def prepare_each(new: Sequence[tuple[ImageFiles, str]], recipe: PixelRecipe) -> list[Outcome]:
    """Prepare images, one after the other."""
    return [prepare(source, file, recipe) for source, file in new]


def start() -> None:
    """Set up a new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable(logging.CRITICAL)  # pydicom logs and warns with values of the dataset
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)  # there is a process for every core
    register_decoders()


def prepare(source: ImageFiles, file: str, recipe: PixelRecipe) -> Outcome:
    """Prepare one image; no exception leaves the process."""
    try:
        key = _digest(source.path)
        grey = to_model_input(Path(source.path), recipe)
        if source.mask is not None:
            key = hashlib.sha256(f"{key} masked by {_digest(source.mask)}".encode()).hexdigest()
            grey = grey * read_mask(Path(source.mask), recipe)
        elif source.lungs is not None:
            key = hashlib.sha256(f"{key} lungs by {source.lungs}".encode()).hexdigest()
        steps = to_steps(grey)
        if not np.array_equal(from_steps(steps), grey):
            return "not_quantised", "The pixel recipe's grey does not fit 16 bits: set pixels.quantised = true."
        return PreparedImage(file, key, steps.tobytes())
    except CxrError as error:
        return error.code, str(error)
    except OSError as error:
        return "absent_file", f"The file can't be read ({error.strerror})."
    except Exception as error:  # noqa: BLE001 (this is the process's loop)
        return DecoderError.code, f"Preparing the image failed unexpectedly ({type(error).__name__})."


def read_mask(path: Path, recipe: PixelRecipe) -> NDArray[np.float32]:
    """Read a lung mask in the geometry of the recipe: float32 (size, size, 1), 1 inside, 0 outside.

    Raises
    ------
    DamagedPixels
        If it is no picture, or nothing is inside.
    """
    inside: NDArray[Any] = to_model_input(path, mask_recipe(recipe)) >= 0.5
    if not inside.any():
        raise DamagedPixels("The lung mask is empty: draw it again, or leave the image out.")
    return inside.astype(np.float32)


def mask_recipe(recipe: PixelRecipe) -> PixelRecipe:
    """Give the recipe that brings a drawn mask into the geometry of a recipe's pictures."""
    return dataclasses.replace(
        recipe, resample="nearest", raster="full", colour="luminance", grey_levels=None, contrast="keep"
    )


def _file_of(source: ImageFiles) -> str:
    """Say which file it is, and in what state: cheap, where a digest would read it."""
    parts = []
    for path in (source.path, source.mask):
        if path is not None:
            state = os.stat(path)  # noqa: PTH116 (a hundred thousand of them)
            parts.append(f"{path}|{state.st_size}|{state.st_mtime_ns}")
    if source.lungs is not None:
        parts.append(f"lungs by {source.lungs}")
    return "|".join(parts)


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _end_with_parent() -> None:
    """Die with a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
