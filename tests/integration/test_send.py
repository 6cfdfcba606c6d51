"""``cxr send`` to Orthanc, to DCMTK's storescp and to peers that refuse."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset

CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
LITTLE_ENDIAN = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


def send(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "app", "send", *map(str, arguments), "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def write_xray(synthetic_xray: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    def write(seed: int, where: str = "", **elements: Any) -> Path:
        path = tmp_path / "files" / (where or f"{seed}.dcm")
        path.parent.mkdir(parents=True, exist_ok=True)
        dcmwrite(path, synthetic_xray(seed=seed, **elements), enforce_file_format=True)
        return path

    return write


@pytest.fixture
def storescp(
    tmp_path: Path, require_peer: Callable[[str], str], free_port: Callable[[], int], wait_for: Any
) -> Iterator[tuple[int, Path]]:
    port, folder = free_port(), tmp_path / "received"
    folder.mkdir()
    process = subprocess.Popen(
        [
            require_peer("storescp"),
            "--accept-all",
            "--bit-preserving",
            "--unique-filenames",
            "--output-directory",
            str(folder),
            str(port),
        ]
    )
    wait_for(lambda: _answers(port), "storescp listens")
    yield port, folder
    process.terminate()
    process.wait(60)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except OSError:
        return False
    return True


def test_folder_to_orthanc_skips_what_is_not_dicom(orthanc: Any, write_xray: Any, tmp_path: Path) -> None:
    write_xray(0, "a/0.dcm")
    write_xray(1, "a/b/without-suffix")
    (tmp_path / "files" / "readme.txt").write_text("not DICOM")
    (tmp_path / "files" / "empty").touch()
    code, summary = send(tmp_path / "files", "--to", f"127.0.0.1:{orthanc.dicom_port}")
    assert (code, summary) == (
        0,
        {
            "files": 4,
            "stored": 2,
            "warned": 0,
            "failed": 0,
            "skipped": 2,
            "statuses": {"0x0000": 2},
            "failures": [],
        },
    )
    assert orthanc.get("/statistics")["CountInstances"] == 2


def test_file_named_twice_is_sent_once(orthanc: Any, write_xray: Any, tmp_path: Path) -> None:
    path = write_xray(0)
    _, summary = send(path, path.parent, path, "--to", orthanc.address)
    assert summary["files"] == 1


def test_every_real_file_arrives_byte_for_byte(storescp: tuple[int, Path], shared_data: Path) -> None:
    """Each in its own SOP class and transfer syntax; DCMTK keeps what it gets as it comes."""
    port, folder = storescp
    source = shared_data / "dicom" / "chest_frontal"
    code, summary = send(source, "--to", f"127.0.0.1:{port}")
    assert (code, summary["stored"]) == (0, len(list(source.iterdir())))
    received = {path.read_bytes()[split_dataset(path)[1] :] for path in _with_meta(folder)}
    assert {path.read_bytes()[split_dataset(path)[1] :] for path in _with_meta(source)} <= received
    assert len(received) == 6  # one of them has no file meta information, and is encoded anew


def _with_meta(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.read_bytes()[128:132] == b"DICM"]


def test_named_file_that_is_not_dicom_is_a_failure(storescp: tuple[int, Path], write_xray: Any, tmp_path: Path) -> None:
    text = tmp_path / "readme.txt"
    text.write_text("not DICOM")
    code, summary = send(text, write_xray(0), "--to", f"127.0.0.1:{storescp[0]}")
    assert (code, summary["stored"], summary["skipped"]) == (1, 1, 0)
    assert summary["failures"] == [{"file": str(text), "error_code": "unparsable", "status": None}]


def test_bad_files_end_nothing(storescp: tuple[int, Path], shared_data: Path, write_xray: Any) -> None:
    folder = shared_data / "dicom" / "bad"
    _, summary = send(folder, write_xray(0), "--to", f"127.0.0.1:{storescp[0]}")
    assert summary["files"] == len(list(folder.iterdir())) + 1
    assert summary["stored"] >= 1
    assert summary["stored"] + summary["failed"] + summary["skipped"] == summary["files"]
    outcomes = {Path(failure["file"]).name: failure["error_code"] for failure in summary["failures"]}
    # Cut in the middle of an element: an odd length, over which a peer would abort.
    assert outcomes["okie_tag_after_pixel.dcm"] == outcomes["pydicom_rtplan_truncated.dcm"] == "unparsable"
    assert not {"notdicom_HelloWorld.pdf", "notdicom_html_named_dcm.dcm", "pydicom_DICOMDIR-nooffset"} & set(outcomes)
    assert "peer_unreachable" not in outcomes.values()


@pytest.fixture
def peer(free_port: Callable[[], int]) -> Iterator[Callable[..., tuple[int, list[Any]]]]:
    servers: list[Any] = []

    def start(
        *, answers: tuple[int, ...] = (0,), accepts: tuple[str, ...] = (CR,), syntaxes: tuple[str, ...] = LITTLE_ENDIAN
    ) -> tuple[int, list[Any]]:
        received: list[Any] = []

        def on_store(event: Any) -> int:
            received.append((event.context.transfer_syntax, event.dataset, event.assoc.requestor.ae_title))
            return answers[min(len(received), len(answers)) - 1]

        entity = AE(ae_title="CXR")
        entity.require_called_aet = True
        for sop_class in accepts:
            entity.add_supported_context(sop_class, list(syntaxes))
        port = free_port()
        servers.append(
            entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
        )
        return port, received

    yield start
    for server in servers:
        server.shutdown()


def test_statuses_are_counted_and_failures_named(peer: Any, write_xray: Any) -> None:
    files = [write_xray(seed) for seed in range(4)]
    port, received = peer(answers=(0x0000, 0xB000, 0xA700, 0xC210))
    code, summary = send(*files, "--to", f"127.0.0.1:{port}")
    assert code == 1
    assert summary["statuses"] == {"0x0000": 1, "0xA700": 1, "0xB000": 1, "0xC210": 1}
    assert (summary["stored"], summary["warned"], summary["failed"]) == (2, 1, 2)
    assert summary["failures"] == [
        {"file": str(files[2]), "error_code": "peer_busy", "status": "0xA700"},
        {"file": str(files[3]), "error_code": "peer_refused", "status": "0xC210"},
    ]
    assert len(received) == 4


def test_ae_titles(peer: Any, write_xray: Any) -> None:
    port, received = peer()
    assert send(write_xray(0), "--to", f"127.0.0.1:{port}", "--called", "OTHER")[1]["failures"][0]["error_code"] == (
        "access_refused"
    )
    assert send(write_xray(0), "--to", f"OTHER@127.0.0.1:{port}")[0] == 1
    assert send(write_xray(0), "--to", f"OTHER@127.0.0.1:{port}", "--called", "CXR", "--calling", "ME")[0] == 0
    assert [calling for *_, calling in received] == ["ME"]


def test_uncompressed_file_is_converted_for_a_peer_with_implicit_vr_only(peer: Any, write_xray: Any) -> None:
    port, received = peer(syntaxes=(str(ImplicitVRLittleEndian),))
    path = write_xray(0)
    assert send(path, "--to", f"127.0.0.1:{port}")[0] == 0
    ((syntax, dataset, _),) = received
    assert syntax == ImplicitVRLittleEndian
    assert dataset.to_json_dict() == dcmread(path).to_json_dict()


def test_syntax_and_class_that_the_peer_does_not_take(
    peer: Any, write_xray: Any, synthetic_xray: Callable[..., Any], tmp_path: Path
) -> None:
    compressed = tmp_path / "compressed.dcm"
    xray = synthetic_xray(seed=9)
    xray.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    from pydicom.encaps import encapsulate

    xray.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    xray["PixelData"].VR = "OB"
    xray["PixelData"].is_undefined_length = True
    dcmwrite(compressed, xray, enforce_file_format=True)
    other = write_xray(1, SOPClassUID=DX)
    port, received = peer()
    code, summary = send(compressed, other, write_xray(2), "--to", f"127.0.0.1:{port}")
    assert (code, summary["stored"], len(received)) == (1, 1, 1)
    assert [(failure["file"], failure["error_code"]) for failure in summary["failures"]] == [
        (str(compressed), "presentation_context_rejected"),
        (str(other), "presentation_context_rejected"),
    ]


def test_file_without_meta_is_sent(peer: Any, synthetic_xray: Callable[..., Any], tmp_path: Path) -> None:
    port, received = peer()
    xray = synthetic_xray(seed=3)
    path = tmp_path / "raw"
    dcmwrite(path, _without_meta(xray), implicit_vr=True, little_endian=True)
    assert send(path, "--to", f"127.0.0.1:{port}")[0] == 0
    assert received[0][1].SOPInstanceUID == xray.SOPInstanceUID


def _without_meta(dataset: Any) -> Any:
    del dataset.file_meta
    return dataset


def test_file_whose_meta_names_another_object_goes_under_its_own_uid(
    peer: Any, synthetic_xray: Callable[..., Any], tmp_path: Path
) -> None:
    port, received = peer()
    xray = synthetic_xray(seed=3)
    xray.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    path = tmp_path / "renamed.dcm"
    dcmwrite(path, xray)
    assert send(path, "--to", f"127.0.0.1:{port}")[0] == 0
    assert received[0][1].SOPInstanceUID == xray.SOPInstanceUID


def test_nobody_there(write_xray: Any, free_port: Callable[[], int]) -> None:
    files = [write_xray(seed) for seed in range(3)]
    code, summary = send(*files, "--to", f"127.0.0.1:{free_port()}")
    assert code == 1
    assert [failure["error_code"] for failure in summary["failures"]] == ["peer_unreachable"] * 3


def test_nothing_to_send_is_a_failure(tmp_path: Path, free_port: Callable[[], int]) -> None:
    (tmp_path / "empty").mkdir()
    code, summary = send(tmp_path / "empty", "--to", f"127.0.0.1:{free_port()}")
    assert (code, summary["files"]) == (1, 0)


@pytest.mark.parametrize(
    "arguments", [["--to", "nowhere"], ["--to", "A TITLE THAT IS TOO LONG@127.0.0.1:104"], [], ["--to", "host:0"]]
)
def test_wrong_command_line_does_nothing(arguments: list[str], write_xray: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "app", "send", str(write_xray(0)), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_summary_in_words(peer: Any, write_xray: Any) -> None:
    port, _ = peer(answers=(0x0000, 0xC210))
    files = [write_xray(0), write_xray(1)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "app", "send", *map(str, files), "--to", f"127.0.0.1:{port}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.splitlines() == [
        "1 stored (0 with a warning), 1 failed, 0 skipped (not DICOM)",
        "  0x0000  1",
        "  0xC210  1",
        f"  peer_refused 0xC210  {files[1]}",
    ]
