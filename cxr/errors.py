"""All exceptions of this project.

Every class has a ``code`` (a stable slug, stored in the audit database and explained in
docs/operations.md) and a flag ``retryable`` (a retry can succeed). A message names what was received,
what is accepted and what to do; it contains no patient value, path or free text of a peer.

::

    CxrError
    ├─ SettingsError                     start-up: the settings are wrong
    ├─ IntakeError                       answered with a DIMSE status (listener/statuses.py)
    │  ├─ UnparsableObject                 0xC210
    │  ├─ IdentityMismatch                 0xA900
    │  ├─ ObjectTooLarge                   0xA700
    │  └─ SpoolFull                        0xA700, retryable
    ├─ ImageError                        this image can't be scored: final
    │  ├─ UnsupportedPixels
    │  ├─ DamagedPixels
    │  ├─ MissingPixels
    │  ├─ LungsNotFound
    │  └─ MissingObject
    ├─ DecoderError                      the decoder crashed or timed out: retryable
    ├─ DeviceExhausted                   too little device memory: retryable
    ├─ PackageError                      start-up or promotion
    │  ├─ DamagedPackage
    │  ├─ IncompatiblePackage
    │  ├─ NoActivePackage
    │  └─ PromotionRefused               a gate failed
    ├─ ReportError                       no valid report can be built from this image: final
    ├─ DeliveryError
    │  ├─ PeerUnreachable                  retryable
    │  ├─ PeerBusy                         retryable
    │  ├─ AccessRefused                    retryable, at longer intervals
    │  ├─ NotVerified                      retryable
    │  ├─ DeliveryCrashed                  retryable
    │  ├─ PeerRefused                      final
    │  │  └─ PresentationContextRejected
    │  └─ ReportUnreadable                 final
    ├─ StorageError
    │  ├─ SchemaMismatch                   start-up
    │  ├─ LostDatabase                     start-up
    │  ├─ DamagedDatabase
    │  ├─ DatabaseUnavailable              0xA700, retryable
    │  ├─ LeaseLost
    │  └─ MissingRow
    └─ TrainingError                     `cxr train` can't do what its arguments name
       ├─ ManifestError                    a table of cases, or a data set's folder
       ├─ PredictionsError                 a table of predictions
       ├─ SplitError
       ├─ RecipeError                      a training recipe
       └─ RunError                         a run's folder
"""

from __future__ import annotations

from typing import ClassVar


class CxrError(Exception):
    """Base of all exceptions that this project raises."""

    code: ClassVar[str] = "unexpected"
    retryable: ClassVar[bool] = False


class SettingsError(CxrError):
    """The settings are invalid; the message lists all faults."""

    code = "settings"


class IntakeError(CxrError):
    """A received object can't be stored; the class determines the DIMSE status of the response."""

    code = "intake"


class UnparsableObject(IntakeError):
    """The received bytes are not a readable DICOM dataset."""

    code = "unparsable"


class IdentityMismatch(IntakeError):
    """The dataset's identifiers are absent, malformed or contradict the C-STORE command."""

    code = "identity_mismatch"


class ObjectTooLarge(IntakeError):
    """The object is larger than ``listener.max_object_mib``."""

    code = "object_too_large"


class SpoolFull(IntakeError):
    """Free space is below ``listener.min_free_mib``, or the write failed."""

    code = "spool_full"
    retryable = True


class ImageError(CxrError):
    """This image can't be scored; a retry does not help."""

    code = "image"


class UnsupportedPixels(ImageError):
    """The pixels are of a kind the recipe does not accept: multi-frame, colour, too large."""

    code = "unsupported_pixels"


class DamagedPixels(ImageError):
    """The pixel data does not decode."""

    code = "damaged_pixels"


class MissingPixels(ImageError):
    """The object has no pixel data."""

    code = "missing_pixels"


class LungsNotFound(ImageError):
    """The model needs segmented lungs, and the segmentation found none."""

    code = "no_lungs"


class MissingObject(ImageError):
    """The image's file is no longer in the spool."""

    code = "missing_object"


