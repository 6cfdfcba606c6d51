"""Films of every kind that can be made, against DCMTK: the same stored values, the same picture.

In place of public files, which can't be carried along, each kind of them is generated: depth, sign, place of the
values, foreign bits, polarity, LUTs, windows, compression by DCMTK and by imagecodecs, fragments.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxr.pixels.decode import decode
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import DEFAULT_RECIPE, PixelRecipe

pytestmark = pytest.mark.long

SIDE = 96
EXACT = PixelRecipe(size=SIDE, max_saturated=1.0, min_spread=0.0)  # no resampling, and the header is obeyed
Peer = Callable[[str], str]
Make = Callable[..., Dataset]

ENCODERS = {
    "jpeg lossless": ("dcmcjpeg", "+e1"),
    "jpeg lossless, predictor 6": ("dcmcjpeg", "+el", "+sv", "6"),
    "jpeg-ls": ("dcmcjpls", "+el"),
    "jpeg-ls, cooked": ("dcmcjpls", "+el", "+pc"),
    "jpeg-ls, fragments": ("dcmcjpls", "+el", "+fs", "1"),
    "rle": ("dcmcrle",),
    "rle, fragments": ("dcmcrle", "+fs", "1"),
}
DECODERS = {"dcmcjpeg": "dcmdjpeg", "dcmcjpls": "dcmdjpls", "dcmcrle": "dcmdrle"}


@dataclass(frozen=True)
class Kind:
    """How values stand in their containers."""

    allocated: int
    stored: int
    high_bit: int
    is_signed: bool

    @property
    def name(self) -> str:
        return f"{'i' if self.is_signed else 'u'}{self.stored}of{self.allocated}at{self.high_bit}"

    def film(self) -> NDArray[Any]:
        """Values over the whole range, smooth enough to compress."""
        y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
        share = (np.sin(5 * x) * np.cos(4 * y) + 1) / 2
        low = -(1 << self.stored - 1) if self.is_signed else 0
        return low + np.round((share - share.min()) / np.ptp(share) * ((1 << self.stored) - 1)).astype(int)

    def words(self, foreign: int = 0) -> NDArray[Any]:
        """Containers, with foreign bits outside the values."""
        shift = self.high_bit - self.stored + 1
        mask = ((1 << self.stored) - 1) << shift
        words = (self.film() << shift) & mask | (foreign & ~mask)
        return (words & (1 << self.allocated) - 1).astype(f"<u{self.allocated // 8}")


KINDS = [
    Kind(allocated, stored, high_bit, is_signed)
    for allocated, stored, high_bit in [
        *((8, 8, 7), (16, 8, 7), (16, 10, 9), (16, 12, 11), (16, 12, 13), (16, 12, 15), (16, 14, 13)),
        *((16, 14, 15), (16, 15, 14), (16, 16, 15)),
    ]
    for is_signed in (False, True)
]


def made(make: Make, kind: Kind, foreign: int = 0, **elements: Any) -> Dataset:
    dataset = make(
        rows=SIDE,
        columns=SIDE,
        BitsAllocated=kind.allocated,
        BitsStored=kind.stored,
        HighBit=kind.high_bit,
        PixelRepresentation=int(kind.is_signed),
        PixelData=kind.words(foreign).tobytes(),
        **elements,
    )
    dataset["PixelData"].VR = "OW" if kind.allocated > 8 else "OB"
    return dataset


def values(path: Path) -> NDArray[Any]:
    stored = decode(dcmread(path), DEFAULT_RECIPE, max_megapixels=64)
    return stored.values(stored.containers).astype(int)


@pytest.mark.parametrize("foreign", [0, 0xFFFF], ids=["plain", "foreign-bits"])
@pytest.mark.parametrize(
    ("encoder", "kind"),
    [
        pytest.param(encoder, kind, id=f"{encoder}-{kind.name}")
        for encoder in ENCODERS
        for kind in KINDS
        if not (kind.is_signed and "+pc" in ENCODERS[encoder])  # dcmcjpls aborts over its own sign
    ],
)
def test_what_dcmtk_compressed_has_the_values_that_dcmtk_decompresses(
    encoder: str, kind: Kind, foreign: int, synthetic_xray: Make, tmp_path: Path, require_peer: Peer
) -> None:
    plain, compressed, again = (tmp_path / f"{name}.dcm" for name in ("plain", "compressed", "again"))
    made(synthetic_xray, kind, foreign).save_as(plain, enforce_file_format=True)
    command, *options = ENCODERS[encoder]
    subprocess.run([require_peer(command), *options, plain, compressed], check=True, capture_output=True)
    subprocess.run([require_peer(DECODERS[command]), compressed, again], check=True, capture_output=True)
    assert dcmread(compressed).file_meta.TransferSyntaxUID.is_encapsulated
    np.testing.assert_array_equal(values(plain), kind.film())
    np.testing.assert_array_equal(values(compressed), kind.film())
    np.testing.assert_array_equal(values(again), kind.film())


def picture_of(path: Path, options: list[str], require_peer: Peer) -> NDArray[Any]:
    """What DCMTK shows, 8 bits deep."""
    shown = path.with_suffix(".pgm")
    subprocess.run([require_peer("dcm2pnm"), *options, "+opb", path, shown], check=True, capture_output=True)
    return np.asarray(Image.open(shown)).astype(int)


def lut(first: int, entries: NDArray[Any], bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return Sequence([item])


SHOWN: dict[str, tuple[list[str], Callable[[Kind], dict[str, Any]]]] = {
    "window": (["+Wi", "1"], lambda kind: {"WindowCenter": middle(kind), "WindowWidth": 1 << kind.stored - 1}),
    "whole window": (["+Wi", "1"], lambda kind: {"WindowCenter": middle(kind), "WindowWidth": 1 << kind.stored}),
    "sigmoid": (
        ["+Wi", "1"],
        lambda kind: {
            "WindowCenter": middle(kind),
            "WindowWidth": 1 << kind.stored - 1,
            "VOILUTFunction": "SIGMOID",
        },
    ),
    "rescale": (
        ["+Wi", "1"],
        lambda kind: {
            "RescaleSlope": "0.5",
            "RescaleIntercept": "100",
            "RescaleType": "US",
            "WindowCenter": middle(kind) / 2 + 100,
            "WindowWidth": 1 << kind.stored - 1,
        },
    ),
    "voi lut": (
        ["+Wl", "1"],
        lambda kind: {"VOILUTSequence": lut(int(kind.film().min()), curve(1 << kind.stored), 12)},
    ),
    "modality lut": (
        ["+Wi", "1"],
        lambda kind: {
            "ModalityLUTSequence": lut(int(kind.film().min()), curve(1 << kind.stored)[::-1], 12),
            "WindowCenter": 2048,
            "WindowWidth": 4096,
        },
    ),
}


def middle(kind: Kind) -> float:
    return 0 if kind.is_signed else float(1 << kind.stored - 1)


def curve(count: int) -> NDArray[Any]:
    """4,096 greys in an S."""
    share = 1 / (1 + np.exp(-10 * (np.linspace(0, 1, count) - 0.5)))
    return np.round((share - share[0]) / (share[-1] - share[0]) * 4095)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.stored > 8], ids=lambda kind: kind.name)
@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_picture_is_the_one_that_dcmtk_shows(
    shown: str, kind: Kind, photometric: str, synthetic_xray: Make, tmp_path: Path, require_peer: Peer
) -> None:
    options, elements = SHOWN[shown]
    path = tmp_path / "film.dcm"
    dataset = made(synthetic_xray, kind, PhotometricInterpretation=photometric, **elements(kind))
    dataset.save_as(path, enforce_file_format=True)
    theirs = picture_of(path, options, require_peer)
    ours = to_model_input(path, EXACT)[..., 0] * 255
    assert np.abs(ours - theirs).max() <= 1.5


@pytest.mark.parametrize("keyword", ["PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"])
def test_pixels_are_made_square_as_dcmtk_does(
    keyword: str, synthetic_xray: Make, tmp_path: Path, require_peer: Peer
) -> None:
    path = tmp_path / "film.dcm"
    kind = Kind(16, 12, 11, is_signed=False)
    flat = kind.words().reshape(SIDE // 2, 2, SIDE)[:, 0]  # pixels twice as high as wide
    dataset = synthetic_xray(
        rows=SIDE // 2, columns=SIDE, PixelData=flat.tobytes(), WindowCenter=2048, WindowWidth=4096
    )
    setattr(dataset, keyword, [2, 1] if keyword == "PixelAspectRatio" else [0.2, 0.1])
    dataset.save_as(path, enforce_file_format=True)
    theirs = picture_of(path, ["+Wi", "1", "+Sxv", str(SIDE)], require_peer)
    assert theirs.shape == (SIDE, SIDE)
    ours = to_model_input(path, EXACT)[..., 0] * 255
    assert np.abs(ours - theirs).mean() < 3
