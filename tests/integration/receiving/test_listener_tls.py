"""DICOM TLS with real peers, certificates that are renewed, and limits of single peers."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

Xray = Callable[..., Dataset]


def _served(folder: Path, port: int, **more: Any) -> dict[str, Any]:
    files = {"certificate": folder / "server.pem", "key": folder / "server.key", "ca": folder / "ca.pem"}
    return {"port": port} | files | more


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(argument) for argument in arguments], capture_output=True, text=True, timeout=200, check=False
    )


def _own(folder: Path) -> list[str | Path]:
    """DCMTK's options for mutual TLS."""
    return ["+tls", folder / "peer.key", folder / "peer.pem", "+cf", folder / "ca.pem"]


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])  # DCMTK 3.6.7's names of the BCP 195 profiles
def test_dcmtk_stores_over_mutual_tls(
    listening: Any,
    require_peer: Callable[[str], str],
    synthetic_xray: Xray,
    certificates: Path,
    free_port: Callable[[], int],
    tmp_path: Path,
    profile: str,
) -> None:
    port = free_port()
    running = listening(tls=_served(certificates, port, required=True))
    file = tmp_path / "xray.dcm"
    synthetic_xray().save_as(file, enforce_file_format=True)
    sent = _run(require_peer("storescu"), *_own(certificates), profile, "-aec", "CXR", "localhost", str(port), file)
    assert sent.returncode == 0, sent.stderr
    assert [image["state"] for image in running.images()] == ["queued"]


