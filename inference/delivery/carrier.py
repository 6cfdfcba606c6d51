"""What every kind of destination can do, in values: the sender knows nothing of protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One object that goes to a destination; its file holds what is sent.

    ``chosen_sop_class_uid`` is the SOP class it was sent in before, if it was: a second attempt
    chooses the same again, so that the peer ends up with one object.
    """

    report_id: int
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str | None
    series_instance_uid: str
    chosen_sop_class_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The destination took the object."""

    status: int | None  # DIMSE or HTTP status; None: a folder has none
    sop_class_uid: str  # as sent: a fallback object has UIDs of its own
    sop_instance_uid: str


class Presence(StrEnum):
    """What a destination says afterwards about an object it took."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # no answer yet: ask again
    UNANSWERABLE = "unanswerable"  # it offers no way to ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The answer about one object, and how it was asked for."""

    presence: Presence
    verified_by: str  # storage_commitment, c_find, qido_rs, content; empty: nobody was asked


class Carrier(Protocol):
    """Takes objects to one destination. Used by one thread at a time."""

    def store(self, parcel: Parcel) -> Stored:
        """Take one object there.

        Raises
        ------
        DeliveryError
            If it is not there now; ``retryable`` and ``code`` say the rest.
        """
        ...

    def verify(self, parcels: Sequence[Parcel]) -> Mapping[int, Verification]:
        """Ask whether objects that were stored are there.

        Parameters
        ----------
        parcels
            With the UIDs they were stored under.

        Returns
        -------
        Mapping[int, Verification]
            By report number; all that were asked for.

        Raises
        ------
        DeliveryError
            If nobody answers.
        """
        ...

    def release_idle(self) -> None:
        """Let go of a connection that was not used for a short while."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...