class DecoderError(CxrError):
    """The process that decodes pixels crashed or ran out of time."""

    code = "decoder_crashed"
    retryable = True


class DeviceExhausted(CxrError):
    """The device's memory is too small for the model and one image."""

    code = "device_exhausted"
    retryable = True


class PackageError(CxrError):
    """A model package can't be used."""

    code = "package"


class DamagedPackage(PackageError):
    """A file of the package is missing, is unreadable, or differs from its recorded digest."""

    code = "damaged_package"


class IncompatiblePackage(PackageError):
    """The package is intact, but of a format, recipe or graph that this version does not serve."""

    code = "incompatible_package"


class NoActivePackage(PackageError):
    """No model package is in service."""

    code = "no_active_package"


class PromotionRefused(PackageError):
    """The package failed a promotion gate, and no operator accepted the failure."""

    code = "promotion_refused"


class ReportError(CxrError):
    """No valid report can be built from this image."""

    code = "report"


class DeliveryError(CxrError):
    """A report did not reach its destination.

    Parameters
    ----------
    message
        What happened and what to do; without peer, report and patient.
    status
        DIMSE status (DICOM PS3.7 Annex C) or HTTP status of the peer's response; None without response.
    """

    code = "delivery"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PeerUnreachable(DeliveryError):
    """Connection or association failed, or was interrupted."""

    code = "peer_unreachable"
    retryable = True


class PeerBusy(DeliveryError):
    """The peer responded that it can't accept the report now."""

    code = "peer_busy"
    retryable = True


class AccessRefused(DeliveryError):
    """The peer refuses every connection or association of this service: wrong settings, or maintenance of the peer."""

    code = "access_refused"
    retryable = True


class NotVerified(DeliveryError):
    """The peer accepted the report, and reports afterwards that it does not have it."""

    code = "not_verified"
    retryable = True


class DeliveryCrashed(DeliveryError):
    """A library raised an unexpected exception over this report or the peer's response."""

    code = "delivery_crashed"
    retryable = True


class PeerRefused(DeliveryError):
    """The peer refuses this report finally; an operator decides on it."""

    code = "peer_refused"


class PresentationContextRejected(PeerRefused):
    """The peer accepts no SOP class that this report can be sent as."""

    code = "presentation_context_rejected"


class ReportUnreadable(DeliveryError):
    """The report's file is missing from the spool or damaged; once restored, the delivery can be requeued."""

    code = "report_unreadable"


class StorageError(CxrError):
    """The audit database or the spool is not in the expected state."""

    code = "storage"


class SchemaMismatch(StorageError):
    """The database's schema is not that of this version."""

    code = "schema_mismatch"


class LostDatabase(StorageError):
    """The audit database is missing or empty although other files of the installation prove an earlier one."""

    code = "lost_database"


class DamagedDatabase(StorageError):
    """SQLite reports that the audit database's file is malformed or not a database."""

    code = "damaged_database"


class DatabaseUnavailable(StorageError):
    """The audit database can't be read or written now: lock timeout, disk failure or read-only file system."""

    code = "database_unavailable"
    retryable = True


class LeaseLost(StorageError):
    """Another worker holds the job's lease; the result of this attempt is discarded."""

    code = "lease_lost"


class MissingRow(StorageError):
    """No row has this number and a state that permits the action."""

    code = "missing_row"


class TrainingError(CxrError):
    """A training command can't do what its arguments name."""

    code = "training"


class ManifestError(TrainingError):
    """A manifest of cases, or the data set's folder that it is built from, is invalid."""

    code = "manifest"


class PredictionsError(TrainingError):
    """A table of predictions is invalid, or lacks a column or cases for a figure."""

    code = "predictions"


class SplitError(TrainingError):
    """The cases can't be split as requested, or one patient is in two sides of the split."""

    code = "split"


class RecipeError(TrainingError):
    """A training recipe is invalid; the message lists all faults."""

    code = "recipe"


class RunError(TrainingError):
    """A training run's folder does not permit the requested action."""

    code = "run"
