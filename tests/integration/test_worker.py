"""The worker over a real database, spool, registry, child processes and model."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from blake3 import blake3
from pydicom.dataset import Dataset
from sqlalchemy import select

from app.metrics import serve_metrics
from config.settings import DestinationSettings, ViewSettings, WorkerSettings
from cxr.dicom import open_dataset, read_header
from cxr.domain import JobState, PackageStatus
from cxr.errors import CxrError, DamagedPackage, DatabaseUnavailable, SettingsError
from cxr.package import ModelPackage, Outputs, write_package
from cxr.pixels.model_input import to_model_input
from cxr.view import decide_view
from db import images, jobs
from db.disk import Spool
from db.engine import Database
from db.results.queries import ResultFilter, list_results
from db.schema import tables
from db.schema.records import Receipt
from db.sqlite.driver import sqlite3
from db.upkeep.replay import differing_rows
from inference.model.model import Model
from inference.registry import TRAINED, Registry
from inference.report.build import ReportOptions
from inference.worker.claimed_jobs import ClaimedJobs
from inference.worker.decode_pool import DecodePool
from inference.worker.image_warnings import InputGate
from inference.worker.reporter import Reporter
from inference.worker.view_check import ViewCheck
from inference.worker.worker import PendingImage, Worker

PACS = DestinationSettings(name="pacs", kind="folder", address="/nowhere")


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Bench:
    """A worker's surroundings, and the worker in a thread."""

    database: Database
    spool: Spool
    registry: Registry
    loaded: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def receive(self, dataset: Dataset) -> int:
        """Take an image in, as the listener does; returns its job."""
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

    def promote(self, package: Any) -> str:
        fingerprint = self.registry.add(package.folder).fingerprint
        self.registry.promote(fingerprint, now=now(), actor="tests", reason="tests", accept={TRAINED: "tests"})
        return fingerprint

    def worker(
        self,
        *,
        deliver_untrained: bool = False,
        worker_id: str = "tests:1",
        view: ViewSettings | None = None,
        reported: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> Worker:
        def load(package: Any) -> Model:
            self.loaded.append(package.fingerprint)
            return Model.load(package, device="cpu")

        return Worker(
            database=self.database,
            spool=self.spool,
            registry=self.registry,
            settings=WorkerSettings(poll_s=0.05, decode_processes=1, **settings),
            destinations=(PACS,),
            reporter=Reporter(
                spool=self.spool,
                options=ReportOptions(),
                clock=now,
                max_inflated_bytes=1 << 26,
                saliency=True,
                deliver_untrained=deliver_untrained,
            ),
            load_model=load,
            worker_id=worker_id,
            clock=now,
            reported=reported,
            load_view=lambda: None if view is None else ViewCheck.load(view, load),
        )

    def work_off(self, **options: Any) -> None:
        """Run the worker here and now until no job waits; however slow the machine, no clock is asked."""
        stop = threading.Event()

        def stop_when_done() -> None:
            if not {"queued", "scoring"} & {state for state, _ in self.states().values()}:
                stop.set()

        self.worker(reported=stop_when_done, **options).run(stop)

    def states(self) -> dict[int, tuple[str, str | None]]:
        with self.database.read() as session:
            return {row.id: (row.state.value, row.error_code) for row in jobs.list_jobs(session, state=None, limit=100)}

    def count(self, table: str) -> int:
        with closing(sqlite3.connect(self.database.path)) as connection:
            (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(number)


@pytest.fixture
def bench(audit_database: Database, tmp_path: Path) -> Bench:
    spool = Spool(tmp_path / "data" / "spool", min_free_mib=1)
    spool.prepare()
    (tmp_path / "models").mkdir()
    return Bench(database=audit_database, spool=spool, registry=Registry(tmp_path / "models"))


@pytest.fixture
def running(bench: Bench) -> Iterator[Callable[..., None]]:
    """Run the worker in a thread until the test ends."""
    threads: list[threading.Thread] = []

    def run(**options: Any) -> None:
        threads.append(threading.Thread(target=bench.worker(**options).run, args=(bench.stop,)))
        threads[-1].start()

    yield run
    bench.stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_each_bad_image_fails_alone_with_its_code(
    bench: Bench, running: Any, tiny_package: Any, synthetic_xray: Callable[..., Dataset], wait_for: Any
) -> None:
    bench.promote(tiny_package())
    good = [bench.receive(synthetic_xray(seed=seed)) for seed in (1, 2, 3)]
    frames = synthetic_xray(seed=4, NumberOfFrames="2")
    frames.PixelData *= 2
    colour = synthetic_xray(seed=5, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    colour.BitsAllocated, colour.BitsStored, colour.HighBit = 8, 8, 7
    colour.PixelData = bytes(range(256)) * (3 * 64 * 48 // 256)
    missing = synthetic_xray(seed=6)
    del missing.PixelData
    short = synthetic_xray(seed=7)
    short.PixelData = short.PixelData[:100]
    bad = {bench.receive(image): code for image, code in [
        (frames, "unsupported_pixels"), (colour, "unsupported_pixels"), (missing, "missing_pixels"),
        (short, "damaged_pixels"),
    ]}  # fmt: skip
    running(batch_size=4)
    wait_for(lambda: all(state in ("reported", "failed") for state, _ in bench.states().values()), "all are done", 120)
    assert {job: bench.states()[job] for job in good} == dict.fromkeys(good, ("reported", None))
    assert {job: bench.states()[job][1] for job in bad} == bad
    with bench.database.read() as session:
        rows = [row for row in list_results(session, ResultFilter()) if row.state is JobState.REPORTED]
    assert {row.finding for row in rows} == {"covid19"}
    assert all(row.score is not None and 0 <= row.score <= 1 for row in rows)


def test_working_ahead_changes_no_result(
    bench: Bench, tiny_package: Any, synthetic_xray: Callable[..., Dataset], wait_for: Any
) -> None:
    """While reports are written two more batches are claimed and decoded; each result is that of its image alone."""
    bench.promote(tiny_package())
    received = [bench.receive(synthetic_xray(seed=seed)) for seed in range(7)]
    worker = bench.worker(batch_size=2)
    claimed: list[list[str]] = []
    worker._reported = lambda: claimed.append([state for _, (state, _) in sorted(bench.states().items())])
    thread = threading.Thread(target=worker.run, args=(bench.stop,))
    thread.start()
    try:
        wait_for(lambda: len(claimed) == 4, "all batches are reported", 120)
    finally:
        bench.stop.set()
        thread.join(60)
    reported, scoring, queued = ["reported"], ["scoring"], ["queued"]
    assert claimed[0] == 2 * reported + 4 * scoring + queued
    assert claimed[1:3] == [4 * reported + 3 * scoring, 6 * reported + scoring]
    package = bench.registry.active()
    model = Model.load(package, device="cpu")
    with bench.database.read() as session:
        rows = {row.job_id: row.score for row in list_results(session, ResultFilter())}
        names = dict(session.execute(select(tables.Job.id, tables.Image.spool_name).join(tables.Image)).all())
    for job in received:
        alone = model.score(to_model_input(bench.spool.path(names[job]), package.manifest.recipe)[None])
        assert rows[job] == pytest.approx(float(alone.probabilities[0, 0]), abs=1e-6)


def test_a_lost_file_fails_its_image_at_once_and_a_resend_has_it_scored(
    bench: Bench, running: Any, tiny_package: Any, synthetic_xray: Callable[..., Dataset], wait_for: Any
) -> None:
    bench.promote(tiny_package())
    xray = synthetic_xray()
    job = bench.receive(xray)
    for name in list(bench.spool.names()):
        bench.spool.path(name).unlink()
    running()
    wait_for(lambda: bench.states()[job] == ("failed", "missing_object"), "the job fails")
    assert bench.receive(xray) == job
    wait_for(lambda: bench.states()[job] == ("reported", None), "the job is reported")


@pytest.mark.parametrize(("is_wished", "expected"), [(False, 0), (True, 2)])
def test_untrained_results_are_delivered_only_on_an_explicit_setting(
    is_wished: bool, expected: int, bench: Bench, running: Any, tiny_package: Any, synthetic_xray: Any, wait_for: Any
) -> None:
    bench.promote(tiny_package())
    job = bench.receive(synthetic_xray())
    running(deliver_untrained=is_wished)
    wait_for(lambda: bench.states()[job][0] == "reported", "reported", 120)
    assert bench.count("report") == 2  # the SR, and the evidence map as wished by the settings
    assert bench.count("delivery") == expected


def test_report_in_the_spool_says_untrained(
    bench: Bench, running: Any, tiny_package: Any, synthetic_xray: Any, wait_for: Any
) -> None:
    bench.promote(tiny_package())
    image = synthetic_xray()
    job = bench.receive(image)
    running()
    wait_for(lambda: bench.states()[job][0] == "reported", "reported", 120)
    written = [pydicom.dcmread(bench.spool.path(name)) for name in bench.spool.names() if name.startswith("reports/")]
    assert {report.Modality for report in written} == {"SR", "OT"}
    assert all("UNTRAINED" in report.SeriesDescription for report in written)
    assert {report.StudyInstanceUID for report in written} == {image.StudyInstanceUID}


@pytest.fixture
def without_evidence(tmp_path: Path, tiny_package: Any) -> ModelPackage:
    """A package whose graph has no evidence map of its own."""
    from training.networks import Head, build, save_network

    source = tiny_package()
    save_network(build("tiny", size=64, head=Head("dense")), tmp_path / "model.keras", now=now())
    manifest = source.manifest.model_copy(update={"outputs": Outputs(evidence=None)})
    contents = {"model.keras": tmp_path / "model.keras", "MODEL_CARD.md": b"# card"}
    return write_package(tmp_path / "package", manifest, contents)


def test_a_graph_without_an_evidence_map_gets_grad_cam_named_as_such(
    bench: Bench, running: Any, without_evidence: ModelPackage, synthetic_xray: Any, wait_for: Any
) -> None:
    bench.promote(without_evidence)
    job = bench.receive(synthetic_xray())
    running()
    wait_for(lambda: bench.states()[job][0] == "reported", "reported", 120)
    written = [pydicom.dcmread(bench.spool.path(name)) for name in bench.spool.names() if name.startswith("reports/")]
    picture = next(report for report in written if report.Modality == "OT")
    assert "Grad-CAM" in picture.SeriesDescription
    assert picture.DerivationCodeSequence[0].CodeValue == "130403"
    report = next(report for report in written if report.Modality == "SR")
    assert "explanation=Grad-CAM" in report.to_json()


def test_what_is_odd_about_an_image_stands_in_its_row_and_its_report(
    bench: Bench, running: Any, tiny_package: Any, synthetic_xray: Any, wait_for: Any
) -> None:
    bench.promote(tiny_package())
    usual, long = bench.receive(synthetic_xray(seed=1)), bench.receive(synthetic_xray(rows=80, seed=2))
    running()
    wait_for(lambda: all(state == "reported" for state, _ in bench.states().values()), "reported", 120)
    with closing(sqlite3.connect(bench.database.path)) as connection:
        rows = dict(connection.execute("SELECT id, warnings FROM job").fetchall())
    assert rows == {usual: "[]", long: '["aspect"]'}
    written = [pydicom.dcmread(bench.spool.path(name)) for name in bench.spool.names() if name.startswith("reports/")]
    told = ["quality_warnings=aspect" in report.to_json() for report in written if report.Modality == "SR"]
    assert sorted(told) == [False, True]


def test_an_image_without_lungs_fails_alone_under_a_model_that_sees_lungs_alone(
    bench: Bench, running: Any, tiny_package: Any, mask_lungs: Any, synthetic_xray: Any, wait_for: Any, tmp_path: Path
) -> None:
    package = mask_lungs(tiny_package(), tmp_path / "masking", status=PackageStatus.UNTRAINED)
    bench.promote(package)
    pixels = np.full((64, 64), 4000, np.uint16)
    pixels[0, 0] = 0  # the darkest: too small to be a lung
    without = bench.receive(synthetic_xray(rows=64, columns=64, seed=1, PixelData=pixels.tobytes()))
    pixels[12:52, 6:26] = pixels[12:52, 38:58] = 400
    film = synthetic_xray(rows=64, columns=64, seed=2, PixelData=pixels.tobytes())
    chest = bench.receive(film)
    running()
    wait_for(lambda: bench.states()[chest][0] == "reported" and bench.states()[without][0] == "failed", "both", 120)
    assert bench.states() == {without: ("failed", "no_lungs"), chest: ("reported", None)}
    # The worker's score is that of the lungs alone, as `cxr score` gives it.
    with bench.database.read() as session:
        (scored,) = (row for row in list_results(session, ResultFilter()) if row.score is not None)
    model = Model.load(package, device="cpu")
    plain = to_model_input(film, package.manifest.recipe)
    seen = model.mask_lungs(plain)
    assert scored.score == pytest.approx(float(model.score(seen.pixels[None]).probabilities[0, 0]), abs=1e-6)
    assert scored.score != pytest.approx(float(model.score(plain[None]).probabilities[0, 0]), abs=1e-6)


def test_a_spool_that_is_not_mounted_fails_nothing(
    bench: Bench, running: Any, tiny_package: Any, synthetic_xray: Any, wait_for: Any, tmp_path: Path
) -> None:
    bench.promote(tiny_package())
    job = bench.receive(synthetic_xray())
    mounted, away = tmp_path / "data" / "spool", tmp_path / "data" / "away"
    mounted.rename(away)
    mounted.mkdir()
    running(max_attempts=1, retry_s=0.5)
    wait_for(lambda: bench.states()[job][1] == "missing_object", "an attempt failed", 120)
    assert bench.states()[job][0] in ("queued", "scoring")
    mounted.rmdir()
    away.rename(mounted)
    wait_for(lambda: bench.states()[job][0] == "reported", "reported when the disk is back", 120)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The databases that are opened after this wait less long for a lock."""
    monkeypatch.setattr("db.sqlite.connection.BUSY_TIMEOUT_S", 0.2)
    monkeypatch.setattr("inference.worker.claimed_jobs.STORAGE_RETRY_S", 0.2)


class _Locking:
    """A reporter after whose first report something happens."""

    def __init__(self, reporter: Reporter, then: Callable[[], None]) -> None:
        self._reporter = reporter
        self._then: Callable[[], None] | None = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter, name)

    def write(self, *arguments: Any) -> Any:
        written = self._reporter.write(*arguments)
        then, self._then = self._then, None
        if then is not None:
            then()
        return written


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("moment", ["claim", "finish"])
def test_a_locked_database_costs_no_attempt_and_ends_no_worker(
    moment: str, bench: Bench, tiny_package: Any, synthetic_xray: Any, wait_for: Any
) -> None:
    bench.promote(tiny_package())
    worker = bench.worker(max_attempts=1)
    is_locked, asked = threading.Event(), threading.Event()
    with closing(sqlite3.connect(bench.database.path, isolation_level=None, check_same_thread=False)) as other:

        def lock() -> None:
            is_locked.set()
            other.execute("BEGIN EXCLUSIVE")

        worker._reporter = _Locking(worker._reporter, lock) if moment == "finish" else worker._reporter
        job = bench.receive(synthetic_xray())
        if moment == "claim":
            lock()
        thread = threading.Thread(target=worker.run, args=(bench.stop,))
        thread.start()
        try:
            wait_for(is_locked.is_set, "the database is locked", 120)
            wait_for(lambda: bench.loaded, "the model is loaded", 120)
            asked.wait(2)  # ten times as long as anybody waits for the lock
            other.execute("ROLLBACK")
            wait_for(lambda: bench.states()[job][0] == "reported", "reported when the lock is gone", 120)
        finally:
            bench.stop.set()
            thread.join(60)
        (attempts,) = other.execute("SELECT attempts FROM job").fetchone()
    assert attempts == 1


@pytest.mark.usefixtures("impatient")
def test_an_end_that_the_database_refuses_leaves_no_heartbeat_behind(
    bench: Bench, tiny_package: Any, synthetic_xray: Any, wait_for: Any
) -> None:
    """It would hold the jobs that were not given back for ever."""
    bench.promote(tiny_package())
    bench.receive(synthetic_xray())
    worker, refused = bench.worker(), list[CxrError]()
    # Models are loaded in a thread of their own.
    connected = sqlite3.connect(bench.database.path, isolation_level=None, check_same_thread=False)
    with closing(connected) as other:

        def lock_and_fail(package: Any) -> None:
            worker._claims.in_flight.add([1])
            other.execute("BEGIN EXCLUSIVE")
            raise DamagedPackage("A file was changed.")

        def run() -> None:
            try:
                worker.run(bench.stop)
            except CxrError as error:
                refused.append(error)

        worker._load_model = lock_and_fail
        run()
        other.execute("ROLLBACK")
    assert [type(error) for error in refused] == [DatabaseUnavailable]
    assert [thread for thread in threading.enumerate() if thread.name == "heartbeat"] == []
    assert worker._claims.in_flight.snapshot() == frozenset()


def test_promoted_package_is_taken_up_between_two_batches(
    bench: Bench, running: Any, tiny_package: Any, synthetic_xray: Any, wait_for: Any
) -> None:
    first = bench.promote(tiny_package(seed=0))
    before = bench.receive(synthetic_xray(seed=1))
    running()
    wait_for(lambda: bench.states()[before][0] == "reported", "the first package scores", 120)
    second = bench.promote(tiny_package(seed=1))
    after = bench.receive(synthetic_xray(seed=2))
    wait_for(lambda: bench.states()[after][0] == "reported", "the second package scores", 120)
    assert bench.loaded == [first, second]
    with bench.database.read() as session:
        by_job = {row.job_id: row.fingerprint for row in list_results(session, ResultFilter())}
    assert by_job == {before: first, after: second}


def test_late_worker_leaves_no_result_and_no_report(
    bench: Bench, tiny_package: Any, synthetic_xray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.promote(tiny_package())
    job = bench.receive(synthetic_xray())
    worker = bench.worker()
    written: list[str] = []
    write = bench.spool.write

    def note(data: bytes, *, suffix: str) -> str:
        written.append(write(data, suffix=suffix))
        return written[-1]

    monkeypatch.setattr(bench.spool, "write", note)
    with bench.database.begin() as session:
        (claimed,) = jobs.claim(session, worker_id="tests:1", limit=1, now=now() - timedelta(hours=1), lease_s=5)
    with bench.database.begin() as session:
        assert jobs.release_expired(session, retry_s=30, now=now()) == 1
    package = bench.registry.active()
    model = Model.load(package, device="cpu")
    with DecodePool(package.manifest.recipe, processes=1, timeout_s=60) as preparer:
        pixels = preparer.submit(bench.spool.path(claimed.spool_name))
        assert worker._score([PendingImage(claimed, pixels)], InputGate.of(package), model) == []
    assert written  # there was a report to remove
    assert bench.states()[job] == ("queued", "lease_expired")
    assert bench.count("score") == 0
    assert [name for name in bench.spool.names() if name.startswith("reports/")] == []


def test_late_worker_whose_image_is_bad_goes_on(bench: Bench, tiny_package: Any, synthetic_xray: Any) -> None:
    bench.promote(tiny_package())
    job = bench.receive(synthetic_xray(PixelData=None))
    worker = bench.worker()
    with bench.database.begin() as session:
        (claimed,) = jobs.claim(session, worker_id="tests:1", limit=1, now=now() - timedelta(hours=1), lease_s=5)
    with bench.database.begin() as session:
        assert jobs.release_expired(session, retry_s=30, now=now()) == 1
    package = bench.registry.active()
    with DecodePool(package.manifest.recipe, processes=1, timeout_s=60) as preparer:
        pixels = preparer.submit(bench.spool.path(claimed.spool_name))
        worker._score([PendingImage(claimed, pixels)], InputGate.of(package), Model.load(package, device="cpu"))
    assert bench.states()[job] == ("queued", "lease_expired")


def test_an_image_that_comes_back_to_earlier_content_leaves_one_file_for_each_report(
    bench: Bench, tiny_package: Any, synthetic_xray: Callable[..., Dataset]
) -> None:
    """The report of the third receipt has the UID of the first: its row keeps the first file."""
    bench.promote(tiny_package())
    first = synthetic_xray(seed=1)
    other = synthetic_xray(seed=2)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    for dataset in (first, other, first):
        bench.receive(dataset)
        bench.work_off()
    assert {state for state, _ in bench.states().values()} == {"reported"}
    assert len(bench.states()) == 3
    files = [name for name in bench.spool.names() if name.startswith("reports/")]
    assert len(files) == bench.count("report") > 0


def test_after_a_promotion_the_old_package_scores_nothing_that_still_waits(
    bench: Bench, tiny_package: Any, synthetic_xray: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.promote(tiny_package(seed=0))
    for seed in range(8):
        bench.receive(synthetic_xray(seed=seed))
    held = ClaimedJobs.claim
    claimed: list[tuple[str | None, int]] = []
    promoted: list[str] = []

    def claim(self: ClaimedJobs, limit: int) -> list[Any]:
        found = held(self, limit)
        claimed.extend((bench.registry.active_fingerprint(), job.id) for job in found)
        if found and not promoted:
            promoted.append(bench.promote(tiny_package(seed=1)))
        return found

    monkeypatch.setattr(ClaimedJobs, "claim", claim)
    bench.work_off(batch_size=1)
    with bench.database.read() as session:
        by_job = {row.job_id: row.fingerprint for row in list_results(session, ResultFilter())}
    assert bench.loaded == [first, *promoted]
    assert by_job == {job: first if active == first else promoted[0] for active, job in claimed}
    assert sorted(by_job.values()).count(first) == 1


def test_heart_goes_on_beating_after_the_database_refused(bench: Bench, synthetic_xray: Any, wait_for: Any) -> None:
    job = bench.receive(synthetic_xray())
    worker = bench.worker(lease_s=5)
    with bench.database.begin() as session:
        jobs.claim(session, worker_id="tests:1", limit=1, now=now(), lease_s=5)

    def lease() -> str:
        with closing(sqlite3.connect(bench.database.path)) as connection:
            return str(connection.execute("SELECT lease_until FROM job").fetchone()[0])

    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(bench.database.path)) as connection:
            connection.execute("PRAGMA legacy_alter_table = ON")
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    before = lease()
    worker._claims.in_flight.add([job])
    rename("job", "away")
    heart = threading.Thread(target=worker._claims.renew_leases_until, args=(bench.stop,))
    heart.start()
    try:
        bench.stop.wait(3)  # one beat at least, which meets no table
        assert heart.is_alive()
        rename("away", "job")
        wait_for(lambda: lease() > before, "the lease is longer")
    finally:
        bench.stop.set()
        heart.join()


def test_stop_gives_claimed_jobs_back(bench: Bench, tiny_package: Any, synthetic_xray: Any) -> None:
    bench.promote(tiny_package())
    job = bench.receive(synthetic_xray())
    with bench.database.begin() as session:
        jobs.claim(session, worker_id="tests:1", limit=1, now=now(), lease_s=600)
    bench.stop.set()
    bench.worker().run(bench.stop)
    assert bench.states()[job] == ("queued", None)


def test_metrics_count_the_queues(bench: Bench, synthetic_xray: Any, free_port: Callable[[], int]) -> None:
    bench.receive(synthetic_xray())
    port = free_port()
    stop = serve_metrics(bench.database, bench.spool, "127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        with pytest.raises(SettingsError, match="worker_port"):
            serve_metrics(bench.database, bench.spool, "127.0.0.1", port)
    finally:
        stop()
    assert 'cxr_jobs{state="queued"} 1.0' in lines
    assert 'cxr_jobs{state="failed"} 0.0' in lines
    assert 'cxr_deliveries{state="dead"} 0.0' in lines
    assert any(line.startswith("cxr_spool_free_bytes ") for line in lines)


def _job(bench: Bench, job: int) -> dict[str, Any]:
    with closing(sqlite3.connect(bench.database.path)) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT state, reason, warnings FROM jobs WHERE job_id = ?", (job,)).fetchone())
    return row | {"warnings": json.loads(row["warnings"] or "[]")}


def test_what_does_not_look_like_a_chest_is_held_until_a_person_releases_it(
    bench: Bench, tiny_package: Any, view_package: Any, synthetic_xray: Callable[..., Dataset]
) -> None:
    bench.promote(tiny_package())
    job = bench.receive(synthetic_xray())
    by_default = ViewSettings(model=view_package("not_a_chest").folder)
    bench.work_off(view=by_default)
    assert bench.states()[job] == ("held", None)
    assert _job(bench, job)["reason"] == "pixels_not_a_chest"
    assert bench.count("report") == 0
    with closing(sqlite3.connect(bench.database.path)) as connection:
        (facts,) = connection.execute("SELECT facts FROM events WHERE kind = 'job_set_aside'").fetchone()
    assert json.loads(facts)["seen_not_a_chest"] > 0.99
    with bench.database.begin() as session:
        jobs.release(session, job, now())
    bench.work_off(view=by_default)
    assert bench.states()[job] == ("reported", None), "the person's word is kept"
    assert "looks_not_a_chest" in _job(bench, job)["warnings"]
    with bench.database.read() as session:
        assert differing_rows(session) == []


def test_an_image_set_aside_while_the_next_still_decodes_is_no_lost_lease(
    bench: Bench, tiny_package: Any, view_package: Any, synthetic_xray: Callable[..., Dataset],
    wait_for: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The leases are renewed twice while the first image of a batch is held and the second has no pixels yet."""
    bench.promote(tiny_package())
    first, second = bench.receive(synthetic_xray(seed=1)), bench.receive(synthetic_xray(seed=2))
    renewals: list[frozenset[int]] = []
    paths: list[Path] = []
    renew, submit = jobs.renew, DecodePool.submit

    def renew_counted(session: Any, job_ids: Any, **options: Any) -> frozenset[int]:
        renewals.append(frozenset(job_ids))
        return renew(session, job_ids, **options)

    def submit_slowly(preparer: DecodePool, path: Path) -> Any:
        paths.append(path)
        pictures = submit(preparer, path)
        if len(paths) == 1:
            return pictures
        slow: Future[Any] = Future()

        def resolve() -> None:
            wait_for(lambda: bench.states()[first][0] == "held", "the first image is held")
            count = len(renewals)
            wait_for(lambda: len(renewals) >= count + 2, "the leases are renewed twice")
            slow.set_result(pictures.result())

        threading.Thread(target=resolve).start()
        return slow

    monkeypatch.setattr(jobs, "renew", renew_counted)
    monkeypatch.setattr(DecodePool, "submit", submit_slowly)
    caplog.set_level("INFO")
    bench.work_off(view=ViewSettings(model=view_package("not_a_chest").folder), lease_s=5, batch_size=2)

    assert bench.states() == {first: ("held", None), second: ("held", None)}
    assert len(paths) == 2
    messages = [record.getMessage() for record in caplog.records]
    assert any("set_aside" in message for message in messages)
    assert not [message for message in messages if "lease_lost" in message]
    with bench.database.read() as session:
        kinds = set(session.scalars(select(tables.Event.kind)))
    assert "job_set_aside" in kinds
    assert "job_lease_expired" not in kinds


def test_by_default_the_view_model_that_comes_with_the_project_lets_films_through_and_holds_other_pictures(
    bench: Bench, tiny_package: Any, synthetic_xray: Callable[..., Dataset], root: Path
) -> None:
    bench.promote(tiny_package())
    film = bench.receive(pydicom.dcmread(root / "docs" / "example" / "frontal.dcm"))
    noise = bench.receive(synthetic_xray())  # its header says that it is a chest, from the front
    bench.work_off(view=ViewSettings())
    assert bench.states() == {film: ("reported", None), noise: ("held", None)}
    assert _job(bench, noise)["reason"] in ("pixels_not_a_chest", "pixels_unsure")
    assert bench.count("report") > 0


@pytest.mark.parametrize(
    ("orientation", "lie"),
    [
        (["R", "H"], lambda upright: upright[::-1, ::-1]),
        (["F", "R"], lambda upright: upright[:, ::-1].T),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_a_film_that_lies_turned_is_scored_upright_and_one_whose_header_lies_is_held(
    bench: Bench, tiny_package: Any, root: Path, orientation: list[str], lie: Callable[[Any], Any]
) -> None:
    bench.promote(tiny_package())
    film = pydicom.dcmread(root / "docs" / "example" / "frontal.dcm")
    if film.file_meta.TransferSyntaxUID.is_encapsulated:
        film.decompress()
    upright = film.pixel_array

    def send(pixels: Any, patient_orientation: list[str], number: int) -> int:
        film.Rows, film.Columns = pixels.shape
        film.PixelData, film.PatientOrientation = pixels.tobytes(), patient_orientation
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        return bench.receive(film)

    usual = send(upright, ["L", "F"], 1)
    lying = send(lie(upright), orientation, 2)
    untrue = [send(upright, orientation, 3), send(upright, ["R", "F"], 4)]
    bench.work_off(view=ViewSettings())
    states = {usual: ("reported", None), lying: ("reported", None)}
    assert bench.states() == states | dict.fromkeys(untrue, ("held", None))
    assert {_job(bench, job)["reason"] for job in untrue} == {"pixels_not_as_oriented"}
    assert _job(bench, lying)["warnings"] == ["turned", *_job(bench, usual)["warnings"]]
    with closing(sqlite3.connect(bench.database.path)) as connection:
        scores = dict(connection.execute("SELECT job_id, score FROM results").fetchall())
    assert scores[lying] == pytest.approx(scores[usual], abs=1e-6)


def test_a_flag_is_a_warning_in_the_report(
    bench: Bench, tiny_package: Any, view_package: Any, synthetic_xray: Callable[..., Dataset]
) -> None:
    bench.promote(tiny_package())
    job = bench.receive(synthetic_xray())
    bench.work_off(view=ViewSettings(pixels="flag", model=view_package("not_a_chest").folder))  # type: ignore[arg-type]
    assert bench.states()[job] == ("reported", None), "it is scored all the same"
    assert "looks_not_a_chest" in _job(bench, job)["warnings"]
    (written,) = [bench.spool.path(name) for name in bench.spool.names() if _is_report(bench, name)]
    assert b"looks_not_a_chest" in written.read_bytes()


def _is_report(bench: Bench, name: str) -> bool:
    return name.startswith("reports/") and pydicom.dcmread(bench.spool.path(name)).Modality == "SR"


def test_with_enough_laterals_the_view_model_decides_where_the_header_does_not(
    bench: Bench, tiny_package: Any, view_package: Any, synthetic_xray: Callable[..., Dataset]
) -> None:
    bench.promote(tiny_package())
    silent = bench.receive(synthetic_xray(ViewPosition=None, PatientOrientation=None))
    told = bench.receive(synthetic_xray(seed=1))
    folder = view_package("lateral", laterals=200).folder
    bench.work_off(view=ViewSettings(unknown="model", pixels="flag", model=folder))  # type: ignore[arg-type]
    assert bench.states() == {silent: ("not_scored", None), told: ("reported", None)}
    assert _job(bench, silent)["reason"] == "pixels_lateral"
    assert "looks_lateral" in _job(bench, told)["warnings"]
