"""Queries of the audit database's views, for operators and scripts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Select, TableClause, and_, column, func, or_, select, table, text
from sqlalchemy import types as sql

from cxr.domain import DeliveryState, JobState, PackageStatus, View
from cxr.errors import MissingRow
from db.engine import Database, Session
from db.identifiers import Identifiers, IdentifierType, of_session
from db.results.filters import ResultFilter
from db.schema.records import ResultRow
from db.schema.tables import Delivery, Image, JobReport, UtcTime
from db.sqlite.connection import not_by_index

__all__ = ["Page", "ResultFilter", "Timeline", "iterate_results", "list_results", "page_results", "show"]

# Sizes of windows of image ids, and the bounds of the time to read one, in seconds.
_SMALLEST_WINDOW, _LARGEST_WINDOW = 500, 1_000_000
_SHORT_S, _LONG_S = 0.02, 0.1
_SPECIAL: Mapping[str, sql.TypeEngine[Any]] = {
    "received_at": UtcTime(),
    "scored_at": UtcTime(),
    "is_chest": sql.Boolean(),
    "at_or_above": sql.Boolean(),
    "delivered": sql.Boolean(),
    "is_latest": sql.Boolean(),
}
_ENUMS = {"state": JobState, "view": View, "model_status": PackageStatus}
_IDENTIFYING: Mapping[str, IdentifierType] = {
    "accession_number": "accession_number",
    "patient_id": "patient_id",
    "sop_instance_uid": "uid",
    "study_instance_uid": "uid",
}
# States with the whole history: read from the latest on, not all and sorted.
_FINISHED = (JobState.REPORTED, JobState.NOT_SCORED)
_RESULTS, _SHADOW_RESULTS = (
    table(view, *(column(field.name, _SPECIAL.get(field.name)) for field in fields(ResultRow)))
    for view in ("results", "shadow_results")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Everything stored of one received object; each mapping is a row of the view of that name."""

    image: Mapping[str, Any]
    decision: Mapping[str, Any]
    job: Mapping[str, Any]
    scores: tuple[Mapping[str, Any], ...]
    shadow_scores: tuple[Mapping[str, Any], ...]
    reports: tuple[Mapping[str, Any], ...]
    deliveries: tuple[Mapping[str, Any], ...]
    events: tuple[Mapping[str, Any], ...]  # in order


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The latest matching rows, and the start of the next page."""

    rows: list[ResultRow]
    before_image: int | None  # the next page starts before this image; None: no more
    is_cut: bool  # the time limit was reached; more rows may match


def list_results(session: Session, which: ResultFilter) -> list[ResultRow]:
    """Return rows of ``results`` or ``shadow_results``, the latest image first, findings by name.

    One query: on a long history use `page_results`, whose reads are short.

    Parameters
    ----------
    session
        A read transaction.
    which
        Filters and limit.

    Returns
    -------
    list[ResultRow]
        One row per image and finding; an image without scores has one row.
    """
    columns = _source(which).c
    query = _matching(which, of_session(session)).order_by(columns.image_id.desc(), columns.finding)
    query = query.limit(-1 if which.limit is None else which.limit)
    return [_result(row) for row in session.execute(query).mappings()]


def page_results(database: Database, which: ResultFilter, *, within_s: float | None = None) -> Page:
    """Return rows as `list_results`, read in windows of image ids, so that each read is short.

    Parameters
    ----------
    database
        The live database.
    which
        Filters. ``limit``: maximum number of rows; the findings of an image stay on one page.
    within_s
        Time limit in seconds; None: none.
    """
    end = None if within_s is None else time.monotonic() + within_s
    rows: list[ResultRow] = []
    for window in _windows(database, which, newest_first=True):
        limit = None if which.limit is None else which.limit - len(rows) + 1
        with database.read() as session:
            rows += list_results(session, replace(window, limit=limit))
        if which.limit is not None and len(rows) > which.limit:
            rows = _whole_images(rows, which.limit)
            return Page(rows=rows, before_image=rows[-1].image_id, is_cut=False)
        if end is not None and time.monotonic() >= end and (window.first_image or 0) > 1:
            return Page(rows=rows, before_image=window.first_image, is_cut=True)
    return Page(rows=rows, before_image=None, is_cut=False)


def iterate_results(
    database: Database, which: ResultFilter, *, progress: Callable[[int, int], None] | None = None
) -> Iterator[ResultRow]:
    """Yield all matching rows, the earliest image first, in short transactions.

    Parameters
    ----------
    database
        The live database.
    which
        Filters; the limit is ignored.
    progress
        Called with the number of read images and of all.

    Yields
    ------
    ResultRow
        One per image and finding.
    """
    columns = _source(which).c
    # Two shadow packages may have scored one image.
    order = (columns.image_id, func.coalesce(columns.finding, ""), func.coalesce(columns.fingerprint, ""))
    for window in _windows(database, which, newest_first=False):
        with database.read() as session:
            query = _matching(window, of_session(session)).order_by(*order)
            rows = [_result(row) for row in session.execute(query).mappings()]
        yield from rows
        if progress is not None:
            progress((window.before_image or 1) - 1, _extent(database, which)[1])


def _whole_images(rows: list[ResultRow], limit: int) -> list[ResultRow]:
    """Omit the last image if only some of its rows fit; a single image is cut instead."""
    shown, following = rows[:limit], rows[limit]
    whole = [row for row in shown if row.image_id != following.image_id]
    return whole or shown


def _windows(database: Database, which: ResultFilter, *, newest_first: bool) -> Iterator[ResultFilter]:
    """Divide the image ids that may match into windows with short reads."""
    first, last = _extent(database, which)
    # With an identifier, an index finds the few images in a large window.
    size = _LARGEST_WINDOW if any(getattr(which, name) is not None for name in _IDENTIFYING) else _SMALLEST_WINDOW
    while first <= last:
        started = time.monotonic()
        if newest_first:
            start = max(first, last - size + 1)
            yield replace(which, first_image=start, before_image=last + 1)
            last = start - 1
        else:
            end = min(last, first + size - 1)
            yield replace(which, first_image=first, before_image=end + 1)
            first, last = end + 1, _extent(database, which)[1]  # images received meanwhile included
        duration_s = time.monotonic() - started
        if duration_s < _SHORT_S:
            size = min(size * 4, _LARGEST_WINDOW)
        elif duration_s > _LONG_S:
            size = max(size // 4, _SMALLEST_WINDOW)


def _extent(database: Database, which: ResultFilter) -> tuple[int, int]:
    """Return the first and last image id that can match; the last is smaller if none can."""
    conditions: list[ColumnElement[bool]] = []
    number: ColumnElement[int] = Image.id.expression
    if which.received_from is not None:
        conditions.append(Image.received_at >= which.received_from)
    if which.received_until is not None:
        conditions.append(Image.received_at < which.received_until)
    if conditions:
        number = not_by_index(number)  # else SQLite scans the rows in order until one matches
    with database.read() as session:
        # Two queries: SQLite finds either end of an index at once, but both only by a scan.
        first = session.scalar(select(func.min(number)).where(*conditions)) or 1
        last = session.scalar(select(func.max(number)).where(*conditions)) or 0
    if which.first_image is not None:
        first = max(first, which.first_image)
    return first, last if which.before_image is None else min(last, which.before_image - 1)


def show(session: Session, which: int | str) -> list[Timeline]:
    """Return everything stored of an image.

    Parameters
    ----------
    session
        A read transaction.
    which
        Id or SOP Instance UID of the image.

    Returns
    -------
    list[Timeline]
        One per received object, the latest first; a SOP Instance UID with changed resends has several.

    Raises
    ------
    MissingRow
        If there is none.
    """
    ids = [
        row["image_id"] for name, value in _named(session, which) for row in _rows(session, "images", **{name: value})
    ]
    if not ids:
        raise MissingRow("No image has this number or SOP Instance UID: `cxr audit list` shows those there are.")
    return [_timeline(session, image_id) for image_id in sorted(ids, reverse=True)]


def _named(session: Session, which: int | str) -> list[tuple[str, int | str]]:
    """Return the column of the view ``images`` and the values that identify an image."""
    if isinstance(which, int):
        return [("image_id", which)]
    return [("sop_instance_uid", form) for form in of_session(session).forms("uid", which)]


def _timeline(session: Session, image_id: int) -> Timeline:
    def rows(view: str) -> tuple[Mapping[str, Any], ...]:
        return tuple(_rows(session, view, image_id=image_id))

    reports = rows("reports")
    # Events of a report's file have no image: two images may share the report.
    of_reports = (_rows(session, "events", image_id=None, report_id=report["report_id"]) for report in reports)
    return Timeline(
        image=rows("images")[0],
        decision=rows("decisions")[0],
        job=rows("jobs")[0],
        scores=rows("scores"),
        shadow_scores=rows("shadow_scores"),
        reports=reports,
        deliveries=rows("deliveries"),
        events=tuple(sorted(chain(rows("events"), *of_reports), key=itemgetter("event_id"))),
    )


_ORDER = {
    "scores": "finding",
    "shadow_scores": "finding",
    "reports": "report_id",
    "deliveries": "delivery_id",
    "events": "event_id",
}


def _rows(session: Session, view: str, **equals: int | str | None) -> list[Mapping[str, Any]]:
    source = table(view, *(column(name) for name in {*equals, *([_ORDER[view]] if view in _ORDER else [])}))
    query: Select[Any] = select(text("*")).select_from(source)
    for name, value in equals.items():
        query = query.where(source.c[name] == value)
    if view in _ORDER:
        query = query.order_by(source.c[_ORDER[view]])
    return [{name: _value(name, value) for name, value in row.items()} for row in session.execute(query).mappings()]


def _value(name: str, value: Any) -> Any:  # noqa: ANN401 (whatever a column holds)
    """Convert times, booleans and JSON of a view, which SQLite stores as text and integers."""
    if value is None:
        return None
    if name == "at" or name.endswith("_at") or name == "not_before":
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    if name in {"evidence", "facts", "warnings"}:
        return json.loads(value)
    return bool(value) if name in {"has_pixels", "is_latest", "is_chest"} else value


def _source(which: ResultFilter) -> TableClause:
    return _SHADOW_RESULTS if which.of_shadow else _RESULTS


def _matching(which: ResultFilter, identifiers: Identifiers) -> Select[Any]:
    return select(_source(which)).where(and_(True, *_conditions(which, identifiers)))


def _conditions(which: ResultFilter, identifiers: Identifiers) -> Iterator[ColumnElement[bool]]:
    columns = _source(which).c
    for name in (
        "view", "reason", "delivered", "model", "accession_number", "patient_id", "peer_ae_title",
        "sop_instance_uid", "study_instance_uid", "error_code",
    ):  # fmt: skip
        value = getattr(which, name)
        if value is not None and not (name == "delivered" and which.unrouted_senders):
            kind = _IDENTIFYING.get(name)
            yield columns[name].in_(identifiers.forms(kind, value)) if kind else columns[name] == value
    if which.state is not None:
        yield (not_by_index(columns.state) if which.state in _FINISHED else columns.state) == which.state
    if which.finding is not None:
        yield not_by_index(columns.finding) == which.finding
    if which.delivered is False:  # in addition to the view's column, which has no index
        is_under_way = columns.job_id.in_(_undelivered())
        yield or_(is_under_way, _has_no_destination(which)) if which.unrouted_senders else is_under_way
    if which.fingerprint is not None:
        yield columns.fingerprint.startswith(which.fingerprint, autoescape=True)
    if which.latest_only:
        yield columns.is_latest.is_(True)
    if which.first_image is not None:
        yield columns.image_id >= which.first_image
    if which.before_image is not None:
        yield columns.image_id < which.before_image
    yield from _bounds(which)


def _bounds(which: ResultFilter) -> Iterator[ColumnElement[bool]]:
    columns = _source(which).c
    if which.received_from is not None:
        yield columns.received_at >= which.received_from
    if which.received_until is not None:
        yield columns.received_at < which.received_until
    if which.min_score is not None:
        yield columns.score >= which.min_score
    if which.max_score is not None:
        yield columns.score <= which.max_score


def _has_no_destination(which: ResultFilter) -> ColumnElement[bool]:
    """Return the condition of a result without a destination: its sender has none."""
    columns = _source(which).c
    return and_(
        not_by_index(columns.state) == JobState.REPORTED,
        columns.delivered.is_(None),
        columns.peer_ae_title.in_(which.unrouted_senders),
    )


def _undelivered() -> Select[int]:
    """Select jobs with a report that has not reached a destination."""
    return (
        select(JobReport.job_id)
        .join(Delivery, Delivery.report_id == JobReport.report_id)
        .where(Delivery.state.in_((DeliveryState.PENDING, DeliveryState.DEAD)))
    )


def _result(row: Mapping[Any, Any]) -> ResultRow:
    values = dict(row)
    for name, kind in _ENUMS.items():
        values[name] = None if values[name] is None else kind(values[name])
    return ResultRow(**values)
