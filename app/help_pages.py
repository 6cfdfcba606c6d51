"""Layout of ``-h``: paragraphs without the docstring's line breaks, flags without a type."""

from __future__ import annotations

from typing import Any, Final

import typer

HELP_OPTIONS: Final = ("-h", "--help")

_EXAMPLE: Final = "Example:"


def tidy(command: Any) -> None:  # noqa: ANN401 (typer's own command type is private)
    """Lay out the help of a command and of all commands below it.

    typer keeps the line breaks of a docstring in every paragraph but the first, and prints the type ``<bool>``
    beside each flag.

    Parameters
    ----------
    command
        A typer command or group; changed in place.
    """
    command.help = join_lines(command.help or "")
    context = typer.Context(command, help_option_names=list(HELP_OPTIONS))
    hide_flag_types(command.get_params(context))
    for subcommand in getattr(command, "commands", {}).values():
        tidy(subcommand)


def join_lines(text: str) -> str:
    """Write each paragraph in one line, except examples, which are commands line by line."""
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    return "\n\n".join(
        paragraph if paragraph.startswith(_EXAMPLE) else " ".join(paragraph.split()) for paragraph in paragraphs
    )


def hide_flag_types(parameters: list[Any]) -> None:
    """Print nothing where the type of a flag would stand."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
