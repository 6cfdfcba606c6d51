"""Compare a run's model with another one, such as the one in service, on the run's test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cxr.errors import ImageError, RunError
from cxr.package import MANIFEST_FILE, load_package
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe
from training.evaluation import Predictions
from training.files import sha256_of
from training.inputs.cache import ReportProgress
from training.inputs.masking import Masking
from training.metrics.auc import compare_auc
from training.runs.folder import MODEL_FILE, open_run
from training.runs.lung_mask_model import masking_of_package, masking_of_run

BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class OtherModel:
    """The model of another package or run.

    Parameters
    ----------
    name, fingerprint
        Of its package or run.
    model_file
        Its ``.keras`` file.
    output
        Name of the graph's output of probabilities.
    recipe
        Preparation of pixels.
    classes
        Its outputs, in order.
    masking
        Masking of its input outside the lungs, if it has one.
    """

    name: str
    fingerprint: str
    model_file: Path
    output: str
    recipe: PixelRecipe
    classes: tuple[str, ...]
    masking: Masking

    @classmethod
    def of(cls, folder: Path, classes: Sequence[str]) -> OtherModel:
        """Return the model of a package or a finished run, for a comparison over ``classes``.

        Raises
        ------
        PackageError, RunError
            If the folder is neither, or its model has none of the classes.
        """
        if not folder.is_dir():
            raise RunError(
                "The other model is not there: give the folder of a package or of a finished run. The package in "
                "service is models/current in the data folder (var/models/current) once `cxr serve` has run there."
            )
        model = cls._read(folder)
        if not set(classes) & set(model.classes):
            raise RunError(f"The other model has none of the classes {', '.join(classes)}: leave it out.")
        return model

    @classmethod
    def _read(cls, folder: Path) -> OtherModel:
        if (folder / MANIFEST_FILE).exists():
            package = load_package(folder)
            manifest = package.manifest
            return cls(
                f"{manifest.name} {manifest.version}",
                package.fingerprint,
                package.model_path,
                manifest.outputs.probabilities,
                manifest.recipe,
                manifest.findings,
                masking_of_package(package),
            )
        run = open_run(folder)
        task, pixels = run.recipe.task, run.recipe.pixels
        file = run.folder / MODEL_FILE
        return cls(run.recipe.name, run.fingerprint(), file, "prob", pixels, task.classes, masking_of_run(run))


def compare_with_other(
    other: OtherModel, predictions: Predictions, cases: pd.DataFrame, *, progress: ReportProgress
) -> dict[str, Any]:
    """Score the same images with another model, and compare the areas.

    Parameters
    ----------
    other
        The other model. It may have been trained on some of the images, which favours it.
    predictions
        Of this run's model.
    cases
        Rows of a manifest that contain these images; paths absolute.
    progress
        Called with a step's name, how many images are done, and of how many.

    Returns
    -------
    dict[str, Any]
        ``model_sha256``, ``name``, ``fingerprint``, ``images``, and ``classes``: for each class that
        both have, ``difference`` (this run's area minus the other's), ``low`` and ``high`` (None
        where there is no interval), by paired DeLong.

    Raises
    ------
    RunError
        If the other model can score none of the images.
    """
    common = [name for name in predictions.classes if name in other.classes]
    ordered = cases.set_index("image_id").loc[predictions.frame["image_id"]]
    rows, probabilities = _score(other, ordered, progress)
    if not len(rows):
        raise RunError("The other model can score none of the run's test images: the files, or their masks, are gone.")
    classes = {}
    for name in common:
        has_truth = predictions.has_truth(name)[rows]
        labelled, other_score = rows[has_truth], probabilities[has_truth, other.classes.index(name)]
        truth, score = predictions.truth(name)[labelled], predictions.score(name)[labelled]
        classes[name] = _figures(truth, score, other_score, predictions.patients[labelled])
    return {
        "model_sha256": sha256_of(other.model_file),
        "name": other.name,
        "fingerprint": other.fingerprint,
        "images": len(rows),
        "classes": classes,
    }


def _figures(
    truth: ArrayLike, score: ArrayLike, other_score: ArrayLike, patients: ArrayLike
) -> dict[str, float | None]:
    comparison = compare_auc(truth, score, other_score, patients)
    interval = None if comparison is None else comparison.difference.interval
    return {
        "difference": None if comparison is None else round(comparison.difference.value, 6),
        "low": None if interval is None else round(interval.low, 6),
        "high": None if interval is None else round(interval.high, 6),
    }


def _score(
    other: OtherModel, cases: pd.DataFrame, progress: ReportProgress
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows whose image can be read, and their probabilities, (rows, classes)."""
    network = keras.saving.load_model(other.model_file, compile=False, safe_mode=True)
    output = keras.Model(network.inputs, network.outputs[network.output_names.index(other.output)])
    rows: list[int] = []
    probabilities: list[NDArray[np.float64]] = []
    for start in range(0, len(cases), BATCH):
        part = dict(_images(other, cases.iloc[start : start + BATCH]))
        if part:
            rows += [start + row for row in part]
            probabilities.append(np.asarray(output.predict_on_batch(np.stack(list(part.values()))), np.float64))
        progress("Scoring with the other model", min(start + BATCH, len(cases)), len(cases))
    if not rows:
        return np.empty(0, np.int64), np.empty((0, len(other.classes)))
    return np.array(rows, np.int64), np.concatenate(probabilities)


def _images(other: OtherModel, cases: pd.DataFrame) -> Iterator[tuple[int, NDArray[np.float32]]]:
    columns: Mapping[str, Any] = {name: cases[name].tolist() for name in ("path", "mask_path")}
    for row, (path, mask) in enumerate(zip(columns["path"], columns["mask_path"], strict=True)):
        try:
            yield row, other.masking.apply(to_model_input(Path(path), other.recipe), mask, other.recipe)
        except (ImageError, OSError):
            continue
