"""Interface between the sender and the clients of destinations, which implement the protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingReport:
    """One report to send or to verify, with the UIDs that it has at the destination.

    ``path`` is the DICOM file in the spool. ``chosen_sop_class_uid`` is the SOP class of an earlier attempt, None
    before the first: a second attempt uses the same class, so that the peer holds one object.
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
    """A store that the destination accepted."""

    status: int | None  # DIMSE or HTTP status; None: a folder
    sop_class_uid: str  # as sent; a fallback object has its own UIDs
    sop_instance_uid: str


class Presence(StrEnum):
    """Answer of a destination about an object that it accepted earlier."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # no answer yet: to be verified again
    UNANSWERABLE = "unanswerable"  # the destination supports no such query


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The answer about one object, and the method of verification."""

    presence: Presence
    verified_by: str  # storage_commitment, c_find, qido_rs, content; empty: not verified


class DestinationClient(Protocol):
    """Client of one destination. Stores and verifications may run in two threads, each one at a time."""

    def store(self, report: OutgoingReport) -> Stored:
        """Store one report at the destination.

        Raises
        ------
        DeliveryError
            If the destination does not hold it; see ``retryable`` and ``code``.
        """
        ...

    def verify(self, reports: Sequence[OutgoingReport]) -> Mapping[int, Verification]:
        """Check whether the destination holds reports that were stored.

        Parameters
        ----------
        reports
            With the UIDs under which they were stored.

        Returns
        -------
        Mapping[int, Verification]
            By ``report_id``; a report may be missing if there is no answer about it.

        Raises
        ------
        DeliveryError
            If the destination does not answer.
        """
        ...

    def release_idle(self) -> None:
        """Release a connection that was idle for a few seconds."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...
