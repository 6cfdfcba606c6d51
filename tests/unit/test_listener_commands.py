"""Fragments and command sets: what pynetdicom encodes is read, and anything else is refused, not guessed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import generate_uid
from pynetdicom.dimse_messages import C_ECHO_RQ, C_ECHO_RSP, C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import encode

from listener import dimse_messages
from listener.dimse_messages import (
    Command,
    ProtocolViolation,
    read_command,
    read_fragments,
    split_command,
    write_response,
)


def _pdv(context_id: int, control: int, data: bytes) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


@given(st.lists(st.tuples(st.integers(1, 255), st.integers(0, 3), st.binary(max_size=300)), max_size=5))
def test_fragments_come_out_as_they_went_in(parts: list[tuple[int, int, bytes]]) -> None:
    body = b"".join(_pdv(*part) for part in parts)
    read = [(f.context_id, f.is_command, f.is_last, bytes(f.data)) for f in read_fragments(memoryview(body))]
    assert read == [(number, bool(control & 1), bool(control & 2), data) for number, control, data in parts]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        fragments = list(read_fragments(memoryview(body)))
    except ProtocolViolation:
        return
    assert sum(len(fragment.data) + 6 for fragment in fragments) == len(body)


@given(st.binary(max_size=200))
def test_any_command_is_read_or_refused(encoded: bytes) -> None:
    try:
        command = read_command(encoded)
    except ProtocolViolation:
        return
    assert 0 <= command.field <= 0xFFFF


def test_a_store_request_of_pynetdicom_is_read() -> None:
    request = C_STORE()
    request.MessageID, request.Priority = 513, 2
    request.AffectedSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    request.AffectedSOPInstanceUID = uid = generate_uid()
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    message.command_set.CommandDataSetType = 1
    command = read_command(encode(message.command_set, True, True))
    assert command == dimse_messages.Command(
        field=dimse_messages.C_STORE_RQ,
        message_id=513,
        has_data_set=True,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        sop_instance_uid=str(uid),
    )


def test_a_commitment_request_and_the_response_to_a_report_are_read() -> None:
    instance = b"1.2.840.10008.1.20.1.1"
    action = read_command(
        _element(0x0003, b"1.2.840.10008.1.20.1") + _element(0x0100, b"\x30\x01") + _element(0x1001, instance)
        + _element(0x1008, b"\x01\x00")
    )  # fmt: skip
    assert (action.field, action.action_type) == (dimse_messages.N_ACTION_RQ, 1)
    assert (action.sop_class_uid, action.sop_instance_uid) == ("1.2.840.10008.1.20.1", instance.decode())
    response = read_command(
        _element(0x0100, b"\x00\x81") + _element(0x0120, b"\x05\x00") + _element(0x0900, b"\x00\x00")
    )
    assert (response.field, response.responds_to, response.status) == (dimse_messages.N_EVENT_REPORT_RSP, 5, 0)


def test_an_echo_request_has_no_data_set() -> None:
    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 1, "1.2.840.10008.1.1"
    message = C_ECHO_RQ()
    message.primitive_to_message(request)
    command = read_command(encode(message.command_set, True, True))
    assert (command.field, command.has_data_set) == (dimse_messages.C_ECHO_RQ, False)


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"1.2.3\x00", "1.2.3"),
        (b"1.2.3 ", "1.2.3"),
        (b"1.02.3", "1.02.3"),  # not conformant, and common
        (b"../../etc", ""),
        (b"1." + b"2" * 64, ""),
        (b"1.\xff.3", ""),
        (b"", ""),
    ],
)
def test_an_identifier_is_read_or_absent(value: bytes, read: str) -> None:
    encoded = _element(0x0100, b"\x01\x00") + _element(0x1000, value)
    assert read_command(encoded).sop_instance_uid == read


@pytest.mark.parametrize(
    "encoded",
    [
        b"",  # no Command Field
        _element(0x0110, b"\x01\x00"),
        _element(0x0100, b"\x01\x00\x00\x00"),  # of a wrong length
        _element(0x0100, b"\x01\x00")[:-1],
        struct.pack("<HHL", 8, 0x18, 0),  # of another group
        struct.pack("<HHL", 0, 0x0100, 0xFFFFFFFF),
    ],
)
def test_what_is_no_command_is_refused(encoded: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read_command(encoded)


SOP_CLASS = "1.2.840.10008.5.1.4.1.1.1"


def _request(field: int, sop_class_uid: str = "", sop_instance_uid: str = "") -> Command:
    return Command(field, 513, has_data_set=True, sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid)


@pytest.mark.parametrize("status", [0x0000, 0xA700, 0xFFFF])
@pytest.mark.parametrize("instance", ["1.2.3", "1.2.34", "2.25." + "1" * 59])
def test_a_store_response_is_that_of_pynetdicom(status: int, instance: str) -> None:
    response = C_STORE()
    response.MessageIDBeingRespondedTo, response.Status = 513, status
    response.AffectedSOPClassUID, response.AffectedSOPInstanceUID = SOP_CLASS, instance
    message = C_STORE_RSP()
    message.primitive_to_message(response)
    request = _request(dimse_messages.C_STORE_RQ, SOP_CLASS, instance)
    assert write_response(request, status) == encode(message.command_set, True, True)


def test_an_echo_response_is_that_of_pynetdicom() -> None:
    response = C_ECHO()
    response.MessageIDBeingRespondedTo, response.Status = 513, 0
    response.AffectedSOPClassUID = "1.2.840.10008.1.1"
    message = C_ECHO_RSP()
    message.primitive_to_message(response)
    request = _request(dimse_messages.C_ECHO_RQ, "1.2.840.10008.1.1")
    assert write_response(request, 0) == encode(message.command_set, True, True)


@pytest.mark.parametrize("uid", ["", "1.02.3", "1..2", ".1", "1."])
def test_a_uid_that_is_not_conformant_is_not_repeated(uid: str) -> None:
    written = read_command(write_response(_request(dimse_messages.C_STORE_RQ, uid, uid), 0xA900))
    assert (written.sop_class_uid, written.sop_instance_uid, written.status) == ("", "", 0xA900)
    assert (written.field, written.responds_to, written.has_data_set) == (0x8001, 513, False)


@pytest.mark.parametrize("max_pdu_bytes", [0, 1, 6, 7, 20, 50, 16384])
def test_a_command_is_split_for_the_longest_pdu_of_the_peer(max_pdu_bytes: int) -> None:
    encoded = write_response(_request(dimse_messages.C_STORE_RQ, SOP_CLASS, "1.2.3"), 0)
    parts = list(split_command(encoded, max_pdu_bytes))
    assert b"".join(part[1:] for part in parts) == encoded
    assert [part[0] for part in parts] == [1] * (len(parts) - 1) + [3]
    assert max_pdu_bytes < 7 or all(len(part) + 5 <= max_pdu_bytes for part in parts)
