"""Faults of the settings, in words that tell what to do; secrets are never among them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_PLAIN: Mapping[str, str] = {
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
"""Messages in place of pydantic's, by its type of fault."""

SECRETS = frozenset({"password", "token"})
"""Settings whose value is never shown."""


def without(places: Iterable[Sequence[int | str]], merged: Mapping[str, Any]) -> dict[str, Any] | None:
    """Leave the faulty values out; None if that would make faults of its own."""
    rest = copy.deepcopy(dict(merged))
    for place in places:
        table: Any = rest
        for key in place[:-1]:
            table = table.get(key) if isinstance(table, dict) else None
        if not place or not isinstance(table, dict) or place[-1] not in table:
            return None
        del table[place[-1]]
    return rest


def describe(fault: ErrorDetails, layers: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Say what is wrong, what was received, what is accepted, and where it stands.

    Parameters
    ----------
    fault
        One of pydantic's.
    layers
        The sources by name, weakest first.
    model
        The settings, to suggest the name that was meant.
    """
    place = fault["loc"]
    where = ".".join(str(part) for part in place)
    source = next((name for name in reversed(list(layers)) if _has(layers[name], place)), None)
    message = _PLAIN.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = "there is no such setting" + _nearest(place, model)
    shown = fault["input"] if _may_be_shown(place, fault["input"]) else None
    received = "" if shown is None or fault["type"] == "extra_forbidden" else f"; received {shown!r}"
    return (f"{where}: " if where else "") + message + received + (f" (in {source})" if source and place else "")


def _has(layer: Any, place: Sequence[int | str]) -> bool:  # noqa: ANN401 (nested tables and lists)
    for key in place:
        try:
            layer = layer[key]
        except (LookupError, TypeError):
            return False
    return True


def _may_be_shown(place: Sequence[int | str], value: object) -> bool:
    """Whether a received value can stand in a message: short, plain, and never a secret."""
    is_plain = isinstance(value, str | int | float | bool) and len(str(value)) <= 80
    # A whole list of destinations, written as one text, may hold their passwords.
    is_list = place[:1] == ("destinations",) and len(place) < 3
    return is_plain and not is_list and not SECRETS & set(place)


def _nearest(place: Sequence[int | str], model: type[BaseModel]) -> str:
    """Suggest the setting that was probably meant."""
    known: Any = model
    for key in place[:-1]:
        known = _section_of(known, key)
        if known is None:
            return ""
    close = difflib.get_close_matches(str(place[-1]), known.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _section_of(model: Any, key: int | str) -> Any:  # noqa: ANN401 (a pydantic model class)
    if isinstance(key, int):
        return model
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
