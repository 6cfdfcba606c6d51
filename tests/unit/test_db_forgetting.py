"""A forgotten patient is in no file any more; everybody else, and the chain of events, are as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import func, select

from cxr.domain import DeliveryState, JobState, View
from cxr.errors import LeaseLost
from db import jobs
from db.engine import Database
from db.events import AUDIT_KEY
from db.identifiers import Identifiers
from db.images import commitments
from db.images.commitments import Reference
from db.privacy import erase_copies
from db.privacy import forget as forgetting
from db.privacy.forget import ForgetRequest, find
from db.schema.tables import Delivery, Identity, Image, Job, Report
from db.sqlite.driver import sqlite3
from db.upkeep import integrity
from db.upkeep.backup import backup, list_backups
from db.upkeep.snapshot import refresh_snapshot

CANARY = "PHICANARY"
HIM = ForgetRequest(patient_id=CANARY)
BYSTANDERS = 60  # enough rows for the file's pages to be divided and moved


def key_of(site: Any) -> bytes:
    with site.database.read() as session:
        key: bytes = session.info[AUDIT_KEY]
        return key


def holding(folder: Path, value: bytes = CANARY.encode()) -> list[str]:
    return [
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and value in path.read_bytes()
    ]


def receive(site: Any, seed: int, **fields: Any) -> Any:
    content = f"{CANARY} pixels".encode()
    return site.receive(seed, patient_id=CANARY, accession_number=f"{CANARY}-{seed}", content=content, **fields)


def finished(site: Any, seed: int, outcome: DeliveryState | None = None, **fields: Any) -> Any:
    received = receive(site, seed, **fields)
    site.score(destinations=["pacs"])
    if outcome is not None:
        site.deliver(outcome=outcome)
    return received


def leave_stale_bytes(path: Path) -> None:
    """What a library without ``secure_delete`` leaves of a row that is gone."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("INSERT INTO lease VALUES ('stale', ?, '2026-01-10 12:00:00.000000')", (CANARY,))
        connection.commit()
        connection.execute("DELETE FROM lease WHERE name = 'stale'")


@pytest.fixture
def full_site(audit_site: Any) -> Any:
    """The patient in every state, among others; with a snapshot and backups of two ages."""
    site = audit_site
    for seed in range(100, 100 + BYSTANDERS):
        site.receive(seed, state=JobState.NOT_SCORED, view=View.NOT_FRONTAL)
    finished(site, 1, DeliveryState.VERIFIED)
    finished(site, 2, DeliveryState.SENT)
    finished(site, 3, DeliveryState.DEAD)
    receive(site, 4)
    site.fail()
    leave_stale_bytes(site.settings.database_path)
    backup(site.database, site.settings.backup_dir, keep=None, now=site.later(days=1))
    finished(site, 5)
    receive(site, 6, state=JobState.HELD, view=View.UNKNOWN, reason="view_unknown")
    receive(site, 7)
    site.receive(8)
    with site.database.begin() as session:
        jobs.claim(session, worker_id="worker", limit=1, now=site.now, lease_s=60)
    receive(site, 9)
    backup(site.database, site.settings.backup_dir, keep=None, now=site.later(days=1))
    refresh_snapshot(site.database, site.settings.snapshot_path)
    return site


def forget(site: Any, request: ForgetRequest = HIM) -> erase_copies.EraseResult:
    found = find(site.database, site.spool, request)
    for number in found.images:
        with site.database.begin() as session:
            forgetting.forget(session, site.spool, number, now=site.now)
    return erase_copies.erase(
        site.database,
        snapshot=site.settings.snapshot_path,
        folders=[site.settings.backup_dir],
        request=request,
        now=site.now,
    )


def test_a_forgotten_patient_is_in_no_file(full_site: Any, tmp_path: Path, uid_of: Any) -> None:
    before = holding(tmp_path)
    assert len([name for name in before if "objects" in name]) == 8
    assert len([name for name in before if name.endswith(".sqlite")]) == 4  # live, snapshot, two backups
    erased = forget(full_site)
    assert (erased.backups, erased.left) == (2, ())
    assert holding(tmp_path) == []
    assert holding(tmp_path, uid_of(1).encode()) == []
    assert holding(tmp_path, uid_of(8).encode()) != []


