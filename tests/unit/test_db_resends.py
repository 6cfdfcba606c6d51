"""Images that come again: the peer that sent them gets the result where its results go, once, and no second report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from cxr.domain import DeliveryState, JobState, PackageStatus
from db import images
from db.engine import Database
from db.images import resends
from db.privacy import forget
from db.schema.tables import Delivery, Event, Image, Report, Resend


def come_again(site: Any, peer_ae_title: str = "ORTHANC", seed: int = 1) -> None:
    """Send an image that is known once more."""
    with site.database.begin() as session:
        image = session.get_one(Image, seed)
        again = images.receive_again(
            session, image.sop_instance_uid, image.dataset_digest, peer_ae_title=peer_ae_title, now=site.now
        )
    assert again is not None
    assert again.outcome == "resent"


def bring(site: Any, asked: list[tuple[str, list[str], PackageStatus]] | None = None) -> int:
    """Let the results go where "orthanc" alone takes those of ORTHANC, and "pacs" those of all."""

    def destinations_of(peer_ae_title: str, senders: Collection[str], status: PackageStatus) -> Sequence[str]:
        if asked is not None:
            asked.append((peer_ae_title, sorted(senders), status))
        return ("pacs", "orthanc") if peer_ae_title == "ORTHANC" else ("pacs",)

    with site.database.begin() as session:
        return resends.create_deliveries(session, destinations_of, limit=10, now=site.now)


def destinations(database: Database) -> list[tuple[str, DeliveryState]]:
    with database.read() as session:
        return [
            tuple(row) for row in session.execute(select(Delivery.destination, Delivery.state).order_by(Delivery.id))
        ]


def waiting(database: Database) -> list[tuple[int, str]]:
    with database.read() as session:
        rows = session.execute(select(Resend.image_id, Resend.peer_ae_title).where(Resend.brought_at.is_(None)))
        return [tuple(row) for row in rows]


def test_a_reported_image_that_another_peer_sends_brings_its_report_there(audit_site: Any) -> None:
    site = audit_site
    site.receive(1)
    site.score(destinations=["pacs"])
    come_again(site)
    assert waiting(site.database) == [(1, "ORTHANC")]
    assert bring(site) == 1
    assert [name for name, _ in destinations(site.database)] == ["pacs", "orthanc"]
    assert waiting(site.database) == []
    with site.database.read() as session:
        last = session.scalars(select(Event).order_by(Event.id.desc())).first()
        assert (last.kind, last.image_id) == ("delivery_created", 1)
        assert len(session.scalars(select(Report)).all()) == 1


def test_whoever_has_it_gets_nothing_more(audit_site: Any) -> None:
    site = audit_site
    site.receive(1)
    site.score(destinations=["pacs"])
    before = destinations(site.database)
    for peer in ("PACS", "PACS", "OTHER"):
        come_again(site, peer)
    assert bring(site) == 2
    assert destinations(site.database) == before
    assert bring(site) == 0


def test_each_time_that_it_comes_again_is_a_chance(audit_site: Any) -> None:
    """So that a destination which was added meanwhile gets what is sent again."""
    site = audit_site
    site.receive(1)
    site.score(destinations=[])
    for bound, expected in (((), []), (("new",), ["new"])):
        come_again(site)
        with site.database.begin() as session:
            resends.create_deliveries(session, lambda *_, bound=bound: bound, limit=10, now=site.now)
        assert [name for name, _ in destinations(site.database)] == expected


def test_one_that_is_not_reported_yet_waits_for_its_result(audit_site: Any) -> None:
    site = audit_site
    site.receive(1)
    come_again(site)
    assert bring(site) == 0
    assert waiting(site.database) == [(1, "ORTHANC")]
    site.score(destinations=["pacs"])
    assert bring(site) == 1
    assert [name for name, _ in destinations(site.database)] == ["pacs", "orthanc"]


@pytest.mark.parametrize("state", [JobState.HELD, JobState.NOT_SCORED])
def test_one_that_is_not_scored_brings_nothing(state: JobState, audit_site: Any) -> None:
    site = audit_site
    site.receive(1, state=state)
    come_again(site)
    assert bring(site) == 0
    assert waiting(site.database) == ([] if state is JobState.NOT_SCORED else [(1, "ORTHANC")])  # it may be released
    assert destinations(site.database) == []


def test_those_that_wait_hold_up_none_behind_them(audit_site: Any) -> None:
    site = audit_site
    for seed in range(1, 13):
        site.receive(seed, state=JobState.HELD)
        come_again(site, seed=seed)
    site.receive(13)
    site.score(destinations=[])
    come_again(site, seed=13)
    assert bring(site) == 1


def test_a_report_that_is_no_longer_kept_is_not_asked_for(audit_site: Any, noon: datetime) -> None:
    site = audit_site
    site.receive(1)
    site.score(destinations=["pacs"])
    with site.database.begin() as session:
        session.execute(update(Report).values(spool_name=None, removed_at=noon))
    come_again(site)
    assert bring(site) == 1
    assert [name for name, _ in destinations(site.database)] == ["pacs"]


def test_destinations_are_asked_for_by_the_peers_and_by_what_scored(audit_site: Any) -> None:
    site, asked = audit_site, []
    site.receive(1, peer="PACS")
    site.score(destinations=[])
    come_again(site, "OTHER")
    bring(site)
    come_again(site)
    bring(site, asked)
    assert asked == [("ORTHANC", ["ORTHANC", "OTHER", "PACS"], PackageStatus.UNTRAINED)]


def test_whoever_asks_who_has_a_patient_s_images_hears_of_those_that_sent_them_again(audit_site: Any) -> None:
    site = audit_site
    site.receive(1, peer="PACS")
    come_again(site)
    found = forget.find(site.database, site.spool, forget.ForgetRequest(patient_id="SYN1"))
    assert found.peers == ("ORTHANC", "PACS")
