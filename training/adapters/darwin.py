"""V7 Darwin exports: one JSON for each picture, with tags for labels and polygons of the lungs.

Masks are drawn from the polygons and written into a folder of the data set. The mask of a picture is
the union of its lung polygons.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr.labels import finding_of
from training.adapters.covid_chestxray import label_of
from training.adapters.reading.dataset_folder import IMAGE_SUFFIXES, all_files, dataset_folder
from training.adapters.reading.lung_mask_files import write_mask
from training.adapters.reading.polygons import Annotation, fill, read_annotation
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.values import age_of, sex_of, view_of

_ORDER = ("covid19", "bacterial_pneumonia", "viral_pneumonia", "other_pneumonia", "normal")
"""Precedence of tags of one picture: COVID-19 is tagged as viral pneumonia too."""

_KEYS = frozenset({"age", "sex", "view", "patientid", "location", "modality"})
_KEY_AND_VALUE = re.compile(r"\s*([^/:]+)[/:](.*)", re.DOTALL)


def index(
    root: Path,
    *,
    lung: Annotated[str, "Class of the polygons that are lungs."] = "Lung",
    masks: Annotated[str, "Folder for the masks; a relative one lies in the data set's folder."] = "lung_masks",
    need_lungs: Annotated[bool, "Leave out pictures without a polygon of a lung."] = False,
    laterals: Annotated[bool, "Take lateral views too."] = False,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index an export.

    Parameters
    ----------
    root
        The folder; JSON files and pictures are found anywhere below it, by name.
    lung, masks, need_lungs, laterals
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        With ``mask_path``, a PNG of 0 and 255 of the picture's size.

    Raises
    ------
    ManifestError
        If a mask can't be written, or nothing can be used.
    """
    base = dataset_folder(root)
    mask_folder = base / masks
    files = [path for path in all_files(base) if mask_folder not in path.parents]
    documents = [path for path in files if path.suffix.casefold() == ".json"]
    pictures = _Pictures(base, [path for path in files if path.suffix.casefold() in IMAGE_SUFFIXES])
    rejected: list[Rejection] = []
    rows: dict[str, dict[str, Any]] = {}
    named: set[Path] = set()  # pictures that an annotation names
    for number, document in enumerate(documents, start=1):
        outcome = _read(document, pictures, named, lung=lung, need_lungs=need_lungs, laterals=laterals)
        reason = outcome if isinstance(outcome, str) else "duplicate" if outcome[0]["path"] in rows else ""
        if isinstance(outcome, str) or reason:
            rejected.append(Rejection(document.relative_to(base).as_posix(), 0, reason))
        else:
            row, mask = outcome
            if mask is not None:
                row["mask_path"] = str(write_mask(mask, mask_folder / document.relative_to(base).with_suffix(".png")))
            rows[row["path"]] = row
        watch("annotations", number, len(documents))
    rejected += [Rejection(path.relative_to(base).as_posix(), 0, "not_listed") for path in pictures.besides(named)]
    with_mask = sum(1 for row in rows.values() if row.get("mask_path"))
    return index_result(rows.values(), rejected, [f"{with_mask} of {len(rows)} pictures have a lung mask."])


class _Pictures:
    """The export's pictures by name; an export may have V7's folders, or be flat."""

    def __init__(self, base: Path, paths: Sequence[Path]) -> None:
        self._base = base
        self._all = paths
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            self._by_name[path.name].append(path)

    def find(self, annotation: Annotation) -> Path | None:
        """Return the annotated picture; None if it is missing, or its name is ambiguous."""
        candidates = self._by_name.get(annotation.file_name, [])
        if len(candidates) > 1:
            tail = Path(annotation.folder, annotation.file_name).parts
            candidates = [path for path in candidates if path.parts[-len(tail) :] == tail]
        return candidates[0] if len(candidates) == 1 else None

    def besides(self, named: Set[Path]) -> list[Path]:
        """Return the pictures that no annotation names."""
        return [path for path in self._all if path not in named]


def _read(
    document: Path, pictures: _Pictures, named: set[Path], *, lung: str, need_lungs: bool, laterals: bool
) -> tuple[dict[str, Any], npt.NDArray[np.uint8] | None] | str:
    """Return one picture's row and mask, or the reason of its rejection; add the picture to ``named``."""
    try:
        annotation = read_annotation(json.loads(document.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "damaged"
    path = pictures.find(annotation)
    if path is None:
        return "no_file"
    named.add(path)
    row = _row(annotation, path)
    if row["view"] is None or row.pop("modality") in ("ct", "mri"):
        return "not_radiograph"
    if row["view"] == "L" and not laterals:
        return "lateral"
    if not row["label"]:
        return "label_unknown" if annotation.tags else "label_missing"
    lungs = [paths for name, paths in annotation.polygons if name.casefold() == lung.casefold() and paths]
    if not lungs:
        return "no_lungs" if need_lungs else (row, None)
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        return "not_image"
    if picture.shape[:2] != (annotation.height, annotation.width):
        return "size_differs"
    return row, fill(lungs, width=annotation.width, height=annotation.height)


def _row(annotation: Annotation, path: Path) -> dict[str, Any]:
    """Return a picture's row; V7's tags are labels, or keys and values as in ``Age:55`` and ``View/PA``."""
    values: dict[str, str] = {}
    labels = set()
    for tag in annotation.tags:
        parts = _KEY_AND_VALUE.fullmatch(tag)
        key = re.sub(r"[\W_]", "", parts[1]).casefold() if parts else ""
        if parts and key in _KEYS:
            values[key] = parts[2].strip()
        else:
            labels.add(_label(tag))
    patient = values.get("patientid", "")
    name = f"{annotation.folder}/{annotation.file_name}".lstrip("/")
    return {
        "image_id": f"darwin:{name}",
        "path": str(path),
        "source": "v7-darwin",
        "patient_id": f"v7-darwin:{patient}" if patient else "",
        "image_wise": "" if patient else "yes",
        "label": next((label for label in _ORDER if label in labels), ""),
        "view": view_of(values.get("view", "")),
        "sex": sex_of(values.get("sex", "")),
        "age": age_of(values.get("age", "")),
        "site": values.get("location", ""),
        "modality": values.get("modality", "").casefold(),
    }


def _label(tag: str) -> str:
    """Return the class of a tag; empty if it is no known diagnosis."""
    finding = finding_of("darwin", tag)
    if finding is not None:
        return finding.name
    words = tag.strip().casefold()
    label = label_of(words.removesuffix(" pneumonia"))
    if label == "abnormal":  # Undefined Pneumonia, Rickettsial Pneumonia, ...; or no diagnosis at all
        return "other_pneumonia" if words.endswith(" pneumonia") else ""
    return label
