"""``cxr rebuild``: fine-tune on new labelled images; promotion stays a step of a person."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from config.checks import check_start
from config.context import CommandContext
from config.logs import configure
from config.parent_process import call_at_parent_end
from config.sections import RebuildSettings
from cxr.domain import RebuildState
from cxr.errors import CxrError, SettingsError

app = typer.Typer(add_completion=False)


@app.command()
def rebuild(
    ctx: typer.Context,
    due: Annotated[datetime | None, typer.Option(hidden=True)] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fine-tune on new labelled images, as the table rebuild of the settings describes, and stop before promotion.

    One at a time; one that was killed continues where it stopped. Exit code 1: it failed, or another is running.
    Exit code 2: the settings name no data for it, and nothing was written.

    Example: cxr --config site.toml rebuild
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    configure(settings.log)
    check_start(settings)
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    if not with_parent:  # the service records the failure of a scheduled one instead
        check_rebuild(settings.rebuild)
    if with_parent:
        call_at_parent_end(lambda: os._exit(1))  # at any step: the next attempt continues from there
    os.nice(settings.rebuild.nice)
    from app.rebuild.attempt import attempt

    due_at = None if due is None else due.replace(tzinfo=UTC)
    outcome = attempt(settings, due_at=due_at, clock=lambda: datetime.now(UTC))
    if outcome is None:
        typer.echo("Another rebuild is running.", err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
    elif not with_parent:
        typer.echo(
            f"{outcome.state}{f' ({outcome.error_code})' if outcome.error_code else ''}: see {settings.runs_dir}"
        )
    raise typer.Exit(1 if outcome.state is RebuildState.FAILED else 0)


def check_rebuild(settings: RebuildSettings) -> None:
    """Refuse a rebuild that its settings do not allow, before anything is written.

    Parameters
    ----------
    settings
        The table ``rebuild``.

    Raises
    ------
    SettingsError
        If the data are not named or named twice, a file or folder is missing, or the recipe can't be used.
    """
    faults = list(_data_faults(settings)) or list(_recipe_faults(settings))
    if faults:
        raise SettingsError("\n".join(["The settings can't be used for a rebuild:", *(f"  {it}" for it in faults)]))


def _data_faults(settings: RebuildSettings) -> Iterator[str]:
    if settings.labels is None and settings.manifest is None:
        yield (
            "rebuild.labels, rebuild.manifest: neither is set; accepted is a CSV of test results in rebuild.labels, or "
            "a manifest of `cxr train index` in rebuild.manifest"
        )
    if settings.labels is not None and settings.manifest is not None:
        yield "rebuild.labels, rebuild.manifest: both are set; accepted is one of them"
    for name in ("labels", "manifest"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            yield f"rebuild.{name}: {path} is not a file; accepted is a CSV file"
    for name in ("images", "start"):
        path = getattr(settings, name)
        if path is not None and not path.is_dir():
            yield f"rebuild.{name}: {path} is not a folder; accepted is one that exists"


def _recipe_faults(settings: RebuildSettings) -> Iterator[str]:
    from training.recipe import load_recipe  # imports TensorFlow, which takes seconds

    try:
        load_recipe(settings.recipe, settings.overrides)
    except CxrError as error:
        yield f"rebuild.recipe, rebuild.overrides: {error}"
