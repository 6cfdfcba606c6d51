"""What tests of the listener share: a listener here, one in its own process, a peer that says what it is told."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from config.settings import Settings, load_settings
from db.disk import Spool
from db.engine import Database, open_database
from db.sqlite.driver import sqlite3
from listener.metrics import Metrics
from listener.scp import Listener, build

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass
class Running:
    """A listener that runs, and what it keeps."""

    settings: Settings
    database: Database
    spool: Spool
    metrics: Metrics | None = None
    listener: Listener | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def port(self) -> int:
        return self.settings.listener.port

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Rows of the audit database, in a connection that is not ours."""
        with closing(sqlite3.connect(f"file:{self.database.path}?mode=ro", uri=True, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement)]

    def images(self) -> list[dict[str, Any]]:
        """Every image with its job, oldest first."""
        return self.query(
            "SELECT image.*, job.state, job.reason, decision.view FROM image JOIN job ON job.image_id = image.id "
            "JOIN decision ON decision.image_id = image.id ORDER BY image.id"
        )

    def events(self) -> list[str]:
        """Kinds of the events about objects, oldest first."""
        kinds = [row["kind"] for row in self.query("SELECT kind FROM event ORDER BY id")]
        return [kind for kind in kinds if kind in {"received", "resent", "changed_resend"}]

    def kept(self) -> dict[str, bytes]:
        """Contents of the files in the spool, by spool name."""
        return {name: self.spool.path(name).read_bytes() for name in self.spool.names()}

    def incoming(self) -> list[Path]:
        return list(self.spool.incoming_dir.iterdir())

    def count(self, metric: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(metric, labels)
        return value or 0.0


def dataset_of(content: bytes) -> bytes:
    """The data set's bytes of a Part 10 file."""
    meta = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=[]).file_meta
    return content[132 + 12 + meta.FileMetaInformationGroupLength :]


@pytest.fixture
def make_settings(tmp_path: Path, free_port: Callable[[], int]) -> Callable[..., Settings]:
    """Settings of a listener on a free port; keyword arguments are sections or values of [listener]."""

    def make(sections: Mapping[str, Any] | None = None, **listener: Any) -> Settings:
        values = {"port": free_port(), "min_free_mib": 1} | listener
        return load_settings(None, {}, {"data_dir": tmp_path / "data", "listener": values} | dict(sections or {}))

    return make


@pytest.fixture
def listening(make_settings: Callable[..., Settings]) -> Iterator[Callable[..., Running]]:
    """Start a listener in this process."""
    started: list[Running] = []

    def start(
        sections: Mapping[str, Any] | None = None, *, settings: Settings | None = None, **listener: Any
    ) -> Running:
        settings = settings or make_settings(sections, **listener)
        database = open_database(settings.database_path, settings.audit_key_path, create=True)
        spool = Spool(settings.spool_dir, min_free_mib=settings.listener.min_free_mib)
        spool.prepare()
        metrics = Metrics()
        running = Running(settings, database, spool, metrics, build(settings, database, spool, metrics))
        running.listener.start()
        started.append(running)
        return running

    yield start
    for running in started:
        running.listener.stop()
        running.database.dispose()


@pytest.fixture
def serving(
    make_settings: Callable[..., Settings], tmp_path: Path, wait_for: Callable[..., Any]
) -> Iterator[Callable[..., Running]]:
    """Start ``cxr listen`` in a process of its own, and wait until it answers."""
    started: list[Running] = []

    def start(*, settings: Settings | None = None, wait: bool = True, **listener: Any) -> Running:
        settings = settings or make_settings(**listener)
        process = _start_command(settings, tmp_path / f"listen{len(started)}.log")
        if wait:
            wait_for(lambda: process.poll() is not None or can_echo(settings.listener.port), "cxr listen answers")
        database = open_database(settings.database_path, settings.audit_key_path, create=True)
        running = Running(settings, database, Spool(settings.spool_dir, min_free_mib=1), process=process)
        started.append(running)
        return running

    yield start
    for running in started:
        running.database.dispose()
        running.process.kill()
        running.process.wait(timeout=60)


def _start_command(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    options = [
        f"listener.{name}={value}"
        for name, value in settings.listener.model_dump(exclude={"tls", "commitment"}).items()
    ]
    options.append(f"data_dir={settings.data_dir}")
    if settings.metrics.listener_port is not None:
        options.append(f"metrics.listener_port={settings.metrics.listener_port}")
    arguments = [argument for option in options for argument in ("--set", option)]
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "app", *arguments, "listen"],
            stderr=stream,
            stdout=stream,
            stdin=subprocess.DEVNULL,
        )


