"""What a rebuild trains on: the service's own images with their test results, divided so that figures stay honest."""

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
    """How many labelled images there are for the recipe's task, and how many of them are new."""

    images: int
    new_images: int


def prepare(
    settings: RebuildSettings,
    database: Database,
    spool_dir: Path,
    folder: Path,
    recipe: TrainingRecipe,
    known: Sequence[Path],
) -> Counts:
    """Write a rebuild's manifest, with a side for each image, unless it is there or too little is new.

    Parameters
    ----------
    settings
        Where labels and images, or the manifest, are.
    database
        Whose images are exported.
    spool_dir
        Where their files are, if the settings name no other folder.
    folder
        The rebuild's.
    recipe
        Its task says which labels count; its split, how cases are divided.
    known
        Manifests of the run it starts from and of the rebuild before: a patient stays on the side
        that these say, so that no model was trained on what another one is tested on.

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
    earlier = [read_manifest(path) for path in known]
    is_there = target.exists()
    cases = (
        resolve_paths(read_manifest(target), folder) if is_there else _collect(settings, database, spool_dir, folder)
    )
    chosen = select(cases, recipe.task).frame
    seen = {name for frame in earlier for name in frame["image_id"]}
    counts = Counts(images=len(chosen), new_images=int((~chosen["image_id"].isin(seen)).sum()))
    if not is_there and counts.new_images >= settings.min_new_images:
        write_manifest(_divided(cases, recipe, earlier), target)
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


def _divided(cases: pd.DataFrame, recipe: TrainingRecipe, earlier: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Give each case a side: the one its patient had, else by the recipe's split."""
    wanted = recipe.split
    if (cases["split"] != "").all():
        return cases
    kept = _carried(cases, earlier) if wanted.strategy == "patient" else pd.Series("", index=cases.index)
    parts = list(_parts(cases, kept, recipe))
    divided = pd.concat(parts).sort_index()
    splits.assert_disjoint(divided, patients=wanted.strategy != "image")
    return divided


def _parts(cases: pd.DataFrame, kept: pd.Series, recipe: TrainingRecipe) -> Iterator[pd.DataFrame]:
    wanted = recipe.split
    is_new = kept == ""
    if not is_new.all():
        yield cases[~is_new].assign(split=kept[~is_new])
    if is_new.any():
        fresh = cases[is_new]
        fractions = dict(zip(("train", "val", "test"), wanted.fractions, strict=True))
        divided = splits.split(
            fresh, strategy=wanted.strategy, fractions=fractions, seed=wanted.seed, train_only=wanted.train_only
        )
        yield divided.set_index(fresh.index)


def _carried(cases: pd.DataFrame, earlier: Sequence[pd.DataFrame]) -> pd.Series:
    """The side that each case's patient, or where none is known the image, had before; the latest word counts."""
    sides: dict[tuple[str, str], str] = {}
    for frame in earlier:
        sides |= dict(zip(_names(frame), frame["split"], strict=True))
    return pd.Series([sides.get(name, "") for name in _names(cases)], index=cases.index, dtype=object)


def _names(frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    for source, group in zip(frame["source"], splits.groups(frame), strict=True):
        yield str(source), str(group)
