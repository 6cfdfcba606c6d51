"""The tables of the audit database. Rows never leave ``db``.

Tables have singular names and are ours to change; people read the views (``db.schema.views``), whose
plural names and columns are interface. The migrations must give this very schema; a test compares.
Import the module, not the classes (``tables.Job``): their names are also those of other things.
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
        """Turn an aware time into UTC; a naive one is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("A time without a zone was given; the audit database takes aware datetimes only.")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say again that it is UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


def _enum(kind: type[StrEnum], name: str) -> Enum:
    """Store the values, not the Python names, and let the database refuse any other."""
    return Enum(
        kind, name=name, native_enum=False, create_constraint=True, length=16, values_callable=lambda of: list(of)
    )


class Base(DeclarativeBase):
    """What all tables share."""

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
    """One received object; a resend with changed content is a row of its own."""

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
    spool_name: Mapped[str | None] = mapped_column(unique=True)  # None: not kept, or no longer
    pixels_removed_at: Mapped[datetime | None]
    seal_salt: Mapped[str | None]  # hex; deleted when the patient is forgotten
    received_at: Mapped[datetime] = mapped_column(index=True)


class Identity(Base):
    """In which form the identifiers of one image are stored; an image without a row has them as received."""

    __tablename__ = "identity"

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # full | pseudonym | none | forgotten
    issuer_of_patient_id: Mapped[str | None]


class Decision(Base):
    """What the header said about one image, and where it said so."""

    __tablename__ = "decision"

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    view: Mapped[View]
    is_chest: Mapped[bool | None]
    reason: Mapped[str]
    evidence: Mapped[dict[str, Any]]
    decided_at: Mapped[datetime]


class Resend(Base):
    """One peer that sent an image again, and when its result was last brought to that peer's destinations."""

    __tablename__ = "resend"
    __table_args__ = (Index("ix_resend_due", "image_id", sqlite_where=text("brought_at IS NULL")),)

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    peer_ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    brought_at: Mapped[datetime | None]  # None: not yet, since the last time that it came


