"""The table of greys gives exactly what the plain procedure gives, pixel by pixel."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxr.errors import DamagedPixels
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe

SIDE = 32
RECIPE = PixelRecipe(size=SIDE)  # no resampling: the result is the grey of each pixel


def plain_grey(stored: NDArray[Any], dataset: Dataset, recipe: PixelRecipe) -> NDArray[np.float32] | None:
    """training.md 4.4, steps 2 to 5, one pixel array after the other; None: no picture."""
    is_picture = np.ones(stored.shape, bool)
    if "PixelPaddingValue" in dataset:
        limits = [dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue)]
        is_picture = (stored < min(limits)) | (stored > max(limits))
    if np.unique(stored[is_picture]).size < 2:
        return None
    values = stored.astype(np.float64)
    if "ModalityLUTSequence" in dataset:
        values = plain_lut(values, dataset.ModalityLUTSequence[0])
    elif "RescaleSlope" in dataset:
        values = values * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    grey = plain_voi(values, dataset)
    if grey is None or is_ruined(grey[is_picture], recipe):
        grey = plain_robust(values, stored, is_picture, dataset, recipe)
    if grey is None:
        return None
    grey = np.clip(grey, 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        grey = 1 - grey
    return np.where(is_picture, grey, 0).astype(np.float32)


def is_ruined(seen: NDArray[np.float64], recipe: PixelRecipe) -> bool:
    saturated = np.mean((seen <= 1 / 256) | (seen >= 255 / 256))
    low, high = plain_percentiles(seen, recipe)
    return bool(saturated > recipe.max_saturated or high - low < recipe.min_spread)


def plain_robust(
    values: NDArray[np.float64],
    stored: NDArray[Any],
    is_picture: NDArray[np.bool_],
    dataset: Dataset,
    recipe: PixelRecipe,
) -> NDArray[np.float64] | None:
    bits = dataset.BitsStored
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    counted = is_picture & (stored != ends[0]) & (stored != ends[1])
    if np.unique(values[counted]).size < 2:
        counted = is_picture
    low, high = plain_percentiles(values[counted], recipe)
    return None if low == high else (values - low) / (high - low)


def plain_percentiles(values: NDArray[np.float64], recipe: PixelRecipe) -> tuple[float, float]:
    percentiles = (recipe.low_percentile, recipe.high_percentile)
    low, high = (float(value) for value in np.percentile(values, percentiles, method="inverted_cdf"))
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def plain_lut(values: NDArray[np.float64], item: Dataset) -> NDArray[np.float64]:
    count, first, _ = item.LUTDescriptor
    return np.array(
        [item.LUTData[int(min(max(value - first, 0), count - 1))] for value in np.rint(values).flat]
    ).reshape(values.shape)


def plain_voi(values: NDArray[np.float64], dataset: Dataset) -> NDArray[np.float64] | None:
    if "VOILUTSequence" in dataset:
        item = dataset.VOILUTSequence[0]
        return plain_lut(values, item) / (max(item.LUTData[: item.LUTDescriptor[0]]) or 1)
    if "WindowCenter" not in dataset:
        return None
    center, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    function = dataset.get("VOILUTFunction", "LINEAR")
    if function == "SIGMOID":
        return np.array([sigmoid(value, center, width) for value in values.flat]).reshape(values.shape)
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def sigmoid(value: float, center: float, width: float) -> float:
    exponent = -4 * (value - center) / width
    return 1 / (1 + float(np.exp(min(max(exponent, -700.0), 700.0))))


@st.composite
def images(draw: st.DrawFn) -> tuple[NDArray[Any], Dataset]:
    """A dataset with any depth, sign, byte order, slope, LUT, window, padding and inversion."""
    allocated = draw(st.sampled_from([8, 16, 16, 16, 32]))
    bits = draw(st.integers(2, min(allocated, 20)))
    is_signed = draw(st.booleans())
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    narrow = sorted(draw(st.lists(st.integers(low, high), min_size=2, max_size=2)))
    stored = rng.integers(narrow[0], narrow[1] + 1, (SIDE, SIDE))
    stored[0, : SIDE // 2] = draw(st.sampled_from([low, high, narrow[0]]))
    dataset = Dataset()
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = int(is_signed)
    dataset.PhotometricInterpretation = draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    dataset.file_meta = FileMetaDataset()
    syntax = draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = packed(draw, stored, allocated, bits, syntax.is_little_endian)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    add_meaning(draw, dataset, low, high)
    return stored, dataset


def packed(draw: st.DrawFn, stored: NDArray[Any], allocated: int, bits: int, is_little_endian: bool) -> bytes:
    """Pixel Data, with anything at all in the unused bits (PS3.5 8.1.1)."""
    mask = (1 << bits) - 1
    foreign = draw(st.integers(0, (1 << allocated) - 1)) & ~mask & ((1 << allocated) - 1)
    order = "<" if is_little_endian else ">"
    return ((stored & mask) | foreign).astype(f"{order}u{allocated // 8}").tobytes()


def add_meaning(draw: st.DrawFn, dataset: Dataset, low: int, high: int) -> None:
    first, bottom, top = max(-32768, low), float(low), float(high)
    modality = draw(st.sampled_from(["none", "rescale", "lut"]))
    if modality == "rescale":
        slope, intercept = draw(st.sampled_from([1, 0.5, 2.25, -1])), draw(st.integers(-2000, 2000))
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        bottom, top = sorted((low * slope + intercept, high * slope + intercept))
    elif modality == "lut":
        dataset.ModalityLUTSequence = lut(draw, first)
        bottom, top = 0.0, 65535.0
    voi = draw(st.sampled_from(["none", "window", "LINEAR", "LINEAR_EXACT", "SIGMOID", "lut"]))
    if voi == "lut":
        dataset.VOILUTSequence = lut(draw, 0 if modality == "lut" else max(-32768, min(32767, math.ceil(bottom))))
    elif voi != "none":
        dataset.WindowCenter = round(draw(st.floats(bottom, top)), 2)
        dataset.WindowWidth = round(draw(st.floats(1, max(2.0, 2 * (top - bottom)))), 2)
        if voi != "window":
            dataset.VOILUTFunction = voi
    if draw(st.booleans()):
        dataset.PresentationLUTShape = draw(st.sampled_from(["IDENTITY", "INVERSE"]))
    if low >= -32768 and high <= 65535 and draw(st.booleans()):
        add_padding(draw, dataset, low, high)


def add_padding(draw: st.DrawFn, dataset: Dataset, low: int, high: int) -> None:
    vr = "SS" if dataset.PixelRepresentation else "US"
    dataset.add_new("PixelPaddingValue", vr, draw(st.sampled_from([low, high])))
    if draw(st.booleans()):
        dataset.add_new("PixelPaddingRangeLimit", vr, draw(st.integers(low, high)))


def lut(draw: st.DrawFn, first: int) -> Sequence:
    bits = draw(st.integers(8, 16))
    count = draw(st.integers(2, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count, min(first, 65535), bits])
    item.add_new("LUTData", "US", sorted(int(value) for value in rng.integers(0, 1 << bits, count)))
    return Sequence([item])


@given(image=images())
@settings(deadline=None, max_examples=300)
def test_the_table_gives_what_the_plain_procedure_gives(image: tuple[NDArray[Any], Dataset]) -> None:
    stored, dataset = image
    expected = plain_grey(stored, dataset, RECIPE)
    if expected is None:
        with pytest.raises(DamagedPixels):
            to_model_input(dataset, RECIPE)
        return
    np.testing.assert_array_equal(to_model_input(dataset, RECIPE)[:, :, 0], expected)


def test_voi_lut_that_begins_below_zero_is_read_so_where_the_slope_is_negative() -> None:
    stored = np.zeros((SIDE, SIDE), np.uint8)
    stored[0] = 3
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [4, -3, 8])
    item.add_new("LUTData", "US", [163, 0, 255, 217])
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 2, 1, 0
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", "-1"
    dataset.VOILUTSequence = Sequence([item])
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB"
    grey = to_model_input(dataset, RECIPE)[:, :, 0]
    np.testing.assert_allclose([grey[0, 0], grey[1, 0]], [163 / 255, 217 / 255], rtol=1e-6)


@given(image=images())
@settings(deadline=None, max_examples=100)
def test_grey_is_in_range_and_inverted_by_monochrome1(image: tuple[NDArray[Any], Dataset]) -> None:
    _, dataset = image
    if "PresentationLUTShape" in dataset:
        del dataset.PresentationLUTShape
    both = []
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        dataset.PhotometricInterpretation = photometric
        try:
            both.append(to_model_input(dataset, dataclasses.replace(RECIPE, padding=False)))
        except DamagedPixels:
            return
    for grey in both:
        assert grey.dtype == np.float32
        assert grey.shape == (SIDE, SIDE, 1)
        assert 0 <= grey.min() <= grey.max() <= 1
    np.testing.assert_allclose(both[0], 1 - both[1], atol=1e-7)


@given(image=images(), size=st.sampled_from([16, 33, 64]), fit=st.sampled_from(["pad", "stretch"]))
@settings(deadline=None, max_examples=100)
def test_more_is_brighter_or_the_same(image: tuple[NDArray[Any], Dataset], size: int, fit: Any) -> None:
    stored, dataset = image
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape"):
        if keyword in dataset:
            del dataset[keyword]
    dataset.PhotometricInterpretation = "MONOCHROME2"
    is_falling = float(dataset.get("RescaleSlope", 1)) < 0
    try:
        grey = to_model_input(dataset, RECIPE)[:, :, 0]
        resized = to_model_input(dataset, PixelRecipe(size=size, fit=fit))
    except DamagedPixels:
        return
    along = grey.ravel()[np.argsort(-stored if is_falling else stored, axis=None, kind="stable")]
    assert np.all(np.diff(along) >= 0)
    assert resized.shape == (size, size, 1)
    assert 0 <= resized.min() <= resized.max() <= 1
