"""Open a DICOM file up to its pixels, whatever is in it.

A received object is a peer's to write: truncated, nested a thousand deep, or deflated so that a
few kilobytes swell to gigabytes. What can't be read is an ``UnparsableObject``, never a crash.

References
----------
DICOM PS3.10 Section 7.1 (file meta information), PS3.5 Section A.5 (deflated transfer syntax)
"""

from __future__ import annotations

import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import dcmread, read_dataset, read_partial, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cxr.dicom.bounded_streams import Inflated, Metered
from cxr.errors import UnparsableObject

DEFAULT_MAX_INFLATED_BYTES = 256 * 1024 * 1024

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float Pixel Data, Double Float Pixel Data, Pixel Data."""

READING_FAULTS = (
    InvalidDicomError,
    BytesLengthException,
    struct.error,
    zlib.error,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    TypeError,
    EOFError,
    MemoryError,
    RuntimeError,  # NotImplementedError and RecursionError among them
)
"""What pydicom raises over a dataset that is not well-formed (seen on the files of its own test suite)."""

_IDENTIFIER_TAGS = frozenset({0x00080016, 0x00080018})  # SOP Class UID, SOP Instance UID
_LEFT_OUT_FROM_BYTES = 1024 * 1024


class HeaderDataset(FileDataset):
    """A dataset as it was read up to its pixels; elements stay as received until somebody asks for them.

    Elements of more than 1 MiB are left out: none of those that we look at is as long.
    """

    has_pixel_data: bool = False
    """Whether an element with pixels, of a length other than 0, follows."""

    pixels_at: int = 0
    """Where reading stopped, in bytes: from the start of the file, or of the inflated dataset."""


def open_dataset(source: Path | BinaryIO, *, max_inflated_bytes: int = DEFAULT_MAX_INFLATED_BYTES) -> HeaderDataset:
    """Read a DICOM file up to, and without, its pixels.

    Takes at most some 130 MiB of memory and some seconds, whatever the file holds. Files without
    preamble and file meta information are taken too (implicit or explicit VR is guessed), if they
    carry the identifiers of an object.

    Parameters
    ----------
    source
        A file, or a seekable binary stream at its beginning; a stream stays open.
    max_inflated_bytes
        How far a deflated dataset may swell before its pixels are reached.

    Returns
    -------
    HeaderDataset
        With ``file_meta``, if the file has it.

    Raises
    ------
    UnparsableObject
        If this is not a DICOM dataset that can be read.
    ObjectTooLarge
        If a deflated dataset swells beyond the bound, or there are more than 32 MiB in front of the pixels.
    OSError
        If the file can't be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return open_dataset(stream, max_inflated_bytes=max_inflated_bytes)
    try:
        return _read(source, max_inflated_bytes)
    except (*READING_FAULTS, OSError) as error:
        if is_of_the_machine(error):
            raise
        raise UnparsableObject(
            f"The received bytes are not a DICOM dataset that can be read ({type(error).__name__}); accepted is a "
            "dataset as DICOM PS3.5 and PS3.10 define it: have the sender export the image again."
        ) from error


def open_with_pixels(path: Path, *, max_inflated_bytes: int) -> FileDataset:
    """Read a whole DICOM file, pixels included; they are not decoded.

    Parameters
    ----------
    path
        A file that ``open_dataset`` has taken.
    max_inflated_bytes
        How far a deflated dataset may swell, its pixels included.

    Raises
    ------
    UnparsableObject
        If this is not a DICOM dataset that can be read to its end.
    ObjectTooLarge
        If a deflated dataset swells beyond the bound.
    OSError
        If the file can't be read.
    """
    try:
        with path.open("rb") as stream:
            return _read_whole(stream, max_inflated_bytes)
    except (*READING_FAULTS, OSError) as error:
        if is_of_the_machine(error):
            raise
        raise UnparsableObject(
            f"The file is not a DICOM dataset that can be read to its end ({type(error).__name__}): have the sender "
            "export the image again."
        ) from error


def _read_whole(stream: BinaryIO, max_inflated_bytes: int) -> FileDataset:
    preamble = read_preamble(stream, force=True)
    meta = _read_meta(stream)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        # As many elements as a header may have, wherever they stand; pixels of any length.
        return dcmread(cast("BinaryIO", Metered(stream, sys.maxsize - 1)), force=True)
    inflated = cast("BinaryIO", Metered(Inflated(stream, max_inflated_bytes), sys.maxsize - 1))
    read = read_dataset(inflated, is_implicit_VR=False, is_little_endian=True)
    dataset = FileDataset(BytesIO(), read, preamble, meta, is_implicit_VR=False, is_little_endian=True)
    dataset.set_original_encoding(False, True, read.original_character_set)
    return dataset


def is_of_the_machine(error: Exception) -> bool:
    """Tell the operating system's errors from pydicom's, which raises OSError over a cut sequence."""
    return isinstance(error, OSError) and error.errno is not None


def _read(stream: BinaryIO, max_inflated_bytes: int) -> HeaderDataset:
    watch = _PixelWatch()
    metered = cast("BinaryIO", Metered(stream))
    preamble = read_preamble(metered, force=True)
    meta = _read_meta(metered)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflated = cast("BinaryIO", Metered(Inflated(stream, max_inflated_bytes)))
        read = read_dataset(
            inflated, is_implicit_VR=False, is_little_endian=True, stop_when=watch, defer_size=_LEFT_OUT_FROM_BYTES
        )
        dataset = HeaderDataset(BytesIO(), read, preamble, meta, is_implicit_VR=False, is_little_endian=True)
        dataset.set_original_encoding(False, True, read.original_character_set)
        dataset.pixels_at = inflated.tell()
    else:
        metered.seek(0)
        partial = read_partial(metered, stop_when=watch, defer_size=_LEFT_OUT_FROM_BYTES, force=True)
        is_implicit, is_little = partial.original_encoding
        dataset = HeaderDataset(stream, partial, preamble, partial.file_meta, bool(is_implicit), bool(is_little))
        dataset.set_original_encoding(is_implicit, is_little, partial.original_character_set)
        dataset.pixels_at = stream.tell()
    if preamble is None and not _IDENTIFIER_TAGS & dataset.keys():
        # Any bytes can be read as some elements; without the identifiers they are not an object.
        raise InvalidDicomError
    dataset.has_pixel_data = watch.has_pixel_data
    return _without_long_elements(dataset)


def _read_meta(stream: BinaryIO) -> FileMetaDataset:
    def is_past(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        return tag.group != 2

    return FileMetaDataset(read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=is_past))


def _without_long_elements(dataset: HeaderDataset) -> HeaderDataset:
    """Leave out what pydicom would fetch from the file, however long it is, when somebody asks for it."""
    for element in list(dataset.values()):
        if isinstance(element, RawDataElement) and element.value is None and element.length > _LEFT_OUT_FROM_BYTES:
            del dataset[element.tag]
    return dataset


class _PixelWatch:
    """Tells pydicom to stop at the pixels, and remembers that they were there."""

    def __init__(self) -> None:
        self.has_pixel_data = False

    def __call__(self, tag: BaseTag, _vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            self.has_pixel_data = length > 0
            return True
        return False
