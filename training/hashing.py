"""Digest and difference hash of every file of a manifest, on all cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cxr.errors import ImageError
from cxr.pixels import to_model_input
from cxr.recipe import PixelRecipe
from training.duplicates import Hash, difference_hash, file_digest

SMALL = PixelRecipe(size=64, fit="stretch")
"""What is hashed: a copy squashed to a square is still a copy."""

FEW_FILES = 64
"""Fewer files are hashed here: starting processes takes longer."""

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Hashed:
    """What is known of the files, row by row; None where one can't be read."""

    digests: tuple[str | None, ...]
    hashes: tuple[Hash | None, ...]  # None, too, where the pixels can't be


def hash_files(paths: Sequence[Path], *, processes: int | None = None, watch: Watch | None = None) -> Hashed:
    """Hash the files.

    Parameters
    ----------
    paths
        DICOM, PNG or JPEG.
    processes
        How many work at once; None: one for each core.
    watch
        Called with the step's name, how many files are done, and of how many.
    """
    count = processes or os.cpu_count() or 1
    if count == 1 or len(paths) < FEW_FILES:
        return _collect(map(hash_file, paths), len(paths), watch)
    # Not forked: the libraries of this process have threads.
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        return _collect(pool.map(hash_file, paths, chunksize=16), len(paths), watch)


def hash_file(path: Path) -> tuple[str | None, Hash | None]:
    """Return digest and hash of one file; None for what can't be read."""
    try:
        digest = file_digest(path)
        return digest, difference_hash(to_model_input(path, SMALL))
    except ImageError:
        return digest, None
    except OSError:
        return None, None


def _collect(found: Iterable[tuple[str | None, Hash | None]], total: int, watch: Watch | None) -> Hashed:
    digests, hashes = [], []
    for done, (digest, bits) in enumerate(found, start=1):
        digests.append(digest)
        hashes.append(bits)
        if watch is not None:
            watch("hash", done, total)
    return Hashed(tuple(digests), tuple(hashes))
