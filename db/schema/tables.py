"""Tables of the audit database. Rows never leave ``db``.

Tables have singular names and are internal; the views (``db.schema.views``), with plural names, are interface. A
test checks that the migrations produce this schema. Outside ``db``, import the module, not the classes
(``tables.Job``): other classes have the same names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cxr.domain import DeliveryState, JobState, PackageStatus, RebuildState, View

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC as ``YYYY-MM-DD HH:MM:SS.ffffff``: text order is time order."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert an aware time to UTC; a naive one is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("A time without a zone was given; the audit database takes aware datetimes only.")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Add the UTC zone to a stored time."""
        return None if value is None else value.replace(tzinfo=UTC)


def _enum(kind: type[StrEnum], name: str) -> Enum:
    """Store the values, not the Python names, with a CHECK constraint."""
    return Enum(
        kind, name=name, native_enum=False, create_constraint=True, length=16, values_callable=lambda of: list(of)
    )


class Base(DeclarativeBase):
    """Base class of all tables."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's own idiom)
        datetime: UtcTime(),
        JobState: _enum(JobState, "state"),
        DeliveryState: _enum(DeliveryState, "state"),
        PackageStatus: _enum(PackageStatus, "status"),
        RebuildState: _enum(RebuildState, "state"),
        View: _enum(View, "view"),
        dict[str, Any]: JSON(),
        list[str]: JSON(),
    }


class Image(Base):
    """One received object; a changed resend is a new row."""

    __tablename__ = "image"
    __table_args__ = (Index("ix_image_kept", "received_at", sqlite_where=text("spool_name IS NOT NULL")),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str | None] = mapped_column(String(64))
    accession_number: Mapped[str | None] = mapped_column(index=True)
    patient_id: Mapped[str | None] = mapped_column(index=True)
    study_date: Mapped[str | None]
    modality: Mapped[str | None]
    body_part_examined: Mapped[str | None]
    rows: Mapped[int | None]
    columns: Mapped[int | None]
    peer_ae_title: Mapped[str] = mapped_column(String(16))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int]
    dataset_digest: Mapped[str] = mapped_column(String(64))
    pixel_digest: Mapped[str | None] = mapped_column(String(64))
    identity_digest: Mapped[str] = mapped_column(String(64))
    spool_name: Mapped[str | None] = mapped_column(unique=True)  # None: not or no longer stored
    pixels_removed_at: Mapped[datetime | None]
    seal_salt: Mapped[str | None]  # hex; deleted when the patient is forgotten
    received_at: Mapped[datetime] = mapped_column(index=True)


class Identity(Base):
    """Form of the stored identifiers of one image; without a row, as received."""

    __tablename__ = "identity"

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # full | pseudonym | none | forgotten
    issuer_of_patient_id: Mapped[str | None]


class Decision(Base):
    """View decision of one image, with the header elements that are its evidence."""

    __tablename__ = "decision"

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    view: Mapped[View]
    is_chest: Mapped[bool | None]
    reason: Mapped[str]
    evidence: Mapped[dict[str, Any]]
    decided_at: Mapped[datetime]


class Resend(Base):
    """Resends of one image by one peer, and the time at which its result's deliveries were created."""

    __tablename__ = "resend"
    __table_args__ = (Index("ix_resend_due", "image_id", sqlite_where=text("brought_at IS NULL")),)

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    peer_ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    brought_at: Mapped[datetime | None]  # None: not yet since the latest resend


