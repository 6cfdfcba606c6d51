"""Copies of a film: exact ones by SHA-256, near ones by a difference hash of 16 x 16 comparisons.

A near copy is the same picture in another size, compression, brightness or contrast. Crops,
rotations and mirror images are not found. The files of a manifest are hashed on all cores.

References
----------
Krawetz, "Kind of Like That", hackerfactor.com 2013 (dHash). Manku, Jain, Das Sarma, WWW 2007
(candidates that share one block of bits).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr.errors import ImageError
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe

SIDE = 16
"""Comparisons in each direction: 256 bits. With the usual 64, chest radiographs of different patients coincide."""

NEAR_BITS = 12
"""Most bits that differ between near copies; docs/evaluation.md has the measurement."""

Hash = NDArray[np.uint8]
"""(32,): 256 bits."""

SMALL = PixelRecipe(size=64, fit="stretch")
"""What is hashed: a copy squashed to a square is still a copy."""

FEW_FILES = 64
"""Fewer files are hashed here: starting processes takes longer."""

ReportProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Copies:
    """Two images that are the same film."""

    first: int  # row
    second: int
    is_exact: bool
    bits: int  # that differ; 0 for exact copies


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def difference_hash(image: NDArray[np.floating] | NDArray[np.integer]) -> Hash:
    """Hash what is brighter than its right neighbour, on a grid of 17 x 16.

    Parameters
    ----------
    image
        (H, W) or (H, W, 1), any scale.

    Returns
    -------
    NDArray
        (32,) uint8; it stays when brightness or contrast change.
    """
    grid = cv2.resize(np.squeeze(image).astype(np.float32), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(grid[:, :-1] > grid[:, 1:])


def find_copies(
    hashes: Sequence[Hash | None], digests: Sequence[str | None], *, most_bits: int = NEAR_BITS
) -> tuple[Copies, ...]:
    """Return all pairs of rows that are copies of each other.

    Parameters
    ----------
    hashes, digests
        Of each row; None where the image can't be read.
    most_bits
        Of 256, that may differ.

    Returns
    -------
    tuple[Copies, ...]
        By rows. Of many copies of one film every pair is listed.
    """
    pairs: dict[tuple[int, int], Copies] = {}
    for rows in _groups(digests):
        for place, first in enumerate(rows):
            for second in rows[place + 1 :]:
                pairs[first, second] = Copies(first, second, True, 0)
    for first, second, bits in _near(hashes, most_bits):
        pairs.setdefault((first, second), Copies(first, second, False, bits))
    return tuple(pairs[key] for key in sorted(pairs))


def _groups(keys: Sequence[object | None]) -> Iterator[list[int]]:
    rows: Mapping[object, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        if key is not None:
            rows[key].append(row)
    yield from (each for each in rows.values() if len(each) > 1)


def _near(hashes: Sequence[Hash | None], most_bits: int) -> Iterator[tuple[int, int, int]]:
    known = np.array([row for row, each in enumerate(hashes) if each is not None], dtype=np.int64)
    if known.size < 2:
        return
    bits = np.stack([each for each in hashes if each is not None])
    # With d differing bits, one of d + 1 blocks is equal: only rows that share a block are compared.
    for block in np.array_split(np.unpackbits(bits, axis=1), most_bits + 1, axis=1):
        keys = np.packbits(block, axis=1)
        for rows in _groups([key.tobytes() for key in keys]):
            yield from _compare(known, bits, np.array(rows), most_bits)


def _compare(
    known: NDArray[np.int64], bits: NDArray[np.uint8], rows: NDArray[np.int64], most_bits: int
) -> Iterator[tuple[int, int, int]]:
    for place, row in enumerate(rows[:-1]):
        others = rows[place + 1 :]
        differing = np.bitwise_count(bits[others] ^ bits[row]).sum(axis=1, dtype=np.int64)
        for other in np.flatnonzero(differing <= most_bits):
            yield int(known[row]), int(known[others[other]]), int(differing[other])


@dataclass(frozen=True, slots=True)
class Hashed:
    """What is known of the files, row by row; None where one can't be read."""

    digests: tuple[str | None, ...]
    hashes: tuple[Hash | None, ...]  # None, too, where the pixels can't be


def hash_files(paths: Sequence[Path], *, processes: int | None = None, watch: ReportProgress | None = None) -> Hashed:
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


def _collect(found: Iterable[tuple[str | None, Hash | None]], total: int, watch: ReportProgress | None) -> Hashed:
    digests, hashes = [], []
    for done, (digest, bits) in enumerate(found, start=1):
        digests.append(digest)
        hashes.append(bits)
        if watch is not None:
            watch("hash", done, total)
    return Hashed(tuple(digests), tuple(hashes))
