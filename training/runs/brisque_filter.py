"""Leave pictures out by BRISQUE, as a predecessor did, and say which.

The score is that of what the network sees: resized, and with the lungs alone where the recipe masks.
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
"""In the run's folder: each picture's score, and whether it is left out."""


def find_unnatural(run: Run, cache: Cache, image_ids: list[str], progress: ReportProgress) -> dict[str, float | None]:
    """Find the pictures that a recipe leaves out.

    Parameters
    ----------
    run
        Its recipe says from which score on; its folder keeps the scores.
    cache
        The pictures, as the network sees them.
    image_ids
        Which are looked at.
    progress
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    dict[str, float | None]
        Image id to score, of those at the recipe's bound or above; None: without any contrast to judge.
    """
    bound = run.recipe.brisque_below
    if bound is None:
        return {}
    scores = _known(run)
    missing = [name for name in image_ids if name not in scores]
    for done, name in enumerate(missing, start=1):
        scores[name] = brisque(cache.image(cache.rows_by_id[name]))
        progress("Looking for unnatural pictures", done, len(missing))
    found = {name: scores[name] for name in image_ids if _is_beyond(scores[name], bound)}
    if missing:
        _keep(run, scores, bound)
    return found


def summarise(run: Run, found: Mapping[str, float | None]) -> dict[str, Any]:
    """Say what was left out, for the run's ``left_out.json``."""
    if run.recipe.brisque_below is None:
        return {}
    return {"brisque": {"below": run.recipe.brisque_below, "count": len(found), "image_ids": list(found)}}


def describe_exclusions(run: Run) -> str:
    """Say in a sentence how many pictures a run leaves out; nothing if its recipe leaves none out."""
    bound = run.recipe.brisque_below
    if bound is None:
        return ""
    scores = _known(run)
    count = sum(_is_beyond(score, bound) for score in scores.values())
    return (
        f"{count} of {len(scores)} pictures are left out for a BRISQUE of {bound:g} or more ({BRISQUE_FILE} names "
        "them); in service none is."
    )


def _is_beyond(score: float | None, bound: float) -> bool:
    return score is None or score >= bound


def _known(run: Run) -> dict[str, float | None]:
    path = run.folder / BRISQUE_FILE
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype={"image_id": str}, keep_default_na=False)
    return {str(name): json.loads(str(score)) for name, score in zip(table["image_id"], table["brisque"], strict=True)}


def _keep(run: Run, scores: Mapping[str, float | None], bound: float) -> None:
    rows = [
        {"image_id": name, "brisque": json.dumps(score), "left_out": "yes" if _is_beyond(score, bound) else ""}
        for name, score in scores.items()
    ]
    write_whole(run.folder / BRISQUE_FILE, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
