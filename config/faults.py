"""Messages about faults of the settings: received, accepted, what to do; without secrets."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_MESSAGES: Mapping[str, str] = {
    "missing": "this setting is required",
    "path_type": "accepted is a path, as text in quotes",
    "string_type": "accepted is text in quotes",
    "bool_type": "accepted is true or false",
    "bool_parsing": "accepted is true or false",
    "int_type": "accepted is a whole number",
    "int_parsing": "accepted is a whole number",
    "int_from_float": "accepted is a whole number",
    "float_type": "accepted is a number",
    "float_parsing": "accepted is a number",
    "finite_number": "accepted is a finite number",
    "model_type": "accepted is a table of settings",
    "model_attributes_type": "accepted is a table of settings",
    "tuple_type": "accepted is a list",
}
"""Messages in place of pydantic's, by its error type."""

SECRETS = frozenset({"password", "token"})
"""Settings whose value is never printed."""


def without_faulty(locations: Iterable[Sequence[int | str]], merged: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings without the faulty values; None if a value can't be removed alone."""
    rest = copy.deepcopy(dict(merged))
    for location in locations:
        table: Any = rest
        for key in location[:-1]:
            table = table.get(key) if isinstance(table, dict) else None
        if not location or not isinstance(table, dict) or location[-1] not in table:
            return None
        del table[location[-1]]
    return rest


def describe(fault: ErrorDetails, layers: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Return a sentence with the fault, the received value, the accepted ones, and their source.

    Parameters
    ----------
    fault
        Error of pydantic.
    layers
        The sources by name, weakest first.
    model
        The settings class, to suggest a name similar to an unknown one.
    """
    location = fault["loc"]
    where = ".".join(str(part) for part in location)
    source = next((name for name in reversed(list(layers)) if _contains(layers[name], location)), None)
    message = _MESSAGES.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = "there is no such setting" + _suggestion(location, model)
    shown = fault["input"] if _is_printable(location, fault["input"]) else None
    received = "" if shown is None or fault["type"] == "extra_forbidden" else f"; received {shown!r}"
    return (f"{where}: " if where else "") + message + received + (f" (in {source})" if source and location else "")


def _contains(layer: Any, location: Sequence[int | str]) -> bool:  # noqa: ANN401 (nested tables and lists)
    for key in location:
        try:
            layer = layer[key]
        except (LookupError, TypeError):
            return False
    return True


def _is_printable(location: Sequence[int | str], value: object) -> bool:
    """Whether a message may contain a received value: short, plain, and no secret."""
    is_plain = isinstance(value, str | int | float | bool) and len(str(value)) <= 80
    # A list of destinations as one text may contain passwords.
    is_list = location[:1] == ("destinations",) and len(location) < 3
    return is_plain and not is_list and not SECRETS & set(location)


def _suggestion(location: Sequence[int | str], model: type[BaseModel]) -> str:
    """Return a hint with the most similar setting; empty: there is none."""
    section: Any = model
    for key in location[:-1]:
        section = _section_of(section, key)
        if section is None:
            return ""
    close = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _section_of(model: Any, key: int | str) -> Any:  # noqa: ANN401 (a pydantic model class)
    if isinstance(key, int):
        return model
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
