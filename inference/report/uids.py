"""Derive UIDs deterministically: the same result has the same UID on every run and host.

References
----------
DICOM PS3.5 Section B.2 (UUID-derived UIDs)
"""

from __future__ import annotations

from uuid import uuid5

from cxr import product

_SEPARATOR = "\x1f"


def derive_uid(*parts: str) -> str:
    """Derive a UID from the parts that identify an object. Time, host and attempt must not be parts.

    Parameters
    ----------
    parts
        Kind of object first, then its distinguishing values; the order matters.

    Returns
    -------
    str
        ``2.25.`` and the decimal form of a UUIDv5; at most 44 characters.
    """
    return f"2.25.{uuid5(product.UID_NAMESPACE, _SEPARATOR.join(parts)).int}"


def series_uid(sop_instance_uid: str) -> str:
    """Derive the Series Instance UID of one of our objects from its SOP Instance UID; each has its own series."""
    return derive_uid("series", sop_instance_uid)


IMPLEMENTATION_CLASS_UID = product.IMPLEMENTATION_CLASS_UID
