"""A listener of its own process under attack, and what must be true of it afterwards.

Every case is drawn from a seed and a number: the same two give the same bytes. A failure names them;
``HOSTILE_SEED``, ``HOSTILE_FIRST`` and ``HOSTILE_COUNT`` in the environment run one range, or one case, again.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import types
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE

SEED = int(os.environ.get("HOSTILE_SEED", "20261121"))
FIRST = int(os.environ.get("HOSTILE_FIRST", "0"))
COUNT = int(os.environ.get("HOSTILE_COUNT", "0"))

MEMORY_BOUND_MIB = 512
"""What docs/reliability.md says that the listener stays below with its default limits, whatever peers send."""

OUR_FAULTS = {
    *("association_failed", "connection_failed", "object_failed", "too_many_open_files"),
    *("unexpected", "uncaught", "uncaught_in_thread"),
}
"""Events of the log that no peer may bring about."""


def numbered(number: int) -> random.Random:
    """The chance of one case."""
    return random.Random(f"{SEED}:{number}")


@dataclass
class Besieged:
    """``cxr listen`` in a process and a folder of its own."""

    folder: Path
    port: int
    metrics_port: int
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def peak_mib(self) -> float:
        """The most memory that it ever had, as the kernel counted it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def gauge(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=120) as response:
            lines = response.read().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name))

    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / "listen.log").read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def query(self, statement: str) -> list[dict[str, Any]]:
        path = f"file:{self.data_dir / 'audit.sqlite'}?mode=ro"
        with closing(sqlite3.connect(path, uri=True, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement)]

    def open_to_others(self) -> list[str]:
        """What of the data and the key another account may read or write."""
        made = [path for folder in ("data", "data.keys") for path in (self.folder / folder).rglob("*")]
        return [path.name for path in made if path.lstat().st_mode & 0o077]

    def around(self) -> dict[str, tuple[int, int, bytes]]:
        """Everything beside the data folder: mode, size and content of each file."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            inside = path.is_relative_to(self.data_dir) or path.name == "listen.log"
            if not inside:
                status = path.lstat()
                content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                found[str(path.relative_to(self.folder))] = (status.st_mode, status.st_size, content)
        return found


@pytest.fixture
def besieged(
    tmp_path: Path, free_port: Callable[[], int], wait_for: Callable[..., Any]
) -> Iterator[Callable[..., Besieged]]:
    """Start ``cxr listen``; keyword arguments are settings of [listener]."""
    started: list[Besieged] = []

    def start(**listener: Any) -> Besieged:
        folder = tmp_path / f"siege{len(started)}"
        for name in ("cwd", "home", "tmp", "spool", "objects"):  # where a name that escapes might lead to
            (folder / name).mkdir(parents=True)
        port, metrics_port = free_port(), free_port()
        settings = {
            "data_dir": folder / "data",
            "log.format": "json",
            "metrics.listener_port": metrics_port,
            "listener.port": port,
            "listener.min_free_mib": 1,
        } | {f"listener.{name}": value for name, value in listener.items()}
        arguments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        with (folder / "listen.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app", *arguments, "listen"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder / "cwd",
                umask=0,  # what is private is private by itself
                env=os.environ | {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")},
            )
        made = Besieged(folder, port, metrics_port, process)
        started.append(made)
        wait_for(lambda: not made.is_alive() or echoes(port), "cxr listen answers", 180)
        assert made.is_alive(), (folder / "listen.log").read_text()
        return made

    yield start
    for made in started:
        made.process.kill()
        made.process.wait(timeout=60)


def echoes(port: int) -> bool:
    """Whether an honest peer's C-ECHO is answered."""
    try:  # pynetdicom leaves its socket open where it can't connect
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except OSError:
        return False
    entity = AE("ECHO")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 120
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title="CXR")
    if not association.is_established:
        return False
    with closing(association.dul.socket.socket):
        status = association.send_c_echo()
        association.release()
    return "Status" in status and status.Status == 0x0000


@pytest.fixture
def unharmed(wait_for: Callable[..., Any], root: Path) -> Callable[..., None]:
    """Check that a listener is what it was before: alive, small, empty, honest, and nothing written elsewhere."""

    def check(listener: Besieged, before: dict[str, Any], *, files: int, threads: int) -> None:
        assert listener.is_alive(), "the process ended"
        wait_for(lambda: listener.gauge("cxr_open_associations") == 0, "no association is left", 180)
        wait_for(lambda: listener.gauge("cxr_silent_connections") == 0, "no connection is left", 180)
        wait_for(lambda: listener.threads() <= threads + 2, "no thread is left", 180)
        wait_for(lambda: listener.open_files() <= files + 4, "no open file is left", 180)
        assert not list((listener.data_dir / "spool" / "incoming").iterdir()), "nothing half received is left"
        assert listener.peak_mib() < MEMORY_BOUND_MIB
        assert listener.around() == before, "something was written outside the data folder"
        assert not listener.open_to_others()
        faults = [line for line in listener.log() if line["event"] in OUR_FAULTS]
        assert not faults, faults[:3]
        kept_by_row = {row["spool_name"] for row in listener.query("SELECT spool_name FROM image")} - {None}
        spool = listener.data_dir / "spool"
        kept = {str(path.relative_to(spool)) for path in (spool / "objects").rglob("*") if path.is_file()}
        assert kept == kept_by_row
        _accepts(listener, root / "docs" / "example" / "frontal.dcm")

    return check


