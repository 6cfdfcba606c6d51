"""A shadow beside the model in service, over a real database, spool, registry and processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry
from pydicom.dataset import Dataset

from config.settings import DestinationSettings, WorkerSettings
from cxr.dicom import open_dataset, read_header
from cxr.domain import JobState
from cxr.package import ModelPackage
from cxr.pixels.model_input import to_model_input
from cxr.view import decide_view
from db import images
from db.disk import Spool
from db.engine import Database
from db.schema.records import Receipt
from db.sqlite.driver import sqlite3
from db.upkeep.replay import differing_rows
from inference.model.model import Model
from inference.registry import TRAINED, Registry, activation
from inference.report.build import ReportOptions
from inference.worker.metrics import ShadowMetrics
from inference.worker.reporter import Reporter
from inference.worker.shadow import Shadow
from inference.worker.worker import Worker

PACS = DestinationSettings(name="pacs", kind="folder", address="/nowhere")


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Site:
    """A worker with its shadow, in a thread."""

    database: Database
    spool: Spool
    registry: Registry
    models_dir: Path
    synthetic_xray: Callable[..., Dataset]
    counted: CollectorRegistry = field(default_factory=CollectorRegistry)
    stop: threading.Event = field(default_factory=threading.Event)
    seed: int = 0

    def worker(self, **settings: Any) -> Worker:
        given = WorkerSettings(poll_s=0.05, decode_processes=1, device="cpu", **settings)
        reporter = Reporter(
            spool=self.spool,
            options=ReportOptions(),
            clock=now,
            max_inflated_bytes=1 << 26,
            saliency=False,
            deliver_untrained=True,
        )
        shadow = Shadow(
            database=self.database,
            models_dir=self.models_dir,
            settings=given,
            path_of=self.spool.path,
            shape_of=reporter.shape_of,
            clock=now,
            metrics=ShadowMetrics(self.counted),
        )
        return Worker(
            database=self.database,
            spool=self.spool,
            registry=self.registry,
            settings=given,
            destinations=(PACS,),
            reporter=reporter,
            load_model=lambda package: Model.load(package, device="cpu"),
            worker_id="tests:1",
            clock=now,
            shadow=shadow,
        )

    def receive(self) -> int:
        """Take in another image, as the listener does; returns its job."""
        self.seed += 1
        dataset = self.synthetic_xray(seed=self.seed)
        with self.spool.open_incoming() as incoming:
            dataset.save_as(incoming.path, enforce_file_format=True)
            spool_name = self.spool.keep(incoming)
        header = read_header(open_dataset(self.spool.path(spool_name)))
        digest = blake3(self.spool.path(spool_name).read_bytes()).hexdigest()
        receipt = Receipt(
            header=header,
            decision=decide_view(header),
            initial_state=JobState.QUEUED,
            reason="view_position_frontal",
            peer_ae_title="MODALITY",
            transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
            size_bytes=1,
            dataset_digest=digest,
            pixel_digest=digest,
            spool_name=spool_name,
            received_at=now(),
        )
        with self.database.begin() as session:
            return images.receive(session, receipt, now=now(), is_lost=self.spool.is_lost).job_id

    def promote(self, package: ModelPackage) -> None:
        fingerprint = self.registry.add(package.folder).fingerprint
        self.registry.promote(fingerprint, now=now(), actor="tests", reason="tests", accept={TRAINED: "tests"})

    def shadow(self, package: ModelPackage) -> str:
        fingerprint = self.registry.add(package.folder).fingerprint
        activation.set_shadow(self.registry, self.database, fingerprint, now=now(), actor="tests", reason="tests")
        return fingerprint

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.database.path)) as connection:
            return connection.execute(query).fetchall()

    def count(self, outcome: str) -> float:
        return self.counted.get_sample_value("cxr_shadow_images_total", {"outcome": outcome}) or 0.0

    def reported(self) -> int:
        return int(self.rows("SELECT count(*) FROM job WHERE state = 'reported'")[0][0])

    def shadowed_by(self, fingerprint: str) -> dict[int, float]:
        found = self.rows("SELECT job_id, score, fingerprint FROM shadow_scores")
        return {job: score for job, score, its in found if its == fingerprint}

    def is_given_up(self) -> bool:
        return bool(self.rows("SELECT 1 FROM events WHERE kind = 'shadow_given_up'"))

    def path_of(self, job: int) -> Path:
        ((name,),) = self.rows(f"SELECT spool_name FROM image JOIN job ON job.image_id = image.id WHERE job.id = {job}")
        return self.spool.path(name)


@pytest.fixture
def site(audit_database: Database, tmp_path: Path, synthetic_xray: Callable[..., Dataset]) -> Site:
    spool = Spool(tmp_path / "data" / "spool", min_free_mib=1)
    spool.prepare()
    (tmp_path / "models").mkdir()
    registry = Registry(tmp_path / "models")
    return Site(audit_database, spool, registry, tmp_path / "models", synthetic_xray)


@pytest.fixture
def running(site: Site) -> Iterator[Callable[..., None]]:
    """Run the worker in a thread until the test ends."""
    threads: list[threading.Thread] = []

    def run(**settings: Any) -> None:
        threads.append(threading.Thread(target=site.worker(**settings).run, args=(site.stop,)))
        threads[-1].start()

    yield run
    site.stop.set()
    for thread in threads:
        thread.join(200)
        assert not thread.is_alive()
    assert shadow_process() is None


def shadow_process() -> int | None:
    return next((child.pid for child in multiprocessing.active_children() if child.name == "shadow"), None)


def send(number: signal.Signals) -> int:
    """Signal the shadow's process, and return its number."""
    pid = shadow_process()
    assert pid is not None
    os.kill(pid, number)
    return pid


