"""Filters of results and forms of exports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cxr.domain import JobState, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFilter:
    """Filter of the view ``results`` or ``shadow_results``; None matches all rows."""

    received_from: datetime | None = None  # aware; included
    received_until: datetime | None = None  # aware; excluded
    finding: str | None = None  # a name of cxr.labels.FINDINGS
    min_score: float | None = None  # in [0, 1]; included
    max_score: float | None = None  # in [0, 1]; included
    view: View | None = None
    reason: str | None = None  # a code of cxr.view.decide.REASONS
    state: JobState | None = None
    delivered: bool | None = None
    unrouted_senders: tuple[str, ...] = ()  # with delivered=False: AE titles whose results have no destination
    model: str | None = None  # the package's name
    fingerprint: str | None = None  # or its first digits
    accession_number: str | None = None
    patient_id: str | None = None
    peer_ae_title: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    error_code: str | None = None
    latest_only: bool = False  # without images replaced by a later receipt
    of_shadow: bool = False  # scores of shadow packages instead of reported ones
    first_image: int | None = None  # images with this id or a larger one
    before_image: int | None = None  # images with a smaller id
    limit: int | None = None  # rows


class Format(StrEnum):
    """Format of an export."""

    CSV = "csv"
    JSON = "json"  # one object per line
    PARQUET = "parquet"


class IdentifierForm(StrEnum):
    """Form of identifiers in an export."""

    PSEUDONYM = "pseudonym"  # keyed: rows still join by patient, study and image
    NONE = "none"  # no identifier columns
    UIDS = "uids"  # DICOM UIDs as stored, to join with images; neither patient ID nor accession number
    FULL = "full"  # everything as stored
