"""How another model, such as the one in service, does on a run's own test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
class Rival:
    """Another model; ``Rival.of`` finds it.

    Parameters
    ----------
    name, fingerprint
        Of its package or run.
    model_file
        Its ``.keras`` file.
    output
        Name of the graph's output of probabilities.
    recipe
        How pixels become its input.
    classes
        Its outputs, in order.
    masking
        What shows it lungs alone, if it sees no more.
    """

    name: str
    fingerprint: str
    model_file: Path
    output: str
    recipe: PixelRecipe
    classes: tuple[str, ...]
    masking: Masking

    @classmethod
    def of(cls, folder: Path, classes: Sequence[str]) -> Rival:
        """Find the model of a package, or of a finished run, to be compared over ``classes``.

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
        found = cls._found(folder)
        if not set(classes) & set(found.classes):
            raise RunError(f"The other model has none of the classes {', '.join(classes)}: leave it out.")
        return found

    @classmethod
    def _found(cls, folder: Path) -> Rival:
        if (folder / MANIFEST_FILE).exists():
            package = load_package(folder)
            said = package.manifest
            return cls(
                f"{said.name} {said.version}",
                package.fingerprint,
                package.model_path,
                said.outputs.probabilities,
                said.recipe,
                said.findings,
                masking_of_package(package),
            )
        run = open_run(folder)
        task, pixels = run.recipe.task, run.recipe.pixels
        file = run.folder / MODEL_FILE
        return cls(run.recipe.name, run.fingerprint(), file, "prob", pixels, task.classes, masking_of_run(run))


def compare_with_rival(
    rival: Rival, predictions: Predictions, cases: pd.DataFrame, *, progress: ReportProgress
) -> dict[str, Any]:
    """Let another model score the same images, and compare the areas.

    Parameters
    ----------
    rival
        The other model. Images that it was trained on speak for it: nobody knows them here.
    predictions
        Of this run's model.
    cases
        Rows of a manifest that hold these images; paths absolute.
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
    shared = [name for name in predictions.classes if name in rival.classes]
    found = cases.set_index("image_id").loc[predictions.frame["image_id"]]
    rows, chances = _score(rival, found, progress)
    if not len(rows):
        raise RunError("The other model can score none of the run's test images: the files, or their masks, are gone.")
    classes = {}
    for name in shared:
        kept = predictions.known(name)[rows]
        used, other = rows[kept], chances[kept, rival.classes.index(name)]
        truth, ours = predictions.truth(name)[used], predictions.score(name)[used]
        classes[name] = _figures(truth, ours, other, predictions.patients[used])
    return {
        "model_sha256": sha256_of(rival.model_file),
        "name": rival.name,
        "fingerprint": rival.fingerprint,
        "images": len(rows),
        "classes": classes,
    }


def _figures(truth: Any, ours: Any, other: Any, patients: Any) -> dict[str, float | None]:  # noqa: ANN401 (arrays)
    compared = compare_auc(truth, ours, other, patients)
    interval = None if compared is None else compared.difference.interval
    return {
        "difference": None if compared is None else round(compared.difference.value, 6),
        "low": None if interval is None else round(interval.low, 6),
        "high": None if interval is None else round(interval.high, 6),
    }


def _score(
    rival: Rival, cases: pd.DataFrame, progress: ReportProgress
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the rows that could be prepared, and the probabilities of each."""
    network = keras.saving.load_model(rival.model_file, compile=False, safe_mode=True)
    output = keras.Model(network.inputs, network.outputs[network.output_names.index(rival.output)])
    rows: list[int] = []
    chances: list[NDArray[np.float64]] = []
    for start in range(0, len(cases), BATCH):
        part = dict(_images(rival, cases.iloc[start : start + BATCH]))
        if part:
            rows += [start + row for row in part]
            chances.append(np.asarray(output.predict_on_batch(np.stack(list(part.values()))), np.float64))
        progress("Scoring with the other model", min(start + BATCH, len(cases)), len(cases))
    return np.array(rows, np.int64), np.concatenate(chances) if chances else np.empty((0, len(rival.classes)))


def _images(rival: Rival, cases: pd.DataFrame) -> Iterator[tuple[int, NDArray[np.float32]]]:
    columns: Mapping[str, Any] = {name: cases[name].tolist() for name in ("path", "mask_path")}
    for row, (path, mask) in enumerate(zip(columns["path"], columns["mask_path"], strict=True)):
        try:
            yield row, rival.masking.apply(to_model_input(Path(path), rival.recipe), mask, rival.recipe)
        except (ImageError, OSError):
            continue
