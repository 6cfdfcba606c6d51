"""The cache: every image as the model gets it, prepared once, in one file that is mapped into memory.

A cache is a folder with a file of uint16 images and an index of what they were made from. An image
is known by the SHA-256 of its file (and of its lung mask, where masks are used); a folder belongs to
one pixel recipe. Images are written before the index says so: killed at any moment, the next build
goes on behind the last image that the index knows.

``Cache.image`` gives the bytes that ``cxr.pixels.model_input.to_model_input`` gives.
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
from training.inputs.masking import WHOLE_FILMS, Lungs, Masking
from training.inputs.prepare import Outcome, Submission, PreparedImage, PreparationPool, ImageFiles

IMAGES_FILE: Final = "images.u16"
INDEX_FILE: Final = "index.jsonl"
RECIPE_FILE: Final = "recipe.json"

_TOGETHER: Final = 8  # images that a process is handed at once
_SYNC_EVERY: Final = 256  # images: what a kill costs at most

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Refused:
    """An image that can't be prepared: its id, and the code and words of why not."""

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
        The row of every image id; several ids may have the same file, and so the same row.
    refused
        Images of the manifest that are not in it.
    recipe
        What it was made with.
    """

    images: NDArray[np.uint16]
    rows_by_id: Mapping[str, int]
    refused: tuple[Refused, ...]
    recipe: PixelRecipe

    def rows(self, image_ids: Iterable[str]) -> NDArray[np.int64]:
        """Give the rows of images.

        Raises
        ------
        RunError
            If one is not in the cache.
        """
        try:
            return np.array([self.rows_by_id[name] for name in image_ids], np.int64)
        except KeyError as error:
            raise RunError("An image of the manifest is not in the cache: build it with `cxr train cache`.") from error

    def image(self, row: int) -> NDArray[np.float32]:
        """Give one image, float32 (size, size, 1) in [0, 1], as serving prepares it."""
        return from_steps(self.images[row])[:, :, np.newaxis]


def build_cache(
    frame: pd.DataFrame,
    recipe: PixelRecipe,
    folder: Path,
    *,
    processes: int | None = None,
    progress: Watch | None = None,
    masking: Masking = WHOLE_FILMS,
    timeout_s: float = 120.0,
) -> Cache:
    """Prepare what is not yet in the cache.

    Parameters
    ----------
    frame
        A manifest with absolute paths (``training.cases.manifest.resolve_paths``).
    recipe
        How pixels become the model's input; ``quantised``, or 8 bits by construction.
    folder
        The cache's folder; each recipe has a folder in it.
    processes
        How many prepare images at once; None: one for each core.
    progress
        Called with a step's name, how many images are done, and of how many.
    masking
        What makes everything outside the lungs black. A mask model is asked in this process, about one
        picture after the other, as in serving.
    timeout_s
        How long one image may take.

    Raises
    ------
    RunError
        If another process builds it, the disk is full, or the recipe's grey does not fit 16 bits.
    """
    place = folder / recipe.digest[:16]
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _lock(place):
            # For people: the folder's name is the recipe's digest.
            write_whole(place / RECIPE_FILE, json.dumps(recipe.to_dict(), indent=1, sort_keys=True))
            with _Writer(place, recipe.size) as writer:
                work = _Work(_sources(frame, masking), recipe, masking.lungs, timeout_s)
                rows, refused = _fill(writer, work, processes, progress or _ignore)
    except OSError as error:
        raise RunError(f"The cache can't be written ({error.strerror}): free space, or name another folder.") from error
    return Cache(_map(place, recipe.size), rows, refused, recipe)


def _ignore(step: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Work:
    """What a build is asked to do."""

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
    writer: _Writer, work: _Work, processes: int | None, progress: Watch
) -> tuple[dict[str, int], tuple[Refused, ...]]:
    """Find or prepare every image, in the manifest's order."""
    rows: dict[str, int] = {}
    refused: list[Refused] = []
    count = processes or len(os.sched_getaffinity(0))
    with PreparationPool(work.recipe, processes=count, timeout_s=work.timeout_s, known=writer.known) as preparing:
        for done, (source, given) in enumerate(_ahead(preparing, work.sources, 2 * count), start=1):
            answer = given if work.lungs is None else _with_lungs_alone(given, work.lungs, work.recipe.size)
            if isinstance(answer, PreparedImage):
                rows[source.image_id] = writer.row_of(answer)
            else:
                refused.append(Refused(source.image_id, *answer))
            progress("Preparing images", done, len(work.sources))
    return rows, tuple(refused)


