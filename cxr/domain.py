"""Frozen value types that the packages exchange.

No input, no output, no third-party types. ``db`` returns these types instead of its rows. A decision is a
value, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class View(StrEnum):
    """Projection of an image, by its header or its pixels."""

    FRONTAL = "frontal"
    NOT_FRONTAL = "not_frontal"  # not a frontal chest radiograph, or unusable as one; see the reason code
    UNKNOWN = "unknown"


class UnknownView(StrEnum):
    """Setting ``view.unknown``: action on an image whose header does not determine the view."""

    HOLD = "hold"
    SCORE = "score"
    REJECT = "reject"
    MODEL = "model"  # the worker decides with the view model


class PixelView(StrEnum):
    """Setting ``view.pixels``: action on an image that the view model does not classify as frontal."""

    OFF = "off"
    FLAG = "flag"
    HOLD = "hold"


class JobState(StrEnum):
    """States of an image's job; ``db.jobs.states`` defines the transitions."""

    HELD = "held"
    QUEUED = "queued"
    SCORING = "scoring"
    REPORTED = "reported"
    NOT_SCORED = "not_scored"
    FAILED = "failed"


class DeliveryState(StrEnum):
    """States of the delivery of one report to one destination; ``db.deliveries.states`` defines the transitions."""

    PENDING = "pending"
    SENT = "sent"
    VERIFIED = "verified"
    DEAD = "dead"


class RebuildState(StrEnum):
    """States of a rebuild of the model; all but the first are final."""

    RUNNING = "running"
    DONE = "done"  # package and report are written; promotion is a separate step
    SKIPPED = "skipped"  # too little new data
    FAILED = "failed"


class PackageStatus(StrEnum):
    """Evidence behind a model package's scores; every result shows a status other than ``EVALUATED``."""

    UNTRAINED = "untrained"
    DEMONSTRATION = "demonstration"
    EVALUATED = "evaluated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept (DICOM PS3.3 Section 8)."""

    value: str  # Code Value (0008,0100), or Long Code Value
    scheme_designator: str  # Coding Scheme Designator (0008,0102)
    meaning: str = ""  # Code Meaning (0008,0104)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A permitted sender: calling AE title, network, and its limits."""

    ae_title: str
    network: str  # CIDR notation
    max_associations: int | None = None  # concurrent; None: the limit of all peers together
    max_object_bytes: int | None = None  # None: the general limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """Attributes of one received image that this project uses.

    None, or an empty tuple, means an absent or empty element: unknown. Code strings are
    stripped and upper-cased; identifiers are as received, without padding.
    """

    # Identity
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    accession_number: str | None = None
    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    study_date: str | None = None  # as received, not parsed
    modality: str | None = None

    # Anatomy and projection
    body_part_examined: str | None = None
    anatomic_region: Code | None = None
    view_position: str | None = None
    view_codes: tuple[Code, ...] = ()
    patient_orientation: tuple[str, ...] = ()  # (row direction, column direction), PS3.3 C.7.6.1.1.1
    image_laterality: str | None = None
    series_description: str | None = None
    protocol_name: str | None = None
    study_description: str | None = None
    processing_description: str | None = None  # Acquisition Device Processing Description (0018,1400)

    # Purpose
    presentation_intent_type: str | None = None
    image_type: tuple[str, ...] = ()
    content_qualification: str | None = None
    quality_control_image: str | None = None
    is_animal: bool = False  # the header names a breed, another species, or a quadruped's orientation
    is_own_output: bool = False  # created by this project (cxr.product.MANUFACTURER)

    # Pixels
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    samples_per_pixel: int | None = None
    photometric_interpretation: str | None = None
    bits_stored: int | None = None
    has_pixel_data: bool = False

    # BLAKE3, in hex, of cxr.dicom.copied_attributes
    identity_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDecision:
    """Decision from the header: whether this is a frontal radiograph of a human chest."""

    view: View
    is_chest: bool | None  # None: unknown
    reason: str  # a code of cxr.view.decide.REASONS
    evidence: Mapping[str, str] = field(default_factory=dict)  # keyword -> value, in words of the vocabulary

    @property
    def is_scorable(self) -> bool:
        """Whether the image is scored without a release by a person or a setting."""
        return self.view is View.FRONTAL and self.is_chest is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One output of the model for one image."""

    finding: str  # a name of cxr.labels.FINDINGS, or of a recipe's own finding
    score: float  # in [0, 1]; a probability only if the package is calibrated
    threshold: float | None = None  # operating point, in [0, 1]; None: the package defines none

    @property
    def is_at_or_above(self) -> bool | None:
        """Whether the score is at or above the operating point; None without one."""
        return None if self.threshold is None else self.score >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImage:
    """Scores of one image, and the model that computed them."""

    scores: tuple[Score, ...]
    model_name: str
    model_version: str
    fingerprint: str  # of the package: hex SHA-256
    status: PackageStatus
    scored_at: datetime
    device: str  # "cpu" or "gpu:N"
    warnings: tuple[str, ...] = ()  # codes of cxr.pixels.quality_checks.WARNINGS
