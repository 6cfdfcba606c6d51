"""``cxr init``: write a settings file, Orthanc's auto-route and systemd units from four answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from app.setup.answers import NONE, Answers, read_ae_title, read_results, read_sender
from app.setup.site_files import SETTINGS, key_folder, site_files
from config.context import CommandContext
from config.settings import load_settings
from cxr.errors import SettingsError

app = typer.Typer(add_completion=False)

T = TypeVar("T")


@app.command()
def init(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Target folder.", metavar="FOLDER")] = Path(),
    ae_title: Annotated[str | None, typer.Option(help="AE title of this listener.", metavar="AET")] = None,
    sender: Annotated[
        str | None, typer.Option(help="Sender; none: any on this machine.", metavar="AET@ADDRESS")
    ] = None,
    results: Annotated[
        str | None, typer.Option(help="Destination of reports: AET@HOST:PORT, a DICOMweb URL, a folder, or none.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the defaults of the remaining questions.")] = False,
) -> None:
    """Write cxr.toml, Orthanc's auto-route and the systemd units for this site; four questions are asked.

    Example: cxr init site --ae-title CXR --sender ORTHANC@127.0.0.1 --results ORTHANC@127.0.0.1:4242 --yes
    """
    context: CommandContext = ctx.obj
    folder = folder.expanduser().absolute()
    ask = _Questions(is_silent=yes)
    answers = Answers(
        ae_title=ask("AE title of this listener", ae_title, "CXR", read_ae_title),
        sender=ask("Who sends (AET@ADDRESS, or none: anyone on this machine)", sender, NONE, read_sender),
        results=ask("Where reports go (AET@HOST:PORT, a URL, a folder, or none)", results, NONE, read_results),
        data_dir=ask("Data folder", context.overrides.get("data_dir"), str(folder / "var"), _read_folder),
    )
    files = {folder / name: text for name, text in site_files(answers, folder).items()}
    present = [path for path in files if path.exists()]
    if present:
        raise SettingsError(
            f"{present[0]} is there already, and nothing was written: name another folder, or move it away."
        )
    _write(files, answers)
    load_settings(folder / SETTINGS)  # reports a fault of these templates now, not at the first start
    typer.echo(_next_steps(folder, answers))


class _Questions:
    """Prompt for each answer that no option gives, until it is valid."""

    def __init__(self, *, is_silent: bool) -> None:
        self._is_silent = is_silent

    def __call__(self, question: str, option: str | None, default: str, read: Callable[[str], T]) -> T:
        if option is not None or self._is_silent:
            return read(default if option is None else option)
        while True:
            try:
                return read(typer.prompt(question, default=default))
            except SettingsError as error:
                typer.echo(str(error), err=True)


def _read_folder(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise SettingsError(f"{path} is a file; the data folder has to be a folder.")
    return path


def _write(files: dict[Path, str], answers: Answers) -> None:
    try:
        for folder in (answers.data_dir, key_folder(answers)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if answers.results is not None and answers.results.kind == "folder":
            Path(answers.results.address).mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{error.filename} can't be written ({error.strerror}): choose a folder of your own, or run this as a user "
            "who may write there."
        ) from error


def _next_steps(folder: Path, answers: Answers) -> str:
    settings = folder / SETTINGS
    return (
        f"Written into {folder}: {SETTINGS}, orthanc/, systemd/. Data will be kept in {answers.data_dir}.\n"
        "Next:\n"
        f"  cxr --config {settings} serve     # start it here, Ctrl-C ends it\n"
        f"  cxr --config {settings} demo      # in a second terminal: send it an example radiograph\n"
        f"  Orthanc {folder / 'orthanc'}      # an Orthanc that routes to it\n"
        f"  sudo cp {folder / 'systemd'}/*.service /etc/systemd/system/ && sudo systemctl daemon-reload \\\n"
        "    && sudo systemctl enable --now cxr-listen cxr-work"
    )
