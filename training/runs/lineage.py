"""Lineage of a run: the images and patients that it, and every run it starts from, was trained and chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.files import write_whole
from training.runs.folder import Run

LEARNT_FILE: Final = "learnt.csv"
"""Cases of the parent runs; it holds identifiers of patients, so only its owner may read it."""

COLUMNS: Final = ("image_id", "path", "source", "patient_id")


def inherited_cases(run: Run) -> pd.DataFrame:
    """Read the training and validation cases of a run's parents: a table of ``COLUMNS``, empty without parents."""
    file = run.folder / LEARNT_FILE
    if not file.exists():
        return pd.DataFrame({name: pd.Series(dtype=str) for name in COLUMNS})
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def seen_cases(run: Run) -> pd.DataFrame:
    """Return the training and validation cases of a run and of all its parents: a table of ``COLUMNS``."""
    cases = run.manifest()
    own = cases.loc[cases["split"].isin(("train", "val")), list(COLUMNS)]
    return pd.concat([inherited_cases(run), own], ignore_index=True).drop_duplicates(ignore_index=True)


def record_inherited_cases(run: Run, parents: Sequence[Run]) -> None:
    """Write the parents' ``seen_cases`` into a run's folder; call it before the first epoch."""
    if parents:
        cases = pd.concat([seen_cases(parent) for parent in parents], ignore_index=True)
        text = cases.drop_duplicates().to_csv(index=False, lineterminator="\n")
        write_whole(run.folder / LEARNT_FILE, text, private=True)


def is_seen(frame: pd.DataFrame, seen: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the rows of ``frame`` whose image, file or patient is in ``seen``; shape (rows,).

    A patient ID belongs to its source: the same ID from another source is another patient.
    """
    patients = set(zip(seen["source"], seen["patient_id"], strict=True))
    is_patient = [
        patient != "" and (source, patient) in patients
        for source, patient in zip(frame["source"], frame["patient_id"], strict=True)
    ]
    is_image = frame["image_id"].isin(seen["image_id"]) | frame["path"].isin(seen["path"])
    seen_rows: NDArray[np.bool_] = np.asarray(is_image, bool) | np.array(is_patient, bool)
    return seen_rows


def count_seen(run: Run) -> dict[str, int]:
    """Count the validation and test images that parent runs have seen; such test images are no independent test."""
    cases, inherited = run.manifest(), inherited_cases(run)
    sides = {name: cases[cases["split"] == name] for name in ("val", "test")}
    return {name: int(is_seen(side, inherited).sum()) if len(inherited) else 0 for name, side in sides.items()}
