"""The cache of prepared images: one memory-mapped file per pixel recipe.

A cache is a folder with a file of uint16 images and an index. The key of an image is the SHA-256 of
its file (with lung masks, of file and mask). Images are synced (fsync) before the index names them:
a build that was killed resumes after the last image in the index.

``Cache.image`` returns the same bytes as ``cxr.pixels.model_input.to_model_input``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import LungsNotFound, RunError
from cxr.pixels.recipe import PixelRecipe
from cxr.pixels.sixteen_bit import from_steps, to_steps
from training.files import write_whole
from training.inputs.masking import NO_MASKING, Lungs, Masking
from training.inputs.prepare import ImageFiles, Outcome, PreparationPool, PreparedImage, Submission

IMAGES_FILE: Final = "images.u16"
INDEX_FILE: Final = "index.jsonl"
RECIPE_FILE: Final = "recipe.json"

_GROUP: Final = 8  # images in one submission to a process
_SYNC_EVERY: Final = 256  # images; at most as many are prepared again after a kill

ReportProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RefusedImage:
    """An image that can't be prepared: its id, an error code and a message."""

    image_id: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cache:
    """A built cache, for the images of one manifest.

    Parameters
    ----------
    images
        uint16 (rows, size, size), mapped from the file, read only.
    rows_by_id
        Image id to row; ids with the same file share a row.
    refused
        Images of the manifest that can't be prepared.
    recipe
        The pixel recipe.
    """

    images: NDArray[np.uint16]
    rows_by_id: Mapping[str, int]
    refused: tuple[RefusedImage, ...]
    recipe: PixelRecipe

    def rows(self, image_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the rows of images, shape (images,).

        Raises
        ------
        RunError
            If an image is not in the cache.
        """
        try:
            return np.array([self.rows_by_id[name] for name in image_ids], np.int64)
        except KeyError as error:
            raise RunError("An image of the manifest is not in the cache: build it with `cxr train cache`.") from error

    def image(self, row: int) -> NDArray[np.float32]:
        """Return one image, float32 (size, size, 1) in [0, 1], as serving prepares it."""
        return from_steps(self.images[row])[:, :, np.newaxis]


def build_cache(
    frame: pd.DataFrame,
    recipe: PixelRecipe,
    folder: Path,
    *,
    processes: int | None = None,
    progress: ReportProgress | None = None,
    masking: Masking = NO_MASKING,
    timeout_s: float = 120.0,
) -> Cache:
    """Prepare the images of a manifest that the cache lacks.

    Parameters
    ----------
    frame
        A manifest with absolute paths (``training.cases.manifest.resolve_paths``).
    recipe
        From stored pixels to the model's input; ``quantised``, or 8 bits by construction.
    folder
        The cache's folder; it has a subfolder for each recipe.
    processes
        Number of processes; None: one for each core.
    progress
        Called with the step's name, the number of images done, and their total.
    masking
        How pixels outside the lungs become black. A mask model runs in this process, one image at a time,
        as in serving.
    timeout_s
        Longest time for one image, in seconds.

    Raises
    ------
    RunError
        If another process builds it, the disk is full, or the recipe's grey does not fit 16 bits.
    """
    subfolder = folder / recipe.digest[:16]
    try:
        subfolder.mkdir(parents=True, exist_ok=True)
        with _lock(subfolder):
            # For readers only: the folder's name is part of the recipe's digest.
            write_whole(subfolder / RECIPE_FILE, json.dumps(recipe.to_dict(), indent=1, sort_keys=True))
            with _Writer(subfolder, recipe.size) as writer:
                build = _Build(_sources(frame, masking), recipe, masking.lungs, timeout_s)
                rows, refused = _fill(writer, build, processes, progress or _report_nothing)
    except OSError as error:
        raise RunError(f"The cache can't be written ({error.strerror}): free space, or name another folder.") from error
    return Cache(_map(subfolder, recipe.size), rows, refused, recipe)


def _report_nothing(step: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Build:
    """The images of a build and how they are prepared."""

    sources: Sequence[ImageFiles]
    recipe: PixelRecipe
    lungs: Lungs | None
    timeout_s: float


def _sources(frame: pd.DataFrame, masking: Masking) -> list[ImageFiles]:
    masks = frame["mask_path"] if masking.is_drawn else [""] * len(frame)
    lungs = None if masking.lungs is None else masking.lungs.fingerprint
    return [
        ImageFiles(str(name), str(path), str(mask) if masking.is_drawn else None, lungs)
        for name, path, mask in zip(frame["image_id"], frame["path"], masks, strict=True)
    ]


def _fill(
    writer: _Writer, build: _Build, processes: int | None, progress: ReportProgress
) -> tuple[dict[str, int], tuple[RefusedImage, ...]]:
    """Look up or prepare every image, in the order of the manifest."""
    rows: dict[str, int] = {}
    refused: list[RefusedImage] = []
    count = processes or len(os.sched_getaffinity(0))
    with PreparationPool(
        build.recipe, processes=count, timeout_s=build.timeout_s, find_cache_key=writer.find_cache_key
    ) as pool:
        for done, (source, prepared) in enumerate(_prepare_ahead(pool, build.sources, 2 * count), start=1):
            outcome = prepared if build.lungs is None else _mask(prepared, build.lungs, build.recipe.size)
            if isinstance(outcome, PreparedImage):
                rows[source.image_id] = writer.row_of(outcome)
            else:
                refused.append(RefusedImage(source.image_id, *outcome))
            progress("Preparing images", done, len(build.sources))
    return rows, tuple(refused)


def _mask(outcome: Outcome, lungs: Lungs, size: int) -> Outcome:
    """Apply the mask model to a prepared image; its uint16 steps are exactly the image that serving masks."""
    if not isinstance(outcome, PreparedImage) or outcome.steps is None:
        return outcome
    plain = from_steps(np.frombuffer(outcome.steps, np.uint16).reshape(size, size, 1))
    try:
        return PreparedImage(outcome.file, outcome.cache_key, to_steps(lungs.finder.mask_lungs(plain).pixels).tobytes())
    except LungsNotFound as error:
        return error.code, str(error)


def _prepare_ahead(
    pool: PreparationPool, sources: Sequence[ImageFiles], window: int
) -> Iterator[tuple[ImageFiles, Outcome]]:
    """Keep ``window`` submissions in flight: prepared images wait in memory, so not all are submitted at once."""
    waiting: deque[tuple[Sequence[ImageFiles], Submission]] = deque()
    for start in range(0, len(sources), _GROUP):
        group = sources[start : start + _GROUP]
        waiting.append((group, pool.submit(group)))
        if len(waiting) >= window:
            first, submission = waiting.popleft()
            yield from zip(first, pool.outcomes(submission), strict=True)
    for first, submission in waiting:
        yield from zip(first, pool.outcomes(submission), strict=True)


@dataclass(eq=False)
class _Writer:
    """Append images to the images file and lines to the index; a context manager."""

    folder: Path
    size: int
    rows: dict[str, int] = field(default_factory=dict)  # key of the content -> row
    files: dict[str, tuple[str, int]] = field(default_factory=dict)  # state of the files -> key, row
    _pending: list[str] = field(default_factory=list)
    _images: BinaryIO | None = None

    def __enter__(self) -> _Writer:
        index = self.folder / INDEX_FILE
        valid = self._read_index(index) if index.exists() else 0
        with index.open("ab") as file:
            file.truncate(valid)  # without a line that was cut off
        images = self.folder / IMAGES_FILE
        images.touch()
        os.truncate(images, len(self.rows) * self._bytes)  # without images that the index does not name
        self._images = images.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        self._commit()
        if self._images is not None:
            self._images.close()

    @property
    def _bytes(self) -> int:
        return self.size * self.size * 2

    def _read_index(self, index: Path) -> int:
        valid = 0  # bytes
        stored = (self.folder / IMAGES_FILE).stat().st_size if (self.folder / IMAGES_FILE).exists() else 0
        for line in index.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None or (entry["row"] + 1) * self._bytes > stored:
                break
            self.rows[entry["key"]] = entry["row"]
            self.files[entry["file"]] = (entry["key"], entry["row"])
            valid += len(line)
        return valid

    def find_cache_key(self, file: str) -> str | None:
        """Return the cache key of files in this state; None: the cache does not hold them."""
        entry = self.files.get(file)
        return entry[0] if entry else None

    def row_of(self, prepared: PreparedImage) -> int:
        """Return the row of an image; append a new one."""
        row = self.rows.get(prepared.cache_key)
        if row is None:
            if prepared.steps is None or self._images is None:
                raise RunError("The cache's index is not consistent: delete the cache's folder and build it again.")
            row = self.rows[prepared.cache_key] = len(self.rows)
            self._images.write(prepared.steps)
        if self.files.get(prepared.file) != (prepared.cache_key, row):
            self.files[prepared.file] = (prepared.cache_key, row)
            self._pending.append(json.dumps({"row": row, "key": prepared.cache_key, "file": prepared.file}))
        if len(self._pending) >= _SYNC_EVERY:
            self._commit()
        return row

    def _commit(self) -> None:
        """Sync the images, then the index lines that name them."""
        if self._images is None or not self._pending:
            return
        self._images.flush()
        os.fsync(self._images.fileno())
        with (self.folder / INDEX_FILE).open("ab") as file:
            file.write("".join(f"{line}\n" for line in self._pending).encode())
            file.flush()
            os.fsync(file.fileno())
        self._pending.clear()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError("Another process is building this cache: wait until it is done.") from error
        yield


def _map(folder: Path, size: int) -> NDArray[np.uint16]:
    path = folder / IMAGES_FILE
    rows = path.stat().st_size // (size * size * 2)
    if not rows:  # an empty file can't be mapped
        return np.empty((0, size, size), np.uint16)
    return np.memmap(path, np.uint16, "r", shape=(rows, size, size))
