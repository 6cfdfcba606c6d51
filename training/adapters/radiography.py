"""COVID-19 Radiography Database: folders by class, no patients.

The release of 2020 has the images in the classes' folders, that of 2021 in ``images`` beside
``masks`` of the lungs. A workbook for each class names the website of each picture. Class and website
nearly coincide, so the website is the source.

References
----------
Chowdhury et al. 2020, https://doi.org/10.1109/ACCESS.2020.3010287; Rahman et al. 2021,
https://doi.org/10.1016/j.compbiomed.2021.104319
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr.errors import ManifestError
from cxr.labels import finding_of
from training.adapters.reading.dataset_folder import IMAGE_SUFFIXES, dataset_folder
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_sheet, read_table

_INNER = ("COVID-19_Radiography_Dataset", "COVID-19 Radiography Database")
_CLASSES = {"COVID": "COVID", "COVID-19": "COVID", "Lung_Opacity": "Lung_Opacity", "Normal": "Normal",
            "NORMAL": "Normal", "Viral Pneumonia": "Viral Pneumonia"}  # fmt: skip
"""Folder names of the releases, and the class of each."""

SOURCE = "radiography"


def index(root: Path, *, watch: ReportProgress = ignore_progress) -> IndexResult:
    """Index the database.

    Parameters
    ----------
    root
        The folder with the classes' folders, or its parent.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        Every row is image-wise: patients are unknown. ``source`` is the website in the workbook.

    Raises
    ------
    ManifestError
        If there is no folder of a class.
    """
    outer = dataset_folder(root)
    base = next((outer / name for name in _INNER if (outer / name).is_dir()), outer)
    folders = [(base / name, term) for name, term in _CLASSES.items() if _has_folder(base, name)]
    if not folders:
        raise ManifestError(f"The folder {outer.name!r} has none of the folders {', '.join(_CLASSES)}.")
    rejected: list[Rejection] = []
    rows: list[dict[str, Any]] = []
    without_url = 0
    for number, (class_folder, term) in enumerate(folders, start=1):
        urls, lines, table = _urls(base, class_folder.name, rejected)
        class_rows = list(_rows(class_folder, term, base, urls, rejected))
        names = {Path(row["path"]).stem.casefold() for row in class_rows}
        rejected += [Rejection(table, line, "no_file") for name, line in lines.items() if name not in names]
        without_url += sum(1 for row in class_rows if row["source"] == SOURCE)
        rows += class_rows
        watch("classes", number, len(folders))
    notes = ["Class and source nearly coincide: a model can score well by recognising the source."]
    if without_url:
        notes.append(f"{without_url} images have no website (no workbook, or no line in it): their source is {SOURCE}.")
    return index_result(rows, rejected, notes)


def _has_folder(base: Path, name: str) -> bool:
    """Return whether a folder has exactly this name: some file systems ignore case, and NORMAL is Normal there."""
    return any(entry.name == name and entry.is_dir() for entry in base.iterdir())


def _urls(base: Path, name: str, rejected: list[Rejection]) -> tuple[dict[str, str], dict[str, int], str]:
    """Return website and line of each file name (casefolded, without suffix), and the table's name."""
    for suffix in (".metadata.xlsx", ".metadata.csv"):
        path = base / f"{name}{suffix}"
        if path.is_file():
            sheet = read_sheet(path) if suffix.endswith("xlsx") else read_table(path, rejected)
            columns = {str(column).strip().casefold(): str(column) for column in sheet.columns}
            if {"file name", "url"} <= columns.keys():
                names = [Path(str(value)).name.removesuffix(".png").casefold() for value in sheet[columns["file name"]]]
                urls = (str(value).strip() for value in sheet[columns["url"]])
                lines = (int(line) for line in sheet[LINE])
                return dict(zip(names, urls, strict=True)), dict(zip(names, lines, strict=True)), path.name
            raise ManifestError(f"The table {path.name} lacks the column FILE NAME or URL.")
    return {}, {}, ""


def _rows(
    class_folder: Path, term: str, base: Path, urls: Mapping[str, str], rejected: list[Rejection]
) -> Iterator[dict[str, Any]]:
    finding = finding_of("radiography", term)
    label = finding.name if finding is not None else ""
    inner = class_folder / "images"
    masks = class_folder / "masks"
    images = inner if inner.is_dir() else class_folder
    for path in sorted(images.iterdir()):
        if path.is_dir() or path.name.startswith("."):
            continue
        relative = path.relative_to(base).as_posix()
        if path.suffix.casefold() not in IMAGE_SUFFIXES:
            rejected.append(Rejection(relative, 0, "not_image"))
            continue
        mask = masks / path.name
        yield {
            "image_id": f"{SOURCE}:{relative}",
            "path": str(path),
            "source": urls.get(path.stem.casefold()) or SOURCE,
            "image_wise": "yes",
            "label": label,
            "mask_path": str(mask) if mask.is_file() else "",
        }
