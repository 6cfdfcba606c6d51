"""Train a view model from a manifest: left-out predictions of every image, the final network, a package.

Nothing is chosen on what is left out: the effort and the confidence stand before. The left-out
figures are of networks that saw all but one fold; the package holds the one that saw all folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.domain import Code, PackageStatus
from cxr.errors import RunError
from cxr.package import (
    MODEL_CARD_FILE,
    MODEL_FILE,
    ModelPackage,
    Outputs,
    PackageClass,
    PackageManifest,
    Provenance,
    write_package,
)
from cxr.package.view_model import CLASSES, COMPONENT, FRONTAL, LATERAL, NOT_A_CHEST, ViewComponent
from cxr.product import CODING_SCHEME_DESIGNATOR
from training.cases import groups, read_manifest, resolve_paths
from training.inputs.cache import Cache, build_cache
from training.networks import save_network
from training.networks.keras_types import KerasModel
from training.recipe import Compute
from training.runs.devices import device_scope, software_versions
from training.view_model.card import view_card
from training.view_model.cases import SYNTHETIC, ViewCases, choose, folds, shares
from training.view_model.drawn_pictures import draw
from training.view_model.figures import figures, frontal_at_least
from training.view_model.network import RECIPE, SIZE, Effort, fit, predict
from training.view_model.rearranged_films import made_of_films

PACKAGE: Final = "package"
PREDICTIONS: Final = "predictions.csv"

CODES: Final = (
    Code(value="399033003", scheme_designator="SCT", meaning="Frontal projection"),
    Code(value="399067008", scheme_designator="SCT", meaning="Lateral projection"),
    Code(value="NOT-A-CHEST", scheme_designator=CODING_SCHEME_DESIGNATOR, meaning="Not a chest radiograph"),
)
"""What the classes are called."""

Floats = NDArray[np.float32]

_ONE_IS_DRAWN_IN: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """What a view model is trained with beside its images.

    Parameters
    ----------
    seed
        Of everything.
    synthetic
        Made pictures of what is no chest: one in six is drawn, the others are made of the films; 0: none.
    effort
        How long each network is fitted.
    note
        A paragraph for the card: what these images are.
    cache
        Folder of prepared images; None: in the output folder.
    processes
        How many prepare images.
    progress
        Called with a step's name, how much is done, and of how much.
    """

    seed: int = 0
    synthetic: int = 2100
    effort: Effort = field(default_factory=Effort)
    note: str = ""
    cache: Path | None = None
    processes: int | None = None
    progress: Callable[[str, int, int], None] = lambda step, done, total: None


@dataclass(frozen=True)
class _Material:
    cases: ViewCases
    cache: Cache
    rows: NDArray[np.int64]  # in the cache; of drawn pictures, at the end, -1
    drawn: Sequence[Floats]

    @classmethod
    def of(cls, cases: ViewCases, cache: Cache, of_films: Mapping[int, Floats], seed: int) -> _Material:
        """Find every image, and draw what is not made of films."""
        is_drawn = (cases.frame["source"] == SYNTHETIC).to_numpy(dtype=bool)
        rows = np.full(len(is_drawn), -1, np.int64)
        rows[~is_drawn] = cache.rows(cases.frame["image_id"][~is_drawn])
        places = range(int(is_drawn.sum()))
        made = [of_films[n] if n in of_films else draw(SIZE, seed=seed, number=n)[1] for n in places]
        return cls(cases, cache, rows, made)

    def image(self, place: int) -> Floats:
        """Give one image, float32 (64, 64, 1)."""
        if self.rows[place] >= 0:
            return self.cache.image(int(self.rows[place]))
        return self.drawn[place - len(self.rows)][:, :, np.newaxis]

    def images(self, places: NDArray[np.int64]) -> Floats:
        """Give several."""
        found = [self.image(int(place)) for place in places]
        return np.stack(found) if found else np.empty((0, SIZE, SIZE, 1), np.float32)


def train_view(manifest: Path, folder: Path, *, now: datetime, options: ViewOptions | None = None) -> ModelPackage:
    """Train a view model.

    Parameters
    ----------
    manifest
        Its cases; rows with ``split`` test are never trained on, all others are.
    folder
        Where to: ``package`` (the view model) and ``predictions.csv`` (what was said of images left out).
    now
        The time that is recorded.
    options
        Seed, drawn pictures, effort.

    Raises
    ------
    ManifestError
        If it can't be read, or lacks a class.
    RunError
        If a patient is trained on and in the test, or the folder holds a view model.
    """
    wanted = options or ViewOptions()
    if (folder / PACKAGE).exists():
        raise RunError("The folder holds a view model already: name another folder.")
    rows = resolve_paths(read_manifest(manifest), manifest.absolute().parent)
    _check_patients(rows)
    cache_folder = wanted.cache or folder / "cache"
    cache = build_cache(rows, RECIPE, cache_folder, processes=wanted.processes, progress=wanted.progress)
    cases = choose(rows[rows["image_id"].isin(list(cache.rows_by_id))], synthetic=wanted.synthetic)
    material = _Material.of(cases, cache, _of_films(rows, cases, cache_folder, wanted), wanted.seed)
    with device_scope(Compute(devices="cpu"), wanted.seed):
        left_out, fold, count = _cross_validate(material, wanted)
        network = _fit(material, ~cases.is_test, wanted, "Fitting the view model")
        tested = np.flatnonzero(cases.is_test)
        left_out[tested] = predict(network, material.images(tested))
    predictions = _tabulate(cases, left_out, fold)
    folder.mkdir(parents=True, exist_ok=True)
    predictions.to_csv(folder / PREDICTIONS, index=False, lineterminator="\n", float_format="%.6f")
    return _package(network, cases, predictions, count, folder, wanted, now)


def _of_films(rows: pd.DataFrame, cases: ViewCases, folder: Path, wanted: ViewOptions) -> dict[int, Floats]:
    """Make pictures of frontal films, by their place: those that are trained on of films that are, and of no other."""
    frontals = cases.frame[cases.truths == CLASSES.index(FRONTAL)]
    made = cases.frame[cases.frame["source"] == SYNTHETIC]
    found: dict[int, Floats] = {}
    for number, is_test in enumerate((False, True)):
        places = np.flatnonzero((np.arange(len(made)) % _ONE_IS_DRAWN_IN > 0) & ((made["split"] == "test") == is_test))
        films = rows[rows["image_id"].isin(frontals["image_id"][(frontals["split"] == "test") == is_test])]
        pictures = made_of_films(
            films,
            len(places),
            folder,
            seed=wanted.seed + number,
            processes=wanted.processes,
            progress=wanted.progress,
        )
        found |= dict(zip(places.tolist(), pictures, strict=False))  # fewer, where a film can't be read
    return found


def _check_patients(rows: pd.DataFrame) -> None:
    keys, is_test = groups(rows), rows["split"] == "test"
    if shared := len(set(keys[is_test]) & set(keys[~is_test])):
        raise RunError(f"{shared} patients are trained on and in the test as well: divide the cases by patient.")


def _cross_validate(material: _Material, wanted: ViewOptions) -> tuple[Floats, NDArray[np.int64], int]:
    fold, count = folds(material.cases, seed=wanted.seed)
    left_out = np.zeros((len(fold), len(CLASSES)), np.float32)
    for number in range(count):
        is_in = (fold >= 0) & (fold != number)
        network = _fit(material, is_in, wanted, f"Fitting without fold {number + 1} of {count}")
        places = np.flatnonzero(fold == number)
        left_out[places] = predict(network, material.images(places))
    return left_out, fold, count


def _fit(material: _Material, is_in: NDArray[np.bool_], wanted: ViewOptions, step: str) -> KerasModel:
    places = np.flatnonzero(is_in)
    cases = ViewCases(material.cases.frame.iloc[places].reset_index(drop=True), material.cases.truths[places])
    return fit(
        lambda case: material.image(int(places[case])),
        cases.truths,
        shares(cases),
        effort=wanted.effort,
        seed=wanted.seed,
        watch=lambda done, total: wanted.progress(step, done, total),
    )


def _tabulate(cases: ViewCases, probabilities: Floats, fold: NDArray[np.int64]) -> pd.DataFrame:
    table = cases.frame[["image_id", "source"]].copy()
    table["truth"] = [CLASSES[truth] for truth in cases.truths]
    table["left_out"] = ["test" if number < 0 else f"fold {number}" for number in fold]
    for place, name in enumerate(CLASSES):
        table[name] = probabilities[:, place]
    return table


def _package(
    network: KerasModel,
    cases: ViewCases,
    predictions: pd.DataFrame,
    count: int,
    folder: Path,
    wanted: ViewOptions,
    now: datetime,
) -> ModelPackage:
    component = ViewComponent(
        laterals=cases.count(LATERAL),
        frontals=cases.count(FRONTAL),
        not_a_chest=cases.count(NOT_A_CHEST),
        synthetic=cases.count(NOT_A_CHEST, drawn=True),
        frontal_at_least=frontal_at_least(predictions),
    )
    model_file = folder / MODEL_FILE
    save_network(network, model_file, now=now)
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    trained = cases.frame[~cases.is_test & (cases.frame["source"] != SYNTHETIC)]
    sources = ", ".join(f"{name or 'unnamed'} ({n})" for name, n in trained["source"].value_counts().items())
    manifest = PackageManifest(
        name="view",
        version=f"1.0.0+{digest[:12]}",
        status=PackageStatus.EVALUATED,
        classes=tuple(PackageClass(finding=name, code=code) for name, code in zip(CLASSES, CODES, strict=True)),
        activation="softmax",
        recipe=RECIPE,
        outputs=Outputs(probabilities="prob"),
        components={COMPONENT: component.model_dump(mode="json")},
        evaluation=figures(predictions, component, folds=count),
        provenance=Provenance(
            training_data=f"{len(trained)} images: {sources}; and {component.synthetic} made pictures.",
            architecture="view",
            created=now,
            seed=wanted.seed,
            software=software_versions(),
        ),
    )
    licences = trained["licence"].replace("", "not said").value_counts()
    card = view_card(manifest, component, {str(name): int(n) for name, n in licences.items()}, wanted.note)
    made = write_package(folder / PACKAGE, manifest, {MODEL_FILE: model_file, MODEL_CARD_FILE: card.encode()})
    model_file.unlink()
    return made
