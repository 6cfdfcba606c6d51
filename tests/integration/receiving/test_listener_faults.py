"""Objects and peers that are not as they should be: a status each, nothing left behind, the association goes on."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.pdu_primitives import A_ABORT

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
MIB = 1024 * 1024

Xray = Callable[..., Dataset]


@pytest.mark.parametrize("data", [b"not DICOM at all, whatever it says" * 40, b"\x00", bytes(1000)])
def test_garbage_gets_a_status_and_the_next_object_is_taken(
    listening: Any, scu: Any, synthetic_xray: Xray, data: bytes
) -> None:
    running = listening()
    with scu(running.port) as peer:
        assert peer.store(data, instance=generate_uid()) == 0xC210
        assert peer.store_dataset(synthetic_xray()) == 0x0000
        assert peer.echo() == 0x0000
    assert len(running.images()) == 1
    assert running.incoming() == []
    assert running.count("cxr_received_objects_total", outcome="unparsable") == 1


def test_identifiers_that_contradict_each_other_are_refused(
    listening: Any, scu: Any, synthetic_xray: Xray, encode_dataset: Any
) -> None:
    running = listening()
    xray = synthetic_xray()
    dx = "1.2.840.10008.5.1.4.1.1.1.1"
    with scu(running.port, {CR: [EXPLICIT], dx: [EXPLICIT]}) as peer:
        assert peer.store_dataset(xray, instance=generate_uid()) == 0xA900
        assert peer.store_dataset(xray, sop_class=dx) == 0xA900
        assert peer.store_dataset(xray, context_id=peer.context(dx)) == 0xA900
        without = encode_dataset(xray).replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x19\x00UI")
        assert peer.store(without, instance=xray.SOPInstanceUID) == 0xA900
        assert peer.store_dataset(xray) == 0x0000
    assert len(running.images()) == 1
    assert running.count("cxr_received_objects_total", outcome="identity_mismatch") == 4


def test_a_command_without_identifiers_is_answered(
    listening: Any, scu: Any, synthetic_xray: Xray, encode_dataset: Any
) -> None:
    running = listening()
    with scu(running.port) as peer:
        data = encode_dataset(synthetic_xray())
        assert peer.store(data, instance=None) == 0xA900
        assert peer.store(data, instance=synthetic_xray().SOPInstanceUID, sop_class=None) == 0xA900
        assert peer.store_dataset(synthetic_xray()) == 0x0000


def test_another_operation_is_refused_and_the_association_goes_on(
    listening: Any, scu: Any, synthetic_xray: Xray
) -> None:
    with scu(listening().port) as peer:
        query = C_FIND()
        query.MessageID, query.Priority = 3, 2
        query.AffectedSOPClassUID = CR
        query.Identifier = BytesIO(b"\x08\x00\x52\x00CS\x06\x00STUDY ")
        peer.association.dimse.send_msg(query, peer.context(CR))
        assert peer.answer() == 0x0211
        assert peer.store_dataset(synthetic_xray()) == 0x0000


def test_an_object_over_the_limit_is_refused_and_the_next_one_taken(
    listening: Any, scu: Any, synthetic_xray: Xray
) -> None:
    running = listening(max_object_mib=1)
    with scu(running.port) as peer:
        assert peer.store_dataset(synthetic_xray(rows=1024, columns=768)) == 0xA700
        assert peer.store_dataset(synthetic_xray()) == 0x0000
    assert running.count("cxr_received_objects_total", outcome="object_too_large") == 1
    assert len(running.kept()) == 1
    assert running.incoming() == []


def test_beyond_twice_the_limit_the_association_is_aborted(
    listening: Any, scu: Any, synthetic_xray: Xray, wait_for: Any
) -> None:
    running = listening(max_object_mib=1)
    told: list[type] = []
    with scu(running.port) as peer:
        peer.association.bind(evt.EVT_ACSE_RECV, lambda event: told.append(type(event.primitive)))
        peer.association._reactor_checkpoint.set()
        peer.send(bytes(8 * MIB), instance=generate_uid())
        wait_for(lambda: peer.association.is_aborted, "the association is aborted")
    assert told == [A_ABORT], "by the service, and not for a breach of the protocol"
    wait_for(lambda: running.incoming() == [], "nothing is left of the object")
    with scu(running.port) as peer:
        assert peer.store_dataset(synthetic_xray()) == 0x0000


def test_a_deflated_object_that_swells_is_refused(
    listening: Any, scu: Any, synthetic_xray: Xray, dataset_bytes: Any
) -> None:
    running = listening(max_object_mib=1)
    bomb = synthetic_xray(rows=2048, columns=2048)
    bomb.PixelData = bytes(len(bomb.PixelData))
    bomb.file_meta.TransferSyntaxUID = DEFLATED
    buffer = BytesIO()
    bomb.save_as(buffer, enforce_file_format=True)
    with scu(running.port, {CR: [DEFLATED]}) as peer:
        assert peer.store(dataset_bytes(buffer.getvalue()), instance=bomb.SOPInstanceUID) == 0xA700
    assert running.images() == []
    assert running.incoming() == []


def test_a_cut_transfer_leaves_nothing(
    listening: Any, scu: Any, synthetic_xray: Xray, encode_dataset: Any, wait_for: Any
) -> None:
    running = listening()
    xray = synthetic_xray(rows=1024, columns=1024)
    for cut in ("close", "abort"):
        with scu(running.port) as peer:
            peer.send_part(encode_dataset(xray), instance=xray.SOPInstanceUID)
            wait_for(lambda: len(running.incoming()) == 1, "the object is half received")
            if cut == "close":
                peer.association.dul.socket._shutdown_socket()
            else:
                peer.association._reactor_checkpoint.set()
                peer.association.abort()
        wait_for(lambda: running.incoming() == [], f"nothing is left after {cut}")
    wait_for(lambda: running.listener.associations == 0, "no association is left")
    assert running.images() == []
    assert running.kept() == {}


def test_a_peer_that_stops_within_a_message_is_cut(
    listening: Any, scu: Any, synthetic_xray: Xray, encode_dataset: Any, wait_for: Any
) -> None:
    running = listening(dimse_timeout_s=0.5, idle_timeout_s=60)
    with scu(running.port) as peer:
        xray = synthetic_xray(rows=1024, columns=1024)
        peer.send_part(encode_dataset(xray), instance=xray.SOPInstanceUID)
        wait_for(lambda: len(running.incoming()) == 1, "the object is half received")
        wait_for(lambda: running.incoming() == [], "the transfer is given up")
        wait_for(lambda: running.listener.associations == 0, "the association has ended")


def test_an_idle_association_ends_without_an_abort(listening: Any, scu: Any, wait_for: Any) -> None:
    running = listening(idle_timeout_s=0.5)
    seen: list[bytes] = []
    with scu(running.port) as peer:
        connection = peer.association.dul.socket
        receive = connection.recv

        def watch(size: int) -> bytearray:
            received: bytearray = receive(size)
            seen.append(bytes(received))
            return received

        connection.recv = watch
        peer.association._reactor_checkpoint.set()
        wait_for(lambda: not peer.association.is_established, "the association has ended")
    assert all(not data.startswith(b"\x07") for data in seen)
    wait_for(lambda: running.listener.associations == 0, "it is counted out")


@pytest.mark.parametrize(
    "pdu",
    [
        b"\x04\x00\x00\x00\x00\x06" + b"\x00\x00\x00\x02\x03\x02",  # a data set without a command
        b"\x04\x00\x00\x00\x00\x06" + b"\x00\x00\x00\xff\x03\x03",  # a fragment longer than its PDU
        b"\x04\x00\x00\x00\x00\x0a" + b"\x00\x00\x00\x06\x03\x03junk",  # a command that is none
        b"\x04\x00\xff\xff\xff\xff",  # a PDU of 4 GiB
        b"\x99\x00\x00\x00\x00\x00",  # no PDU
        b"\x01\x00\x00\x00\x00\x02\x00\x01",  # a cut A-ASSOCIATE-RQ, and in the wrong state
    ],
)
def test_what_breaks_the_protocol_ends_one_association_and_no_other(
    listening: Any, scu: Any, synthetic_xray: Xray, wait_for: Any, pdu: bytes
) -> None:
    running = listening()
    with scu(running.port) as other, scu(running.port) as peer:
        peer.association._reactor_checkpoint.set()
        peer.association.dul.socket.socket.sendall(pdu)
        wait_for(lambda: not peer.association.is_established, "the association has ended")
        assert other.store_dataset(synthetic_xray()) == 0x0000
    wait_for(lambda: running.listener.associations == 0, "both are counted out")


def test_two_requests_at_once_are_answered_one_after_the_other(
    listening: Any, scu: Any, synthetic_xray: Xray, encode_dataset: Any
) -> None:
    running = listening()
    with scu(running.port) as peer:
        for seed in range(3):
            xray = synthetic_xray(seed=seed)
            peer.send(encode_dataset(xray), instance=xray.SOPInstanceUID)
        assert [peer.answer() for _ in range(3)] == [0x0000] * 3
    assert len(running.kept()) == 3


def test_a_fault_of_ours_is_c211_and_the_association_goes_on(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    running = listening()
    with scu(running.port) as peer:
        with running.database.begin() as session:
            session.connection().exec_driver_sql("ALTER TABLE job RENAME TO away")
        assert peer.store_dataset(synthetic_xray()) == 0xC211
        with running.database.begin() as session:
            session.connection().exec_driver_sql("ALTER TABLE away RENAME TO job")
        assert peer.store_dataset(synthetic_xray()) == 0x0000
    assert len(running.images()) == 1


def test_one_byte_at_a_time_does_not_hold_an_association(listening: Any, wait_for: Any) -> None:
    running = listening(acse_timeout_s=1.0)
    with socket.create_connection(("127.0.0.1", running.port)) as slow:
        slow.settimeout(20)
        started = time.monotonic()
        slow.sendall(struct.pack(">BxL", 1, 200))
        ended = False
        while not ended and time.monotonic() - started < 60:
            try:
                slow.sendall(b"\x00")
                slow.settimeout(0.2)
                ended = slow.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
    assert ended
    wait_for(lambda: len(running.listener.silent) == 0, "it is forgotten")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # of our own side, pynetdicom as SCU
def test_no_path_is_made_from_an_identifier(
    listening: Any, scu: Any, synthetic_xray: Xray, encode_dataset: Any, tmp_path: Path
) -> None:
    running = listening()
    with scu(running.port) as peer:
        # As long as the real one, so that the data set stays well-formed.
        xray = synthetic_xray(SOPInstanceUID="1.2.3.4.5.6.7.8.9")
        data = encode_dataset(xray).replace(b"1.2.3.4.5.6.7.8.9", b"../../../../evil/")
        assert peer.store(data, instance="../../../../evil/") == 0xA900
    assert not list(tmp_path.rglob("*evil*"))
