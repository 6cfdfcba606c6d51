"""DIMSE statuses of C-STORE and other responses: one table, also the source of the documentation.

References
----------
DICOM PS3.4 Table B.2-1 (storage), PS3.7 Annex C (general)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cxr.errors import DatabaseUnavailable, IdentityMismatch, ObjectTooLarge, SpoolFull, UnparsableObject


@dataclass(frozen=True, slots=True)
class Status:
    """One DIMSE status with its meaning for the peer."""

    code: int  # (0000,0900) Status
    name: str  # its name in the standard
    meaning: str  # when it is sent, and what the peer can do


SUCCESS = Status(
    0x0000,
    "Success",
    "The object is on disk and in the audit database; or, where its pixels are not kept (not a frontal chest "
    "radiograph, or a resend), its decision and reason are in the audit database. Nothing is to be sent again.",
)
OUT_OF_RESOURCES = Status(
    0xA700,
    "Refused: Out of Resources",
    "The disk is full or below `listener.min_free_mib`, read-only or failing, or the audit database is locked: try "
    "again later. Or the object is larger than `listener.max_object_mib`: it is never accepted.",
)
IDENTITY_MISMATCH = Status(
    0xA900,
    "Error: Data Set Does Not Match SOP Class",
    "SOP Class UID or SOP Instance UID is absent, malformed, or different in presentation context, command and "
    "data set.",
)
UNPARSABLE = Status(0xC210, "Error: Cannot Understand", "The data set can't be read as DICOM.")
SERVICE_FAILURE = Status(
    0xC211, "Error: Cannot Understand", "The service failed; its log has the cause. Try again later."
)
UNRECOGNIZED_OPERATION = Status(0x0211, "Unrecognized Operation", "An unsupported request; the association continues.")

BY_ERROR: Mapping[type[Exception], Status] = MappingProxyType(
    {
        SpoolFull: OUT_OF_RESOURCES,
        DatabaseUnavailable: OUT_OF_RESOURCES,
        ObjectTooLarge: OUT_OF_RESOURCES,
        IdentityMismatch: IDENTITY_MISMATCH,
        UnparsableObject: UNPARSABLE,
        Exception: SERVICE_FAILURE,
    }
)
"""Status for each exception class; a class that is not listed has the status of its nearest base class."""

ALL = (SUCCESS, OUT_OF_RESOURCES, IDENTITY_MISMATCH, UNPARSABLE, SERVICE_FAILURE, UNRECOGNIZED_OPERATION)
"""All statuses of this module."""


def status_of(error: Exception) -> Status:
    """Return the status for an exception.

    Parameters
    ----------
    error
        Exception raised while the object was received.
    """
    return next(BY_ERROR[kind] for kind in type(error).__mro__ if kind in BY_ERROR)
