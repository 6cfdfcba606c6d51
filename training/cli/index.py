"""``cxr train index``: write the manifest of a data set; an adapter's options are its keyword arguments."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from training.adapters.reading.result import IndexResult

ADAPTERS = {
    "chexpert": ("reports.chexpert", "CheXpert v1.0 or v1.0-small."),
    "nih": ("reports.nih", "NIH ChestX-ray14."),
    "padchest": ("reports.padchest", "PadChest."),
    "mimic": ("reports.mimic", "MIMIC-CXR-JPG."),
    "brax": ("reports.brax", "BRAX."),
    "openi": ("reports.openi", "Open-i: Indiana University's collection."),
    "vindr": ("vindr", "VinDr-CXR."),
    "shenzhen-montgomery": ("tuberculosis.shenzhen_montgomery", "NLM's Shenzhen and Montgomery sets."),
    "tbx11k": ("tuberculosis.tbx11k", "TBX11K."),
    "siim-covid19": ("siim_covid19", "SIIM-FISABIO-RSNA COVID-19 Detection."),
    "siim-pneumothorax": ("siim_pneumothorax", "SIIM-ACR Pneumothorax Segmentation."),
    "covidx": ("covidx", "COVIDx, the lists of COVID-Net."),
    "institutional": ("institutional", "A folder of DICOM files and a CSV of test results."),
    "audit-export": ("audit_export", "`cxr audit export`, a CSV of labels and the DICOM files."),
    "covid-chestxray": ("covid_chestxray", "ieee8023/covid-chestxray-dataset."),
    "rsna": ("rsna", "RSNA Pneumonia Detection Challenge."),
    "radiography": ("radiography", "COVID-19 Radiography Database."),
    "darwin": ("darwin", "V7 Darwin JSON 1.0 or 2.0 with lung polygons."),
    "bimcv": ("bimcv", "BIMCV-COVID19+ and -."),
    "midrc": ("midrc", "MIDRC or RICORD downloads with their tables."),
    "csv": ("csv_table", "Any CSV with one line per image."),
}
"""Adapter name to module in ``training.adapters`` and its data set."""


class Adapters(TyperGroup):
    """A command group that imports an adapter when its command runs."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 (typer's own context type is private)
        """Return the names of the adapters."""
        return list(ADAPTERS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """Create one adapter's command from its function."""
        if cmd_name not in ADAPTERS:
            return None
        module, summary = ADAPTERS[cmd_name]
        adapter = import_module(f"training.adapters.{module}").index
        single = typer.Typer(add_completion=False)
        example = f"Example: cxr train index {cmd_name} FOLDER -o manifest.csv"
        single.command(name=cmd_name, help=f"{summary}\n\n{example}")(_command(adapter))
        command = typer.main.get_command(single)
        command.name = cmd_name
        return command


index_app = typer.Typer(
    cls=Adapters,
    no_args_is_help=True,
    add_completion=False,
    help="Write the manifest of a data set, one line per image, and the list of rejected files and lines with reasons.",
)


@index_app.callback()
def root() -> None:
    """Write the manifest of a data set, one line per image, and the list of rejected files and lines with reasons."""


def _command(adapter: Callable[..., IndexResult]) -> Callable[..., None]:
    """Wrap an adapter as a command with its own options and those of all adapters."""
    parameters = _options(adapter)

    def run(root: Path, output: Path, as_json: bool, **options: Any) -> None:  # noqa: ANN401
        from training.cli.progress import show_progress

        arguments = {
            name: tuple(value or ()) if isinstance(value, list | None) else value for name, value in options.items()
        }
        with show_progress() as watch:
            indexed = adapter(root, **arguments, watch=watch)
        _write(indexed, output, as_json=as_json)

    shared = [
        _parameter("root", Annotated[Path, typer.Argument(help="The data set's folder.", metavar="FOLDER")]),
        _parameter(
            "output", Annotated[Path, typer.Option("--output", "-o", help="The manifest to write.", metavar="FILE")]
        ),
        *parameters,
        _parameter("as_json", Annotated[bool, typer.Option("--json", help="Print JSON.")], default=False),
    ]
    run.__signature__ = inspect.Signature(shared)  # type: ignore[attr-defined]  # typer reads the signature
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shared}
    return run


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:  # noqa: ANN401
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _options(adapter: Callable[..., IndexResult]) -> list[inspect.Parameter]:
    """Return an adapter's keyword arguments as options; their annotations' texts are the help texts."""
    hints = get_type_hints(adapter, include_extras=True)
    options = []
    for name, parameter in inspect.signature(adapter).parameters.items():
        if name in ("root", "watch"):
            continue
        kind, help_text = hints[name].__origin__, hints[name].__metadata__[0]
        default = parameter.default
        if kind == tuple[str, ...]:
            kind, default = list[str] | None, None
            help_text += " Repeatable."
        flag = f"--{name.replace('_', '-')}"
        flags = [f"{flag}/--no-{flag[2:]}" if default is True else flag]
        options.append(_parameter(name, Annotated[kind, typer.Option(*flags, help=help_text)], default))
    return options


def _write(indexed: IndexResult, output: Path, *, as_json: bool) -> None:
    from training.adapters.index_summary import (
        boxes_path,
        print_summary,
        rejections_path,
        summarise,
        write_boxes,
        write_rejections,
    )
    from training.cases import relative_paths, write_manifest

    write_manifest(relative_paths(indexed.cases, output.parent), output)
    write_rejections(indexed.rejected, rejections_path(output))
    write_boxes(indexed.boxes, boxes_path(output))
    summary = summarise(indexed, output)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        print_summary(summary)
