"""The whole exception tree.

Every class has a ``code`` (a stable slug, stored in the audit database and explained in
docs/operations.md) and says whether trying again can help (``retryable``). Messages say what was
received, what is accepted and what to do, and carry no patient value, path or free text of a peer.

::

    CxrError
    ├─ SettingsError                     start-up: the settings are wrong
    ├─ IntakeError                       becomes a DIMSE status (listener/statuses.py)
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
    ├─ DeviceExhausted                   the device's memory does not suffice: retryable
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
    │  ├─ DatabaseUnavailable              0xA700, retryable
    │  ├─ LeaseLost
    │  └─ MissingRow
    └─ TrainingError                     what was asked of `cxr train` can't be done
       ├─ ManifestError                    a table of cases, or a data set's folder
       ├─ PredictionsError                 a table of predictions
       ├─ SplitError
       ├─ RecipeError                      a training recipe
       └─ RunError                         a run's folder
"""

from __future__ import annotations

from typing import ClassVar


class CxrError(Exception):
    """Anything this project raises on purpose."""

    code: ClassVar[str] = "unexpected"
    retryable: ClassVar[bool] = False


class SettingsError(CxrError):
    """The settings are wrong; the message lists every fault at once."""

    code = "settings"


class IntakeError(CxrError):
    """A received object can't be taken in; the peer gets the status that belongs to the class."""

    code = "intake"


class UnparsableObject(IntakeError):
    """The received bytes are not a DICOM dataset that can be read."""

    code = "unparsable"


class IdentityMismatch(IntakeError):
    """The dataset's identifiers are absent, malformed or contradict the C-STORE command."""

    code = "identity_mismatch"


class ObjectTooLarge(IntakeError):
    """The object is larger than ``listener.max_object_mib``."""

    code = "object_too_large"


class SpoolFull(IntakeError):
    """Less space is free than ``listener.min_free_mib``, or the disk refused the write."""

    code = "spool_full"
    retryable = True


class ImageError(CxrError):
    """This image can't be scored, however often it is tried."""

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
    """The model sees lungs alone, and none were found in the picture."""

    code = "no_lungs"


class MissingObject(ImageError):
    """The image's file is no longer in the spool."""

    code = "missing_object"


class DecoderError(CxrError):
    """The process that decodes pixels crashed or ran out of time."""

    code = "decoder_crashed"
    retryable = True


class DeviceExhausted(CxrError):
    """The device's memory does not hold the model and one image."""

    code = "device_exhausted"
    retryable = True


class PackageError(CxrError):
    """A model package can't be used."""

    code = "package"


class DamagedPackage(PackageError):
    """A file of the package is missing, unreadable or differs from its recorded digest."""

    code = "damaged_package"


class IncompatiblePackage(PackageError):
    """The package is intact, but of a format, recipe or graph that this version does not serve."""

    code = "incompatible_package"


class NoActivePackage(PackageError):
    """No model package is in service."""

    code = "no_active_package"


class PromotionRefused(PackageError):
    """A gate between the package and the service failed, and nobody accepted that."""

    code = "promotion_refused"


class ReportError(CxrError):
    """No valid report can be built from this image."""

    code = "report"


class DeliveryError(CxrError):
    """A report did not reach its destination.

    Parameters
    ----------
    message
        What happened and what to do; names no peer, report or patient.
    status
        DIMSE status (DICOM PS3.7 Annex C) or HTTP status that the peer answered with, if it answered.
    """

    code = "delivery"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PeerUnreachable(DeliveryError):
    """No connection, no association, or it was cut."""

    code = "peer_unreachable"
    retryable = True


class PeerBusy(DeliveryError):
    """The peer answered, but can't take the report now."""

    code = "peer_busy"
    retryable = True


class AccessRefused(DeliveryError):
    """The peer lets nothing of ours in; its settings or ours must change, and a peer under repair does the same."""

    code = "access_refused"
    retryable = True


class NotVerified(DeliveryError):
    """The peer took the report, and says afterwards that it does not have it."""

    code = "not_verified"
    retryable = True


class DeliveryCrashed(DeliveryError):
    """A library failed over this report or this answer in a way that nobody foresaw."""

    code = "delivery_crashed"
    retryable = True


class PeerRefused(DeliveryError):
    """The peer refuses this report for good; an operator decides what to do."""

    code = "peer_refused"


class PresentationContextRejected(PeerRefused):
    """The peer takes none of the SOP classes that this report can have."""

    code = "presentation_context_rejected"


class ReportUnreadable(DeliveryError):
    """The report's file is gone from the spool or damaged; with the file restored, it can be requeued."""

    code = "report_unreadable"


class StorageError(CxrError):
    """The audit database or the spool is not in the expected state."""

    code = "storage"


class SchemaMismatch(StorageError):
    """The database's schema is not the one this version works with."""

    code = "schema_mismatch"


class LostDatabase(StorageError):
    """The audit database is gone or empty, and other files of the installation show that there was one."""

    code = "lost_database"


class DamagedDatabase(StorageError):
    """SQLite finds the audit database's file malformed, or no database at all."""

    code = "damaged_database"


class DatabaseUnavailable(StorageError):
    """The audit database can't be written or read now: locked for long, or its disk fails or is read-only."""

    code = "database_unavailable"
    retryable = True


class LeaseLost(StorageError):
    """Another worker owns this job now; the result of this attempt is dropped."""

    code = "lease_lost"


class MissingRow(StorageError):
    """No row with that number is in a state that the request can be applied to."""

    code = "missing_row"


class TrainingError(CxrError):
    """What was asked of the training commands can't be done."""

    code = "training"


class ManifestError(TrainingError):
    """A table of cases, or the folder that it should be made from, is not as it must be."""

    code = "manifest"


class PredictionsError(TrainingError):
    """A table of predictions is not as it must be, or lacks what a figure needs."""

    code = "predictions"


class SplitError(TrainingError):
    """The cases can't be divided as asked, or one patient is on two sides."""

    code = "split"


class RecipeError(TrainingError):
    """A training recipe is wrong; the message lists every fault at once."""

    code = "recipe"


class RunError(TrainingError):
    """A training run's folder is not what the request can be applied to."""

    code = "run"
