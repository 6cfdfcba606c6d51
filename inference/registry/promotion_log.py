"""The log of promotions and rollbacks: append-only, one JSON object per line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cxr.errors import DamagedPackage


class Action(StrEnum):
    """Kind of a log entry."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Promotion(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime
    action: Action
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")  # in service from this time
    previous: str | None  # in service before
    actor: str
    reason: str
    accepted: dict[str, str] = Field(default_factory=dict)  # failed gate -> reason of acceptance


class PromotionLog:
    """The log of one registry; the caller holds the registry's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Sequence[Promotion]:
        """Return all promotions, oldest first.

        Raises
        ------
        DamagedPackage
            If a complete line can't be parsed. An unfinished last line, left by a killed process, is skipped.
        """
        lines = self._lines()
        promotions = []
        for number, line in enumerate(lines[:-1], start=1):
            if not line:
                continue
            try:
                promotions.append(Promotion.model_validate_json(line))
            except ValidationError:
                raise DamagedPackage(
                    f"Line {number} of models/log.jsonl can't be read: restore the file, or move it away to start anew."
                ) from None
        return promotions

    def append(self, promotion: Promotion) -> None:
        """Append a line and fsync the file."""
        line = promotion.model_dump_json().encode() + b"\n"
        unfinished = len(self._lines()[-1])
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if unfinished:
                # An earlier process was killed while it wrote this line, before it swapped the link.
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - unfinished)
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _lines(self) -> list[bytes]:
        """Return the lines without line ends; the last element is the unfinished line, empty in a complete file."""
        try:
            return self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [b""]


def service_history(promotions: Sequence[Promotion], active: str | None) -> Sequence[str]:
    """Return the stack of packages that rollbacks return to.

    Parameters
    ----------
    promotions
        The log, oldest first.
    active
        Fingerprint in service; later promotions in the log did not take place.

    Returns
    -------
    Sequence[str]
        Fingerprints, oldest first, the one in service last; empty if the log does not hold it.
    """
    history: list[str] = []
    for promotion in promotions:
        if promotion.action is Action.ROLLBACK:
            history = history[:-1]
        elif not history or history[-1] != promotion.fingerprint:
            history.append(promotion.fingerprint)
    while history and history[-1] != active:
        history.pop()
    return history
