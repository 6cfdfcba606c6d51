"""Several readers of one film: their decision, and how far they agree.

References
----------
Fleiss 1971, "Measuring nominal scale agreement among many raters", https://doi.org/10.1037/h0031619; here with any
number of readers a film
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

Decision = Literal["majority", "any"]


def decide(votes: pd.DataFrame, decision: Decision) -> pd.DataFrame:
    """Return each film's findings.

    Parameters
    ----------
    votes
        One row for each film and reader, indexed by film; 1 or 0 in a column for each finding.
    decision
        ``majority``: present if more than half of the film's readers say so; ``any``: if one does.
    """
    share = votes.groupby(level=0, sort=False).mean()
    return (share > (0.5 if decision == "majority" else 0.0)).astype(float)


def agreement(votes: pd.DataFrame) -> dict[str, float]:
    """Return Fleiss' kappa of each finding, over the films with at least two readers.

    1: the readers always agree; 0: as by chance. NaN where no film has two readers, or all say the same of all.
    """
    by_film = votes.groupby(level=0, sort=False)
    readers = by_film.size()
    read_twice = readers[readers > 1]
    positive = by_film.sum().loc[read_twice.index]
    pairs = read_twice * (read_twice - 1)
    kappas: dict[str, float] = {}
    for name in votes.columns:
        yes = positive[name]
        no = read_twice - yes
        observed = float(((yes * (yes - 1) + no * (no - 1)) / pairs).mean()) if len(pairs) else np.nan
        prevalence = float(yes.sum() / read_twice.sum()) if len(pairs) else np.nan
        by_chance = prevalence**2 + (1 - prevalence) ** 2
        kappas[str(name)] = (observed - by_chance) / (1 - by_chance) if by_chance < 1 else np.nan
    return kappas
