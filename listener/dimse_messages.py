"""Fragments (PDVs) of a P-DATA-TF PDU and command sets: parser of requests, encoder of responses.

Not pynetdicom's: its classes copy every byte several times, and end the association over an invalid command
(an identifier that is too long, an undefined priority), to which we respond with a status. Its encoder makes several
datasets for each response, which takes as long as reading the header of the image.

References
----------
DICOM PS3.8 Sections 9.3.5 and E.2 (P-DATA-TF, message control header), PS3.7 Sections 6.3.1, 9.3
and E.1 (command sets)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
N_EVENT_REPORT_RSP = 0x8100
N_ACTION_RQ = 0x0130
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000  # bit of Command Field

MAX_COMMAND_BYTES = 16 * 1024
"""Longest command set that is read; the longest C-STORE-RQ of the standard has about 300 bytes."""

_GROUP_LENGTH = 0x0000
_AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_COMMAND_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001
_ACTION_TYPE_ID = 0x1008
_NO_DATA_SET = 0x0101
_UID = re.compile(r"[0-9.]{1,64}")
_CONFORMANT_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")  # PS3.5 Section 9.1
_LAST_OF_COMMAND = 0x03  # message control header of a command's last fragment; 0x01: of one before
_COMMAND_FRAGMENT = 0x01
_FRAGMENT_HEADER_BYTES = 6  # length, context ID, message control header


class ProtocolViolation(ValueError):  # noqa: N818 (a breach by the peer, not an error of ours)
    """The peer violated the DICOM message exchange; the association must be aborted."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """One presentation data value."""

    context_id: int
    is_command: bool  # else data set
    is_last: bool
    data: memoryview


@dataclass(frozen=True, slots=True)
class Command:
    """The elements of a command set that we use."""

    field: int  # (0000,0100) Command Field
    message_id: int
    has_data_set: bool
    sop_class_uid: str  # affected or requested; empty: absent or malformed
    sop_instance_uid: str  # affected or requested; empty: absent or malformed
    action_type: int | None = None  # of an N-ACTION
    status: int | None = None  # of a response
    responds_to: int | None = None  # the Message ID of a response's request


def read_fragments(body: memoryview) -> Iterator[Fragment]:
    """Split the variable field of a P-DATA-TF PDU.

    Parameters
    ----------
    body
        The PDU without its six header bytes.

    Yields
    ------
    Fragment
        In order; its data is a view of `body`.

    Raises
    ------
    ProtocolViolation
        If a length exceeds the PDU.
    """
    offset = 0
    while offset < len(body):
        if offset + 6 > len(body):
            raise ProtocolViolation("Received a P-DATA-TF PDU that ends within the header of a fragment.")
        length, context_id, control = struct.unpack_from(">LBB", body, offset)
        end = offset + 4 + length
        if length < 2 or end > len(body):
            raise ProtocolViolation("Received a fragment that is longer than its PDU, or has no control header.")
        yield Fragment(context_id, bool(control & 1), bool(control & 2), body[offset + 6 : end])
        offset = end


def read_command(encoded: bytes) -> Command:
    """Read a command set: Implicit VR Little Endian, group 0000.

    Parameters
    ----------
    encoded
        All fragments of the command, joined.

    Raises
    ------
    ProtocolViolation
        If it can't be parsed, or has no Command Field.
    """
    elements = _elements(encoded)
    field = _number(elements, _COMMAND_FIELD)
    if field is None:
        raise ProtocolViolation("Received a command set without a Command Field.")
    sop_class = elements.get(_AFFECTED_SOP_CLASS_UID) or elements.get(_REQUESTED_SOP_CLASS_UID) or b""
    sop_instance = elements.get(_AFFECTED_SOP_INSTANCE_UID) or elements.get(_REQUESTED_SOP_INSTANCE_UID) or b""
    return Command(
        field=field,
        message_id=_number(elements, _MESSAGE_ID) or 0,
        has_data_set=_number(elements, _COMMAND_DATA_SET_TYPE) != _NO_DATA_SET,
        sop_class_uid=_uid(sop_class),
        sop_instance_uid=_uid(sop_instance),
        action_type=_number(elements, _ACTION_TYPE_ID),
        status=_number(elements, _STATUS),
        responds_to=_number(elements, _MESSAGE_ID_RESPONDED_TO),
    )


def write_response(command: Command, status: int) -> bytes:
    """Encode the command set of the response to a request: Implicit VR Little Endian, without a data set.

    Parameters
    ----------
    command
        The request; its SOP Class and SOP Instance UID are repeated unless they are no conformant UID, because they
        are optional in a response.
    status
        Status code, 16 bits.
    """
    elements = b"".join(
        (
            _uid_element(_AFFECTED_SOP_CLASS_UID, command.sop_class_uid),
            _number_element(_COMMAND_FIELD, command.field | RESPONSE),
            _number_element(_MESSAGE_ID_RESPONDED_TO, command.message_id),
            _number_element(_COMMAND_DATA_SET_TYPE, _NO_DATA_SET),
            _number_element(_STATUS, status),
            _uid_element(_AFFECTED_SOP_INSTANCE_UID, command.sop_instance_uid),
        )
    )
    return struct.pack("<HHLL", 0, _GROUP_LENGTH, 4, len(elements)) + elements


def split_command(encoded: bytes, max_pdu_bytes: int) -> Iterator[bytes]:
    """Split a command set into fragments, each with its message control header.

    Parameters
    ----------
    encoded
        The command set.
    max_pdu_bytes
        Longest variable field of a PDU that the peer accepts, in bytes; 0: any.
    """
    size = max(max_pdu_bytes - _FRAGMENT_HEADER_BYTES, 1) if max_pdu_bytes else len(encoded)
    for start in range(0, len(encoded), size):
        end = start + size
        control = _LAST_OF_COMMAND if end >= len(encoded) else _COMMAND_FRAGMENT
        yield bytes((control,)) + encoded[start:end]


def _number_element(element: int, value: int) -> bytes:
    return struct.pack("<HHLH", 0, element, 2, value)


def _uid_element(element: int, uid: str) -> bytes:
    if not _CONFORMANT_UID.fullmatch(uid):
        return b""
    value = uid.encode("ascii") + b"\0" * (len(uid) % 2)
    return struct.pack("<HHL", 0, element, len(value)) + value


def _elements(encoded: bytes) -> dict[int, bytes]:
    elements: dict[int, bytes] = {}
    offset = 0
    while offset < len(encoded):
        if offset + 8 > len(encoded):
            raise ProtocolViolation("Received a command set that ends within an element's header.")
        group, element, length = struct.unpack_from("<HHL", encoded, offset)
        end = offset + 8 + length
        if group != 0 or end > len(encoded):
            raise ProtocolViolation("Received a command set with an element of another group, or a wrong length.")
        elements[element] = encoded[offset + 8 : end]
        offset = end
    return elements


def _number(elements: Mapping[int, bytes], element: int) -> int | None:
    value = elements.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(value: bytes) -> str:
    text = value.rstrip(b"\x00 ").decode("ascii", errors="replace")
    return text if _UID.fullmatch(text) else ""
