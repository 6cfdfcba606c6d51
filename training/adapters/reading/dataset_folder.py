"""Find files of data sets: which there are, and which are missing."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd

from cxr.errors import ManifestError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm"})


def folder(root: Path) -> Path:
    """Make sure that the data set's folder is there; absolute, links as they are.

    Raises
    ------
    ManifestError
        If it is not a folder.
    """
    if not root.is_dir():
        raise ManifestError(f"There is no folder {root.name!r}; name the folder that the data set was unpacked into.")
    return Path(os.path.abspath(root))  # noqa: PTH100 (resolve would follow links)


def find_one(root: Path, names: Sequence[str], what: str) -> Path:
    """Find a file of a data set by the names that it goes by, case aside.

    Parameters
    ----------
    root
        The folder that it lies in.
    names
        File names, the likeliest first.
    what
        What it is, for the message.

    Raises
    ------
    ManifestError
        If there is none.
    """
    there = {entry.name.casefold(): entry for entry in root.iterdir() if entry.is_file()}
    for name in names:
        if name.casefold() in there:
            return there[name.casefold()]
    raise ManifestError(f"The folder {root.name!r} has no {what}; looked for {', '.join(names)}.")


def all_files(root: Path, *, besides: Collection[Path] = ()) -> Iterator[Path]:
    """All files below a folder, in a stable order; hidden ones and those named left out."""
    left_out = {os.path.abspath(path) for path in besides}  # noqa: PTH100
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and str(path) not in left_out:
                yield path


def exist(paths: pd.Series) -> pd.Series:
    """Whether each file is there."""
    return pd.Series([os.path.isfile(path) for path in paths], index=paths.index, dtype=bool)  # noqa: PTH113 (223,414)


def under(root: Path, names: pd.Series) -> pd.Series:
    """Join a folder and file names."""
    return os.path.join(root, "") + names.astype(str)  # noqa: PTH118 (ends with /)
