"""The cases of a data set: manifest, splits, groups that stay together."""

from __future__ import annotations

from training.cases.manifest import (
    COLUMNS,
    LABEL_PREFIX,
    MAX_AGE,
    NO_PATIENT,
    SPLITS,
    complete,
    label_columns,
    line_of,
    lines_of,
    read_manifest,
    relative_paths,
    resolve_paths,
    write_manifest,
)
from training.cases.splits import assert_disjoint, groups, split, summarise, warnings

__all__ = [
    "COLUMNS",
    "LABEL_PREFIX",
    "MAX_AGE",
    "NO_PATIENT",
    "SPLITS",
    "assert_disjoint",
    "complete",
    "groups",
    "label_columns",
    "line_of",
    "lines_of",
    "read_manifest",
    "relative_paths",
    "resolve_paths",
    "split",
    "summarise",
    "warnings",
    "write_manifest",
]
