"""Parts of a package that need the images: audit of blanked lungs, input gate, golden images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from cxr.errors import RunError
from cxr.package.lung_mask import COMPONENT as LUNG_MASK
from cxr.package.lung_mask import FILE as LUNG_MASK_FILE
from cxr.package.lung_mask import LungMaskComponent
from training.audit.blanked_lungs import BlankedAudit
from training.evaluation import read_predictions
from training.inputs.cache import Cache
from training.inputs.targets import Cases, select
from training.packaging.blanked_lungs_of_run import audit_lungs
from training.packaging.golden_images import choose_golden, golden_contents
from training.packaging.input_gate import make_gate
from training.plots.evidence_gallery import plot_maps
from training.runs.folder import MODEL_FILE, Run
from training.runs.loop import Side
from training.runs.lung_mask_model import mask_model_of_run, masking_of_run
from training.runs.train import Options, prepare_sides

MOST_IMAGES: Final = {"train": 2000, "val": 2000, "test": 1000}
"""Largest number of images of a side; drawn with the recipe's seed where there are more."""

MOST_GOLDEN: Final = 32
"""Candidates for golden images."""

EXAMPLES_FILE: Final = "examples.png"
"""Picture of the golden images with their evidence maps, for the card."""


@dataclass(frozen=True, slots=True)
class ImageChecks:
    """Result of the checks.

    Parameters
    ----------
    blanked
        Audits of test images with blanked lungs, one for each class.
    components
        Components of the package that serving applies: input gate, and lung mask if the model sees lungs alone.
    files
        Further files of the package: the gate's, the mask model, golden images.
    """

    blanked: tuple[BlankedAudit, ...]
    components: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _MaskParts:
    """Component and files of a package with which serving masks images as training did."""

    components: Mapping[str, Any]
    files: Mapping[str, bytes]


def check_images(run: Run, options: Options) -> ImageChecks:
    """Audit a finished run with blanked lungs, fit its input gate, and choose its golden images.

    Raises
    ------
    RunError
        If none of the run's training, validation or test images can be prepared.
    """
    cache, sides = prepare_sides(run, _draw(select(run.manifest(), run.recipe.task), run.recipe.seed), options)
    if missing := [name for name, side in sides.items() if not len(side.rows)]:
        raise RunError(
            f"None of the run's {' and '.join(missing)} images can be read: packaging reads them again (blanked lungs, "
            "input gate, golden images). Put them back to the paths of the run's manifest."
        )
    network = keras.saving.load_model(run.folder / MODEL_FILE, compile=False, safe_mode=True)
    blanked = audit_lungs(
        run.recipe, network, cache, sides["test"], lungs=masking_of_run(run).lungs, progress=options.progress
    )
    components, files = make_gate(network, cache, sides, read_predictions(run.folder / "predictions_val.csv"))
    mask = _mask_parts(run)
    # A model of drawn masks has no golden images: the service has no drawn masks.
    golden = {} if run.recipe.lung_masks == "manifest" else _golden(run, cache, sides["test"])
    return ImageChecks(blanked, {**components, **mask.components}, {**files, **mask.files, **golden})


def _mask_parts(run: Run) -> _MaskParts:
    """Return the run's mask model as component and file; for drawn masks, which serving lacks, the component alone."""
    if not run.recipe.lung_masks:
        return _MaskParts({}, {})
    model = mask_model_of_run(run)
    component = LungMaskComponent(source="manifest") if model is None else model.component
    files = {} if model is None else {LUNG_MASK_FILE: model.path.read_bytes()}
    return _MaskParts({LUNG_MASK: component.model_dump(mode="json", exclude_none=True)}, files)


def _draw(cases: Cases, seed: int) -> Cases:
    """Return at most ``MOST_IMAGES`` of each side, in their order."""
    random = np.random.default_rng(seed)
    rows: list[NDArray[np.int64]] = []
    for name, most in MOST_IMAGES.items():
        side = np.flatnonzero(cases.frame["split"] == name)
        rows.append(side if len(side) <= most else np.sort(random.choice(side, most, replace=False)))
    sample = np.sort(np.concatenate(rows))
    return Cases(cases.frame.iloc[sample].reset_index(drop=True), cases.truths[sample], {})


def _golden(run: Run, cache: Cache, side: Side) -> Mapping[str, bytes]:
    """Choose golden images over the range of scores, with their scores on the CPU, where rounding is reproducible."""
    candidates = np.unique(np.linspace(0, len(side.rows) - 1, min(MOST_GOLDEN, len(side.rows))).astype(int))
    images = np.stack([cache.image(int(side.rows[row])) for row in candidates])
    with keras.device("cpu:0"):
        network = keras.saving.load_model(run.folder / MODEL_FILE, compile=False, safe_mode=True)
        scores = np.asarray(keras.Model(network.input, network.get_layer("prob").output)(images, training=False))
    order = np.argsort(scores[:, 0], kind="stable")
    paths = side.cases.frame["path"].iloc[candidates].tolist()
    golden = choose_golden([(Path(paths[row]), scores[row].tolist()) for row in order], run.recipe.pixels)
    if not golden:
        return {}
    finding = run.recipe.task.classes[0]
    inputs = [images[order[each.candidate]] for each in golden]
    captions = [f"{each.name}: {each.probabilities[0]:.4f}" for each in golden]
    with TemporaryDirectory() as folder:
        picture = Path(folder) / EXAMPLES_FILE
        plot_maps(network, inputs, captions, picture, name=finding, index=0)
        return {**golden_contents(golden), EXAMPLES_FILE: picture.read_bytes()}
