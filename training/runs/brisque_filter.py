"""Exclude images by their BRISQUE score, as a predecessor did, and record which.

The score is that of the network's input: resized, and masked where the recipe masks lungs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from training.files import write_whole
from training.inputs.brisque import brisque
from training.inputs.cache import Cache, ReportProgress
from training.runs.folder import Run

BRISQUE_FILE: Final = "brisque.csv"
"""File in the run's folder: each image's score, and whether it is excluded."""


def find_unnatural(run: Run, cache: Cache, image_ids: list[str], progress: ReportProgress) -> dict[str, float | None]:
    """Find the images that a recipe excludes, and record the scores in the run's folder.

    Parameters
    ----------
    run
        The run; its recipe has the bound ``brisque_below``.
    cache
        The prepared images.
    image_ids
        Images to score.
    progress
        Called with the step's name, the number of images done, and their total.

    Returns
    -------
    dict[str, float | None]
        Image id to score of the images at the bound or above; score None: too little contrast for a score.
    """
    bound = run.recipe.brisque_below
    if bound is None:
        return {}
    scores = _read_scores(run)
    missing = [name for name in image_ids if name not in scores]
    for done, name in enumerate(missing, start=1):
        scores[name] = brisque(cache.image(cache.rows_by_id[name]))
        progress("Scoring images with BRISQUE", done, len(missing))
    excluded = {name: scores[name] for name in image_ids if _is_beyond(scores[name], bound)}
    if missing:
        _write_scores(run, scores, bound)
    return excluded


def summarise(run: Run, excluded: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the entry of ``left_out.json``: bound, number and ids of the excluded images."""
    if run.recipe.brisque_below is None:
        return {}
    return {"brisque": {"below": run.recipe.brisque_below, "count": len(excluded), "image_ids": list(excluded)}}


def describe_exclusions(run: Run) -> str:
    """Return a sentence with the number of excluded images; empty if the recipe has no bound."""
    bound = run.recipe.brisque_below
    if bound is None:
        return ""
    scores = _read_scores(run)
    count = sum(_is_beyond(score, bound) for score in scores.values())
    return (
        f"{count} of {len(scores)} images are excluded for a BRISQUE score of {bound:g} or more ({BRISQUE_FILE} lists "
        "them); in service none is excluded."
    )


def _is_beyond(score: float | None, bound: float) -> bool:
    return score is None or score >= bound


def _read_scores(run: Run) -> dict[str, float | None]:
    path = run.folder / BRISQUE_FILE
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype={"image_id": str}, keep_default_na=False)
    return {str(name): json.loads(str(score)) for name, score in zip(table["image_id"], table["brisque"], strict=True)}


def _write_scores(run: Run, scores: Mapping[str, float | None], bound: float) -> None:
    rows = [
        {"image_id": name, "brisque": json.dumps(score), "left_out": "yes" if _is_beyond(score, bound) else ""}
        for name, score in scores.items()
    ]
    write_whole(run.folder / BRISQUE_FILE, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
