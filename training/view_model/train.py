"""Train a view model from a manifest: cross-validated predictions, the final network, a package.

Effort and confidence are fixed before training, and not chosen on images left out. Figures of the
cross-validation are of networks trained without one fold; the package's network is trained on all folds.
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
from training.files import write_whole
from training.inputs.cache import Cache, build_cache
from training.networks import save_network
from training.networks.keras_types import KerasModel
from training.recipe import Compute
from training.runs.devices import device_scope, software_versions
from training.view_model.card import view_card
from training.view_model.cases import SYNTHETIC, ViewCases, assign_folds, sampling_probabilities, view_cases
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
"""Codes of the classes."""

Floats = NDArray[np.float32]

_DRAWN_EVERY: Final = 6  # one synthetic picture in six is drawn, the others are made of films


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """Options of the training of a view model.

    Parameters
    ----------
    seed
        Of weights, draws, folds and synthetic pictures.
    synthetic
        Number of synthetic pictures without a chest: one in six is drawn, the others are made of films; 0: none.
    effort
        Length of each network's fit.
    note
        A paragraph of the card about the images.
    cache
        Folder of prepared images; None: in the output folder.
    processes
        Number of processes that prepare images.
    progress
        Called with a step's name, how many are done, and of how many.
    """

    seed: int = 0
    synthetic: int = 2100
    effort: Effort = field(default_factory=Effort)
    note: str = ""
    cache: Path | None = None
    processes: int | None = None
    progress: Callable[[str, int, int], None] = lambda step, done, total: None


@dataclass(frozen=True)
class _TrainingImages:
    cases: ViewCases
    cache: Cache
    rows: NDArray[np.int64]  # in the cache; -1 for synthetic pictures, which are last
    synthetic: Sequence[Floats]

    @classmethod
    def of(cls, cases: ViewCases, cache: Cache, of_films: Mapping[int, Floats], seed: int) -> _TrainingImages:
        """Look up every image in the cache, and draw the synthetic pictures that are not made of films."""
        is_synthetic = (cases.frame["source"] == SYNTHETIC).to_numpy(dtype=bool)
        rows = np.full(len(is_synthetic), -1, np.int64)
        rows[~is_synthetic] = cache.rows(cases.frame["image_id"][~is_synthetic])
        numbers = range(int(is_synthetic.sum()))
        synthetic = [of_films[n] if n in of_films else draw(SIZE, seed=seed, number=n)[1] for n in numbers]
        return cls(cases, cache, rows, synthetic)

    def image(self, index: int) -> Floats:
        """Return one image, float32 (64, 64, 1)."""
        if self.rows[index] >= 0:
            return self.cache.image(int(self.rows[index]))
        return self.synthetic[index - len(self.rows)][:, :, np.newaxis]

    def images(self, indices: NDArray[np.int64]) -> Floats:
        """Return several images, float32 (N, 64, 64, 1)."""
        images = [self.image(int(index)) for index in indices]
        return np.stack(images) if images else np.empty((0, SIZE, SIZE, 1), np.float32)


def train_view(manifest: Path, folder: Path, *, now: datetime, options: ViewOptions | None = None) -> ModelPackage:
    """Train a view model.

    Parameters
    ----------
    manifest
        Of the cases; rows with ``split`` test are never trained on, all others are.
    folder
        Of the outputs: ``package`` (the view model) and ``predictions.csv`` (predictions of images left out).
    now
        Recorded as the time of creation.
    options
        Seed, synthetic pictures, effort.

    Raises
    ------
    ManifestError
        If the manifest can't be read, or lacks a class.
    RunError
        If a patient is in training and test, or the folder holds a view model.
    """
    options = options or ViewOptions()
    if (folder / PACKAGE).exists():
        raise RunError("The folder holds a view model already: name another folder.")
    rows = resolve_paths(read_manifest(manifest), manifest.absolute().parent)
    _check_patients(rows)
    cache_folder = options.cache or folder / "cache"
    cache = build_cache(rows, RECIPE, cache_folder, processes=options.processes, progress=options.progress)
    cases = view_cases(rows[rows["image_id"].isin(list(cache.rows_by_id))], synthetic=options.synthetic)
    images = _TrainingImages.of(cases, cache, _pictures_of_films(rows, cases, cache_folder, options), options.seed)
    with device_scope(Compute(devices="cpu"), options.seed):
        probabilities, fold, count = _cross_validate(images, options)
        network = _fit(images, ~cases.is_test, options, "Fitting the view model")
        test = np.flatnonzero(cases.is_test)
        probabilities[test] = predict(network, images.images(test))
    predictions = _tabulate(cases, probabilities, fold)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PREDICTIONS, predictions.to_csv(index=False, lineterminator="\n", float_format="%.6f"))
    return _package(network, cases, predictions, count, folder, options, now)


def _pictures_of_films(rows: pd.DataFrame, cases: ViewCases, folder: Path, options: ViewOptions) -> dict[int, Floats]:
    """Return pictures made of frontal films, by number; those of the test are made of its films alone."""
    frontals = cases.frame[cases.truths == CLASSES.index(FRONTAL)]
    synthetic = cases.frame[cases.frame["source"] == SYNTHETIC]
    pictures: dict[int, Floats] = {}
    for number, is_test in enumerate((False, True)):
        is_side = (synthetic["split"] == "test") == is_test
        numbers = np.flatnonzero((np.arange(len(synthetic)) % _DRAWN_EVERY > 0) & is_side)
        films = rows[rows["image_id"].isin(frontals["image_id"][(frontals["split"] == "test") == is_test])]
        made = made_of_films(
            films,
            len(numbers),
            folder,
            seed=options.seed + number,
            processes=options.processes,
            progress=options.progress,
        )
        pictures |= dict(zip(numbers.tolist(), made, strict=False))  # fewer, if a film can't be read
    return pictures


def _check_patients(rows: pd.DataFrame) -> None:
    keys, is_test = groups(rows), rows["split"] == "test"
    if shared := len(set(keys[is_test]) & set(keys[~is_test])):
        raise RunError(f"{shared} patients are in training and test: split the cases by patient.")


def _cross_validate(images: _TrainingImages, options: ViewOptions) -> tuple[Floats, NDArray[np.int64], int]:
    """Return each image's probabilities by the network trained without its fold, its fold, and the number of folds."""
    fold, count = assign_folds(images.cases, seed=options.seed)
    probabilities = np.zeros((len(fold), len(CLASSES)), np.float32)
    for number in range(count):
        is_training = (fold >= 0) & (fold != number)
        network = _fit(images, is_training, options, f"Fitting without fold {number + 1} of {count}")
        left_out = np.flatnonzero(fold == number)
        probabilities[left_out] = predict(network, images.images(left_out))
    return probabilities, fold, count


