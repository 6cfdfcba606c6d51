"""What goes into the audit database and what comes out: frozen values, never rows.

Times are aware UTC datetimes. Numbers called ``id`` are our own integers, the only names of rows in
events and logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cxr.domain import DeliveryState, ImageHeader, JobState, PackageStatus, View, ViewDecision

Outcome = Literal["new", "resent", "changed_resend"]
ReportKind = Literal["sr", "saliency"]
FactValue = int | float | str | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One received object, after its file is durable and before the peer has its answer."""

    header: ImageHeader
    decision: ViewDecision
    initial_state: JobState  # HELD, QUEUED or NOT_SCORED
    reason: str  # why it starts in that state: a code of cxr.view.decide.REASONS
    peer_ae_title: str
    transfer_syntax_uid: str
    size_bytes: int
    dataset_digest: str  # BLAKE3, hex, of the received dataset's bytes
    pixel_digest: str | None  # BLAKE3, hex, of the Pixel Data value's bytes; None: not computed
    spool_name: str | None  # None: the pixels are not kept
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What became of a receipt; for a resend, the rows that were there already."""

    outcome: Outcome
    image_id: int
    job_id: int
    is_restored: bool = False  # a resend: its file took the place of one that was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownImage:
    """The latest object received under a SOP Instance UID: what a resend is compared with."""

    image_id: int
    job_id: int
    dataset_digest: str
    pixel_digest: str | None
    identity_digest: str
    view: View
    is_chest: bool | None
    reason: str  # of the view decision
    spool_name: str | None  # None: not kept, or no longer
    state: JobState
    error_code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob:
    """One image that this worker is to score, until the lease ends."""

    id: int
    image_id: int
    attempt: int  # 1 for the first
    spool_name: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str | None
    transfer_syntax_uid: str
    pixel_digest: str | None
    identity_digest: str
    peer_ae_title: str
    received_at: datetime
    view: View = View.FRONTAL  # that the header tells
    is_released: bool = False  # a person has looked at it and sent it to the model


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRecord:
    """One object that we made from an image and that lies in the spool."""

    kind: ReportKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    spool_name: str
    content_digest: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery:
    """One report that this sender is to send (``pending``) or to verify (``sent``)."""

    id: int
    report_id: int
    job_id: int
    destination: str
    state: DeliveryState
    attempts: int  # sendings that were begun before this claim
    created_at: datetime
    requeued_at: datetime | None = None  # by an operator; the time to give up counts from here
    spool_name: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str | None  # of the source image; None: it is not stored, the report says it
    series_instance_uid: str
    delivered_sop_class_uid: str | None  # what was really sent: a fallback has UIDs of its own
    delivered_sop_instance_uid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job, as an operator sees it in ``cxr jobs list``."""

    id: int
    image_id: int
    sop_instance_uid: str
    state: JobState
    reason: str
    attempts: int
    not_before: datetime | None
    error_code: str | None
    received_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """One delivery, as an operator sees it."""

    id: int
    report_id: int
    job_id: int
    destination: str
    state: DeliveryState
    attempts: int
    due_at: datetime | None
    status: int | None  # DIMSE or HTTP status of the last answer
    error_code: str | None
    verified_by: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One row of the view ``results``: one finding of one image; without a score ``finding`` is None."""

    image_id: int
    job_id: int
    sop_instance_uid: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    accession_number: str | None
    patient_id: str | None
    study_date: str | None
    modality: str | None
    peer_ae_title: str
    received_at: datetime
    state: JobState
    view: View
    is_chest: bool | None
    reason: str
    finding: str | None
    score: float | None  # in [0, 1]
    threshold: float | None  # in [0, 1]
    at_or_above: bool | None
    model: str | None
    model_version: str | None
    fingerprint: str | None
    model_status: PackageStatus | None
    scored_at: datetime | None
    error_code: str | None
    delivered: bool | None  # None: there is nothing to deliver, or nothing yet
    is_latest: bool  # whether nothing newer came under the same SOP Instance UID


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One event of the audit log."""

    id: int
    at: datetime
    kind: str
    image_id: int | None
    job_id: int | None
    report_id: int | None
    delivery_id: int | None
    facts: Mapping[str, FactValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last event of the chain at one time, exported so that a cut tail is found."""

    id: int
    hash: str  # hex HMAC-SHA256
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What the tamper check found."""

    ok: bool
    events: int  # the number of the last one that is sound
    first_broken_id: int | None
    head: Head | None
    first: int = 1  # where the check began
    changed: tuple[str, ...] = ()  # rows that are not as an event sealed them, as ``table number``


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One time that a model package was put into service."""

    fingerprint: str
    name: str
    version: str
    status: PackageStatus
    accepted_gates: tuple[str, ...]  # codes of the checks that it failed and that were accepted
    actor: str  # who did it: an account's name
    reason: str  # why, in the operator's words
    at: datetime