def test_everything_is_sound_afterwards_the_backups_too(full_site: Any) -> None:
    forget(full_site)
    assert integrity.check(full_site.database, full_site.spool).faults == ()
    for path in list_backups(full_site.settings.backup_dir):
        assert integrity.check_copy(path, key_of(full_site))[0] == ()
        assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_of_him_is_done_any_more(full_site: Any, make_scored: Any) -> None:
    with full_site.database.begin() as session:
        claimed = jobs.claim(session, worker_id="worker", limit=9, now=full_site.now, lease_s=60)
    forget(full_site)
    with full_site.database.read() as session:
        states = dict(session.execute(select(Job.image_id, Job.state)).all())
        reasons = session.scalars(select(Job.reason).where(Job.reason == "forgotten")).all()
        due = session.scalars(select(Delivery).where(Delivery.due_at.is_not(None))).all()
        ended = session.execute(select(Delivery.state, func.count()).group_by(Delivery.state)).all()
        files = session.scalars(select(Report.spool_name).where(Report.spool_name.is_not(None))).all()
    first = BYSTANDERS + 1
    moved = [states[number] for number in range(first, first + 9)]
    assert moved == [JobState.REPORTED] * 3 + [JobState.NOT_SCORED] + [JobState.REPORTED] + [
        JobState.NOT_SCORED
    ] * 2 + [
        JobState.SCORING,
        JobState.NOT_SCORED,
    ]
    assert len(reasons) == 4
    assert (due, files) == ([], [])
    assert dict(ended) == {DeliveryState.VERIFIED: 1, DeliveryState.SENT: 1, DeliveryState.DEAD: 2}
    with full_site.database.begin() as session, pytest.raises(LeaseLost):
        jobs.finish(
            session, claimed[1].id, worker_id="worker", scored=make_scored(covid19=0.5), reports=[], destinations=[],
            now=full_site.now,
        )  # fmt: skip


def test_what_destinations_have_is_listed_first(full_site: Any) -> None:
    found = find(full_site.database, full_site.spool, HIM)
    assert [(each.destination, str(each.state)) for each in found.delivered_objects] == [
        ("pacs", "verified"),
        ("pacs", "sent"),
        ("pacs", "dead"),
    ]
    assert all(
        each.sop_instance_uid.startswith("2.25.") or "." in each.sop_instance_uid for each in found.delivered_objects
    )
    assert found.peers == ("ORTHANC",)
    forget(full_site)
    assert find(full_site.database, full_site.spool, HIM).images == ()


def test_a_second_run_finishes_what_a_killed_one_began(full_site: Any, tmp_path: Path) -> None:
    for number in find(full_site.database, full_site.spool, HIM).images:
        with full_site.database.begin() as session:
            forgetting.forget(session, full_site.spool, number, now=full_site.now)
    assert holding(tmp_path) != []  # killed here
    forget(full_site)
    assert holding(tmp_path) == []


def test_an_image_that_comes_again_is_a_new_one(full_site: Any) -> None:
    forget(full_site)
    assert receive(full_site, 1).outcome == "new"


def test_a_study_alone_is_forgotten(audit_site: Any, tmp_path: Path) -> None:
    receive(audit_site, 1)
    receive(audit_site, 2)
    with audit_site.database.read() as session:
        study = session.get_one(Image, 1).study_instance_uid
    forget(audit_site, ForgetRequest(study_instance_uid=study))
    assert holding(tmp_path, str(study).encode()) == []
    with audit_site.database.read() as session:
        assert session.get_one(Image, 2).patient_id == CANARY


