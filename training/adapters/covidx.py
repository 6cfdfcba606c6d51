"""COVIDx: the lists of COVID-Net's versions, which put other collections together.

A line has patient, file, class and source; early versions lack the source. Class and source nearly coincide: a model
can score well by recognising the source. Patients of covid-chestxray keep that collection's numbers; RSNA's identify
films, not people.

References
----------
Wang et al. 2020, "COVID-Net", https://doi.org/10.1038/s41598-020-76550-z
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cxr.errors import ManifestError
from cxr.labels import finding_of
from training.adapters.reading.dataset_folder import IMAGE_SUFFIXES, all_files, dataset_folder
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result

_SIDES = {"train": "train", "val": "val", "test": "test"}
_COHEN, _RSNA = "cohen", "rsna"
_NOTE = "Class and source nearly coincide: a model can score well by recognising the source."
_BY_IMAGE = "RSNA's patients are not known, and its films are NIH's: never combine them with NIH's or RSNA's films."


def index(
    root: Path,
    *,
    official_split: Annotated[bool, "Take the sides of the lists."] = False,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index the films of COVIDx's lists.

    Parameters
    ----------
    root
        The folder with lists (``train.txt``, ``test.txt``, ``train_COVIDx9B.txt``, ...) and films in folders named like
        the sides.
    official_split
        See its help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is covid19, negative, other_pneumonia or normal, as far as the version tells them apart.

    Raises
    ------
    ManifestError
        If there is no list, there are several versions of one, or one can't be read.
    """
    base = dataset_folder(root)
    lists = _lists(base)
    files: dict[tuple[str, str], Path] = {
        (path.parent.name, path.name): path for path in all_files(base) if path.suffix.casefold() in IMAGE_SUFFIXES
    }
    rejected: list[Rejection] = []
    rows: dict[str, dict[str, Any]] = {}
    for number, (side, path) in enumerate(lists.items(), start=1):
        for line, text in enumerate(_read_lines(path), start=1):
            if not text.strip():
                continue
            row = _row(text.split(), side, files)
            if not isinstance(row, str) and row["image_id"] in rows:
                row = "duplicate"
            if isinstance(row, str):
                rejected.append(Rejection(path.name, line, row))
            else:
                rows[row["image_id"]] = row | {"split": _SIDES[side] if official_split else ""}
        watch("lists", number, len(lists))
    notes = [_NOTE, *([_BY_IMAGE] if any(row["source"] == f"covidx-{_RSNA}" for row in rows.values()) else [])]
    return index_result(rows.values(), rejected, notes)


def _lists(base: Path) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(base.glob("*.txt")):
        side = path.stem.partition("_")[0].casefold()
        if side in found:
            raise ManifestError(
                f"The folder {base.name!r} has the lists {found[side].name} and {path.name}; keep those of one version."
            )
        if side in _SIDES:
            found[side] = path
    if not found:
        raise ManifestError(f"The folder {base.name!r} has no list; looked for train*.txt, val*.txt and test*.txt.")
    return found


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise ManifestError(f"The list {path.name} can't be read ({type(error).__name__}).") from error


def _row(fields: list[str], side: str, files: Mapping[tuple[str, str], Path]) -> dict[str, Any] | str:
    if len(fields) not in (3, 4):
        return "fields"
    patient, name, word = fields[:3]
    source = fields[3].casefold() if len(fields) == 4 else ""
    finding = finding_of("covidx", word)
    label = finding.name if finding is not None else "negative" if word.casefold() == "negative" else ""
    path = files.get((side, name))
    if not label or path is None:
        return "label_unknown" if not label else "no_file"
    collection = "covid-chestxray" if source == _COHEN else f"covidx:{source}" if source else "covidx"
    is_person = source != _RSNA
    return {
        "image_id": f"covidx:{side}/{name}",
        "path": str(path),
        "source": f"covidx-{source}" if source else "covidx",
        "patient_id": f"{collection}:{patient}" if is_person else "",
        "image_wise": "" if is_person else "yes",
        "label": label,
        "label_covid19": float(label == "covid19"),
        "site": source,
    }
