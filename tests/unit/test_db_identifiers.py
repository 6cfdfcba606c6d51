"""What is stored of identifiers in each form, and that everything that looks for them finds each form."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cxr.domain import DeliveryState
from cxr.errors import StorageError
from db import deliveries
from db.engine import Database
from db.events import AUDIT_KEY, load_or_create_key
from db.identifiers import Identifiers, load_identifiers, record_identifier_form
from db.results.queries import ResultFilter, list_results, show
from db.schema.tables import Event, Identity, Image
from db.upkeep import integrity
from inference.delivery.stored_report import study_of

KEY = bytes(range(32))
PSEUDONYM, NONE, FULL = Identifiers("pseudonym", KEY), Identifiers("none", KEY), Identifiers("full", KEY)
PATIENT, ACCESSION = "PHICANARY-PATIENT", "PHICANARY-ACC"
UID_FORM = re.compile(r"2\.25\.\d{36,39}")


@pytest.fixture
def opened(audit_site: Any) -> Callable[[Identifiers], Any]:
    """The installation, opened with a form of identifiers; each call opens it anew."""

    def make(identifiers: Identifiers) -> Any:
        with audit_site.database.read() as session:
            key = session.info[AUDIT_KEY]
        audit_site.database.dispose()
        audit_site.database = Database(audit_site.settings.database_path, key, identifiers)
        return audit_site

    return make


def image(site: Any, number: int = 1) -> Image:
    with site.database.read() as session:
        found: Image = session.get_one(Image, number)
        session.expunge(found)
        return found


def receive(site: Any, seed: int, **fields: Any) -> Any:
    return site.receive(seed, patient_id=PATIENT, accession_number=ACCESSION, **fields)


def test_pseudonyms_join_and_say_nothing(opened: Any, uid_of: Any) -> None:
    site = opened(PSEUDONYM)
    receive(site, 1)
    receive(site, 2)
    first, second = image(site, 1), image(site, 2)
    assert first.patient_id == second.patient_id == PSEUDONYM.pseudonym("patient_id", PATIENT)
    assert first.accession_number == second.accession_number
    assert len(first.accession_number or "") == 16  # an SH takes it
    assert first.sop_instance_uid != second.sop_instance_uid
    assert all(UID_FORM.fullmatch(uid) for uid in (first.sop_instance_uid, first.study_instance_uid or ""))
    assert (first.study_date, first.body_part_examined) == (None, None)
    stored = site.settings.database_path.read_bytes()
    for value in (PATIENT, ACCESSION, uid_of(1), "20260110"):
        assert value.encode() not in stored
    assert integrity.check(site.database, site.spool).faults == ()


def test_without_identifiers_one_keyed_value_is_left(opened: Any, uid_of: Any) -> None:
    site = opened(NONE)
    receive(site, 1)
    row = image(site)
    assert row.sop_instance_uid == NONE.pseudonym("uid", uid_of(1))
    nothing = (row.study_instance_uid, row.series_instance_uid, row.accession_number, row.patient_id, row.study_date)
    assert nothing == (None,) * 5
    with site.database.read() as session:
        assert session.get_one(Identity, 1).kind == "none"
        (listed,) = list_results(session, ResultFilter())
    assert (listed.accession_number, listed.study_instance_uid) == (None, None)
    assert integrity.check(site.database, site.spool).faults == ()


@pytest.mark.parametrize("before", [FULL, PSEUDONYM, NONE])
@pytest.mark.parametrize("after", [FULL, PSEUDONYM, NONE])
def test_a_resend_is_recognised_in_every_form(opened: Any, before: Identifiers, after: Identifiers) -> None:
    receive(opened(before), 1)
    site = opened(after)
    assert receive(site, 1).outcome == "resent"
    assert receive(site, 1, content=b"changed").outcome == "changed_resend"
    with site.database.read() as session:
        facts = session.scalars(select(Event.facts).where(Event.kind == "changed_resend")).one()
    assert '"same_pixels":false' in facts
    assert integrity.check(site.database, site.spool).faults == ()


def test_a_question_finds_rows_of_either_form(opened: Any, uid_of: Any) -> None:
    receive(opened(FULL), 1)
    site = opened(PSEUDONYM)
    receive(site, 2)
    with site.database.read() as session:
        for which in (ResultFilter(patient_id=PATIENT), ResultFilter(accession_number=ACCESSION)):
            assert [row.image_id for row in list_results(session, which)] == [2, 1]
        assert show(session, uid_of(2))[0].image["image_id"] == 2
        assert show(session, uid_of(1))[0].image["image_id"] == 1


def test_a_report_that_is_verified_is_looked_for_in_its_real_study(opened: Any, synthetic_xray: Any) -> None:
    site = opened(PSEUDONYM)
    receive(site, 1)
    site.score(destinations=["pacs"])
    with site.database.begin() as session:
        (claimed,) = deliveries.claim(session, destination="pacs", sender_id="me", limit=9, now=site.now, lease_s=60)
    assert claimed.study_instance_uid is None
    dataset = synthetic_xray()
    path = Path(site.spool.path(claimed.spool_name))
    dataset.save_as(path, enforce_file_format=True)
    assert study_of(path) == dataset.StudyInstanceUID
    path.write_bytes(b"no report")
    assert study_of(path) is None
    assert claimed.state is DeliveryState.PENDING


def test_the_form_is_an_event_and_another_key_is_refused(opened: Any) -> None:
    site = opened(FULL)

    def declared(identifiers: Identifiers) -> list[str]:
        with site.database.begin() as session:
            record_identifier_form(session, identifiers, now=site.now)
        with site.database.read() as session:
            return list(session.scalars(select(Event.kind).where(Event.kind == "identifiers_changed")))

    assert declared(FULL) == []
    assert len(declared(PSEUDONYM)) == len(declared(PSEUDONYM)) == 1
    assert len(declared(NONE)) == 2
    assert len(declared(Identifiers("full", None))) == 3
    with pytest.raises(StorageError, match="pseudonym_key_file"):
        declared(replace(PSEUDONYM, key=bytes(32)))
    assert len(declared(PSEUDONYM)) == 4


def test_the_key_is_made_when_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pseudonym.key"
    assert load_identifiers("full", path, create=False) == Identifiers("full", None)
    made = load_identifiers("pseudonym", path, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_identifiers("full", path, create=False).key == made.key == load_or_create_key(path)
    with pytest.raises(StorageError, match="pseudonym_key_file"):
        Identifiers("pseudonym", None).pseudonym("uid", "1.2.3")
