"""The one command, ``cxr``; a verb's package is loaded only when the verb is used.

Exit codes: 0 done; 1 done, but something that was asked for failed; 2 the command or the settings
are wrong, nothing was done.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from config.context import CommandContext, parse_overrides
from cxr.errors import CxrError, SettingsError

VERBS = {
    "serve": "app.serve",
    "listen": "app.listen",
    "work": "app.work",
    "send": "app.send",
    "score": "app.score",
    "audit": "db.cli:audit_app",
    "jobs": "db.cli:jobs_app",
    "train": "training.cli",
    "model": "app.model_cli",
    "rebuild": "app.rebuild.cli",
    "db": "db.cli:db_app",
    "health": "app.health",
    "config": "config.cli",
}
"""Where each verb's typer application is: ``module`` or ``module:attribute`` (default ``app``)."""


class LazyVerbs(TyperGroup):
    """A group whose verbs are imported when they are used or listed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 (typer's own context type is private)
        """All verbs, in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """Import one verb."""
        where = VERBS.get(cmd_name)
        if where is None:
            return None
        module, _, attribute = where.partition(":")
        command = typer.main.get_command(getattr(import_module(module), attribute or "app"))
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyVerbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables: a patient's values
    add_completion=False,
    help="A research-only chest X-ray listener for a PACS. Nothing it produces is for clinical use.",
)


@app.callback()
def root(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings file; else CXR_CONFIG, else cxr.toml.", metavar="FILE")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override one setting, e.g. --set listener.port=104.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """A research-only chest X-ray listener for a PACS. Nothing it produces is for clinical use."""
    ctx.obj = CommandContext(config_file=config, overrides=parse_overrides(overrides or ()))


def main() -> None:
    """Run the command; faults that people can mend are said in words, without a traceback."""
    try:
        app()
    except SettingsError as error:
        sys.exit(_say(error, code=2))
    except CxrError as error:
        sys.exit(_say(error, code=1))


def _say(error: CxrError, *, code: int) -> int:
    typer.echo(str(error), err=True)
    return code
