"""What a model has learnt from: images and patients of its own run, and of every run that it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.files import write_whole
from training.runs.folder import Run

LEARNT_FILE: Final = "learnt.csv"
"""Of the runs that a run starts from; it names patients, so only its owner may read it."""

COLUMNS: Final = ("image_id", "path", "source", "patient_id")


def inherited_cases(run: Run) -> pd.DataFrame:
    """Give what the runs that a run starts from were trained or chosen on: ``COLUMNS``, empty where there are none."""
    file = run.folder / LEARNT_FILE
    if not file.exists():
        return pd.DataFrame({name: pd.Series(dtype=str) for name in COLUMNS})
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def seen_cases(run: Run) -> pd.DataFrame:
    """Give the same with what the run itself was trained and chosen on."""
    cases = run.manifest()
    own = cases.loc[cases["split"].isin(("train", "val")), list(COLUMNS)]
    return pd.concat([inherited_cases(run), own], ignore_index=True).drop_duplicates(ignore_index=True)


def record_inherited_cases(run: Run, parents: Sequence[Run]) -> None:
    """Write down what a run's parents have learnt from; before its first epoch."""
    if parents:
        whole = pd.concat([seen_cases(parent) for parent in parents], ignore_index=True)
        text = whole.drop_duplicates().to_csv(index=False, lineterminator="\n")
        write_whole(run.folder / LEARNT_FILE, text, private=True)


def is_seen(frame: pd.DataFrame, learnt: pd.DataFrame) -> NDArray[np.bool_]:
    """Find images that were learnt from: by image, file or patient.

    A patient's number is one source's: another hospital's P1 is another person.
    """
    patients = set(zip(learnt["source"], learnt["patient_id"], strict=True))
    is_patient = [
        patient != "" and (source, patient) in patients
        for source, patient in zip(frame["source"], frame["patient_id"], strict=True)
    ]
    known = frame["image_id"].isin(learnt["image_id"]) | frame["path"].isin(learnt["path"]) | np.array(is_patient, bool)
    return known.to_numpy(dtype=bool)


def count_seen(run: Run) -> dict[str, int]:
    """Count images of each side that the runs before have learnt from; those of ``test`` are no test any more."""
    cases, before = run.manifest(), inherited_cases(run)
    sides = {name: cases[cases["split"] == name] for name in ("val", "test")}
    return {name: int(is_seen(side, before).sum()) if len(before) else 0 for name, side in sides.items()}
