"""Score images with blanked lungs with a package's own graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from cxr.errors import ImageError, ManifestError
from cxr.package import MODEL_FILE, load_package
from cxr.pixels.model_input import to_model_input
from training.audit.blanked_lungs import BlankedAudit, Images, blanked_audit
from training.cases import groups
from training.packaging.blanked_lungs_of_run import lungs_at, lungs_or_box
from training.runs.lung_mask_model import lungs_with, masking_of_package, open_mask_model

BATCH = 32


def audit_package(
    package: Path,
    cases: pd.DataFrame,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    limit: int = 400,
    seed: int = 0,
    mask_model: Path | None = None,
) -> tuple[BlankedAudit, ...]:
    """Audit a package on images with blanked lungs.

    Parameters
    ----------
    package
        Its folder.
    cases
        Labelled rows of a manifest, paths absolute; preferably those of the test.
    labels
        Class to the manifest's labels that mean it; None: a class is its own label.
    limit
        Largest number of images, drawn at random.
    seed
        Of the draw.
    mask_model
        Folder of the mask model that segments the lungs; None: that of the package, else the masks of
        the manifest, else a box.

    Returns
    -------
    tuple[BlankedAudit, ...]
        One for each class of the package that occurs among the labels.

    Raises
    ------
    ManifestError
        If no image can be read, or none is labelled.
    PackageError
        If the package can't be used.
    """
    loaded = load_package(package)
    manifest = loaded.manifest
    labelled = cases[cases["label"] != ""]
    sample = labelled.sample(min(limit, len(labelled)), random_state=seed).reset_index(drop=True)
    masking = masking_of_package(loaded)
    lungs = masking.lungs if mask_model is None else lungs_with(open_mask_model(mask_model))
    images, masks, rows = [], [], []
    for row, (path, mask) in enumerate(zip(sample["path"], sample["mask_path"], strict=True)):
        try:
            images.append(masking.apply(to_model_input(Path(path), manifest.recipe), mask, manifest.recipe))
        except (ImageError, OSError):
            continue
        masks.append(lungs_at(path, mask, manifest.recipe, lungs))
        rows.append(row)
    if not images:
        raise ManifestError("No labelled image of the manifest can be read; nothing can be scored without lungs.")
    whole = np.stack(images)
    inside, count = lungs_or_box(masks, whole), sum(mask is not None for mask in masks)
    network = keras.saving.load_model(loaded.folder / MODEL_FILE, compile=False, safe_mode=True)
    readable = sample.iloc[rows]
    audits = []
    for index, name in enumerate(manifest.findings):
        truth = readable["label"].isin((labels or {}).get(name, (name,))).to_numpy()
        if not truth.any():
            continue

        def score(images: Images, index: int = index) -> np.ndarray:
            outputs = network.predict(images, batch_size=BATCH, verbose=0)
            probabilities = outputs[0] if isinstance(outputs, list | tuple) else outputs
            return np.asarray(probabilities)[:, index]

        audit = blanked_audit(name, whole, truth, score, patients=groups(readable).to_numpy(), masks=inside)
        audits.append(replace(audit, masks=count))
    return tuple(audits)