class Scu:
    """A Storage SCU whose commands and data sets are said byte for byte."""

    def __init__(self, association: Association) -> None:
        self.association = association
        self._pause()

    def context(self, abstract_syntax: str, transfer_syntax: str | None = None) -> int:
        """The number of an accepted context."""
        return next(
            context.context_id
            for context in self.association.accepted_contexts
            if context.abstract_syntax == abstract_syntax
            and (transfer_syntax is None or context.transfer_syntax[0] == transfer_syntax)
        )

    def send(
        self, data: bytes, *, instance: str | None, sop_class: str | None = CR, context_id: int | None = None
    ) -> None:
        """Send a C-STORE request."""
        request = C_STORE()
        request.MessageID, request.Priority = 7, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, instance
        request.DataSet = BytesIO(data)
        self.association.dimse.send_msg(request, context_id or self.context(sop_class or CR))

    def send_part(self, data: bytes, *, pdus: int = 4, **command: Any) -> Callable[[], None]:
        """Send the beginning of a C-STORE request; return what sends the rest."""
        send, held = self.association.dul.send_pdu, list[Any]()

        def count(primitive: Any) -> None:
            held.append(primitive)
            if len(held) <= pdus:
                send(primitive)

        self.association.dul.send_pdu = count
        self.send(data, **command)
        self.association.dul.send_pdu = send

        def rest() -> None:
            for primitive in held[pdus:]:
                send(primitive)

        return rest

    def answer(self) -> int | None:
        """The status of the next response; None: there is none."""
        _, response = self.association.dimse.get_msg(block=True)
        return None if response is None else response.Status

    def store(self, data: bytes, **command: Any) -> int | None:
        self.send(data, **command)
        return self.answer()

    def store_dataset(self, dataset: Dataset, **command: Any) -> int | None:
        data = encoded(dataset)
        named = {"instance": dataset.SOPInstanceUID, "sop_class": dataset.SOPClassUID} | command
        return self.store(data, **named)

    def echo(self) -> int:
        # The reactor waits, and has to: one that is woken now may still take the response.
        status: int = self.association.send_c_echo().Status
        self._pause()
        return status

    def _pause(self) -> None:
        """Keep pynetdicom's reactor from taking the responses."""
        self.association._reactor_checkpoint.clear()
        while not self.association._is_paused:
            time.sleep(0.001)


def encoded(dataset: Dataset) -> bytes:
    """The data set's bytes as they go over the network."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return dataset_of(buffer.getvalue())


@contextmanager
def associated(
    port: int,
    contexts: Mapping[str, list[str]] | None = None,
    *,
    calling: str = "MODALITY",
    called: str = "CXR",
    dimse_timeout_s: float = 120.0,
    tls: Any = None,
) -> Iterator[Scu]:
    """Open an association, by default for CR and Verification, and release it at the end."""
    entity = AE(calling)
    entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = 120, dimse_timeout_s, 300
    entity.add_requested_context("1.2.840.10008.1.1")
    for sop_class, syntaxes in (contexts or {CR: [EXPLICIT]}).items():
        for syntax in syntaxes:
            entity.add_requested_context(sop_class, syntax)
    association = entity.associate("127.0.0.1", port, ae_title=called, max_pdu=0, tls_args=tls)
    assert association.is_established, "the listener accepts the association"
    with closing(association.dul.socket.socket):  # pynetdicom leaves it open where the peer closes first
        try:
            yield Scu(association)
        finally:
            if association.is_established:
                association.release()  # while the reactor waits: woken just now, it might take the answer
            association._reactor_checkpoint.set()
            association.join(60)


def can_echo(port: int, **options: Any) -> bool:
    """Whether a C-ECHO is answered."""
    try:  # pynetdicom leaves its socket open where it can't connect
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except OSError:
        return False
    entity = AE("ECHO")
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title="CXR", **options)
    if not association.is_established:
        return False
    with closing(association.dul.socket.socket):  # pynetdicom leaves it open where the peer closes first
        status = association.send_c_echo()
        association.release()
    return "Status" in status and status.Status == 0x0000


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory, make_certificates: Callable[[Path], Path]) -> Path:
    """An authority, a certificate of the service and one of a peer."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def scu() -> Callable[..., Any]:
    return associated


@pytest.fixture(scope="session")
def encode_dataset() -> Callable[[Dataset], bytes]:
    return encoded


@pytest.fixture(scope="session")
def dataset_bytes() -> Callable[[bytes], bytes]:
    return dataset_of


@pytest.fixture
def echoes() -> Callable[..., bool]:
    return can_echo


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    """A listener that stopped leaves no thread of an association behind."""
    yield
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = [thread for thread in threading.enumerate() if thread.name in {"AcceptorThread", "accept"}]
        if not left:
            return
        time.sleep(0.05)
    pytest.fail(f"threads are left: {left}")