def feed_until(site: Site, condition: Callable[[], bool], what: str, timeout_s: float = 500.0) -> None:
    """Send one image after the other, each reported before the next, until something has happened.

    With a rest between them: what is waited for is a process that loads TensorFlow on the same machine.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        before = site.reported()
        site.receive()
        while site.reported() == before:
            assert time.monotonic() < deadline, "the model in service does not report"
            time.sleep(0.05)
        time.sleep(0.5)


def expected(package: ModelPackage, paths: Sequence[Path]) -> list[float]:
    model = Model.load(package, device="cpu")
    pixels = [to_model_input(path, package.manifest.recipe) for path in paths]
    return [
        float(row[0]) for row in model.score(np.stack([model.mask_lungs(each).pixels for each in pixels])).probabilities
    ]


@pytest.mark.timeout(600)  # where the machine is slow: two processes load TensorFlow
@pytest.mark.parametrize(
    "recipe",
    [
        {"size": 96},  # another recipe than the model in service: it prepares the files itself
        pytest.param({}, marks=pytest.mark.long),  # the same recipe: it is given the pixels
    ],
)
def test_it_scores_what_was_reported_and_nothing_of_it_leaves(
    recipe: dict[str, Any], site: Site, running: Any, tiny_package: Any
) -> None:
    active, package = tiny_package(seed=0), tiny_package(seed=2, **recipe)
    site.promote(active)
    fingerprint = site.shadow(package)
    running(batch_size=2)
    feed_until(site, lambda: bool(site.shadowed_by(fingerprint)), "the shadow scores")
    scored = site.shadowed_by(fingerprint)
    assert list(scored.values()) == pytest.approx(expected(package, [site.path_of(job) for job in scored]), abs=1e-5)
    activation.end_shadow(site.database, now=now(), actor="tests", reason="enough")
    # A batch may be under way when it is switched off; the one after it is not shadowed any more.
    feed_until(site, lambda: shadow_process() is None, "its process has ended")
    last = site.receive()
    feed_until(site, lambda: bool(site.rows(f"SELECT 1 FROM job WHERE id = {last} AND state = 'reported'")), "reported")
    assert site.rows(f"SELECT count(*) FROM shadow_result WHERE job_id = {last}") == [(0,)]

    images_there = site.reported()
    assert site.rows("SELECT count(DISTINCT job_id), count(*) FROM score") == [(images_there, images_there)]
    assert {row[0] for row in site.rows("SELECT fingerprint FROM results WHERE state = 'reported'")} == {
        active.fingerprint
    }
    assert site.rows("SELECT count(*) FROM report") == [(images_there,)]
    assert site.rows("SELECT count(*) FROM delivery") == [(images_there,)]
    assert site.count("scored") == len(site.rows("SELECT 1 FROM shadow_result"))
    with site.database.read() as session:
        assert differing_rows(session) == []


@pytest.mark.timeout(600)
def test_a_damaged_shadow_is_given_up_and_the_model_in_service_goes_on(
    site: Site, running: Any, tiny_package: Any
) -> None:
    site.promote(tiny_package(seed=0))
    fingerprint = site.shadow(tiny_package(seed=1))
    card = site.models_dir / fingerprint / "MODEL_CARD.md"
    card.write_text("approved")
    running()
    feed_until(site, site.is_given_up, "given up")
    ((facts,),) = site.rows("SELECT facts FROM events WHERE kind = 'shadow_given_up'")
    assert facts == f'{{"code":"damaged_package","fingerprint":"{fingerprint}"}}'
    assert site.rows("SELECT count(*) FROM shadow_result") == [(0,)]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_that_hangs_or_is_killed_costs_its_time_and_is_given_up_at_the_third(
    site: Site, running: Any, tiny_package: Any
) -> None:
    site.promote(tiny_package(seed=0))
    fingerprint = site.shadow(tiny_package(seed=1))
    running(shadow_timeout_s=1.0)
    feed_until(site, lambda: bool(site.shadowed_by(fingerprint)), "the shadow scores")
    send(signal.SIGSTOP)
    feed_until(site, lambda: site.count("failed") >= 1, "the one that hangs is ended")
    scored = len(site.shadowed_by(fingerprint))
    feed_until(site, lambda: len(site.shadowed_by(fingerprint)) > scored, "another one is started")
    for _ in range(3):  # as the kernel does where memory is short
        killed = send(signal.SIGKILL)
        feed_until(site, lambda pid=killed: shadow_process() not in (None, pid) or site.is_given_up(), "noticed")  # type: ignore[misc]
    assert site.rows("SELECT json_extract(facts, '$.code') FROM events WHERE kind = 'shadow_given_up'") == [
        ("shadow_crashed",)
    ]
    assert shadow_process() is None
    before = site.reported()
    feed_until(site, lambda: site.reported() > before, "the model in service goes on")
    assert site.rows("SELECT count(*) FROM job WHERE state = 'failed' OR attempts > 1") == [(0,)]
    with site.database.read() as session:
        assert differing_rows(session) == []
