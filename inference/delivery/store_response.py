"""Store Instances Response of STOW-RS: stored objects, and failed ones with their Failure Reason.

References
----------
DICOM PS3.18 Section 10.5.3 and Annex I.2 (Store Instances Response), Annex F (DICOM JSON), PS3.19 Annex A.1 (Native
DICOM Model in XML), RFC 9110 Section 8.3.1 (media types have parameters)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

PROCESSING_FAILURE = 0x0110
"""Failure Reason where a response has none."""

_FAILED, _REFERENCED = "00081198", "00081199"  # Failed, Referenced SOP Sequence
_INSTANCE_UID, _REASON = "00081155", "00081197"
_TAG = re.compile(r"[0-9A-Fa-f]{8}")


class NoStoreResponse(ValueError):  # noqa: N818 (content of the peer, not a fault of ours)
    """The body is no store response but a log-in page, an error page of a proxy, ..."""


@dataclass(frozen=True, slots=True)
class StoreResponse:
    """Outcome of the objects of one request, by SOP Instance UID."""

    stored: frozenset[str]
    failed: Mapping[str, int]  # SOP Instance UID (empty: absent) to Failure Reason (0008,1197)

    def failure_of(self, sop_instance_uid: str) -> int | None:
        """Return the Failure Reason of the only object of a request; None: no failure.

        A failure without a SOP Instance UID counts as that of this object.
        """
        return self.failed.get(sop_instance_uid, self.failed.get(""))


def read_store_response(body: bytes, content_type: str) -> StoreResponse:
    """Parse a response body in JSON or XML.

    Parameters
    ----------
    body
        Decompressed.
    content_type
        The Content-Type header; empty: absent. Its parameters are ignored.

    Raises
    ------
    NoStoreResponse
        If the body is no store response.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    is_xml = media_type.endswith("xml") if media_type else body.lstrip().startswith(b"<")
    is_json = media_type.endswith("json") or not media_type
    if is_xml and media_type != "application/xhtml+xml":
        return _response(_xml_items(body))
    if is_json:
        return _response(_json_items(body))
    raise NoStoreResponse(
        f"Received {media_type}; a store response is application/dicom+json or application/dicom+xml."
    )


_Item = tuple[str, str, str]  # sequence, SOP Instance UID, Failure Reason; empty: absent


def _response(items: Iterable[_Item]) -> StoreResponse:
    stored: set[str] = set()
    failed: dict[str, int] = {}
    for sequence, uid, reason in items:
        if sequence == _REFERENCED:
            stored.add(uid)
        else:
            failed[uid] = int(reason) if reason.isdecimal() else PROCESSING_FAILURE
    return StoreResponse(frozenset(stored), failed)


def _json_items(body: bytes) -> Iterator[_Item]:
    try:
        dataset = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NoStoreResponse("Received a body that is no JSON.") from error
    if isinstance(dataset, list) and len(dataset) == 1:
        dataset = dataset[0]
    if not isinstance(dataset, dict) or not all(_TAG.fullmatch(tag) for tag in dataset):
        raise NoStoreResponse("Received JSON that is no DICOM data set.")
    for sequence in (_FAILED, _REFERENCED):
        for item in _json_values(dataset, sequence):
            if isinstance(item, dict):
                yield sequence, _json_text(item, _INSTANCE_UID), _json_text(item, _REASON)


def _json_values(dataset: Mapping[str, Any], tag: str) -> list[Any]:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _json_text(item: Mapping[str, Any], tag: str) -> str:
    return str(next(iter(_json_values(item, tag)), "")).strip("\0 ")


def _xml_items(body: bytes) -> Iterator[_Item]:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:  # entities can expand without limit, and no store response has them
        raise NoStoreResponse("Received XML with a document type.")
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise NoStoreResponse("Received a body that is no XML.") from error
    if _name(root) != "NativeDicomModel":
        raise NoStoreResponse("Received XML that is no DICOM data set.")
    for element in root:
        if element.get("tag") in (_FAILED, _REFERENCED):
            for item in element:
                yield element.get("tag", ""), _xml_text(item, _INSTANCE_UID), _xml_text(item, _REASON)


def _xml_text(item: ElementTree.Element, tag: str) -> str:
    values = (value.text or "" for element in item if element.get("tag") == tag for value in element)
    return next(values, "").strip("\0 \r\n\t")


def _name(element: ElementTree.Element) -> str:
    """Return the element name without its namespace."""
    return element.tag.rpartition("}")[2]