class Package(Base):
    """One model package that was put into service or scored an image; its fingerprint leaves the status out."""

    __tablename__ = "package"
    __table_args__ = (UniqueConstraint("fingerprint", "name", "version", "status"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    name: Mapped[str]
    version: Mapped[str]
    status: Mapped[PackageStatus]
    first_seen_at: Mapped[datetime]


class Activation(Base):
    """One time that a package was put into service."""

    __tablename__ = "activation"

    id: Mapped[int] = mapped_column(primary_key=True)
    package_id: Mapped[int] = mapped_column(ForeignKey("package.id"), index=True)
    accepted_gates: Mapped[list[str]]
    actor: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]


class Job(Base):
    """The work on one image: who does it, until when, and what came of it."""

    __tablename__ = "job"
    __table_args__ = (
        Index(None, "lease_until", sqlite_where=text("lease_until IS NOT NULL")),
        Index(None, "error_code", sqlite_where=text("error_code IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), unique=True)
    state: Mapped[JobState] = mapped_column(index=True)
    reason: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)  # that came to an end, good or bad
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
    """One output of the model in service for one image."""

    __tablename__ = "score"
    __table_args__ = (UniqueConstraint("job_id", "finding"), Index(None, "finding", "score"))

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    finding: Mapped[str]
    score: Mapped[float]
    threshold: Mapped[float | None]


class ShadowChange(Base):
    """One time that a package became the shadow, or that there was none from then on."""

    __tablename__ = "shadow_change"

    id: Mapped[int] = mapped_column(primary_key=True)
    package_id: Mapped[int | None] = mapped_column(ForeignKey("package.id"), index=True)  # None: no shadow
    actor: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]


class ShadowResult(Base):
    """What a shadow made of one image, beside the result that counts; tables of their own, so that no reader mixes."""

    __tablename__ = "shadow_result"
    __table_args__ = (UniqueConstraint("job_id", "package_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    package_id: Mapped[int] = mapped_column(ForeignKey("package.id"), index=True)
    device: Mapped[str]
    warnings: Mapped[list[str]]
    scored_at: Mapped[datetime]


class ShadowScore(Base):
    """One output of a shadow for one image."""

    __tablename__ = "shadow_score"
    __table_args__ = (UniqueConstraint("shadow_result_id", "finding"), Index(None, "finding", "score"))

    id: Mapped[int] = mapped_column(primary_key=True)
    shadow_result_id: Mapped[int] = mapped_column(ForeignKey("shadow_result.id"))
    finding: Mapped[str]
    score: Mapped[float]
    threshold: Mapped[float | None]


class Rebuild(Base):
    """One rebuild of the model, by the clock or by hand."""

    __tablename__ = "rebuild"

    id: Mapped[int] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(unique=True)
    state: Mapped[RebuildState]
    attempts: Mapped[int]  # that were begun
    run_name: Mapped[str]  # of its folder
    error_code: Mapped[str | None]
    images: Mapped[int | None]  # labelled, that it could use
    new_images: Mapped[int | None]  # of them, that no rebuild before it had
    fingerprint: Mapped[str | None] = mapped_column(String(64))  # of the package that it made
    failed_gates: Mapped[list[str] | None]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Report(Base):
    """One object that we made; one row per SOP Instance UID, whatever is tried again."""

    __tablename__ = "report"
    __table_args__ = (Index("ix_report_kept", "created_at", sqlite_where=text("spool_name IS NOT NULL")),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    spool_name: Mapped[str | None] = mapped_column(unique=True)  # None: no longer kept
    content_digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(index=True)
    removed_at: Mapped[datetime | None]


class JobReport(Base):
    """Which reports a job came to; a report's UID follows from content, so two jobs may share one."""

    __tablename__ = "job_report"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    report_id: Mapped[int] = mapped_column(ForeignKey("report.id"), primary_key=True, index=True)


class Delivery(Base):
    """One report on its way to one destination."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("report_id", "destination"),
        Index(None, "destination", "due_at"),
        Index(None, "lease_until", sqlite_where=text("lease_until IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    report_id: Mapped[int] = mapped_column(ForeignKey("report.id"))
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)  # whose result asked for it
    destination: Mapped[str] = mapped_column(String(32))
    state: Mapped[DeliveryState] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None]  # when to send (pending) or verify (sent); None: nothing to do
    sender_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    status: Mapped[int | None]
    error_code: Mapped[str | None]
    delivered_sop_class_uid: Mapped[str | None] = mapped_column(String(64))
    delivered_sop_instance_uid: Mapped[str | None] = mapped_column(String(64))
    sent_at: Mapped[datetime | None]
    verified_at: Mapped[datetime | None]
    verified_by: Mapped[str | None]
    requeued_at: Mapped[datetime | None]  # by an operator; the time to give up counts from here
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Commitment(Base):
    """One Storage Commitment request of a peer; its references go when it is answered."""

    __tablename__ = "commitment"
    __table_args__ = (UniqueConstraint("peer_ae_title", "transaction_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64))
    peer_ae_title: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))  # pending | reported | dead
    instances: Mapped[int]  # that the peer asked about
    committed: Mapped[int | None]  # of them, in the report that the peer took
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    error_code: Mapped[str | None]
    requested_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class CommitmentItem(Base):
    """One instance that a peer asked about and has no report on yet."""

    __tablename__ = "commitment_item"

    id: Mapped[int] = mapped_column(primary_key=True)
    commitment_id: Mapped[int] = mapped_column(ForeignKey("commitment.id"), index=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)


class Custody(Base):
    """Until when an image's file is kept because a peer was told so."""

    __tablename__ = "custody"

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    until: Mapped[datetime]


class Tally(Base):
    """How many rows of a table are in a state; kept by triggers (``db.schema.views``): counting reads no history."""

    __tablename__ = "tally"

    subject: Mapped[str] = mapped_column(String(16), primary_key=True)  # job | delivery
    state: Mapped[str] = mapped_column(String(16), primary_key=True)
    count: Mapped[int]


class Event(Base):
    """One thing that happened; append-only (triggers in ``db.schema.views``) and chained (``db.events.log``)."""

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
    """Who may do what only one process may do at a time."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str]
    expires_at: Mapped[datetime]
