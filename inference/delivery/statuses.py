"""Classification of the statuses of C-STORE and STOW-RS: stored, retryable, or permanent failure.

References
----------
DICOM PS3.4 Table B.2-1 (C-STORE), PS3.7 Annex C, PS3.18 Section 10.5.3 (STOW-RS)
"""

from __future__ import annotations

from cxr.errors import AccessRefused, DeliveryError, PeerBusy, PeerRefused

DUPLICATE_SOP_INSTANCE = 0x0111

_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
_FINAL = frozenset(
    {
        0x0105,  # No such attribute
        0x0106,  # Invalid attribute value
        0x0115,  # Invalid argument value
        0x0117,  # Invalid object instance
        0x0118,  # No such SOP class
        0x0119,  # Class-instance conflict
        0x0120,  # Missing attribute
        0x0121,  # Missing attribute value
        0x0122,  # Refused: SOP class not supported
        0x0124,  # Refused: not authorised
        0x0211,  # Unrecognised operation
        0x0212,  # Mistyped argument
    }
)

# Causes outside the report: the address, the account, a proxy.
_HTTP_ACCESS = frozenset({401, 403, 404, 405, 407, 410, 501})
_HTTP_FINAL = frozenset({400, 406, 409, 411, 413, 415, 422})


def is_stored(status: int) -> bool:
    """Whether the peer holds the object: success, or a warning (0xB000 to 0xBFFF and the general ones).

    A peer that holds it already and refuses duplicates answers 0x0111; it holds the same bytes.

    Parameters
    ----------
    status
        DIMSE status of a C-STORE response.
    """
    return status in (0x0000, DUPLICATE_SOP_INSTANCE) or status in _WARNINGS or 0xB000 <= status <= 0xBFFF


def is_warning(status: int) -> bool:
    """Whether the object is stored with changes."""
    return is_stored(status) and status != 0x0000


def store_fault(status: int) -> DeliveryError:
    """Convert the status of a failed C-STORE to an error, retryable or permanent.

    A status that is not in the tables is retryable: a needless retry ends at its time limit, a lost report stays lost.

    Parameters
    ----------
    status
        DIMSE status for which ``is_stored`` is false; also the Failure Reason (0008,1197) of STOW-RS.
    """
    if status in _FINAL or 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF:
        return PeerRefused(
            f"The destination refused the report for good with status 0x{status:04X}: see its own log, then "
            "requeue the delivery.",
            status=status,
        )
    return PeerBusy(f"The destination can't accept the report now: status 0x{status:04X}.", status=status)


def http_fault(status: int) -> DeliveryError:
    """Convert an HTTP status of 300 or more to an error, retryable or permanent.

    Parameters
    ----------
    status
        HTTP status code.
    """
    if status in _HTTP_FINAL:
        return PeerRefused(
            f"The DICOMweb service refused the report for good with HTTP {status}: see its own log, then requeue "
            "the delivery.",
            status=status,
        )
    if status in _HTTP_ACCESS or 300 <= status < 400:
        return AccessRefused(
            f"The DICOMweb service refused access (HTTP {status}): check the destination's address, "
            "username, password or token.",
            status=status,
        )
    return PeerBusy(f"The DICOMweb service can't accept the report now (HTTP {status}).", status=status)