def _with_lungs_alone(given: Outcome, lungs: Lungs, size: int) -> Outcome:
    """Mask what came back; the steps hold exactly what serving masks."""
    if not isinstance(given, PreparedImage) or given.steps is None:
        return given
    plain = from_steps(np.frombuffer(given.steps, np.uint16).reshape(size, size, 1))
    try:
        return PreparedImage(given.file, given.key, to_steps(lungs.finder.see(plain).pixels).tobytes())
    except LungsNotFound as error:
        return error.code, str(error)


def _ahead(preparing: PreparationPool, sources: Sequence[ImageFiles], window: int) -> Iterator[tuple[ImageFiles, Outcome]]:
    """Hand images out before the first are back, but not all at once: what is prepared waits in memory."""
    waiting: deque[tuple[Sequence[ImageFiles], Submission]] = deque()
    for start in range(0, len(sources), _TOGETHER):
        group = sources[start : start + _TOGETHER]
        waiting.append((group, preparing.submit(group)))
        if len(waiting) >= window:
            first, handed = waiting.popleft()
            yield from zip(first, preparing.answers(handed), strict=True)
    for first, handed in waiting:
        yield from zip(first, preparing.answers(handed), strict=True)


@dataclass(eq=False)
class _Writer:
    """Appends images and says so in the index; a context manager."""

    place: Path
    size: int
    keys: dict[str, int] = field(default_factory=dict)  # content -> row
    seen: dict[str, tuple[str, int]] = field(default_factory=dict)  # file as it was -> content, row
    _pending: list[str] = field(default_factory=list)
    _images: BinaryIO | None = None

    def __enter__(self) -> _Writer:
        index = self.place / INDEX_FILE
        kept = self._read_index(index) if index.exists() else 0
        with index.open("ab") as file:
            file.truncate(kept)  # a line that was cut in the middle
        images = self.place / IMAGES_FILE
        images.touch()
        os.truncate(images, len(self.keys) * self._bytes)  # images that the index does not know
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
        kept = 0
        stored = (self.place / IMAGES_FILE).stat().st_size if (self.place / IMAGES_FILE).exists() else 0
        for line in index.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None or (entry["row"] + 1) * self._bytes > stored:
                break
            self.keys[entry["key"]] = entry["row"]
            self.seen[entry["file"]] = (entry["key"], entry["row"])
            kept += len(line)
        return kept

    def known(self, file: str) -> str | None:
        """Give the content's key of a file that was seen with the same size and time."""
        found = self.seen.get(file)
        return found[0] if found else None

    def row_of(self, prepared: PreparedImage) -> int:
        """Give the row of an image; append it if it is new."""
        row = self.keys.get(prepared.key)
        if row is None:
            if prepared.steps is None or self._images is None:
                raise RunError("The cache's index is not consistent: delete the cache's folder and build it again.")
            row = self.keys[prepared.key] = len(self.keys)
            self._images.write(prepared.steps)
        if self.seen.get(prepared.file) != (prepared.key, row):
            self.seen[prepared.file] = (prepared.key, row)
            self._pending.append(json.dumps({"row": row, "key": prepared.key, "file": prepared.file}))
        if len(self._pending) >= _SYNC_EVERY:
            self._commit()
        return row

    def _commit(self) -> None:
        """Bring images to the disk, then the index's lines about them."""
        if self._images is None or not self._pending:
            return
        self._images.flush()
        os.fsync(self._images.fileno())
        with (self.place / INDEX_FILE).open("ab") as file:
            file.write("".join(f"{line}\n" for line in self._pending).encode())
            file.flush()
            os.fsync(file.fileno())
        self._pending.clear()


@contextmanager
def _lock(place: Path) -> Iterator[None]:
    with (place / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError("Another process is building this cache: wait until it is done.") from error
        yield


def _map(place: Path, size: int) -> NDArray[np.uint16]:
    path = place / IMAGES_FILE
    rows = path.stat().st_size // (size * size * 2)
    if not rows:  # an empty file can't be mapped
        return np.empty((0, size, size), np.uint16)
    return np.memmap(path, np.uint16, "r", shape=(rows, size, size))
