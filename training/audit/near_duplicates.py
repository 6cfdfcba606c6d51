"""Copies of a film: exact ones by SHA-256, near ones by a difference hash of 16 x 16 comparisons.

A near copy is the same image in another size, compression, brightness or contrast. Crops,
rotations and mirror images are not detected. The files of a manifest are hashed on all cores.

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
"""Comparisons in each direction: 256 bits. With the usual 64 bits, films of different patients coincide."""

NEAR_BITS = 12
"""Most differing bits of near copies; docs/evaluation.md has the measurement."""

Hash = NDArray[np.uint8]
"""(32,): 256 bits."""

SMALL = PixelRecipe(size=64, fit="stretch")
"""Recipe of the hashed image, stretched to a square: the aspect ratio of copies may differ."""

FEW_FILES = 64
"""Fewer files are hashed in this process: starting others takes longer."""

ReportProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Copies:
    """Two images that are the same film."""

    first: int  # row
    second: int
    is_exact: bool
    bits: int  # differing; 0 for exact copies


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def difference_hash(image: NDArray[np.floating] | NDArray[np.integer]) -> Hash:
    """Return the difference hash of an image: comparisons with the right neighbour on a grid of 17 x 16.

    Parameters
    ----------
    image
        (H, W) or (H, W, 1), grey levels of any scale.

    Returns
    -------
    NDArray
        (32,) uint8; it does not depend on brightness and contrast.
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
        By row; None where the image can't be read.
    most_bits
        Most differing bits of near copies, of 256.

    Returns
    -------
    tuple[Copies, ...]
        Every pair, sorted by rows.
    """
    pairs: dict[tuple[int, int], Copies] = {}
    for rows in _groups(digests):
        for index, first in enumerate(rows):
            for second in rows[index + 1 :]:
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
    hashed_rows = np.array([row for row, each in enumerate(hashes) if each is not None], dtype=np.int64)
    if hashed_rows.size < 2:
        return
    bits = np.stack([each for each in hashes if each is not None])
    # With at most d differing bits, one of d + 1 blocks is equal: compare only rows that share a block.
    for block in np.array_split(np.unpackbits(bits, axis=1), most_bits + 1, axis=1):
        keys = np.packbits(block, axis=1)
        for rows in _groups([key.tobytes() for key in keys]):
            yield from _compare(hashed_rows, bits, np.array(rows), most_bits)


def _compare(
    hashed_rows: NDArray[np.int64], bits: NDArray[np.uint8], rows: NDArray[np.int64], most_bits: int
) -> Iterator[tuple[int, int, int]]:
    for index, row in enumerate(rows[:-1]):
        others = rows[index + 1 :]
        differing = np.bitwise_count(bits[others] ^ bits[row]).sum(axis=1, dtype=np.int64)
        for other in np.flatnonzero(differing <= most_bits):
            yield int(hashed_rows[row]), int(hashed_rows[others[other]]), int(differing[other])


@dataclass(frozen=True, slots=True)
class Hashed:
    """Digests and hashes of files, row by row; None where a file can't be read."""

    digests: tuple[str | None, ...]
    hashes: tuple[Hash | None, ...]  # None also where the pixels can't be decoded


def hash_files(
    paths: Sequence[Path], *, processes: int | None = None, progress: ReportProgress | None = None
) -> Hashed:
    """Hash the files.

    Parameters
    ----------
    paths
        DICOM, PNG or JPEG.
    processes
        Number of processes; None: one for each core.
    progress
        Called with the step's name, the number of files done, and their total.
    """
    count = processes or os.cpu_count() or 1
    if count == 1 or len(paths) < FEW_FILES:
        return _collect(map(hash_file, paths), len(paths), progress)
    # Spawn: forking a process with threads of libraries is unsafe.
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        return _collect(pool.map(hash_file, paths, chunksize=16), len(paths), progress)


def hash_file(path: Path) -> tuple[str | None, Hash | None]:
    """Return digest and hash of one file; None for each that can't be computed."""
    try:
        digest = file_digest(path)
        return digest, difference_hash(to_model_input(path, SMALL))
    except ImageError:
        return digest, None
    except OSError:
        return None, None


def _collect(results: Iterable[tuple[str | None, Hash | None]], total: int, progress: ReportProgress | None) -> Hashed:
    digests, hashes = [], []
    for done, (digest, bits) in enumerate(results, start=1):
        digests.append(digest)
        hashes.append(bits)
        if progress is not None:
            progress("hash", done, total)
    return Hashed(tuple(digests), tuple(hashes))
