"""Films that several collections hold: one copy is kept, and the patients of both become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from training.audit.near_duplicates import Copies, Hashed, find_copies
from training.cases.merge import Merged


@dataclass(frozen=True, slots=True)
class SharedFilms:
    """Outcome of the search for films that several collections hold."""

    merged: Merged  # without the copies; joined patients have one ID
    copies: pd.DataFrame  # the rows that were left out
    exact: int  # of them, copies with the same bytes
    other_label: int  # of them, with another label than the copy that is kept
    joined_patients: int  # patients that became part of another
    unreadable: int  # files that could not be read, or not decoded


def keep_one_of_each(merged: Merged, hashed: Hashed) -> SharedFilms:
    """Keep of every film the copy of the first collection that has it.

    Parameters
    ----------
    merged
        The cases.
    hashed
        Digests and hashes of their files, row by row.

    Returns
    -------
    SharedFilms
        Copies within a collection stay: `cxr train audit` counts them.
    """
    collection = merged.collection.to_numpy()
    every_pair = find_copies(hashed.hashes, hashed.digests)
    pairs = [pair for pair in every_pair if collection[pair.first] != collection[pair.second]]
    film = _components(pairs, len(collection))
    first_of_film = pd.Series(collection).groupby(film).transform("min").to_numpy()
    is_copy = collection > first_of_film
    cases = _join_patients(merged.cases, film)
    kept = set(zip(film[~is_copy], cases["label"][~is_copy], strict=True))
    other = [row for row in np.flatnonzero(is_copy) if (film[row], cases["label"][row]) not in kept]
    exact = {row for pair in pairs if pair.is_exact for row in (pair.first, pair.second)}
    before, after = (frame["patient_id"].nunique() for frame in (merged.cases, cases))
    return SharedFilms(
        merged=Merged(
            cases[~is_copy].reset_index(drop=True),
            merged.collection[~is_copy].reset_index(drop=True),
            merged.bare_in_several,
        ),
        copies=cases[is_copy],
        exact=len(exact & set(np.flatnonzero(is_copy))),
        other_label=len(other),
        joined_patients=int(before - after),
        unreadable=sum(each is None for each in hashed.hashes),
    )


def _components(pairs: Sequence[Copies], count: int) -> NDArray[np.int32]:
    """Return a number for each row; rows that are connected by pairs have the same."""
    return _connect([(pair.first, pair.second) for pair in pairs], count)


def _connect(edges: Sequence[tuple[int, int]], count: int) -> NDArray[np.int32]:
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    numbers: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return numbers


def _join_patients(cases: pd.DataFrame, film: NDArray[np.int32]) -> pd.DataFrame:
    """Return the cases with one ID for all patients of whom two collections hold the same film."""
    is_known = (cases["patient_id"] != "").to_numpy()
    codes, names = pd.factorize(cases["patient_id"].to_numpy())
    table = pd.DataFrame({"film": film, "patient": codes})[is_known].drop_duplicates()
    first = table.groupby("film")["patient"].transform("first")
    person = _connect(list(zip(first, table["patient"], strict=True)), len(names))
    first_name = pd.Series(names).groupby(person).transform("first").to_numpy()
    return cases.assign(patient_id=np.where(is_known, first_name[codes], ""))
