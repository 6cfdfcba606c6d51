"""The frozen types that travel between the rooms of the house.

Values only: no input, no output, no third-party types. Rows of the database never leave ``db``;
callers get these. A decision is a value, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class View(StrEnum):
    """What a projection shows."""

    FRONTAL = "frontal"
    NOT_FRONTAL = "not_frontal"  # not a frontal chest radiograph, or not to be used as one; the reason says why
    UNKNOWN = "unknown"


class UnknownView(StrEnum):
    """What is done with an image whose header does not tell the view (setting ``view.unknown``)."""

    HOLD = "hold"
    SCORE = "score"
    REJECT = "reject"
    MODEL = "model"  # the view model decides, in the worker


class PixelView(StrEnum):
    """What is done with an image that doesn't look like a frontal chest radiograph (setting ``view.pixels``)."""

    OFF = "off"
    FLAG = "flag"
    HOLD = "hold"


class JobState(StrEnum):
    """States of an image's job; the legal transitions stand in ``db.jobs.states``."""

    HELD = "held"
    QUEUED = "queued"
    SCORING = "scoring"
    REPORTED = "reported"
    NOT_SCORED = "not_scored"
    FAILED = "failed"


class DeliveryState(StrEnum):
    """States of one report on its way to one destination."""

    PENDING = "pending"
    SENT = "sent"
    VERIFIED = "verified"
    DEAD = "dead"


class RebuildState(StrEnum):
    """States of a rebuild of the model; all but the first are final."""

    RUNNING = "running"
    DONE = "done"  # a package and a report are there; nothing was promoted
    SKIPPED = "skipped"  # too little new data
    FAILED = "failed"


class PackageStatus(StrEnum):
    """What a model package's scores are worth; anything but ``EVALUATED`` is said beside every result."""

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
    """Who may send: a calling AE title, from a network; and how much."""

    ae_title: str
    network: str  # CIDR notation
    max_associations: int | None = None  # at once; None: as many as all peers together
    max_object_bytes: int | None = None  # None: as large as anybody's


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """The attributes of one received image that we look at.

    None, or an empty tuple, is an absent or empty element: unknown, not a value. Code strings are
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

    # What it shows
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

    # What it is for
    presentation_intent_type: str | None = None
    image_type: tuple[str, ...] = ()
    content_qualification: str | None = None
    quality_control_image: str | None = None
    is_animal: bool = False  # a species or breed that is not human is named, or a quadruped's anatomy
    is_own_output: bool = False  # an object this project made (cxr.product.MANUFACTURER)

    # Pixels
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    samples_per_pixel: int | None = None
    photometric_interpretation: str | None = None
    bits_stored: int | None = None
    has_pixel_data: bool = False

    # BLAKE3, in hex, over every attribute that a report copies (patient, study, equipment)
    identity_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDecision:
    """What the header says: whether this is a frontal radiograph of a human chest."""

    view: View
    is_chest: bool | None  # None: the header does not say
    reason: str  # a code of cxr.view.decide.REASONS
    evidence: Mapping[str, str] = field(default_factory=dict)  # what was read: keyword -> coded value

    @property
    def is_scorable(self) -> bool:
        """Whether the image goes to the model without anybody's word."""
        return self.view is View.FRONTAL and self.is_chest is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One output of the model for one image."""

    finding: str  # a name of cxr.labels.FINDINGS
    score: float  # in [0, 1]; uncalibrated unless the package says otherwise
    threshold: float | None = None  # the package's operating point, in [0, 1]; None: it has none

    @property
    def is_at_or_above(self) -> bool | None:
        """Whether the score reaches the operating point; None where there is none."""
        return None if self.threshold is None else self.score >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImage:
    """What the model says about one image, and which model said it."""

    scores: tuple[Score, ...]
    model_name: str
    model_version: str
    fingerprint: str  # of the package: hex SHA-256
    status: PackageStatus
    scored_at: datetime
    device: str  # "cpu" or "gpu:N"
    warnings: tuple[str, ...] = ()  # codes of the quality checks that this image did not pass
