"""Write what a TOML file can hold; reading is the standard library's ``tomllib``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


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
