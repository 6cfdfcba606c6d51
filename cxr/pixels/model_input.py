"""Prepare an image as the model's input, in training and serving alike.

::

    DICOM ──decode──▶ stored values ─┐
                                     ├─ table (cxr.pixels.grey_table) ─▶ grey ─▶ square ─▶ float32 (size, size, 1)
    PNG, JPEG, array ────────────────┘

A DICOM image is turned upright and resampled to square pixels by its header (``cxr.pixels.geometry``); arrays and
pictures without header keep their orientation and proportions.

The graph itself scales to ImageNet's statistics and repeats the channel, so that its input is always in [0, 1].
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxr.dicom import open_dataset, open_with_pixels
from cxr.errors import DamagedPixels, ObjectTooLarge, UnparsableObject, UnsupportedPixels
from cxr.pixels.decode import StoredPixels, decode
from cxr.pixels.grey_table import Counts, GreyTransform, grey_table
from cxr.pixels.normalise import central, equalised, without_borders
from cxr.pixels.pixel_header import DEFAULT_MAX_MEGAPIXELS, check_header
from cxr.pixels.raster import is_raster, read_raster, to_one_channel
from cxr.pixels.recipe import DEFAULT_RECIPE, PixelRecipe
from cxr.pixels.sixteen_bit import from_steps, to_steps

__all__ = ["DEFAULT_MAX_MEGAPIXELS", "DEFAULT_RECIPE", "PixelRecipe", "read_image", "to_model_input", "to_model_inputs"]

Grey = NDArray[np.float32]

# Pixels of one look-up: index and result fit into the processor's cache.
_BLOCK_PIXELS: Final = 1 << 18
_HEADER_BYTES: Final = 64 * 1024 * 1024  # allowance for a deflated dataset beside its pixels


def to_model_input(
    source: Dataset | Path | NDArray[Any],
    recipe: PixelRecipe = DEFAULT_RECIPE,
    *,
    max_megapixels: int = DEFAULT_MAX_MEGAPIXELS,
) -> Grey:
    """Prepare one image for the model.

    Parameters
    ----------
    source
        A dataset with its pixels; or a DICOM, PNG or JPEG file; or an array of stored values
        (uint8 or uint16: a picture without header; floating point: grey, in [0, 1]), of shape
        (rows, columns), (rows, columns, 1) or (rows, columns, 3) RGB.
    recipe
        The preprocessing of the model.
    max_megapixels
        Largest Rows x Columns that are decoded, in millions.

    Returns
    -------
    float32 (size, size, 1), in [0, 1]; black is 0.

    Raises
    ------
    MissingPixels
        If there is no pixel data.
    UnsupportedPixels
        If the image has several frames, is too large, or has colour that the recipe does not accept.
    DamagedPixels
        If the pixels do not decode, or all have the same value.
    OSError
        If the file can't be read.

    Notes
    -----
    Warnings of pydicom and Pillow quote values of the file; they are suppressed for the whole process
    (``warnings.catch_warnings``), so call from one thread at a time.
    """
    (prepared,) = to_model_inputs(source, (recipe,), max_megapixels=max_megapixels)
    return prepared


def to_model_inputs(
    source: Dataset | Path | NDArray[Any],
    recipes: Sequence[PixelRecipe],
    *,
    max_megapixels: int = DEFAULT_MAX_MEGAPIXELS,
) -> tuple[Grey, ...]:
    """Prepare one image for several models, decoding it once.

    Parameters, result per recipe and errors are those of ``to_model_input``; the first recipe decides whether colour
    is accepted.
    """
    with _without_warnings():
        if isinstance(source, Path):
            source = _read(source, recipes[0], max_megapixels)
        if isinstance(source, Dataset):
            stored = decode(source, recipes[0], max_megapixels=max_megapixels)
            greys = _render_for_recipes(stored, recipes)
            aspect = stored.geometry.aspect
            return tuple(_to_input(grey, recipe, aspect) for grey, recipe in zip(greys, recipes, strict=True))
        return tuple(_to_input(_from_array(source, recipe), recipe) for recipe in recipes)


def read_image(path: Path, *, max_megapixels: int = DEFAULT_MAX_MEGAPIXELS) -> Dataset | NDArray[Any]:
    """Read a DICOM file, pixels included and not decoded, or decode a PNG or JPEG file.

    Parameters
    ----------
    path
        The file; its format is detected from its content.
    max_megapixels
        Largest PNG or JPEG that is decoded; bounds the size of an inflated dataset, too.

    Returns
    -------
    The dataset; or uint8 or uint16 (rows, columns), or uint8 (rows, columns, 3) RGB.

    Raises
    ------
    DamagedPixels, UnsupportedPixels
        If the file has another format, is truncated, or is too large.
    OSError
        If the file can't be read.
    """
    with _without_warnings():
        if is_raster(path):
            return read_raster(path.read_bytes(), max_megapixels=max_megapixels)
        return _open(open_with_pixels, path, 4_000_000 * max_megapixels + _HEADER_BYTES)


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path: Path, recipe: PixelRecipe, max_megapixels: int) -> Dataset | NDArray[Any]:
    """Read an image; check its header before its pixels are read into memory."""
    if not is_raster(path):
        header = _open(open_dataset, path, _HEADER_BYTES)
        check_header(header, recipe, max_megapixels=max_megapixels)
    return read_image(path, max_megapixels=max_megapixels)


def _open(opener: Callable[..., Dataset], path: Path, max_inflated_bytes: int) -> Dataset:
    try:
        return opener(path, max_inflated_bytes=max_inflated_bytes)
    except UnparsableObject as error:
        raise DamagedPixels("The file can't be read as DICOM, PNG or JPEG: export the image again.") from error
    except ObjectTooLarge as error:
        raise UnsupportedPixels(
            "The deflated dataset is larger than accepted: have the image sent in another transfer syntax."
        ) from error


def _from_array(pixels: NDArray[Any], recipe: PixelRecipe) -> Grey:
    if pixels.size == 0 or pixels.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise UnsupportedPixels(
            f"Received an array of type {pixels.dtype} and shape {pixels.shape}; accepted are uint8, uint16 and "
            "floating point, not empty."
        )
    if pixels.dtype.kind == "f":
        return _checked_float(pixels)
    channel = to_one_channel(pixels, accepts_colour=recipe.colour == "luminance")
    width = channel.dtype.itemsize * 8
    transform = GreyTransform(extremes=(0.0, float(2**width - 1)), is_raster=True)
    stored = StoredPixels(
        containers=channel, value_bits=width, high_bit=width - 1, is_signed=False, transform=transform
    )
    return next(_render_for_recipes(stored, (recipe,)))


def _checked_float(pixels: NDArray[Any]) -> Grey:
    channel = to_one_channel(pixels, accepts_colour=False) if pixels.shape[2:] != (3,) else None
    if channel is None or not (np.min(channel) >= 0 and np.max(channel) <= 1):  # also refuses NaN
        raise UnsupportedPixels("Received floating-point pixels; accepted are (rows, columns) in [0, 1].")
    return channel.astype(np.float32)


def _render_for_recipes(stored: StoredPixels, recipes: Sequence[PixelRecipe]) -> Iterator[Grey]:
    """Render the grey image, float32 (rows, columns), once per recipe; reuse it when the grey table is identical."""
    containers = stored.containers
    if containers.dtype.itemsize > 2:
        possible, index, counts = np.unique(containers, return_inverse=True, return_counts=True)
        containers = index.reshape(containers.shape)
    else:
        possible = np.arange(1 << (containers.dtype.itemsize * 8), dtype=containers.dtype)
        counts = _count(containers, len(possible))
    previous: NDArray[np.float32] | None = None
    for recipe in recipes:
        table = grey_table(stored.values(possible), counts, stored.transform, recipe)
        if previous is None or not np.array_equal(table, previous):
            previous, grey = table, np.empty(containers.shape, np.float32)
            for block in _blocks(containers):
                np.take(table, containers[block], out=grey[block], mode="clip")
        yield grey


def _count(containers: NDArray[Any], bins: int) -> Counts:
    counts = np.zeros(bins, np.int64)
    for block in _blocks(containers):
        counts += np.bincount(containers[block].ravel(), minlength=bins)
    return counts


def _blocks(containers: NDArray[Any]) -> Iterator[slice]:
    rows, columns = containers.shape
    step = max(1, _BLOCK_PIXELS // columns)
    return (slice(first, first + step) for first in range(0, rows, step))


def _to_input(grey: Grey, recipe: PixelRecipe, aspect: float = 1.0) -> Grey:
    square = np.clip(_normalise(grey, recipe, aspect), 0.0, 1.0)
    return (from_steps(to_steps(square)) if recipe.quantised else square)[:, :, np.newaxis]


def _normalise(grey: Grey, recipe: PixelRecipe, aspect: float) -> Grey:
    """Crop, resample and equalise by the recipe; ``aspect`` is that of `Geometry`."""
    if recipe.borders == "crop":
        grey = without_borders(grey)
    if recipe.margin:
        grey = central(grey, recipe.margin)
    square = _to_square(grey, recipe.detail or recipe.size, recipe, aspect)
    if recipe.contrast == "equalise":
        square = equalised(square)
    return _resize(square, recipe.size, recipe.size, recipe)


def _to_square(grey: Grey, size: int, recipe: PixelRecipe, aspect: float) -> Grey:
    if recipe.fit == "stretch":
        return _resize(grey, size, size, recipe)
    height, width = grey.shape[0] * aspect, grey.shape[1]
    scale = size / max(height, width)
    rows, columns = (max(1, round(side * scale)) for side in (height, width))
    small = _resize(grey, rows, columns, recipe)
    # Padded after resampling: equal result, at a fraction of the cost.
    top, left = (size - rows) // 2, (size - columns) // 2
    square = np.empty((size, size), np.float32)
    square[:top], square[top + rows :] = np.median(small[0]), np.median(small[-1])
    square[:, :left], square[:, left + columns :] = np.median(small[:, 0]), np.median(small[:, -1])
    square[top : top + rows, left : left + columns] = small
    return square


def _resize(grey: Grey, rows: int, columns: int, recipe: PixelRecipe) -> Grey:
    if recipe.resample == "nearest":
        nearest: Grey = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
        return nearest
    # INTER_AREA averages areas only if both sides shrink: shrink first, enlarge in a second step.
    smaller = (min(columns, grey.shape[1]), min(rows, grey.shape[0]))
    if smaller != grey.shape[::-1]:
        grey = cv2.resize(grey, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (columns, rows):
        grey = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return grey