def _accepts(listener: Besieged, file: Path) -> None:
    """A good object is taken, stored and written down."""
    dataset = dcmread(file)
    dataset.SOPInstanceUID = f"2.25.{SEED}"
    entity = AE("GOOD")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 120
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", listener.port, ae_title="CXR")
    assert association.is_established
    with closing(association.dul.socket.socket):
        assert association.send_c_store(dataset).Status == 0x0000
        association.release()
    (row,) = listener.query(f"SELECT spool_name FROM image WHERE sop_instance_uid = '{dataset.SOPInstanceUID}'")
    stored = dcmread(listener.data_dir / "spool" / row["spool_name"])
    assert stored.PixelData == dataset.PixelData


# Bytes of the upper layer and of DIMSE, so that a case can break any of them.


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body) & 0xFFFF) + body


def associate_rq(
    contexts: list[tuple[int, str, list[str]]],
    *,
    called: bytes = b"CXR",
    calling: bytes = b"HOSTILE",
    version: int = 1,
    more: bytes = b"",
    user: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 Table 9-11)."""
    body = struct.pack(">HH16s16s32x", version, 0, called.ljust(16)[:16], calling.ljust(16)[:16])
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, abstract, transfers in contexts:
        inner = item(0x30, abstract.encode("latin-1")) + b"".join(item(0x40, each.encode()) for each in transfers)
        body += item(0x20, struct.pack(">B3x", number) + inner)
    maximum = struct.pack(">BBHL", 0x51, 0, 4, 131072)
    body += item(0x50, maximum + item(0x52, b"1.2.3.4") + user) + more
    return pdu(1, body)


def element(group: int, number: int, value: bytes) -> bytes:
    """An element in Implicit VR Little Endian."""
    return struct.pack("<HHL", group, number, len(value)) + value


def command(field_: int, *, has_data: bool, sop_class: bytes = b"", instance: bytes = b"", message: int = 1) -> bytes:
    """A command set (PS3.7 Annex E)."""
    body = b""
    if sop_class:
        body += element(0, 0x0002, sop_class + b"\0" * (len(sop_class) % 2))
    body += element(0, 0x0100, struct.pack("<H", field_)) + element(0, 0x0110, struct.pack("<H", message))
    body += element(0, 0x0700, struct.pack("<H", 0))
    body += element(0, 0x0800, struct.pack("<H", 0x0001 if has_data else 0x0101))
    if instance:
        body += element(0, 0x1000, instance + b"\0" * (len(instance) % 2))
    return element(0, 0x0000, struct.pack("<L", len(body))) + body


def fragment(context: int, data: bytes, *, is_command: bool, is_last: bool = True) -> bytes:
    """One presentation data value (PS3.8 Section 9.3.5.1)."""
    return struct.pack(">LBB", len(data) + 2, context, is_command | is_last << 1) + data


def store_messages(
    context: int, sop_class: str, instance: bytes, data: bytes, *, piece: int = 65536
) -> Iterator[bytes]:
    """The P-DATA-TF PDUs of a C-STORE request."""
    asked = command(1, has_data=True, sop_class=sop_class.encode(), instance=instance)
    yield pdu(4, fragment(context, asked, is_command=True))
    for start in range(0, len(data) or 1, piece):
        part = data[start : start + piece]
        yield pdu(4, fragment(context, part, is_command=False, is_last=start + piece >= len(data)))


@pytest.fixture(scope="session")
def wire() -> Any:
    """The builders above, for the tests of this folder."""

    return types.SimpleNamespace(
        pdu=pdu,
        item=item,
        associate_rq=associate_rq,
        element=element,
        command=command,
        fragment=fragment,
        store_messages=store_messages,
        numbered=numbered,
        numbers=lambda count: range(FIRST, FIRST + (COUNT or count)),
        seed=SEED,
        echoes=echoes,
    )


@pytest.fixture(scope="session")
def sources(root: Path) -> list[bytes]:
    """Real files to change: the example always, the shared ones where they are, largest ones left out."""
    shared = root.parent / "shared" / "data" / "dicom"
    files = sorted(path for path in shared.rglob("*") if path.is_file()) if shared.is_dir() else []
    contents = [path.read_bytes() for path in files if path.stat().st_size < 700_000]
    return [(root / "docs" / "example" / "frontal.dcm").read_bytes(), *contents]


@pytest.fixture(scope="session")
def to_bytes() -> Callable[[Dataset], bytes]:
    def encode(dataset: Dataset) -> bytes:
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    return encode
