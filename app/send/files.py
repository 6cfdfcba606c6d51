"""Find the DICOM objects in files and folders, and read what a C-STORE request needs of them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import RE_VALID_UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxr.dicom import HeaderDataset, open_dataset
from cxr.errors import CxrError, UnparsableObject

_MAGIC_AT, _MAGIC = 128, b"DICM"  # PS3.10 Section 7.1
_LONGEST_UID = 64
_BEGINNING = 1024  # bytes; holds the file meta information's SOP class
_MEDIA_STORAGE_DIRECTORY = b"1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sendable:
    """One file and the values of its C-STORE request."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    is_sendable_unchanged: bool  # file meta information has the same UIDs: the data set can be sent unchanged


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One file that was named, or that lies in a folder that was named."""

    path: Path
    is_in_folder: bool  # then it is skipped, not a failure, if it is no DICOM object


def find_files(paths: Iterable[Path]) -> Iterator[InputFile]:
    """Yield each file once, those of folders recursively and sorted by name."""
    yielded: set[Path] = set()
    for path in paths:
        for file in _files_below(path) if path.is_dir() else [path]:
            real = file.resolve()
            if real not in yielded:
                yielded.add(real)
                yield InputFile(path=file, is_in_folder=path.is_dir())


def read_sendable(path: Path) -> Sendable:
    """Read the values that a C-STORE request needs of a file.

    Parameters
    ----------
    path
        A file, with or without preamble and file meta information.

    Raises
    ------
    UnparsableObject
        If it is no DICOM object, or one that can't be stored: a DICOMDIR, one without its UIDs, or a truncated one.
    OSError
        If it can't be read.
    """
    with warnings.catch_warnings():
        # pydicom prints values in its warnings, which may be a patient's.
        warnings.simplefilter("ignore")
        header = open_dataset(path)
        sop_class_uid, sop_instance_uid = _uid(header, "SOPClassUID"), _uid(header, "SOPInstanceUID")
        transfer_syntax_uid, is_sendable_unchanged = _encoding(header, sop_class_uid, sop_instance_uid)
    if path.stat().st_size % 2:
        raise UnparsableObject("A data set has an even length (PS3.5 Section 7.1.1); this one is truncated.")
    return Sendable(
        path=path,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        is_sendable_unchanged=is_sendable_unchanged,
    )


def read_all(files: Iterable[InputFile]) -> Iterator[tuple[InputFile, Sendable | str | None]]:
    """Read the header of each file.

    Yields
    ------
    tuple
        The file, and: its values; or an error code; or None if it is skipped.
    """
    for file in files:
        try:
            yield file, read_sendable(file.path)
        except CxrError as error:
            yield file, None if file.is_in_folder and not _has_dicom_prefix(file.path) else error.code
        except OSError:
            yield file, "unreadable_file"


def _has_dicom_prefix(path: Path) -> bool:
    """Return whether a file has the prefix DICM and is no DICOMDIR."""
    with path.open("rb") as file:
        start = file.read(_BEGINNING)
    has_magic = start[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC
    return has_magic and _MEDIA_STORAGE_DIRECTORY not in start


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(names))


def _uid(header: HeaderDataset, keyword: str) -> str:
    value = str(header.get(keyword) or "")
    if len(value) > _LONGEST_UID or re.fullmatch(RE_VALID_UID, value) is None:
        raise UnparsableObject(f"{keyword} is absent or not a UID, so that the object can't be named in a C-STORE.")
    return value


def _encoding(header: HeaderDataset, sop_class_uid: str, sop_instance_uid: str) -> tuple[str, bool]:
    """Return the transfer syntax, from the file meta information or the encoding that the reader detected."""
    meta = getattr(header, "file_meta", None) or {}
    transfer_syntax_uid = str(meta.get("TransferSyntaxUID") or "")
    if transfer_syntax_uid:
        identifiers = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
        return transfer_syntax_uid, identifiers == (sop_class_uid, sop_instance_uid)
    is_implicit, is_little_endian = header.original_encoding
    guessed = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
    return str(ImplicitVRLittleEndian if is_implicit else guessed), False
