"""Filter options of ``cxr audit list`` and ``cxr audit export``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from cxr.domain import JobState, View
from db.results.filters import ResultFilter

_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z")
_DAY_LENGTH = len("2026-01-31")


def _time(text: str) -> datetime:
    for form in _FORMS:
        try:
            return datetime.strptime(text, form).astimezone()
        except ValueError:
            continue
    raise typer.BadParameter("a time is written 2026-01-31 or 2026-01-31T08:30; local time, unless it ends in +hhmm")


def _until(text: str) -> datetime:
    """Parse the end of a period; a day without a time is included."""
    moment = _time(text)
    return moment + timedelta(days=1) if len(text) == _DAY_LENGTH else moment


def _option(text: str, *names: str, **options: Any) -> Any:  # noqa: ANN401 (typer's own type of an option)
    return typer.Option(*names, help=text, rich_help_panel="Which results", **options)


def select_results(
    since: Annotated[
        datetime | None, _option("Received then or later, e.g. 2026-01-31.", parser=_time, metavar="TIME")
    ] = None,
    until: Annotated[
        datetime | None,
        _option("Received before; a day without a time is included.", parser=_until, metavar="TIME"),
    ] = None,
    finding: Annotated[str | None, _option("This finding, e.g. covid19.", metavar="NAME")] = None,
    min_score: Annotated[float | None, _option("Minimum score.", min=0, max=1)] = None,
    max_score: Annotated[float | None, _option("Maximum score.", min=0, max=1)] = None,
    view: Annotated[View | None, _option("Images with this view decision.")] = None,
    reason: Annotated[str | None, _option("Images with this reason.", metavar="CODE")] = None,
    state: Annotated[JobState | None, _option("Images in this state.")] = None,
    delivered: Annotated[
        bool | None, _option("Results that reached every destination, or not.", "--delivered/--undelivered")
    ] = None,
    model: Annotated[str | None, _option("Results of this model.", metavar="NAME")] = None,
    fingerprint: Annotated[
        str | None, _option("Results of this model package; the first digits suffice.", metavar="HEX")
    ] = None,
    accession: Annotated[str | None, _option("Images with this accession number.", metavar="NUMBER")] = None,
    patient_id: Annotated[str | None, _option("Images of this patient.", metavar="ID")] = None,
    peer: Annotated[str | None, _option("Images sent by this AE title.", metavar="AET")] = None,
    study: Annotated[str | None, _option("Images of this study.", metavar="UID")] = None,
    error_code: Annotated[str | None, _option("Images that failed with this code.", metavar="CODE")] = None,
    latest: Annotated[bool, _option("Omit images replaced by a later receipt.", "--latest")] = False,
    shadow: Annotated[
        bool, _option("Scores of shadow packages, which are never reported, instead.", "--shadow")
    ] = False,
) -> ResultFilter:
    """Return the filter; names, types and help texts of the parameters become the command's options."""
    return ResultFilter(
        received_from=since,
        received_until=until,
        finding=finding,
        min_score=min_score,
        max_score=max_score,
        view=view,
        reason=reason,
        state=state,
        delivered=delivered,
        model=model,
        fingerprint=fingerprint,
        accession_number=accession,
        patient_id=patient_id,
        peer_ae_title=peer,
        study_instance_uid=study,
        error_code=error_code,
        latest_only=latest,
        of_shadow=shadow,
    )


def with_selection(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `select_results` to a command, which receives the filter as its parameter ``which``."""
    own = inspect.signature(command, eval_str=True).parameters
    options = inspect.signature(select_results, eval_str=True).parameters

    @functools.wraps(command)
    def run(**arguments: Any) -> None:  # noqa: ANN401 (whatever the options hold)
        chosen = {name: arguments.pop(name) for name in options}
        command(**arguments, which=select_results(**chosen))

    parameters = [parameter for name, parameter in own.items() if name != "which"] + list(options.values())
    keyword_only = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
