"""Files that training writes: whole or not at all, JSON of frozen dataclasses, TOML.

TOML is read by the standard library's ``tomllib``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from cxr.errors import RunError

DIGITS = 6
"""Significant digits of every number: more would differ between machines."""


def to_document(value: object) -> Any:  # noqa: ANN401 (JSON)
    """Return what JSON can hold: dataclasses as objects, tuples and arrays as lists, numbers with six digits.

    Raises
    ------
    ValueError
        If a number is NaN or infinite: a figure that does not exist is None.
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
        return _rounded(float(value))
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")


def write_document(value: object, path: Path) -> None:
    """Write a JSON file; it is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    content = json.dumps(to_document(value), indent=2, allow_nan=False, ensure_ascii=False)
    temporary.write_text(content + "\n", encoding="utf-8")
    temporary.replace(path)


def _rounded(number: float) -> float:
    if not np.isfinite(number):
        raise ValueError("a figure that does not exist is None, not NaN or infinity")
    return float(f"{number:.{DIGITS}g}")


def dump_toml(document: Mapping[str, Any]) -> str:
    """Write a document: texts, numbers, flags, lists, tables and lists of tables; no None, no dates."""
    return "\n".join(_table(document, "")).lstrip("\n") + "\n"


def _table(table: Mapping[str, Any], name: str) -> Iterator[str]:
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping) or _is_tables(value)}
    for key, value in table.items():
        if key not in nested:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in nested.items():
        path = f"{name}.{_key(key)}" if name else _key(key)
        for item in [value] if isinstance(value, Mapping) else value:
            yield f"\n[{path}]" if isinstance(value, Mapping) else f"\n[[{path}]]"
            yield from _table(item, path)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _key(key: str) -> str:
    return key if key.replace("_", "a").replace("-", "a").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:  # noqa: ANN401 (what TOML holds)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    # JSON's texts, numbers and flags are TOML's too, once DEL is written as an escape.
    return json.dumps(value, allow_nan=False, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file so that it is there whole, on the disk, or as it was before."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, document: object) -> None:
    """Write a JSON file that a person can read; whole, or not at all."""
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
