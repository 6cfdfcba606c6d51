"""What each DIMSE and HTTP status means for a report: every status has one meaning, none is forgotten."""

from __future__ import annotations

import pytest
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from cxr.errors import AccessRefused, PeerBusy, PeerRefused
from inference.delivery.statuses import http_fault, is_stored, is_warning, store_fault

STORED = {0x0000, 0x0001, 0x0107, 0x0111, 0x0116, 0xB000, 0xB006, 0xB007}
PASSING = {0x0110, 0x0112, 0x0113, 0x0114, 0x0123, 0x0210, 0x0213, 0xFE00, *range(0xA700, 0xA800)}


def meaning(status: int) -> str:
    if is_stored(status):
        return "warning" if is_warning(status) else "success"
    return type(store_fault(status)).__name__


def test_every_status_of_the_standard() -> None:
    expected = {
        **dict.fromkeys(STORAGE_SERVICE_CLASS_STATUS, "PeerRefused"),
        **dict.fromkeys(PASSING, "PeerBusy"),
        **dict.fromkeys(STORED, "warning"),
        0x0000: "success",
    }
    assert {status: meaning(status) for status in expected} == expected


def test_unknown_status_is_tried_again() -> None:
    assert store_fault(0x1234).retryable
    assert f"0x{0x1234:04X}" in str(store_fault(0x1234))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, AccessRefused),
        (400, PeerRefused),
        (401, AccessRefused),
        (403, AccessRefused),
        (404, AccessRefused),
        (407, AccessRefused),
        (408, PeerBusy),
        (409, PeerRefused),
        (413, PeerRefused),
        (415, PeerRefused),
        (418, PeerBusy),
        (429, PeerBusy),
        (500, PeerBusy),
        (501, AccessRefused),
        (502, PeerBusy),
        (503, PeerBusy),
        (507, PeerBusy),
    ],
)
def test_http(status: int, error: type[Exception]) -> None:
    assert type(http_fault(status)) is error
    assert http_fault(status).status == status
