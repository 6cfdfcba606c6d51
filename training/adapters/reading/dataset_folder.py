"""Files of a data set's folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd

from cxr.errors import ManifestError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm"})


def dataset_folder(root: Path) -> Path:
    """Return the data set's folder as an absolute path, without resolving links.

    Raises
    ------
    ManifestError
        If it is not a folder.
    """
    if not root.is_dir():
        raise ManifestError(f"There is no folder {root.name!r}; name the folder that the data set was unpacked into.")
    return Path(os.path.abspath(root))  # noqa: PTH100 (resolve would follow links)


def find_one(root: Path, names: Sequence[str], what: str) -> Path:
    """Return the file of a data set that has one of several names, ignoring case.

    Parameters
    ----------
    root
        Its folder.
    names
        File names, the likeliest first.
    what
        Description of the file, for the message.

    Raises
    ------
    ManifestError
        If there is none.
    """
    files = {entry.name.casefold(): entry for entry in root.iterdir() if entry.is_file()}
    for name in names:
        if name.casefold() in files:
            return files[name.casefold()]
    raise ManifestError(f"The folder {root.name!r} has no {what}; looked for {', '.join(names)}.")


def all_files(root: Path, *, besides: Collection[Path] = ()) -> Iterator[Path]:
    """Return all files below a folder, sorted, without hidden ones and those of `besides`."""
    excluded = {os.path.abspath(path) for path in besides}  # noqa: PTH100
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and str(path) not in excluded:
                yield path


def find_by_name(root: Path, names: pd.Series, *, check: bool = True) -> pd.Series:
    """Return the paths of images, wherever below a folder they are; empty for one that is not there.

    Parameters
    ----------
    root
        The folder.
    names
        File names, without folders.
    check
        False: don't look; the paths are those of files directly in the folder.
    """
    if not check:
        return join_paths(root, names)
    wanted = set(names)
    found: dict[str, str] = {}
    for path in all_files(root):
        if path.name in wanted:
            found.setdefault(path.name, str(path))
    return names.map(found).fillna("").astype(str)


def files_exist(paths: pd.Series) -> pd.Series:
    """Return whether each file exists."""
    return pd.Series([os.path.isfile(path) for path in paths], index=paths.index, dtype=bool)  # noqa: PTH113 (223,414)


def join_paths(root: Path, names: pd.Series) -> pd.Series:
    """Return the paths of file names in a folder."""
    return os.path.join(root, "") + names.astype(str)  # noqa: PTH118 (ends with /)