class Package(Base):
    """One model package that was activated or scored an image; the fingerprint excludes the status."""

    __tablename__ = "package"
    __table_args__ = (UniqueConstraint("fingerprint", "name", "version", "status"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    name: Mapped[str]
    version: Mapped[str]
    status: Mapped[PackageStatus]
    first_seen_at: Mapped[datetime]


class Activation(Base):
    """One activation of a package."""

    __tablename__ = "activation"

    id: Mapped[int] = mapped_column(primary_key=True)
    package_id: Mapped[int] = mapped_column(ForeignKey("package.id"), index=True)
    accepted_gates: Mapped[list[str]]
    actor: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]


class Job(Base):
    """The job of one image: state, lease and outcome."""

    __tablename__ = "job"
    __table_args__ = (
        Index(None, "lease_until", sqlite_where=text("lease_until IS NOT NULL")),
        Index(None, "error_code", sqlite_where=text("error_code IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), unique=True)
    state: Mapped[JobState] = mapped_column(index=True)
    reason: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)  # completed, successful or not
    not_before: Mapped[datetime | None]
    worker_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    error_code: Mapped[str | None]
    package_id: Mapped[int | None] = mapped_column(ForeignKey("package.id"), index=True)
    device: Mapped[str | None]
    warnings: Mapped[list[str] | None]
    scored_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Score(Base):
    """One score of the package in service for one image."""

    __tablename__ = "score"
    __table_args__ = (UniqueConstraint("job_id", "finding"), Index(None, "finding", "score"))

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    finding: Mapped[str]
    score: Mapped[float]
    threshold: Mapped[float | None]


class ShadowChange(Base):
    """One change of the shadow package, or its removal."""

    __tablename__ = "shadow_change"

    id: Mapped[int] = mapped_column(primary_key=True)
    package_id: Mapped[int | None] = mapped_column(ForeignKey("package.id"), index=True)  # None: no shadow
    actor: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]


class ShadowResult(Base):
    """Result of a shadow package for one image, in a table apart from reported results."""

    __tablename__ = "shadow_result"
    __table_args__ = (UniqueConstraint("job_id", "package_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    package_id: Mapped[int] = mapped_column(ForeignKey("package.id"), index=True)
    device: Mapped[str]
    warnings: Mapped[list[str]]
    scored_at: Mapped[datetime]


class ShadowScore(Base):
    """One score of a shadow package for one image."""

    __tablename__ = "shadow_score"
    __table_args__ = (UniqueConstraint("shadow_result_id", "finding"), Index(None, "finding", "score"))

    id: Mapped[int] = mapped_column(primary_key=True)
    shadow_result_id: Mapped[int] = mapped_column(ForeignKey("shadow_result.id"))
    finding: Mapped[str]
    score: Mapped[float]
    threshold: Mapped[float | None]


class Rebuild(Base):
    """One rebuild of the model, scheduled or manual."""

    __tablename__ = "rebuild"

    id: Mapped[int] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(unique=True)
    state: Mapped[RebuildState]
    attempts: Mapped[int]  # started
    run_name: Mapped[str]  # name of its folder
    error_code: Mapped[str | None]
    images: Mapped[int | None]  # usable labelled images
    new_images: Mapped[int | None]  # images among them that no earlier rebuild used
    fingerprint: Mapped[str | None] = mapped_column(String(64))  # of the created package
    failed_gates: Mapped[list[str] | None]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Report(Base):
    """One created report object; one row per SOP Instance UID, also after repeated attempts."""

    __tablename__ = "report"
    __table_args__ = (Index("ix_report_kept", "created_at", sqlite_where=text("spool_name IS NOT NULL")),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    spool_name: Mapped[str | None] = mapped_column(unique=True)  # None: no longer stored
    content_digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(index=True)
    removed_at: Mapped[datetime | None]


class JobReport(Base):
    """Reports of a job; UIDs are derived from the content, so two jobs may share a report."""

    __tablename__ = "job_report"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    report_id: Mapped[int] = mapped_column(ForeignKey("report.id"), primary_key=True, index=True)


class Delivery(Base):
    """Delivery of one report to one destination."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("report_id", "destination"),
        Index(None, "destination", "due_at"),
        Index(None, "lease_until", sqlite_where=text("lease_until IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    report_id: Mapped[int] = mapped_column(ForeignKey("report.id"))
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)  # that created it
    destination: Mapped[str] = mapped_column(String(32))
    state: Mapped[DeliveryState] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None]  # time to send (pending) or verify (sent); None: no action
    sender_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    status: Mapped[int | None]
    error_code: Mapped[str | None]
    delivered_sop_class_uid: Mapped[str | None] = mapped_column(String(64))
    delivered_sop_instance_uid: Mapped[str | None] = mapped_column(String(64))
    sent_at: Mapped[datetime | None]
    verified_at: Mapped[datetime | None]
    verified_by: Mapped[str | None]
    requeued_at: Mapped[datetime | None]  # by an operator; start of the period until it is given up
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Commitment(Base):
    """One Storage Commitment request of a peer; its items are deleted when it is reported."""

    __tablename__ = "commitment"
    __table_args__ = (UniqueConstraint("peer_ae_title", "transaction_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64))
    peer_ae_title: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))  # pending | reported | dead
    instances: Mapped[int]  # requested
    committed: Mapped[int | None]  # committed in the accepted report
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    error_code: Mapped[str | None]
    requested_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class CommitmentItem(Base):
    """One instance of a pending request."""

    __tablename__ = "commitment_item"

    id: Mapped[int] = mapped_column(primary_key=True)
    commitment_id: Mapped[int] = mapped_column(ForeignKey("commitment.id"), index=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)


class Custody(Base):
    """Time until which an image's file is kept because of Storage Commitment."""

    __tablename__ = "custody"

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    until: Mapped[datetime]


class Tally(Base):
    """Number of rows of a table in a state; updated by triggers (``db.schema.views``), so counts read no history."""

    __tablename__ = "tally"

    subject: Mapped[str] = mapped_column(String(16), primary_key=True)  # job | delivery
    state: Mapped[str] = mapped_column(String(16), primary_key=True)
    count: Mapped[int]


class Event(Base):
    """One event; append-only (triggers in ``db.schema.views``) and chained (``db.events.log``)."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(32))
    image_id: Mapped[int | None] = mapped_column(index=True)
    job_id: Mapped[int | None]
    report_id: Mapped[int | None]
    delivery_id: Mapped[int | None]
    facts: Mapped[str]  # canonical JSON
    hash: Mapped[str] = mapped_column(String(64))


class Lease(Base):
    """Holder of a named lease: a task of one process at a time."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str]
    expires_at: Mapped[datetime]