def _fit(images: _TrainingImages, is_training: NDArray[np.bool_], options: ViewOptions, step: str) -> KerasModel:
    training = np.flatnonzero(is_training)
    cases = ViewCases(images.cases.frame.iloc[training].reset_index(drop=True), images.cases.truths[training])
    return fit(
        lambda case: images.image(int(training[case])),
        cases.truths,
        sampling_probabilities(cases),
        effort=options.effort,
        seed=options.seed,
        watch=lambda done, total: options.progress(step, done, total),
    )


def _tabulate(cases: ViewCases, probabilities: Floats, fold: NDArray[np.int64]) -> pd.DataFrame:
    table = cases.frame[["image_id", "source"]].copy()
    table["truth"] = [CLASSES[truth] for truth in cases.truths]
    table["left_out"] = ["test" if number < 0 else f"fold {number}" for number in fold]
    for index, name in enumerate(CLASSES):
        table[name] = probabilities[:, index]
    return table


def _package(
    network: KerasModel,
    cases: ViewCases,
    predictions: pd.DataFrame,
    count: int,
    folder: Path,
    options: ViewOptions,
    now: datetime,
) -> ModelPackage:
    component = ViewComponent(
        laterals=cases.count(LATERAL),
        frontals=cases.count(FRONTAL),
        not_a_chest=cases.count(NOT_A_CHEST),
        synthetic=cases.count(NOT_A_CHEST, synthetic=True),
        frontal_at_least=frontal_at_least(predictions),
    )
    model_file = folder / MODEL_FILE
    save_network(network, model_file, now=now)
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    training = cases.frame[~cases.is_test & (cases.frame["source"] != SYNTHETIC)]
    sources = ", ".join(f"{name or 'unnamed'} ({n})" for name, n in training["source"].value_counts().items())
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
            training_data=f"{len(training)} images: {sources}; and {component.synthetic} synthetic pictures.",
            architecture="view",
            created=now,
            seed=options.seed,
            software=software_versions(),
        ),
    )
    licences = training["licence"].replace("", "unknown").value_counts()
    card = view_card(manifest, component, {str(name): int(n) for name, n in licences.items()}, options.note)
    package = write_package(folder / PACKAGE, manifest, {MODEL_FILE: model_file, MODEL_CARD_FILE: card.encode()})
    model_file.unlink()
    return package
