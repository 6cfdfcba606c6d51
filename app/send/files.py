"""Which of the named files and folders hold objects that can be sent, and as what."""

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
    """One file and what its C-STORE request says of it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    is_plain: bool  # its file meta information says the same, so that its bytes can be sent as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One file, named on the command line or found in a folder that was."""

    path: Path
    is_found: bool  # in a folder: whatever is no DICOM object there is skipped, not a failure


def find_files(paths: Iterable[Path]) -> Iterator[Named]:
    """Name each file once, folders with all that lies below them, in the order of their names."""
    seen: set[Path] = set()
    for path in paths:
        found = _below(path) if path.is_dir() else [path]
        for file in found:
            real = file.resolve()
            if real not in seen:
                seen.add(real)
                yield Named(path=file, is_found=path.is_dir())


def read_sendable(path: Path) -> Sendable:
    """Read what a C-STORE request has to say of a file.

    Parameters
    ----------
    path
        A file, with or without preamble and file meta information.

    Raises
    ------
    UnparsableObject
        If it is no DICOM object, or one that can't be stored: a DICOMDIR, one without its UIDs, or one
        that was cut.
    OSError
        If it can't be read.
    """
    with warnings.catch_warnings():
        # On purpose: pydicom names values in its warnings, and these would be a patient's.
        warnings.simplefilter("ignore")
        header = open_dataset(path)
        sop_class_uid, sop_instance_uid = _uid(header, "SOPClassUID"), _uid(header, "SOPInstanceUID")
        transfer_syntax_uid, is_plain = _encoding(header, sop_class_uid, sop_instance_uid)
    if path.stat().st_size % 2:
        raise UnparsableObject("A dataset has an even length (PS3.5 Section 7.1.1); this one was cut.")
    return Sendable(
        path=path,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        is_plain=is_plain,
    )


def read_all(files: Iterable[Named]) -> Iterator[tuple[Named, Sendable | str | None]]:
    """Read each file's header.

    Yields
    ------
    tuple
        The file, with what to send, or the code of the error, or None for what is skipped.
    """
    for file in files:
        try:
            yield file, read_sendable(file.path)
        except CxrError as error:
            yield file, None if file.is_found and not _claims_to_be_an_object(file.path) else error.code
        except OSError:
            yield file, "unreadable_file"


def _claims_to_be_an_object(path: Path) -> bool:
    """Whether a file says that it is a DICOM object; a DICOMDIR is a table of contents of others."""
    with path.open("rb") as file:
        start = file.read(_BEGINNING)
    has_magic = start[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC
    return has_magic and _MEDIA_STORAGE_DIRECTORY not in start


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(names))


def _uid(header: HeaderDataset, keyword: str) -> str:
    value = str(header.get(keyword) or "")
    if len(value) > _LONGEST_UID or re.fullmatch(RE_VALID_UID, value) is None:
        raise UnparsableObject(f"{keyword} is absent or not a UID, so that the object can't be named in a C-STORE.")
    return value


def _encoding(header: HeaderDataset, sop_class_uid: str, sop_instance_uid: str) -> tuple[str, bool]:
    """Read the transfer syntax, or, in a file without it, tell it from how the dataset was read."""
    meta = getattr(header, "file_meta", None) or {}
    transfer_syntax_uid = str(meta.get("TransferSyntaxUID") or "")
    if transfer_syntax_uid:
        identifiers = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
        return transfer_syntax_uid, identifiers == (sop_class_uid, sop_instance_uid)
    is_implicit, is_little_endian = header.original_encoding
    guessed = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
    return str(ImplicitVRLittleEndian if is_implicit else guessed), False
