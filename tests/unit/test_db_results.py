"""Reading results: filters, order, timelines."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from config.settings import RetentionSettings
from cxr.domain import DeliveryState, JobState, View
from cxr.errors import MissingRow
from db.results import queries
from db.results.queries import ResultFilter, iterate_results, list_results
from db.upkeep import retention


@pytest.fixture
def site(audit_site: Any) -> Any:
    """Five receipts: two scored (one delivered), one not frontal, one held, one failed."""
    audit_site.first = audit_site.receive(1, accession_number="ACC-ONE", patient_id="PAT-ONE")
    audit_site.score(scores={"covid19": 0.9, "normal": 0.1}, destinations=["pacs"])
    audit_site.deliver(outcome=DeliveryState.VERIFIED)
    audit_site.later(days=1)
    audit_site.second = audit_site.receive(2, peer="OTHER")
    audit_site.score(
        scores={"covid19": 0.2, "normal": 0.8}, destinations=["pacs"], fingerprint="ab" * 32, model="densenet"
    )
    audit_site.later(days=1)
    audit_site.lateral = audit_site.receive(
        3, state=JobState.NOT_SCORED, view=View.NOT_FRONTAL, reason="view_position_not_frontal"
    )
    audit_site.failed = audit_site.receive(5)
    audit_site.fail()
    audit_site.held = audit_site.receive(4, state=JobState.HELD, view=View.UNKNOWN, reason="view_unknown")
    return audit_site


def listed(site: Any, **which: Any) -> list[tuple[int, str | None]]:
    with site.database.read() as session:
        rows = list_results(session, ResultFilter(**which))
    assert queries.page_results(site.database, ResultFilter(**which)).rows == rows
    return [(row.image_id, row.finding) for row in rows]


def test_without_a_filter_everything_is_listed_the_latest_first(site: Any) -> None:
    assert listed(site) == [
        (5, None), (4, None), (3, None), (2, "covid19"), (2, "normal"), (1, "covid19"), (1, "normal"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({"finding": "covid19"}, [(2, "covid19"), (1, "covid19")]),
        ({"min_score": 0.8}, [(2, "normal"), (1, "covid19")]),
        ({"max_score": 0.2}, [(2, "covid19"), (1, "normal")]),
        ({"finding": "covid19", "min_score": 0.2, "max_score": 0.2}, [(2, "covid19")]),
        ({"view": View.NOT_FRONTAL}, [(3, None)]),
        ({"view": View.UNKNOWN}, [(5, None)]),
        ({"reason": "view_position_not_frontal"}, [(3, None)]),
        ({"state": JobState.FAILED}, [(4, None)]),
        ({"error_code": "damaged_pixels"}, [(4, None)]),
        ({"delivered": True}, [(1, "covid19"), (1, "normal")]),
        ({"delivered": False}, [(2, "covid19"), (2, "normal")]),
        ({"model": "densenet", "finding": "normal"}, [(2, "normal")]),
        ({"fingerprint": "abab", "finding": "normal"}, [(2, "normal")]),
        ({"fingerprint": "%", "finding": "normal"}, []),
        ({"accession_number": "ACC-ONE", "finding": "normal"}, [(1, "normal")]),
        ({"patient_id": "PAT-ONE", "finding": "normal"}, [(1, "normal")]),
        ({"peer_ae_title": "OTHER", "finding": "normal"}, [(2, "normal")]),
        ({"accession_number": "' OR 1=1 --"}, []),
        ({"limit": 2}, [(5, None), (4, None)]),
        ({"limit": 1, "before_image": 4}, [(3, None)]),
        ({"before_image": 2}, [(1, "covid19"), (1, "normal")]),
    ],
)
def test_each_filter_alone_and_together(site: Any, which: dict[str, Any], expected: list[Any]) -> None:
    assert listed(site, **which) == expected


def test_identifiers_choose(site: Any, uid_of: Any) -> None:
    assert listed(site, sop_instance_uid=uid_of(3)) == [(3, None)]
    with site.database.read() as session:
        study = list_results(session, ResultFilter(sop_instance_uid=uid_of(3)))[0].study_instance_uid
    assert listed(site, study_instance_uid=study) == [(3, None)]


def test_a_period_includes_its_begin_and_excludes_its_end(site: Any) -> None:
    begin = site.now - timedelta(days=1)
    assert {image for image, _ in listed(site, received_from=begin)} == {2, 3, 4, 5}
    assert {image for image, _ in listed(site, received_until=begin)} == {1}
    assert {image for image, _ in listed(site, received_from=begin, received_until=site.now)} == {2}


def test_what_was_replaced_can_be_left_out(site: Any) -> None:
    site.receive(1, content=b"other pixels")
    assert {image for image, _ in listed(site)} == {1, 2, 3, 4, 5, 6}
    assert {image for image, _ in listed(site, latest_only=True)} == {2, 3, 4, 5, 6}


def test_rows_have_their_types(site: Any) -> None:
    with site.database.read() as session:
        scored, failed = (
            list_results(session, ResultFilter(**which))[0]
            for which in ({"min_score": 0.9}, {"state": JobState.FAILED})
        )
    assert (scored.state, scored.view, scored.is_chest) == (JobState.REPORTED, View.FRONTAL, True)
    assert (scored.score, scored.threshold, scored.at_or_above, scored.delivered) == (0.9, 0.5, True, True)
    assert scored.scored_at == scored.received_at
    assert scored.received_at.utcoffset() == timedelta(0)
    assert scored.is_latest is True
    assert (failed.finding, failed.score, failed.delivered, failed.model) == (None, None, None, None)


def test_a_long_read_gives_every_row_once_in_short_transactions(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.database.read() as session:
        expected = sorted(
            ((row.image_id, row.finding or "") for row in list_results(session, ResultFilter())),
        )
    for window in (1, 2, 3, 100):
        monkeypatch.setattr(queries, "_SMALLEST_WINDOW", window)
        rows = [(row.image_id, row.finding or "") for row in iterate_results(site.database, ResultFilter())]
        assert rows == expected


def test_a_writer_does_not_wait_for_a_long_read(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_SMALLEST_WINDOW", 1)
    reading = iterate_results(site.database, ResultFilter())
    next(reading)
    site.receive(7)  # would wait for the reader's transaction for 30 s, and fail
    assert [row.image_id for row in reading][-1] == 6


def test_pages_of_whole_images_give_every_row_once(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = listed(site)
    for window in (1, 2, 100):
        monkeypatch.setattr(queries, "_SMALLEST_WINDOW", window)
        for limit in (2, 3, 5, 100):
            found: list[tuple[int, str | None]] = []
            before: int | None = None
            while True:
                which = ResultFilter(limit=limit, before_image=before)
                page = queries.page_results(site.database, which)
                assert len(page.rows) <= limit
                assert not page.is_cut
                found += [(row.image_id, row.finding) for row in page.rows]
                before = page.before_image
                if before is None:
                    break
            assert found == everything


def test_when_the_time_is_up_there_is_a_number_to_go_on_from(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_SMALLEST_WINDOW", 2)
    monkeypatch.setattr(queries, "_SHORT_S", 0.0)
    page = queries.page_results(site.database, ResultFilter(finding="covid19", min_score=0.9), within_s=0)
    assert (page.rows, page.before_image, page.is_cut) == ([], 4, True)
    rest = ResultFilter(finding="covid19", min_score=0.9, before_image=page.before_image)
    for within_s in (None, 3600):
        found = queries.page_results(site.database, rest, within_s=within_s)
        assert ([row.image_id for row in found.rows], found.before_image, found.is_cut) == ([1], None, False)


@pytest.mark.parametrize("which", [{"received_from": timedelta(hours=1)}, {"received_until": timedelta(hours=-1)}])
def test_no_window_is_read_outside_the_time_that_is_asked_for(site: Any, which: dict[str, timedelta]) -> None:
    bounds = {name: site.now + by for name, by in which.items()}
    if "received_from" in bounds:
        assert list(queries._windows(site.database, ResultFilter(**bounds), newest_first=True)) == []
    else:
        (window,) = queries._windows(site.database, ResultFilter(**bounds), newest_first=True)
        assert (window.first_image, window.before_image) == (1, 3)


def test_a_timeline_tells_what_happened_in_its_order(site: Any, uid_of: Any) -> None:
    with site.database.read() as session:
        (timeline,) = queries.show(session, uid_of(1))
        (same,) = queries.show(session, 1)
    assert timeline == same
    assert timeline.image["sop_instance_uid"] == uid_of(1)
    assert timeline.image["has_pixels"] is True
    assert timeline.decision["evidence"] == {"ViewPosition": "PA"}
    assert timeline.job["state"] == "reported"
    assert timeline.job["scored_at"] == timeline.image["received_at"]
    assert [(score["finding"], score["score"]) for score in timeline.scores] == [("covid19", 0.9), ("normal", 0.1)]
    assert [report["kind"] for report in timeline.reports] == ["sr"]
    assert [(row["destination"], row["state"]) for row in timeline.deliveries] == [("pacs", "verified")]
    kinds = [event["kind"] for event in timeline.events]
    assert kinds[:2] == ["received", "job_claimed"]
    assert {"job_reported", "report_written", "delivery_sent", "delivery_verified"} <= set(kinds)
    assert all(isinstance(event["facts"], dict) for event in timeline.events)


def test_a_timeline_tells_when_the_report_s_file_went(site: Any) -> None:
    site.later(days=400)
    retention.enforce(site.database, site.spool, RetentionSettings(low_space_mib=0), now=site.now)
    with site.database.read() as session:
        (timeline,) = queries.show(session, 1)
    kinds = [event["kind"] for event in timeline.events]
    assert {"pixels_removed", "report_removed"} <= set(kinds)
    numbers = [event["event_id"] for event in timeline.events]
    assert numbers == sorted(set(numbers))
    assert {event["image_id"] for event in timeline.events} == {1, None}


def test_an_object_sent_again_with_changes_has_two_timelines(site: Any, uid_of: Any) -> None:
    changed = site.receive(1, content=b"other pixels")
    with site.database.read() as session:
        timelines = queries.show(session, uid_of(1))
        by_number = queries.show(session, 1)
    assert [timeline.image["image_id"] for timeline in timelines] == [changed.image_id, 1]
    assert [timeline.image["is_latest"] for timeline in timelines] == [True, False]
    assert [timeline.image["image_id"] for timeline in by_number] == [1]


@pytest.mark.parametrize("which", [99, "1.2.3", ""])
def test_an_unknown_image_is_said_to_be_unknown(site: Any, which: int | str) -> None:
    with pytest.raises(MissingRow, match="cxr audit list"), site.database.read() as session:
        queries.show(session, which)
