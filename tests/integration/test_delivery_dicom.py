"""C-STORE to real peers: negotiation, reuse of the association, and what each fault becomes."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ImplicitVRLittleEndian,
)

from cxr.errors import (
    AccessRefused,
    DeliveryError,
    PeerBusy,
    PeerRefused,
    PeerUnreachable,
    PresentationContextRejected,
    ReportUnreadable,
)
from inference.delivery.association import Address, client_certificates
from inference.delivery.destination_client import OutgoingReport
from inference.delivery.dicom_client import DicomClient
from inference.delivery.dicom_verifier import DicomVerifier
from inference.report.fallback import fallback, fallback_uid
from inference.report.uids import derive_uid, series_uid

SR_3D, SR_COMPREHENSIVE, SR_ENHANCED = (
    str(Comprehensive3DSRStorage),
    str(ComprehensiveSRStorage),
    str(EnhancedSRStorage),
)


@pytest.fixture
def client_to() -> Any:
    made: list[DicomClient] = []

    def make(port: int, *, timeout_s: float = 5.0, **options: Any) -> DicomClient:
        tls = options.pop("tls", None)
        address = Address(
            ae_title="PEER", host="127.0.0.1", port=port, calling_ae_title="CXR", timeout_s=timeout_s, tls=tls
        )
        made.append(DicomClient(address, verifier=DicomVerifier(address), **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def outgoing(report_file: Callable[..., Path]) -> Callable[..., OutgoingReport]:
    def make(number: int = 0, sop_class_uid: str = SR_3D, **changed: Any) -> OutgoingReport:
        uid = derive_uid("test", "instance", str(number))
        values: dict[str, Any] = {
            "report_id": number,
            "path": report_file(number, sop_class_uid),
            "sop_class_uid": sop_class_uid,
            "sop_instance_uid": uid,
            "study_instance_uid": derive_uid("test", "study", str(number)),
            "series_instance_uid": series_uid(uid),
        }
        return OutgoingReport(**(values | changed))

    return make


def test_report_arrives_as_it_is_and_the_association_is_used_again(
    peer_factory: Any, client_to: Any, outgoing: Any
) -> None:
    peer = peer_factory()
    client = client_to(peer.port)
    for number in range(3):
        stored = client.store(outgoing(number))
        assert (stored.status, stored.sop_class_uid) == (0x0000, SR_3D)
    assert peer.associations == 1
    assert [received == dcmread(outgoing(number).path) for number, received in enumerate(peer.received)] == [True] * 3


def test_idle_association_is_released_and_a_new_one_opened(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    now = [0.0]
    peer = peer_factory()
    client = client_to(peer.port, idle_s=5.0, monotonic=lambda: now[0])
    client.store(outgoing(0))
    now[0] = 4.9
    client.release_idle()
    client.store(outgoing(1))
    assert peer.associations == 1
    now[0] = 10.0
    client.release_idle()
    client.store(outgoing(2))
    assert peer.associations == 2


def test_association_that_the_peer_closed_meanwhile_is_opened_again(
    peer_factory: Any, client_to: Any, outgoing: Any
) -> None:
    def abort_first(event: Any) -> None:
        if len(peer.received) == 2:
            event.assoc.abort()

    peer = peer_factory(behave=abort_first)
    client = client_to(peer.port)
    client.store(outgoing(0))
    assert client.store(outgoing(1)).status == 0x0000
    assert peer.associations == 2
    assert [str(received.SOPInstanceUID) for received in peer.received].count(
        outgoing(1).sop_instance_uid
    ) == 2  # same UID, so one object


def test_peer_without_3d_sr_gets_the_report_as_comprehensive_sr(
    peer_factory: Any, client_to: Any, outgoing: Any
) -> None:
    peer = peer_factory(accepts=(SR_ENHANCED, SR_COMPREHENSIVE))
    stored = client_to(peer.port).store(outgoing(0))
    uid = fallback_uid(outgoing(0).sop_instance_uid, SR_COMPREHENSIVE)
    assert (stored.sop_class_uid, stored.sop_instance_uid) == (SR_COMPREHENSIVE, uid)
    (received,) = peer.received
    assert received == fallback(dcmread(outgoing(0).path), SR_COMPREHENSIVE)
    assert received.SeriesInstanceUID == series_uid(uid)


def test_peer_with_enhanced_sr_only_gets_that(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    stored = client_to(peer_factory(accepts=(SR_ENHANCED,)).port).store(outgoing(0))
    assert stored.sop_class_uid == SR_ENHANCED


def test_class_once_begun_is_kept_while_the_peer_takes_it(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    peer = peer_factory()
    assert (
        client_to(peer.port).store(outgoing(0, chosen_sop_class_uid=SR_COMPREHENSIVE)).sop_class_uid == SR_COMPREHENSIVE
    )


def test_class_begun_before_a_cut_is_kept_by_the_same_client(
    peer_factory: Any, client_to: Any, outgoing: Any, free_port: Callable[[], int]
) -> None:
    def cut(event: Any) -> None:
        event.assoc.abort()

    port = free_port()
    first = peer_factory(accepts=(SR_ENHANCED,), behave=cut, port=port)
    client = client_to(port)
    with pytest.raises(PeerUnreachable):
        client.store(outgoing(0))
    assert len(first.received) == 1
    first.behave = None  # it has come to accept everything else as well
    second = peer_factory()
    client._address = Address(
        ae_title="PEER", host="127.0.0.1", port=second.port, calling_ae_title="CXR", timeout_s=5.0
    )
    assert client.store(outgoing(0)).sop_class_uid == SR_ENHANCED


def test_implicit_vr_peer_gets_the_same_content(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    peer = peer_factory(syntaxes=(str(ImplicitVRLittleEndian),))
    client_to(peer.port).store(outgoing(0))
    assert peer.received[0].to_json_dict() == dcmread(outgoing(0).path).to_json_dict()


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007, 0x0107, 0x0111])
def test_success_warnings_and_duplicates_are_stored(
    status: int, peer_factory: Any, client_to: Any, outgoing: Any
) -> None:
    assert client_to(peer_factory(answers=(status,)).port).store(outgoing(0)).status == status


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0122, 0x0124, 0x0117])
def test_permanent_status_is_final(status: int, peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    with pytest.raises(PeerRefused) as caught:
        client_to(peer_factory(answers=(status,)).port).store(outgoing(0))
    assert (caught.value.status, caught.value.retryable) == (status, False)


@pytest.mark.parametrize("status", [0xA700, 0xA702, 0x0110, 0x0213, 0xFE00])
def test_passing_status_is_tried_again(status: int, peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    with pytest.raises(PeerBusy) as caught:
        client_to(peer_factory(answers=(status,)).port).store(outgoing(0))
    assert (caught.value.status, caught.value.retryable) == (status, True)


def test_abort_in_mid_association_is_unreachable(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    peer = peer_factory(behave=lambda event: event.assoc.abort())
    with pytest.raises(PeerUnreachable):
        client_to(peer.port).store(outgoing(0))


def test_no_sop_class_accepted_is_final(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    peer = peer_factory(accepts=("1.2.840.10008.1.1",))
    with pytest.raises(PresentationContextRejected) as caught:
        client_to(peer.port).store(outgoing(0))
    assert caught.value.retryable is False


def test_some_class_accepted_but_none_of_the_report_s_is_final(
    peer_factory: Any, client_to: Any, outgoing: Any
) -> None:
    peer = peer_factory(accepts=("1.2.840.10008.5.1.4.1.1.7",))
    with pytest.raises(PresentationContextRejected):
        client_to(peer.port).store(outgoing(0))
    assert peer.received == []


def test_rejected_association_is_access_refused_and_retryable(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    def strict(entity: Any) -> None:
        entity.require_calling_aet = ["SOMEBODY"]

    with pytest.raises(AccessRefused) as caught:
        client_to(peer_factory(configure=strict).port).store(outgoing(0))
    assert caught.value.retryable is True


def test_full_peer_is_busy(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    def one_at_a_time(entity: Any) -> None:
        entity.maximum_associations = 1

    peer = peer_factory(configure=one_at_a_time)
    client_to(peer.port).store(outgoing(0))
    with pytest.raises(PeerBusy) as caught:
        client_to(peer.port).store(outgoing(1))
    assert caught.value.status is None


def test_nobody_there_is_unreachable(client_to: Any, outgoing: Any, free_port: Callable[[], int]) -> None:
    with pytest.raises(PeerUnreachable):
        client_to(free_port()).store(outgoing(0))


def test_unknown_host_is_unreachable(outgoing: Any) -> None:
    address = Address(ae_title="PEER", host="pacs.invalid", port=104, calling_ae_title="CXR", timeout_s=5.0)
    with pytest.raises(PeerUnreachable):
        DicomClient(address, verifier=DicomVerifier(address)).store(outgoing(0))


def test_peer_that_accepts_tcp_and_never_answers_is_unreachable(client_to: Any, outgoing: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(PeerUnreachable):
        client_to(silent.getsockname()[1], timeout_s=0.5).store(outgoing(0))


def test_peer_that_accepts_and_never_answers_the_store_is_unreachable(
    peer_factory: Any, client_to: Any, outgoing: Any
) -> None:
    release = threading.Event()
    peer = peer_factory(behave=lambda event: release.wait(20) and None)
    with pytest.raises(PeerUnreachable):
        client_to(peer.port, timeout_s=0.5).store(outgoing(0))
    release.set()


def test_missing_and_damaged_files_are_final(peer_factory: Any, client_to: Any, outgoing: Any, tmp_path: Path) -> None:
    peer = peer_factory()
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(b"not DICOM")
    for path in (tmp_path / "absent.dcm", damaged):
        with pytest.raises(ReportUnreadable) as caught:
            client_to(peer.port).store(outgoing(0, path=path))
        assert caught.value.retryable is False
    assert peer.associations == 0


def test_errors_name_neither_peer_nor_report(peer_factory: Any, client_to: Any, outgoing: Any) -> None:
    peer = peer_factory(answers=(0xC000,))
    with pytest.raises(DeliveryError) as caught:
        client_to(peer.port).store(outgoing(0))
    for secret in (outgoing(0).sop_instance_uid, str(outgoing(0).path), str(peer.port), "127.0.0.1"):
        assert secret not in str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "peer.pem", tmp_path / "peer.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=peer"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_tls_peer(peer_factory: Any, client_to: Any, outgoing: Any, certificate: tuple[Path, Path]) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    peer = peer_factory(tls=server)
    assert (
        client_to(peer.port, tls=client_certificates(certificate[0], None, None, destination="pacs"))
        .store(outgoing(0))
        .status
        == 0x0000
    )


def test_tls_peer_with_another_certificate_gets_nothing(
    peer_factory: Any, client_to: Any, outgoing: Any, certificate: tuple[Path, Path]
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    peer = peer_factory(tls=server)
    with pytest.raises(PeerUnreachable):
        client_to(peer.port, tls=client_certificates(None, None, None, destination="pacs")).store(outgoing(0))
    assert peer.received == []


def test_dcmtk_storescp(
    tmp_path: Path,
    require_peer: Callable[[str], str],
    free_port: Callable[[], int],
    wait_for: Any,
    client_to: Any,
    outgoing: Any,
) -> None:
    port, folder = free_port(), tmp_path / "received"
    folder.mkdir()
    process = subprocess.Popen([require_peer("storescp"), "--output-directory", str(folder), "+uf", str(port)])
    try:
        wait_for(lambda: _answers(port), "storescp listens")
        assert client_to(port).store(outgoing(0)).sop_class_uid == SR_3D
        (file,) = wait_for(lambda: list(folder.iterdir()), "a received file")
        assert dcmread(file) == dcmread(outgoing(0).path)
    finally:
        process.terminate()
        process.wait(60)


def test_peer_that_stops_to_read_is_unreachable(
    tmp_path: Path, require_peer: Any, free_port: Callable[[], int], wait_for: Any, client_to: Any, outgoing: Any
) -> None:
    """A stopped process: its kernel takes what fits, and nothing more is ever read."""
    port, folder, large = free_port(), tmp_path / "received", tmp_path / "large.dcm"
    folder.mkdir()
    report = dcmread(outgoing(0).path)
    report.TextValue = "x" * 20_000_000
    report.save_as(large)
    before = set(threading.enumerate())
    process = subprocess.Popen([require_peer("storescp"), "--output-directory", str(folder), str(port)])
    try:
        wait_for(lambda: _answers(port), "storescp listens")
        client = client_to(port, timeout_s=1.0)
        client.store(outgoing(0))
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerUnreachable):
            client.store(outgoing(1, path=large))
        client.close()
        wait_for(lambda: not _association_threads(before), "nothing of the association goes on")
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)


def _association_threads(before: set[threading.Thread]) -> list[str]:
    return [thread.name for thread in set(threading.enumerate()) - before if "Requestor" in thread.name]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except OSError:
        return False
    return True


def test_orthanc_ends_up_with_one_object(orthanc: Any, client_to: Any, outgoing: Any) -> None:
    client = client_to(orthanc.dicom_port)
    for _ in range(3):
        assert client.store(outgoing(0)).status == 0x0000
    assert orthanc.get("/statistics")["CountInstances"] == 1
    (instance,) = orthanc.find("Instance", SOPInstanceUID=outgoing(0).sop_instance_uid)
    received: Dataset = dcmread(_buffer(orthanc.get_bytes(f"/instances/{instance['ID']}/file")))
    assert received == dcmread(outgoing(0).path)


def _buffer(content: bytes) -> Any:
    from io import BytesIO

    return BytesIO(content)
