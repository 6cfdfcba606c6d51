"""Which results are asked for, and in which form: values, without a database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cxr.domain import JobState, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFilter:
    """Which rows of the view ``results``, or of ``shadow_results``; what is None does not matter."""

    received_from: datetime | None = None  # aware; included
    received_until: datetime | None = None  # aware; excluded
    finding: str | None = None  # a name of cxr.labels.FINDINGS
    min_score: float | None = None  # in [0, 1]; included
    max_score: float | None = None  # in [0, 1]; included
    view: View | None = None
    reason: str | None = None  # a code of cxr.view.decide.REASONS
    state: JobState | None = None
    delivered: bool | None = None
    unrouted_senders: tuple[str, ...] = ()  # with delivered=False: AE titles whose images' results have no destination
    model: str | None = None  # the package's name
    fingerprint: str | None = None  # or how it begins
    accession_number: str | None = None
    patient_id: str | None = None
    peer_ae_title: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    error_code: str | None = None
    latest_only: bool = False  # leave out what was replaced by a later receipt
    of_shadow: bool = False  # a shadow's scores instead of those that were reported
    first_image: int | None = None  # images with this number or a later one
    before_image: int | None = None  # images with a smaller number
    limit: int | None = None  # rows


class Format(StrEnum):
    """What an export is written as."""

    CSV = "csv"
    JSON = "json"  # one object per line
    PARQUET = "parquet"


class IdentifierForm(StrEnum):
    """What an export says of identifiers."""

    PSEUDONYM = "pseudonym"  # keyed: rows of one patient, study or image still meet
    NONE = "none"  # no such column
    UIDS = "uids"  # DICOM UIDs as stored, to join with images; neither patient ID nor accession number
    FULL = "full"  # everything as stored
