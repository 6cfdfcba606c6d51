"""Atomic files: bytes, text, and JSON of frozen dataclasses."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cxr.errors import RunError
from cxr.folder_sync import sync_folder

DIGITS = 6
"""Significant digits of every number; further digits differ between machines."""


def to_document(value: object) -> Any:  # noqa: ANN401 (JSON)
    """Convert a value to JSON types: dataclasses to objects, tuples and arrays to lists, numbers to six digits.

    Raises
    ------
    ValueError
        If a number is NaN or infinite; an undefined figure is None.
    TypeError
        If a value is of another kind.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_document(each) for name, each in value.items()}
    if isinstance(value, tuple | list | np.ndarray):
        return [to_document(each) for each in value]
    if isinstance(value, Enum):
        return to_document(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return _round(float(value))
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def write_document(value: object, path: Path) -> None:
    """Write ``to_document(value)`` as an atomic JSON file; make its folder where it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(to_document(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _round(number: float) -> float:
    if not np.isfinite(number):
        raise ValueError("an undefined figure is None, not NaN or infinity")
    return float(f"{number:.{DIGITS}g}")


@contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` when the block ends without an error.

    File and folder are synced (fsync), so that after a power failure the path holds the old content or the
    new one. After an error the path keeps its old content, and the temporary file is removed.

    Parameters
    ----------
    path
        The file to write; its folder exists.
    private
        Let only the file's owner read it (mode 0600): for files that hold identifiers of patients.

    Yields
    ------
    BinaryIO
        The temporary file, in the same folder.

    Raises
    ------
    OSError
        If the file can't be written.
    """
    # A random name: two processes may write the same file. A short one: ``path.name`` may have 255 bytes.
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    mode = 0o600 if private else 0o666  # less the umask
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | memoryview | str, *, private: bool = False) -> None:
    """Write a file's content through ``whole_file``; text is encoded as UTF-8."""
    with whole_file(path, private=private) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, document: object) -> None:
    """Write an indented JSON file with sorted keys through ``whole_file``."""
    write_whole(path, json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises
    ------
    RunError
        If it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path.name} can't be read ({error.strerror}).") from error
