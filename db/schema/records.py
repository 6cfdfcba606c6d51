"""Frozen dataclasses for input and output of the audit database.

Times are aware UTC datetimes. An ``id`` is an integer of the database; events and logs identify rows by it alone.
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
    """One received object, after its file is durable and before the C-STORE response."""

    header: ImageHeader
    decision: ViewDecision
    initial_state: JobState  # HELD, QUEUED or NOT_SCORED
    reason: str  # of the initial state: a code of cxr.view.decide.REASONS
    peer_ae_title: str
    transfer_syntax_uid: str
    size_bytes: int
    dataset_digest: str  # BLAKE3, hex, of the received dataset's bytes
    pixel_digest: str | None  # BLAKE3, hex, of the Pixel Data value's bytes; None: not computed
    spool_name: str | None  # None: the file is not stored
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Result of a receipt; for a resend, with the existing rows."""

    outcome: Outcome
    image_id: int
    job_id: int
    is_restored: bool = False  # the file of the resend replaced a lost one


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestImage:
    """Latest object received under a SOP Instance UID, to be compared with a resend."""

    image_id: int
    job_id: int
    dataset_digest: str
    pixel_digest: str | None
    identity_digest: str
    view: View
    is_chest: bool | None
    reason: str  # of the view decision
    spool_name: str | None  # None: not or no longer stored
    state: JobState
    error_code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob:
    """One image claimed by a worker until the lease expires."""

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
    view: View = View.FRONTAL  # according to the header
    is_released: bool = False  # an operator released it


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRecord:
    """One report object created from an image, in the spool."""

    kind: ReportKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    spool_name: str
    content_digest: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery:
    """One report claimed by a sender, to be sent (``pending``) or verified (``sent``)."""

    id: int
    report_id: int
    job_id: int
    destination: str
    state: DeliveryState
    attempts: int  # before this claim
    created_at: datetime
    requeued_at: datetime | None = None  # by an operator; start of the period until it is given up
    spool_name: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str | None  # of the source image; None: only in the report
    series_instance_uid: str
    delivered_sop_class_uid: str | None  # of the sent object: a fallback has its own UIDs
    delivered_sop_instance_uid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job in ``cxr jobs list``."""

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
    """One delivery in ``cxr jobs list --dead-deliveries``."""

    id: int
    report_id: int
    job_id: int
    destination: str
    state: DeliveryState
    attempts: int
    due_at: datetime | None
    status: int | None  # DIMSE or HTTP status of the last response
    error_code: str | None
    verified_by: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One row of the view ``results``: one finding of one image; ``finding`` is None without scores."""

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
    delivered: bool | None  # None: no delivery, or none yet
    is_latest: bool  # no newer image has the same SOP Instance UID


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
    """Last event of the chain at a time, exported to detect a truncated log."""

    id: int
    hash: str  # hex HMAC-SHA256
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """Result of the tamper check."""

    ok: bool
    events: int  # id of the last sound event
    first_broken_id: int | None
    head: Head | None
    first: int = 1  # id of the first checked event
    changed: tuple[str, ...] = ()  # rows that differ from their seal, as ``table id``


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One activation of a model package."""

    fingerprint: str
    name: str
    version: str
    status: PackageStatus
    accepted_gates: tuple[str, ...]  # failed gates that were accepted
    actor: str  # account name of the operator
    reason: str  # free text of the operator
    at: datetime