@pytest.mark.parametrize("kind", ["pseudonym", "none"])
def test_a_patient_is_found_whatever_form_is_stored(
    audit_site: Any, kind: Any, tmp_path: Path, synthetic_xray: Callable[..., Dataset], uid_of: Callable[[int], str]
) -> None:
    identifiers = Identifiers(kind, bytes(range(32)))
    site, key = audit_site, key_of(audit_site)
    site.database.dispose()
    site.database = Database(site.settings.database_path, key, identifiers)
    for seed, patient in ((1, CANARY), (2, "OTHER")):
        received = site.receive(seed, patient_id=patient)
        synthetic_xray(seed=seed, PatientID=patient).save_as(site.pixels(received), enforce_file_format=True)
    asked = [Reference(sop_class_uid="1.2.840.10008.5.1.4.1.1.1", sop_instance_uid=uid_of(seed)) for seed in (1, 2)]
    with site.database.begin() as session:
        commitments.request(
            session, peer_ae_title="PACS", transaction_uid="1.2", references=asked, due_at=site.now, now=site.now
        )
    forget(site)
    assert holding(tmp_path) == []
    assert holding(tmp_path, uid_of(1).encode()) == []
    assert holding(tmp_path, uid_of(2).encode()) != []  # its question still waits for an answer
    with site.database.read() as session:
        assert session.get_one(Identity, 1).kind == "forgotten"
        assert session.get_one(Identity, 2).kind == kind
    assert integrity.check(site.database, site.spool).faults == ()


def test_of_two_hospitals_patients_one_is_forgotten(audit_site: Any, synthetic_xray: Callable[..., Dataset]) -> None:
    for seed in (1, 2):
        receive(audit_site, seed)
    with audit_site.database.begin() as session:
        session.add(Identity(image_id=1, kind="full", issuer_of_patient_id="NORTH"))
        session.add(Identity(image_id=2, kind="full", issuer_of_patient_id="SOUTH"))
    assert find(audit_site.database, audit_site.spool, HIM).issuers == 2
    north = ForgetRequest(patient_id=CANARY, issuer_of_patient_id="NORTH")
    assert find(audit_site.database, audit_site.spool, north).images == (1,)
    path = audit_site.spool.quarantine_dir / "a.dcm"
    synthetic_xray(PatientID=CANARY, IssuerOfPatientID="SOUTH").save_as(path, enforce_file_format=True)
    assert find(audit_site.database, audit_site.spool, north).quarantined == ()
    assert find(audit_site.database, audit_site.spool, HIM).quarantined == (path,)


def test_a_backup_of_another_schema_is_named_and_not_touched(full_site: Any, tmp_path: Path) -> None:
    old = list_backups(full_site.settings.backup_dir)[0]
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    before = old.read_bytes()
    erased = forget(full_site)
    assert (erased.backups, erased.left) == (1, (old,))
    assert old.read_bytes() == before


def cxr(site: Any, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("cxr")
    command = [str(script), "--set", f"data_dir={site.settings.data_dir}", "audit", "forget", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == code, done.stderr
    assert CANARY not in done.stdout + done.stderr
    return done


def test_the_command_asks_lists_and_removes(full_site: Any, tmp_path: Path) -> None:
    planned = json.loads(cxr(full_site, "--patient-id", CANARY, "--dry-run", "--json").stdout)
    assert (planned["images"], planned["dry_run"], len(planned["elsewhere"])) == (8, True, 3)
    cxr(full_site, "--patient-id", CANARY, code=1)  # nobody says yes
    assert holding(tmp_path) != []
    done = cxr(full_site, "--patient-id", CANARY, "--yes")
    assert "8 images" in done.stdout
    assert "pacs" in done.stdout
    assert holding(tmp_path) == []
    assert "0 images" in cxr(full_site, "--patient-id", CANARY, "--yes").stdout
    cxr(full_site, code=2)
    cxr(full_site, "--patient-id", CANARY, "--study", "1.2.3", code=2)


def test_the_command_does_not_mix_two_people(audit_site: Any) -> None:
    for seed in (1, 2):
        receive(audit_site, seed)
    with audit_site.database.begin() as session:
        session.add(Identity(image_id=1, kind="full", issuer_of_patient_id="NORTH"))
    assert "--issuer" in cxr(audit_site, "--patient-id", CANARY, "--yes", code=1).stderr
    assert find(audit_site.database, audit_site.spool, HIM).images == (1, 2)
    cxr(audit_site, "--patient-id", CANARY, "--issuer", "NORTH", "--yes")
    assert find(audit_site.database, audit_site.spool, HIM).images == (2,)
    cxr(audit_site, "--patient-id", CANARY, "--any-issuer", "--yes")
    assert find(audit_site.database, audit_site.spool, HIM).images == ()
