"""The command ``cxr``; the module of a verb is imported when the verb is used or listed.

Exit codes: 0 done; 1 done, but a part of the request failed; 2 the command, the settings or the installation are
wrong, and nothing was done.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import db.sqlite.driver  # noqa: F401 (before TensorFlow, which exports the functions of its own SQLite)
from app.help_pages import HELP_OPTIONS, hide_flag_types, tidy
from app.installation import require_worker, version_line
from app.library_faults import library_fault
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
"""Typer application of each verb: ``module`` or ``module:attribute`` (default ``app``)."""

NEED_WORKER = frozenset({"serve", "work", "score", "train", "model", "rebuild"})
"""Verbs that need the packages of the extra ``worker``."""


def _set_file(ctx: typer.Context, value: Path | None) -> Path | None:
    """Store the settings file of ``--config``, which stands before or after the verb."""
    if value is not None:
        ctx.obj = (ctx.obj or CommandContext()).with_file(value)
    return value


def _set_values(ctx: typer.Context, value: list[str] | None) -> list[str] | None:
    """Store the overrides of ``--set``."""
    if value:
        ctx.obj = (ctx.obj or CommandContext()).with_overrides(parse_overrides(value))
    return value


def _set_data_dir(ctx: typer.Context, value: Path | None) -> Path | None:
    """Store the folder of ``--data-dir``."""
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
        help="Data folder; the setting data_dir.",
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
    """Group of the verbs, each imported when it is used or listed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 (typer's own context type is private)
        """Return the verbs in the order in which help lists them."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """Import one verb and add the options of ``cxr`` itself to its commands."""
        module, _, attribute = VERBS.get(cmd_name, "").partition(":")
        if not module:
            return None
        command = typer.main.get_command(getattr(import_module(module), attribute or "app"))
        command.name = cmd_name
        _add_settings_options(command)
        tidy(command)
        return command

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401
        """Return the options of ``cxr`` itself."""
        parameters = super().get_params(ctx)
        hide_flag_types(parameters)
        return parameters

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """Refuse a verb whose packages are missing, before its module is imported."""
        if args and args[0] in NEED_WORKER:
            require_worker(args[0])
        return super().resolve_command(ctx, args)


def _add_settings_options(command: Any) -> None:  # noqa: ANN401 (typer's own command type is private)
    """Add the settings' options to a command and its subcommands, except where an option has that name already."""
    names = {name for parameter in command.params for name in parameter.opts}
    command.params += [option for option in _settings_options() if not names & set(option.opts)]
    for subcommand in getattr(command, "commands", {}).values():
        _add_settings_options(subcommand)


def _settings_options() -> list[Any]:
    def declare(config: ConfigFile = None, overrides: Overrides = None, data_dir: DataDir = None) -> None: ...

    application = typer.Typer(add_completion=False)
    application.command()(declare)
    options = [each for each in typer.main.get_command(application).params if "--help" not in each.opts]
    for option in options:
        option.expose_value = False  # its callback stores the value in the context
    return options


app = typer.Typer(
    cls=LazyVerbs,
    invoke_without_command=True,
    pretty_exceptions_enable=False,  # they print local variables, which may be values of a patient
    context_settings={"help_option_names": list(HELP_OPTIONS)},
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
    """Run the command; print faults that a person can mend as a message, without a traceback."""
    try:
        app()
    except ImportError as error:
        sys.exit(_print_fault(_incomplete(error), code=2))
    except SettingsError as error:
        sys.exit(_print_fault(error, code=2))
    except CxrError as error:
        sys.exit(_print_fault(error, code=1))
    except Exception as error:
        if (fault := library_fault(error)) is None:
            raise
        sys.exit(_print_fault(fault, code=1))


def _incomplete(error: ImportError) -> CxrError:
    """Return the fault of an installation that lacks a module or a system library."""
    return SettingsError(
        f"A package can't be loaded ({error}): this installation is not complete. "
        "Install cxr-listener[worker] into this environment again."
    )


def _print_fault(error: CxrError, *, code: int) -> int:
    typer.echo(str(error), err=True)
    return code
