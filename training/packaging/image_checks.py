"""Look at a run's images with its own model: what a package says that predictions can't tell."""

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
from training.packaging.input_gate import set_gate
from training.plots.evidence_gallery import plot_maps
from training.runs.folder import MODEL_FILE, Run
from training.runs.loop import Side
from training.runs.lung_mask_model import mask_model_of_run, masking_of_run
from training.runs.train import Options, prepare_sides

MOST_IMAGES: Final = {"train": 2000, "val": 2000, "test": 1000}
"""Images of a side that are looked at; drawn with the recipe's seed where there are more."""

MOST_GOLDEN: Final = 32
"""Candidates for golden images."""

EXAMPLES_FILE: Final = "examples.png"
"""The golden images with what the model makes of them, for the card."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found.

    Parameters
    ----------
    blanked
        What the model makes of test images without lungs.
    components
        Parts that serving applies: the input gate, and the lung mask of a model that sees lungs alone.
    files
        The package's further files: the gate's, the mask model, and golden images.
    """

    blanked: tuple[BlankedAudit, ...]
    components: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Mask:
    """What a package has to say and to carry for serving to see what training saw."""

    components: Mapping[str, Any]
    files: Mapping[str, bytes]


def look_at_images(run: Run, options: Options) -> Looked:
    """Audit a finished run without lungs, set its input gate, and choose its golden images.

    Raises
    ------
    RunError
        If none of the run's training, validation or test images can be prepared.
    """
    cache, sides = prepare_sides(run, _draw(select(run.manifest(), run.recipe.task), run.recipe.seed), options)
    if gone := [name for name, side in sides.items() if not len(side.rows)]:
        raise RunError(
            f"None of the run's {' and '.join(gone)} images can be read: packaging looks at them again (lungs painted "
            "over, input gate, golden images). Put them back where the run's manifest says."
        )
    network = keras.saving.load_model(run.folder / MODEL_FILE, compile=False, safe_mode=True)
    blanked = audit_lungs(
        run.recipe, network, cache, sides["test"], lungs=masking_of_run(run).lungs, progress=options.progress
    )
    components, files = set_gate(network, cache, sides, read_predictions(run.folder / "predictions_val.csv"))
    mask = _mask(run)
    # Of drawn masks, the service would need them as well.
    golden = {} if run.recipe.lung_masks == "manifest" else _golden(run, cache, sides["test"])
    return Looked(blanked, {**components, **mask.components}, {**files, **mask.files, **golden})


def _mask(run: Run) -> _Mask:
    """Take the run's mask model along; or say that it masked with what serving has not."""
    if not run.recipe.lung_masks:
        return _Mask({}, {})
    model = mask_model_of_run(run)
    said = LungMaskComponent(source="manifest") if model is None else model.component
    files = {} if model is None else {LUNG_MASK_FILE: model.path.read_bytes()}
    return _Mask({LUNG_MASK: said.model_dump(mode="json", exclude_none=True)}, files)


def _draw(chosen: Cases, seed: int) -> Cases:
    """Draw some images of each side, in the order that they stand in."""
    random = np.random.default_rng(seed)
    rows: list[NDArray[np.int64]] = []
    for name, most in MOST_IMAGES.items():
        found = np.flatnonzero(chosen.frame["split"] == name)
        rows.append(found if len(found) <= most else np.sort(random.choice(found, most, replace=False)))
    kept = np.sort(np.concatenate(rows))
    return Cases(chosen.frame.iloc[kept].reset_index(drop=True), chosen.truths[kept], {})


def _golden(run: Run, cache: Cache, side: Side) -> Mapping[str, bytes]:
    """Choose golden images of all scores, with what the CPU gives for them: there, rounding is the same everywhere."""
    places = np.unique(np.linspace(0, len(side.rows) - 1, min(MOST_GOLDEN, len(side.rows))).astype(int))
    images = np.stack([cache.image(int(side.rows[place])) for place in places])
    with keras.device("cpu:0"):
        network = keras.saving.load_model(run.folder / MODEL_FILE, compile=False, safe_mode=True)
        chances = np.asarray(keras.Model(network.input, network.get_layer("prob").output)(images, training=False))
    order = np.argsort(chances[:, 0], kind="stable")
    paths = side.cases.frame["path"].iloc[places].tolist()
    chosen = choose_golden([(Path(paths[row]), chances[row].tolist()) for row in order], run.recipe.pixels)
    if not chosen:
        return {}
    finding = run.recipe.task.classes[0]
    seen = [images[order[each.place]] for each in chosen]
    captions = [f"{each.name}: {each.probabilities[0]:.4f}" for each in chosen]
    with TemporaryDirectory() as folder:
        picture = Path(folder) / EXAMPLES_FILE
        plot_maps(network, seen, captions, picture, name=finding, place=0)
        return {**golden_contents(chosen), EXAMPLES_FILE: picture.read_bytes()}
