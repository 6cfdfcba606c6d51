"""Training data of a rebuild: images of the service with their test results, and their sides of the split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from cxr.errors import RunError
from training.adapters import audit_export
from training.adapters.index_summary import rejections_path, write_rejections
from training.cases import read_manifest, resolve_paths, splits, write_manifest
from training.inputs.targets import select

if TYPE_CHECKING:
    from config.sections import RebuildSettings
    from db.engine import Database
    from training.recipe import TrainingRecipe

EXPORT_FILE: Final = "export.csv"
MANIFEST_FILE: Final = "manifest.csv"


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of images with a label of the task of the recipe, and of those that no earlier manifest has."""

    images: int
    new_images: int


def prepare(
    settings: RebuildSettings,
    database: Database,
    spool_dir: Path,
    folder: Path,
    recipe: TrainingRecipe,
    earlier_manifests: Sequence[Path],
) -> Counts:
    """Write the manifest of a rebuild with a side for each image, unless it exists or too few images are new.

    Parameters
    ----------
    settings
        Paths of labels and images, or of a manifest.
    database
        Audit database whose results are exported.
    spool_dir
        Folder of the image files, if the settings name no other.
    folder
        Folder of the rebuild.
    recipe
        Its task selects the labels; its split divides the cases.
    earlier_manifests
        Manifests of the start run and of the last rebuild: a patient stays on the side given there, so that no model
        is tested on images that another one was trained on.

    Raises
    ------
    ManifestError
        If the labels can't be read, or nothing joins.
    SplitError
        If the cases can't be divided.
    RunError
        If no image has a label of the task, or the settings name no data.
    """
    target = folder / MANIFEST_FILE
    earlier = [read_manifest(path) for path in earlier_manifests]
    exists = target.exists()
    cases = resolve_paths(read_manifest(target), folder) if exists else _collect(settings, database, spool_dir, folder)
    labelled = select(cases, recipe.task).frame
    earlier_images = {name for frame in earlier for name in frame["image_id"]}
    counts = Counts(images=len(labelled), new_images=int((~labelled["image_id"].isin(earlier_images)).sum()))
    if not exists and counts.new_images >= settings.min_new_images:
        write_manifest(_with_sides(cases, recipe, earlier), target)
    return counts


def _collect(settings: RebuildSettings, database: Database, spool_dir: Path, folder: Path) -> pd.DataFrame:
    if settings.manifest is not None:
        return resolve_paths(read_manifest(settings.manifest), settings.manifest.absolute().parent)
    if settings.labels is None:
        raise RunError("The settings name no data for a rebuild: set rebuild.labels or rebuild.manifest.")
    _export(database, folder / EXPORT_FILE)
    indexed = audit_export.index(
        settings.images or spool_dir,
        labels=str(settings.labels.absolute()),
        export=str((folder / EXPORT_FILE).absolute()),
        column=settings.columns,
        word=settings.words,
        positive=settings.positive,
        days=settings.days,
        date_format=settings.date_format,
    )
    write_rejections(indexed.rejected, rejections_path(folder / MANIFEST_FILE))
    return indexed.cases


def _export(database: Database, target: Path) -> None:
    from db.results.export import write_csv
    from db.results.filters import IdentifierForm
    from db.results.queries import ResultFilter, iterate_results

    with target.open("w", encoding="utf-8", newline="") as stream:
        write_csv(iterate_results(database, ResultFilter()), stream, form=IdentifierForm.UIDS)


def _with_sides(cases: pd.DataFrame, recipe: TrainingRecipe, earlier: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Assign each case to the side that its patient had, else by the split of the recipe."""
    rules = recipe.split
    if (cases["split"] != "").all():
        return cases
    sides_before = _sides_before(cases, earlier) if rules.strategy == "patient" else pd.Series("", index=cases.index)
    parts = list(_parts(cases, sides_before, recipe))
    divided = pd.concat(parts).sort_index()
    splits.assert_disjoint(divided, patients=rules.strategy != "image")
    return divided


def _parts(cases: pd.DataFrame, sides_before: pd.Series, recipe: TrainingRecipe) -> Iterator[pd.DataFrame]:
    rules = recipe.split
    is_new = sides_before == ""
    if not is_new.all():
        yield cases[~is_new].assign(split=sides_before[~is_new])
    if is_new.any():
        new_cases = cases[is_new]
        fractions = dict(zip(("train", "val", "test"), rules.fractions, strict=True))
        divided = splits.split(
            new_cases, strategy=rules.strategy, fractions=fractions, seed=rules.seed, train_only=rules.train_only
        )
        yield divided.set_index(new_cases.index)


def _sides_before(cases: pd.DataFrame, earlier: Sequence[pd.DataFrame]) -> pd.Series:
    """Return the last earlier side of the patient of each case, or of its image where the patient is unknown."""
    sides: dict[tuple[str, str], str] = {}
    for frame in earlier:
        sides |= dict(zip(_names(frame), frame["split"], strict=True))
    return pd.Series([sides.get(name, "") for name in _names(cases)], index=cases.index, dtype=object)


def _names(frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    for source, group in zip(frame["source"], splits.groups(frame), strict=True):
        yield str(source), str(group)
