"""Merge manifests of several collections: columns united by name, images and patients named apart.

A patient ID that begins with the name of a collection (``nih:00000013``) keeps it, so that collections with
the same patients share them; any other ID gets the name of its manifest in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr.errors import ManifestError, SplitError
from training.cases.manifest import complete, line_of
from training.cases.splits import assert_disjoint

COLLECTION_NAME = re.compile(r"[a-z][a-z0-9-]*")
"""Accepted names of collections."""

_NAMED_PATIENT = re.compile(rf"{COLLECTION_NAME.pattern}:.+")
_NIH_PATIENT = re.compile(r"nih:(\d{1,8})")
_NIH_DIGITS = 8  # as in the names of NIH ChestX-ray14's files


@dataclass(frozen=True, slots=True)
class Collection:
    """One manifest of a merge."""

    name: str  # in front of patient IDs that name no collection
    file: Path
    cases: pd.DataFrame  # with absolute paths


@dataclass(frozen=True, slots=True)
class Merged:
    """Cases of several collections, row by row."""

    cases: pd.DataFrame  # a manifest
    collection: pd.Series  # int: the number of each case's collection, from 0
    bare_in_several: int  # patient IDs without a collection's name that occur in manifests of different names


def merge(collections: Sequence[Collection]) -> Merged:
    """Merge manifests.

    Parameters
    ----------
    collections
        Two or more; those with the same name share their patients.

    Returns
    -------
    Merged
        A finding that a collection does not have is not said (NaN) for its cases.

    Raises
    ------
    ManifestError
        If a name is not accepted, or an ``image_id`` occurs in two manifests.
    """
    for each in collections:
        if not COLLECTION_NAME.fullmatch(each.name):
            raise ManifestError(
                f"The collection's name {each.name!r} is not accepted: lower-case letters, digits and hyphens, a "
                "letter first. Name the manifest as NAME=FILE."
            )
    _refuse_shared_images(collections)
    numbers = [number for number, each in enumerate(collections) for _ in range(len(each.cases))]
    parts = [each.cases.assign(patient_id=_patients(each)) for each in collections]
    cases = complete(pd.concat(parts, ignore_index=True))
    return Merged(cases, pd.Series(numbers, dtype="int64"), _count_bare_in_several(collections))


def without_unfit_sides(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the cases with their sides if every case has one and no patient has two, else without sides."""
    try:
        assert_disjoint(cases)
    except SplitError:
        return cases.assign(split="")
    return cases


def _patients(collection: Collection) -> pd.Series:
    patients = collection.cases["patient_id"]
    is_bare = (patients != "") & ~patients.str.fullmatch(_NAMED_PATIENT.pattern)
    named = patients.where(~is_bare, f"{collection.name}:" + patients)
    return named.str.replace(_NIH_PATIENT, lambda found: f"nih:{found[1].zfill(_NIH_DIGITS)}", regex=True)


def _refuse_shared_images(collections: Sequence[Collection]) -> None:
    first_in: dict[str, tuple[int, int]] = {}  # image to number of the collection and row
    for number, each in enumerate(collections):
        shared = [row for row, image in enumerate(each.cases["image_id"]) if image in first_in]
        if shared:
            other, row = first_in[each.cases["image_id"].iloc[shared[0]]]
            theirs = collections[other].file
            raise ManifestError(
                f"Line {line_of(each.file, shared[0])} of {each.file.name} has the image_id of line "
                f"{line_of(theirs, row)} of {theirs.name} ({len(shared)} lines do): each image needs its own. Leave "
                "one of the two manifests out, or index one with another --source."
            )
        first_in |= {image: (number, row) for row, image in enumerate(each.cases["image_id"])}


def _count_bare_in_several(collections: Sequence[Collection]) -> int:
    names_of: dict[str, set[str]] = {}
    for each in collections:
        for patient in set(each.cases["patient_id"]) - {""}:
            if not _NAMED_PATIENT.fullmatch(patient):
                names_of.setdefault(patient, set()).add(each.name)
    return sum(len(names) > 1 for names in names_of.values())
