"""The one command, ``cxr``; a verb's package is loaded only when the verb is used.

Exit codes: 0 done; 1 done, but something that was asked for failed; 2 the command, the settings or the
installation are wrong, nothing was done.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from app.installation import require_worker, version_line
from config.context import CommandContext, parse_overrides
from cxr.errors import CxrError, SettingsError

VERBS = {
    "init": "app.setup.init",
    "serve": "app.serve",
    "demo": "app.setup.demo",
    "listen": "app.listen",
    "work": "app.work",
    "send": "app.send.cli",
    "score": "app.score.cli",
    "audit": "db.cli.main:audit_app",
    "jobs": "db.cli.main:jobs_app",
    "train": "training.cli.main",
    "model": "app.model_cli",
    "rebuild": "app.rebuild.cli",
    "db": "db.cli.main:db_app",
    "status": "app.status",
    "health": "app.health",
    "config": "config.cli",
}
"""Where each verb's typer application is: ``module`` or ``module:attribute`` (default ``app``)."""

NEED_WORKER = frozenset({"serve", "work", "score", "train", "model", "rebuild"})
"""Verbs that need the packages of the extra ``worker``."""


def _set_file(ctx: typer.Context, value: Path | None) -> Path | None:
    """Note the settings file of ``--config``, before or after the verb."""
    if value is not None:
        ctx.obj = (ctx.obj or CommandContext()).with_file(value)
    return value


def _set_values(ctx: typer.Context, value: list[str] | None) -> list[str] | None:
    """Note the overrides of ``--set``."""
    if value:
        ctx.obj = (ctx.obj or CommandContext()).with_overrides(parse_overrides(value))
    return value


def _set_data_dir(ctx: typer.Context, value: Path | None) -> Path | None:
    """Note the folder of ``--data-dir``."""
    if value is not None:
        ctx.obj = (ctx.obj or CommandContext()).with_overrides({"data_dir": str(value)})
    return value


_PANEL = "Settings"

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file; else CXR_CONFIG, else cxr.toml.",
        metavar="FILE",
        callback=_set_file,
        rich_help_panel=_PANEL,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override one setting, e.g. --set listener.port=104.",
        metavar="KEY=VALUE",
        callback=_set_values,
        rich_help_panel=_PANEL,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of everything that is kept; the setting data_dir.",
        metavar="FOLDER",
        callback=_set_data_dir,
        rich_help_panel=_PANEL,
    ),
]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(version_line())
        raise typer.Exit


class LazyVerbs(TyperGroup):
    """A group whose verbs are imported when they are used or listed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 (typer's own context type is private)
        """Return all verbs, in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """Import one verb; its commands take the settings' options as well as ``cxr`` itself."""
        module, _, attribute = VERBS.get(cmd_name, "").partition(":")
        if not module:
            return None
        command = typer.main.get_command(getattr(import_module(module), attribute or "app"))
        command.name = cmd_name
        _add_settings_options(command)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """Refuse a verb that is about to run without its packages, before anything is imported."""
        if args and args[0] in NEED_WORKER:
            require_worker(args[0])
        return super().resolve_command(ctx, args)


def _add_settings_options(command: Any) -> None:  # noqa: ANN401 (typer's own command type is private)
    """Add the settings' options to a command and those below it, unless it has an option of that name."""
    taken = {name for parameter in command.params for name in parameter.opts}
    command.params += [option for option in _settings_options() if not taken & set(option.opts)]
    for below in getattr(command, "commands", {}).values():
        _add_settings_options(below)


def _settings_options() -> list[Any]:
    def hold(config: ConfigFile = None, overrides: Overrides = None, data_dir: DataDir = None) -> None: ...

    declared = typer.Typer(add_completion=False)
    declared.command()(hold)
    options = [each for each in typer.main.get_command(declared).params if "--help" not in each.opts]
    for option in options:
        option.expose_value = False  # the callback has put it into the context
    return options


app = typer.Typer(
    cls=LazyVerbs,
    invoke_without_command=True,
    pretty_exceptions_enable=False,  # they print local variables: a patient's values
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    config: ConfigFile = None,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A research-only chest X-ray listener for a PACS. Nothing it produces is for clinical use."""
    ctx.obj = ctx.obj or CommandContext()
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main() -> None:
    """Run the command; faults that people can mend are said in words, without a traceback."""
    try:
        app()
    except ImportError as error:
        sys.exit(_say(_incomplete(error), code=2))
    except SettingsError as error:
        sys.exit(_say(error, code=2))
    except CxrError as error:
        sys.exit(_say(error, code=1))


def _incomplete(error: ImportError) -> CxrError:
    """Name the module or system library that can't be loaded: no later start will find it by itself."""
    return SettingsError(
        f"A package can't be loaded ({error}): this installation is not complete. "
        "Install cxr-listener[worker] into this environment again."
    )


def _say(error: CxrError, *, code: int) -> int:
    typer.echo(str(error), err=True)
    return code
