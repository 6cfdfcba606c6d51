"""``cxr config``: list the settings, show those in use, check them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from config.context import CommandContext
from config.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Show, check and list the settings.")


@app.command(epilog="Example: cxr --config site.toml config show")
def show(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Print the settings in use, secrets masked."""
    from config.example import masked, settings_toml

    settings = _load(ctx)
    typer.echo(json.dumps(masked(settings), ensure_ascii=False) if as_json else settings_toml(settings), nl=as_json)


@app.command(epilog="Example: cxr --config site.toml config check")
def check(ctx: typer.Context) -> None:
    """Report all faults of the settings; exit code 2 if there is one."""
    from config.advice import advice
    from config.checks import check_start, mode_notes

    settings = _load(ctx)
    check_start(settings)
    typer.echo("The settings have no faults.")
    for sentence in (*advice(settings), *mode_notes(settings)):
        typer.echo(f"Note: {sentence}")


@app.command(epilog="Example: cxr config example > cxr.toml")
def example(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/settings.md.")] = False,
) -> None:
    """Print every setting with its default and meaning, as a settings file."""
    from config.example import example_toml, settings_page

    typer.echo(settings_page() if markdown else example_toml(), nl=False)


def _load(ctx: typer.Context) -> Settings:
    context = ctx.obj if isinstance(ctx.obj, CommandContext) else CommandContext()
    return context.settings()
