"""``cxr train audit``: leaks, copies and shortcuts of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

    from training.audit.blanked_lungs import BlankedAudit
    from training.audit.near_duplicates import Hashed
    from training.audit.report import AuditReport

SHEET_IMAGES = 18
"""Images on the sheet of augmented examples: three rows of six."""


def audit(
    manifest: Annotated[Path, typer.Argument(help="A manifest of `cxr train index`.", metavar="MANIFEST")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder. Default: that of the manifest.", metavar="FOLDER")
    ] = None,
    files: Annotated[
        bool,
        typer.Option("--files/--no-files", help="Read every file: search for copies, and audit size, format and bits."),
    ] = True,
    plots: Annotated[
        bool, typer.Option("--plots", help="Also write charts of the counts, and a sheet of augmented examples.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe of the classes and the augmentation. Default: for a run's manifest the run's, else "
            "default-finetune.",
            metavar="NAME|FILE",
        ),
    ] = None,
    package: Annotated[
        Path | None, typer.Option(help="Also score test images with blanked lungs.", metavar="PACKAGE")
    ] = None,
    mask_model: Annotated[
        Path | None,
        typer.Option(
            help="A folder of `cxr train masks`, to segment the lungs that are blanked. Default: the package's own, "
            "else the manifest's masks, else a box.",
            metavar="FOLDER",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=20, help="Maximum number of images with blanked lungs.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and samples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find leaks, copies and shortcuts that would invalidate a model's figures; print warnings, write audit.json.

    Example: cxr train audit manifest.csv --plots
    """
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from training.audit.dataset import audit as make_report
    from training.audit.report import AUDIT_FILE
    from training.cases import read_manifest, resolve_paths

    cases = resolve_paths(read_manifest(manifest), manifest.parent)
    named = recipe or _recipe_beside(manifest)
    folder = output or manifest.parent
    folder.mkdir(parents=True, exist_ok=True)
    report = make_report(
        cases,
        hashed=_hashed(cases) if files else None,
        forms=_forms(cases) if files else None,
        blanked=_blanked(package, cases, named, mask_model, limit, seed) if package else (),
        seed=seed,
    )
    report.to_json(folder / AUDIT_FILE)
    if plots:
        _draw(report, cases, folder, named, seed)
    if as_json:
        typer.echo((folder / AUDIT_FILE).read_text(encoding="utf-8"))
        return
    for check, result in report.summary().items():
        typer.echo(f"{check}: {result}")
    for caution in report.cautions:
        typer.echo(f"warning ({caution.code}): {caution.sentence}", err=True)
    typer.echo(f"{AUDIT_FILE} is in {folder}")


def _recipe_beside(manifest: Path) -> str:
    """Return the recipe of the run whose manifest it is, else the default's name."""
    from training.runs.folder import CONFIG_FILE, MANIFEST_FILE, RUN_FILE

    config = manifest.parent / CONFIG_FILE
    is_of_run = manifest.name == MANIFEST_FILE and config.is_file() and (manifest.parent / RUN_FILE).is_file()
    return str(config) if is_of_run else "default-finetune"


def _hashed(cases: pd.DataFrame) -> Hashed:
    from training.audit.near_duplicates import hash_files
    from training.cli.progress import show_progress

    with show_progress() as progress:
        return hash_files([Path(path) for path in cases["path"]], progress=progress)


def _forms(cases: pd.DataFrame) -> pd.DataFrame:
    from training.audit.file_forms import read_forms
    from training.cli.progress import show_progress

    with show_progress() as progress:
        return read_forms([Path(path) for path in cases["path"]], progress)


def _blanked(
    package: Path, cases: pd.DataFrame, recipe: str, mask_model: Path | None, limit: int, seed: int
) -> tuple[BlankedAudit, ...]:
    from training.packaging.blanked_lungs_of_package import audit_package
    from training.recipe import load_recipe

    tested = cases[cases["split"] == "test"] if (cases["split"] == "test").any() else cases
    labels = load_recipe(recipe).task.labels
    tested = tested.reset_index(drop=True)
    return audit_package(package, tested, labels=labels, limit=limit, seed=seed, mask_model=mask_model)


def _draw(report: AuditReport, cases: pd.DataFrame, folder: Path, recipe: str, seed: int) -> None:
    from training.audit.dataset import label_tables
    from training.plots.augmentation_sheet import plot_augmented
    from training.plots.contact_sheets import plot_bars
    from training.recipe import load_recipe

    plot_bars(label_tables(report), folder / "audit_counts.png", f"{report.images} images")
    plot_augmented(cases, load_recipe(recipe), folder / "audit_augmented.png", count=SHEET_IMAGES, seed=seed)
