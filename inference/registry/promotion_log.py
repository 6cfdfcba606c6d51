"""The log of what was in service when: one JSON object per line, only ever appended to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cxr.errors import DamagedPackage


class Action(StrEnum):
    """What was done."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Promotion(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime
    action: Action
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")  # in service from then on
    previous: str | None  # in service until then
    actor: str
    reason: str
    accepted: dict[str, str] = Field(default_factory=dict)  # failed gate -> why it was accepted


class PromotionLog:
    """The log of one registry; its caller holds the registry's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Sequence[Promotion]:
        """Return all promotions, oldest first.

        Raises
        ------
        DamagedPackage
            If a line is not one of ours; a last line that a kill cut short is left out.
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
        """Add a line, durably."""
        line = promotion.model_dump_json().encode() + b"\n"
        unfinished = len(self._lines()[-1])
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if unfinished:
                # Killed while writing, an earlier promotion left half a line; it never came into service.
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - unfinished)
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _lines(self) -> list[bytes]:
        """Lines without their ends; the last element is what follows the last line's end, mostly nothing."""
        try:
            return self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [b""]


def in_service(promotions: Sequence[Promotion], active: str | None) -> Sequence[str]:
    """Return the fingerprints that rollbacks walk back through.

    Parameters
    ----------
    promotions
        The log, oldest first.
    active
        What is in service; promotions after it were logged and did not take place.

    Returns
    -------
    Sequence[str]
        Oldest first, the one in service last; empty where the log does not know it.
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
