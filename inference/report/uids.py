"""Our UIDs: derived, so that the same result has the same UID whenever and wherever it is made.

References
----------
DICOM PS3.5 Section B.2 (UUID-derived UIDs)
"""

from __future__ import annotations

from uuid import uuid5

from cxr import product

_SEPARATOR = "\x1f"


def derive_uid(*parts: str) -> str:
    """Derive a UID from everything that tells one object from another.

    Never a part: the time, the host, the attempt.

    Parameters
    ----------
    parts
        What the UID stands for, its kind first; order counts.

    Returns
    -------
    str
        ``2.25.`` and the decimal form of a UUIDv5; at most 44 characters.
    """
    return f"2.25.{uuid5(product.UID_NAMESPACE, _SEPARATOR.join(parts)).int}"


def series_uid(sop_instance_uid: str) -> str:
    """Derive the Series Instance UID of an object of ours: each has a series of its own.

    Parameters
    ----------
    sop_instance_uid
        SOP Instance UID of the object.
    """
    return derive_uid("series", sop_instance_uid)


IMPLEMENTATION_CLASS_UID = product.IMPLEMENTATION_CLASS_UID
