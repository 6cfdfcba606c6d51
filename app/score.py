"""``cxr score``: score files without a server, exactly as the worker would."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from config.context import CommandContext
from config.logs import configure
from config.settings import Settings
from cxr.domain import PackageStatus, View
from cxr.errors import CxrError, SettingsError
from cxr.marks import NOTICE

if TYPE_CHECKING:
    from cxr.geometry import Geometry
    from cxr.package import ModelPackage
    from inference.input_gate import InputGate
    from inference.model import Model, ModelOutput
    from inference.view_check import Verdict, ViewCheck

app = typer.Typer(add_completion=False)

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FileScore:
    """One line of the answer; the first six names are interface."""

    file: str
    view: str
    reason: str
    finding: str | None = None
    score: float | None = None
    error_code: str | None = None
    threshold: float | None = None
    model: str | None = None
    fingerprint: str | None = None
    model_status: str | None = None
    warnings: tuple[str, ...] = ()


@app.command()
def score(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files.", metavar="FILE...")],
    package: Annotated[Path | None, typer.Option(help="Model package (folder); else the one in service.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Write the file's evidence map (or Grad-CAM) over its image here, as PNG.")
    ] = None,
    any_view: Annotated[bool, typer.Option("--any-view", help="Score also what is not a frontal chest image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file and finding.")] = False,
) -> None:
    """Score files; what the header says about the view decides as in the service, but unknown views are scored.

    Example: cxr score chest.dcm film.png --overlay evidence.png
    """
    context: CommandContext = ctx.obj
    settings = context.settings()
    configure(settings.log)
    if overlay is not None and len(files) != 1:
        raise SettingsError(f"--overlay takes one file; got {len(files)}.")
    progress = track(files, description="scoring", console=Console(stderr=True), disable=len(files) < 3, transient=True)
    with Scorer(settings, package, any_view=any_view) as scorer:
        rows = [row for file in progress for row in scorer.score(file, overlay)]
        _print_json(rows) if as_json else _print_table(rows, scorer.package)
    raise typer.Exit(1 if any(row.error_code for row in rows) else 0)


class Scorer:
    """Scores one file after the other with one package; a context manager.

    Parameters
    ----------
    settings
        All settings.
    package
        Folder of a model package; None: the package in service, or where there is none the default.
    any_view
        Whether to score what the header says is not a frontal chest image.
    """

    def __init__(self, settings: Settings, package: Path | None, *, any_view: bool) -> None:
        from cxr.package import load_package
        from cxr.view_model import is_view_model

        self._expanded = ExitStack()  # a default's temporary folder
        self.package: ModelPackage = load_package(package) if package else self._served(settings)
        if is_view_model(self.package.manifest):
            raise SettingsError("This package tells the view and no finding: name it with the setting view.model.")
        self._settings = settings
        self._any_view = any_view
        self._loaded: Model | None = None
        self._gate: InputGate | None = None
        self._views: list[ViewCheck | None] = []  # once it was looked for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._expanded.close()

    def _served(self, settings: Settings) -> ModelPackage:
        """Find the package in service; where none is, expand the default that comes with the project."""
        from cxr.shipped import shipped_models
        from inference.registry import Registry

        registry, wanted, shipped = Registry(settings.models_dir), settings.worker.default_model, shipped_models()
        is_there = shipped is not None and wanted in shipped.fingerprints
        if shipped is None or not is_there or registry.active_fingerprint() is not None:
            return registry.active()
        return self._expanded.enter_context(shipped.expanded(wanted))

    def score(self, file: Path, overlay: Path | None) -> list[FileScore]:
        """Return one row per finding, or one row that says why there is none."""
        view, reason = View.UNKNOWN.value, "not_dicom"
        try:
            if is_dicom(file):
                view, reason, is_wanted = self._decide(file)
                if not (is_wanted or self._any_view):
                    return [FileScore(file=str(file), view=view, reason=reason)]
            return list(self._rows(file, view, reason, overlay))
        except CxrError as error:
            return [FileScore(file=str(file), view=view, reason=reason, error_code=error.code)]
        except OSError:
            return [FileScore(file=str(file), view=view, reason=reason, error_code="unreadable_file")]

    def _decide(self, file: Path) -> tuple[str, str, bool]:
        from cxr.header import open_dataset, read_header
        from cxr.projection import decide_view

        limit = self._settings.listener.max_object_mib * MIB
        decision = decide_view(read_header(open_dataset(file, max_inflated_bytes=limit)))
        is_wanted = decision.is_scorable or decision.view is View.UNKNOWN
        return decision.view.value, decision.reason, is_wanted

    def _rows(self, file: Path, view: str, reason: str, overlay: Path | None) -> Iterator[FileScore]:
        from cxr.pixels import to_model_input

        manifest = self.package.manifest
        verdict = self._judge_view(file, view)
        if verdict.state is not None:
            yield FileScore(file=str(file), view=view, reason=verdict.reason)
            return
        pixels = to_model_input(file, manifest.recipe, max_megapixels=self._settings.worker.max_megapixels)
        seen = self._model().see(pixels)
        output = self._model().score(seen.pixels[None])
        warnings = self._input_gate().warnings(
            seen, output, 0, shape=self._shape_of(file), geometry=self._geometry_of(file)
        )
        if overlay is not None:
            self._write_overlay(overlay, seen.pixels, output, warnings)
        for entry, probability in zip(manifest.classes, output.probabilities[0], strict=True):
            yield FileScore(
                file=str(file),
                view=view,
                reason=reason,
                finding=entry.finding,
                score=float(probability),
                threshold=entry.threshold,
                model=f"{manifest.name} {manifest.version}",
                fingerprint=self.package.fingerprint,
                model_status=manifest.status.value,
                warnings=warnings + verdict.warnings,
            )

    def _judge_view(self, file: Path, view: str) -> Verdict:
        """Ask the view model, as the worker does; with --any-view it flags and nothing more."""
        from cxr.pixels import to_model_input
        from inference.model import Model
        from inference.view_check import SCORED, ViewCheck

        if not self._views:
            device = self._settings.worker.device
            self._views.append(ViewCheck.load(self._settings.view, lambda each: Model.load(each, device=device)))
        check = self._views[0]
        if check is None:
            return SCORED
        picture = to_model_input(file, check.recipe, max_megapixels=self._settings.worker.max_megapixels)
        return check.judge(picture, view=View(view), is_released=self._any_view, geometry=self._geometry_of(file))

    def _shape_of(self, file: Path) -> tuple[int, int] | None:
        """Rows and columns as the file's header says them."""
        from PIL import Image

        from cxr.header import open_dataset

        if not is_dicom(file):
            with Image.open(file) as image:
                return image.height, image.width
        header = open_dataset(file, max_inflated_bytes=self._settings.listener.max_object_mib * MIB)
        return int(header.Rows), int(header.Columns)  # checked, or it would not have been decoded

    def _geometry_of(self, file: Path) -> Geometry:
        """How the image lies, by its header."""
        from cxr.geometry import UPRIGHT, read_geometry
        from cxr.header import open_dataset

        if not is_dicom(file):
            return UPRIGHT
        return read_geometry(open_dataset(file, max_inflated_bytes=self._settings.listener.max_object_mib * MIB))

    def _model(self) -> Model:
        from inference.model import Model

        if self._loaded is None:
            self._loaded = Model.load(
                self.package, device=self._settings.worker.device, engine=self._settings.worker.runtime
            )
        return self._loaded

    def _input_gate(self) -> InputGate:
        from inference.input_gate import InputGate

        if self._gate is None:
            self._gate = InputGate.of(self.package)
        return self._gate

    def _write_overlay(
        self, target: Path, pixels: NDArray[np.float32], output: ModelOutput, warnings: tuple[str, ...]
    ) -> None:
        from inference.explain import Method, overlay
        from inference.scored import scored_image

        model = self._model()
        evidence = model.grad_cam(pixels) if output.evidence is None else output.evidence[0]
        if evidence is None:
            raise SettingsError("--overlay needs a model package that can say where its evidence lies; this one can't.")
        scored = scored_image(output.probabilities[0], self.package, model.device, datetime.now(UTC), warnings)
        target.write_bytes(overlay(pixels, evidence, scored, Method.of(self.package.manifest)))


def is_dicom(file: Path) -> bool:
    """Whether a file is to be read as DICOM: anything but a PNG or JPEG, by its first bytes."""
    with file.open("rb") as stream:
        start = stream.read(8)
    return not start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def _print_json(rows: Sequence[FileScore]) -> None:
    for row in rows:
        typer.echo(json.dumps(asdict(row)))


def _print_table(rows: Sequence[FileScore], package: ModelPackage) -> None:
    manifest = package.manifest
    title = f"{manifest.name} {manifest.version} - {NOTICE}"
    if manifest.status is not PackageStatus.EVALUATED:
        title += f" - {manifest.status.value.upper()} MODEL"
    table = Table(title=title)
    for heading in ("file", "view", "reason", "finding", "score", "warnings", "error"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        shown = "" if row.score is None else f"{row.score:.4f}"
        table.add_row(
            row.file, row.view, row.reason, row.finding or "", shown, ", ".join(row.warnings), row.error_code or ""
        )
    Console().print(table)
