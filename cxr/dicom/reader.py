"""Open a DICOM file up to its pixels, safely for any content.

A received object may be truncated, nested a thousand levels deep, or inflate from a few kilobytes to
gigabytes. An unreadable file raises ``UnparsableObject``; none crashes the process.

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
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from cxr.dicom.bounded_streams import InflatedStream, MeteredStream
from cxr.dicom.transfer_syntaxes import DECODABLE_SYNTAXES
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
    RuntimeError,  # includes NotImplementedError and RecursionError
)
"""Exceptions that pydicom raises on malformed datasets (collected on the files of its own test suite)."""

_IDENTIFIER_TAGS = frozenset({0x00080016, 0x00080018})  # SOP Class UID, SOP Instance UID
_MAX_ELEMENT_BYTES = 1024 * 1024


class HeaderDataset(FileDataset):
    """A dataset that was read up to its pixels; elements stay raw until they are accessed.

    Elements of more than 1 MiB are left out: no attribute that this project uses is as long.
    """

    has_pixel_data: bool = False
    """Whether a non-empty element of `PIXEL_TAGS` follows."""

    pixels_at: int = 0
    """Offset in bytes at which reading stopped, from the start of the file or of the inflated dataset."""


def open_dataset(source: Path | BinaryIO, *, max_inflated_bytes: int = DEFAULT_MAX_INFLATED_BYTES) -> HeaderDataset:
    """Read a DICOM file up to its pixels.

    Takes at most some 130 MiB of memory and some seconds for any content. Files without preamble and file
    meta information are read too (implicit or explicit VR is guessed), if they have SOP Class UID or SOP
    Instance UID.

    Parameters
    ----------
    source
        A file, or a seekable binary stream at its start; a stream stays open.
    max_inflated_bytes
        Most bytes of a deflated dataset, inflated, before its pixels.

    Returns
    -------
    HeaderDataset
        With ``file_meta`` if the file has it.

    Raises
    ------
    UnparsableObject
        If this is not a readable DICOM dataset.
    ObjectTooLarge
        If a deflated dataset exceeds the bound, or more than 32 MiB precede the pixels.
    OSError
        If the file can't be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return open_dataset(stream, max_inflated_bytes=max_inflated_bytes)
    try:
        return _read(source, max_inflated_bytes)
    except (*READING_FAULTS, OSError) as error:
        if is_operating_system_error(error):
            raise
        raise UnparsableObject(
            f"The received bytes are not a DICOM dataset that can be read ({type(error).__name__}); accepted is a "
            "dataset as DICOM PS3.5 and PS3.10 define it: have the sender export the image again."
        ) from error


def open_with_pixels(path: Path, *, max_inflated_bytes: int) -> FileDataset:
    """Read a whole DICOM file, pixels included but not decoded.

    Parameters
    ----------
    path
        A file that ``open_dataset`` can read.
    max_inflated_bytes
        Most bytes of a deflated dataset, inflated, pixels included.

    Raises
    ------
    UnparsableObject
        If this is not a DICOM dataset that is readable to its end.
    ObjectTooLarge
        If a deflated dataset exceeds the bound.
    OSError
        If the file can't be read.
    """
    try:
        with path.open("rb") as stream:
            return _read_whole(stream, max_inflated_bytes)
    except (*READING_FAULTS, OSError) as error:
        if is_operating_system_error(error):
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
        # The number of elements is bounded as in a header; the length of the pixels is not.
        return dcmread(cast("BinaryIO", MeteredStream(stream, sys.maxsize - 1)), force=True)
    inflated = cast("BinaryIO", MeteredStream(InflatedStream(stream, max_inflated_bytes), sys.maxsize - 1))
    read = read_dataset(inflated, is_implicit_VR=False, is_little_endian=True)
    dataset = FileDataset(BytesIO(), read, preamble, meta, is_implicit_VR=False, is_little_endian=True)
    dataset.set_original_encoding(False, True, read.original_character_set)
    return dataset


def is_operating_system_error(error: Exception) -> bool:
    """Check for an error of the operating system; pydicom raises OSError without errno on a truncated sequence."""
    return isinstance(error, OSError) and error.errno is not None


def _read(stream: BinaryIO, max_inflated_bytes: int) -> HeaderDataset:
    stop = _StopAtPixels()
    metered = cast("BinaryIO", MeteredStream(stream))
    preamble = read_preamble(metered, force=True)
    meta = _read_meta(metered)
    syntax = meta.get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        inflated = cast("BinaryIO", MeteredStream(InflatedStream(stream, max_inflated_bytes)))
        dataset = _read_encoded(inflated, preamble, meta, stop, is_implicit=False, is_little=True)
    elif syntax in DECODABLE_SYNTAXES and not _is_command_set(metered):
        is_implicit, is_little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        dataset = _read_encoded(metered, preamble, meta, stop, is_implicit=is_implicit, is_little=is_little)
    else:  # pydicom guesses the encoding
        metered.seek(0)
        partial = read_partial(metered, stop_when=stop, defer_size=_MAX_ELEMENT_BYTES, force=True)
        implicit, little = partial.original_encoding
        dataset = HeaderDataset(stream, partial, preamble, partial.file_meta, bool(implicit), bool(little))
        dataset.set_original_encoding(implicit, little, partial.original_character_set)
        dataset.pixels_at = stream.tell()
    if preamble is None and not _IDENTIFIER_TAGS & dataset.keys():
        # Almost any bytes parse as some elements; without identifiers they are not a DICOM object.
        raise InvalidDicomError
    dataset.has_pixel_data = stop.has_pixel_data
    return _without_long_elements(dataset)


def _read_encoded(
    stream: BinaryIO,
    preamble: bytes | None,
    meta: FileMetaDataset,
    stop: _StopAtPixels,
    *,
    is_implicit: bool,
    is_little: bool,
) -> HeaderDataset:
    """Read the dataset that begins at the position of a stream, in a known encoding."""
    read = read_dataset(stream, is_implicit, is_little, stop_when=stop, defer_size=_MAX_ELEMENT_BYTES)
    dataset = HeaderDataset(BytesIO(), read, preamble, meta, is_implicit, is_little)
    dataset.set_original_encoding(is_implicit, is_little, read.original_character_set)
    dataset.pixels_at = stream.tell()
    return dataset


def _is_command_set(stream: BinaryIO) -> bool:
    """Whether elements of group 0000 follow, which are encoded otherwise than the dataset after them."""
    at = stream.tell()
    group = stream.read(2)
    stream.seek(at)
    return group == b"\0\0"


def _read_meta(stream: BinaryIO) -> FileMetaDataset:
    def is_after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        return tag.group != 2

    return FileMetaDataset(read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=is_after_meta))


def _without_long_elements(dataset: HeaderDataset) -> HeaderDataset:
    """Remove deferred elements, which pydicom would read from the file on access, at any length."""
    for element in list(dataset.values()):
        if isinstance(element, RawDataElement) and element.value is None and element.length > _MAX_ELEMENT_BYTES:
            del dataset[element.tag]
    return dataset


class _StopAtPixels:
    """Stop condition for pydicom: stop at the pixels, and record whether there are any."""

    def __init__(self) -> None:
        self.has_pixel_data = False

    def __call__(self, tag: BaseTag, _vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            self.has_pixel_data = length > 0
            return True
        return False
