"""The pixel digest: of the value alone, in every encoding, without decoding it."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from blake3 import blake3
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from cxr.dicom import open_dataset
from cxr.errors import ObjectTooLarge, UnparsableObject
from listener.pixel_digest import pixel_digest

MIB = 1024 * 1024

Xray = Callable[..., Dataset]


def _write(folder: Path, xray: Dataset, syntax: UID) -> tuple[Path, int]:
    """The file, and where its data set begins."""
    plain = Dataset({element.tag: element for element in xray})
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = syntax
    plain.file_meta.MediaStorageSOPClassUID = xray.SOPClassUID
    plain.file_meta.MediaStorageSOPInstanceUID = xray.SOPInstanceUID
    buffer = BytesIO()
    plain.save_as(buffer, enforce_file_format=True)
    path = folder / "object.dcm"
    path.write_bytes(buffer.getvalue())
    return path, 144 + int.from_bytes(buffer.getvalue()[140:144], "little")


def _digest(path: Path, at: int, limit: int = 64 * MIB) -> str | None:
    return pixel_digest(path, open_dataset(path, max_inflated_bytes=limit), dataset_at=at, max_inflated_bytes=limit)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_native_pixels(synthetic_xray: Xray, tmp_path: Path, syntax: UID) -> None:
    xray = synthetic_xray(rows=1100, columns=700)  # more than a chunk
    path, at = _write(tmp_path, xray, syntax)
    assert _digest(path, at) == blake3(xray.PixelData).hexdigest()


@pytest.mark.parametrize("length", [1, MIB, MIB + 1])
def test_the_last_byte_of_a_fragment_counts(synthetic_xray: Xray, tmp_path: Path, length: int) -> None:
    item = b"\xfe\xff\x00\xe0"
    xray = synthetic_xray()
    fragment = item + length.to_bytes(4, "little") + bytes(length - 1) + b"a"
    xray.PixelData = item + bytes(4) + 2 * fragment
    xray["PixelData"].VR = "OB"
    xray["PixelData"].is_undefined_length = True
    assert _digest(*_write(tmp_path, xray, RLELossless)) == blake3(xray.PixelData).hexdigest()


def test_encapsulated_pixels_are_digested_with_their_items(synthetic_xray: Xray, tmp_path: Path) -> None:
    xray = synthetic_xray()
    xray.PixelData = encapsulate([b"first fragment", b"second one"])
    xray["PixelData"].VR = "OB"
    xray["PixelData"].is_undefined_length = True
    path, at = _write(tmp_path, xray, RLELossless)
    assert _digest(path, at) == blake3(xray.PixelData).hexdigest()
    trailing = path.read_bytes() + b"\xfc\xff\xfc\xffOB\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00"
    path.write_bytes(trailing)
    assert _digest(path, at) == blake3(xray.PixelData).hexdigest()


def test_the_same_pixels_under_another_header_have_the_same_digest(synthetic_xray: Xray, tmp_path: Path) -> None:
    first, second = (
        _digest(*_write(tmp_path, synthetic_xray(PatientID=number), ExplicitVRLittleEndian)) for number in "12"
    )
    other = _digest(*_write(tmp_path, synthetic_xray(seed=1), ExplicitVRLittleEndian))
    assert first == second != other


def test_no_pixels_no_digest(synthetic_xray: Xray, tmp_path: Path) -> None:
    assert _digest(*_write(tmp_path, synthetic_xray(PixelData=None), ExplicitVRLittleEndian)) is None


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_cut_pixels_are_digested_as_far_as_they_go(synthetic_xray: Xray, tmp_path: Path, syntax: UID) -> None:
    xray = synthetic_xray()
    if syntax == RLELossless:
        xray.PixelData = encapsulate([xray.PixelData])
        xray["PixelData"].is_undefined_length = True
    path, at = _write(tmp_path, xray, syntax)
    whole = _digest(path, at)
    path.write_bytes(path.read_bytes()[:-100])
    assert _digest(path, at) not in (None, whole)


def test_deflated_pixels_that_swell_are_refused(synthetic_xray: Xray, tmp_path: Path) -> None:
    bomb = synthetic_xray(PixelData=bytes(8 * MIB))
    path, at = _write(tmp_path, bomb, DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < MIB
    with pytest.raises(ObjectTooLarge):
        _digest(path, at, limit=MIB)


def test_deflated_pixels_that_are_damaged_are_unparsable(synthetic_xray: Xray, tmp_path: Path) -> None:
    path, at = _write(tmp_path, synthetic_xray(rows=1000, columns=1000), DeflatedExplicitVRLittleEndian)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(UnparsableObject):
        _digest(path, at)