def test_whoever_has_not_what_it_takes_gets_nowhere(
    listening: Any,
    require_peer: Callable[[str], str],
    certificates: Path,
    make_certificates: Callable[[Path], Path],
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    port = free_port()
    running = listening(tls=_served(certificates, port, required=True))
    echo, strangers = require_peer("echoscu"), make_certificates(tmp_path / "strangers")
    to: list[str | Path] = ["-aec", "CXR", "localhost", str(port)]
    assert _run(echo, *_own(certificates), *to).returncode == 0
    stranger: list[str | Path] = [
        "+tls",
        strangers / "peer.key",
        strangers / "peer.pem",
        "+cf",
        certificates / "ca.pem",
    ]
    for what, options in {
        "without TLS": [],
        "without a certificate": ["+tla", "+cf", certificates / "ca.pem"],
        "with a certificate of another authority": stranger,
        "with the retired AES profile": [*_own(certificates), "+pa"],
    }.items():
        assert _run(echo, *options, *to).returncode != 0, what
    assert _run(echo, "-aec", "CXR", "localhost", str(running.port)).returncode != 0, "there is no other port"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", running.port))
    assert running.count("cxr_open_associations") == 0


def test_orthanc_sends_over_mutual_tls(
    listening: Any, orthanc_factory: Any, synthetic_xray: Xray, certificates: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    running = listening(tls=_served(certificates, port, required=True))
    orthanc = orthanc_factory(
        DicomModalities={"cxr": {"AET": "CXR", "Host": "localhost", "Port": port, "UseDicomTls": True}},
        DicomTlsCertificate=str(certificates / "peer.pem"),
        DicomTlsPrivateKey=str(certificates / "peer.key"),
        DicomTlsTrustedCertificates=str(certificates / "ca.pem"),
    )
    buffer = BytesIO()
    synthetic_xray().save_as(buffer, enforce_file_format=True)
    orthanc.post("/instances", buffer.getvalue())
    resources = {"Resources": orthanc.get("/studies"), "Synchronous": True}
    assert orthanc.post("/modalities/cxr/store", resources)["FailedInstancesCount"] == 0
    assert [image["state"] for image in running.images()] == ["queued"]


def _issuer(port: int, authority: Path, own: Path) -> str | None:
    """Who made the certificate that the service shows; None: not one of this authority."""
    context = ssl.create_default_context(cafile=authority / "ca.pem")
    context.load_cert_chain(own / "peer.pem", own / "peer.key")
    with (
        suppress(ssl.SSLError),
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return str(dict(pair[0] for pair in secure.getpeercert()["issuer"])["commonName"])
    return None


def _install(source: Path, target: Path, *names: str) -> None:
    """Renew files as certificate tools do: written aside, then renamed."""
    for name in names:
        draft = shutil.copy2(source / name, target / f".{name}")
        Path(draft).replace(target / name)


@pytest.fixture
def installed(tmp_path: Path, make_certificates: Callable[[Path], Path]) -> tuple[Path, Path, Path]:
    """Two authorities, and the folder that the service reads its files from."""
    old, new, live = (tmp_path / name for name in ("old", "new", "live"))
    make_certificates(old)
    make_certificates(new)
    live.mkdir()
    _install(old, live, "server.pem", "server.key", "ca.pem")
    return old, new, live


def test_a_renewed_certificate_is_used_without_a_restart(
    listening: Any,
    scu: Any,
    synthetic_xray: Xray,
    installed: tuple[Path, Path, Path],
    free_port: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, new, live = installed
    port = free_port()
    caplog.set_level("DEBUG")
    running = listening(tls=_served(live, port))
    before = ssl.create_default_context(cafile=old / "ca.pem")
    before.load_cert_chain(old / "peer.pem", old / "peer.key")
    with scu(port, tls=(before, "localhost")) as peer:
        assert _issuer(port, old, old) == "CA of old"
        _install(new, live, "server.pem", "server.key", "ca.pem")
        assert _issuer(port, new, new) == "CA of new"
        assert _issuer(port, old, old) is None, "the old authority's peers are no longer let in"
        assert peer.store_dataset(synthetic_xray()) == 0x0000, "what was open goes on"
    assert len(running.images()) == 1
    assert any("tls_certificate_renewed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("fault", ["garbage", "another key", "readable key", "gone"])
def test_a_certificate_that_can_not_be_used_changes_nothing_and_is_said(
    listening: Any,
    installed: tuple[Path, Path, Path],
    free_port: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    old, new, live = installed
    port = free_port()
    listening(tls=_served(live, port))
    if fault == "garbage":
        (live / "server.pem").write_text("no certificate")
    elif fault == "another key":
        _install(new, live, "server.pem")
    elif fault == "readable key":
        (live / "server.key").chmod(0o644)
        _install(old, live, "server.pem")
        os.utime(live / "server.pem")
    else:
        (live / "server.pem").unlink()
    caplog.set_level("DEBUG")
    assert _issuer(port, old, old) == "CA of old"
    assert _issuer(port, old, old) == "CA of old"
    said = [record.getMessage() for record in caplog.records if "tls_certificate_not_renewed" in record.getMessage()]
    assert len(said) == 1, "once for each change, not for each connection"
    _install(new, live, "server.pem", "server.key", "ca.pem")
    assert _issuer(port, new, new) == "CA of new", "it is mended without a restart"


def test_one_peer_has_limits_of_its_own(listening: Any, scu: Any, synthetic_xray: Xray) -> None:
    peers = [
        {"ae_title": "MODALITY", "network": "127.0.0.0/8", "max_associations": 1, "max_object_mib": 1},
        {"ae_title": "PACS", "network": "127.0.0.0/8"},
    ]
    running = listening({"peers": peers})
    large = synthetic_xray(rows=1024, columns=768)
    with scu(running.port) as modality, scu(running.port, calling="PACS") as pacs:
        assert modality.store_dataset(large) == 0xA700
        assert pacs.store_dataset(large) == 0x0000
        assert modality.store_dataset(synthetic_xray(seed=1)) == 0x0000
        entity = AE("MODALITY")
        entity.add_requested_context("1.2.840.10008.1.1")
        second = entity.associate("127.0.0.1", running.port, ae_title="CXR")
        assert second.is_rejected
        assert second.acceptor.primitive.result == 2
        with scu(running.port, calling="PACS") as another:
            assert another.echo() == 0x0000
    assert running.count("cxr_refused_associations_total", reason="too_many_of_peer") == 1
