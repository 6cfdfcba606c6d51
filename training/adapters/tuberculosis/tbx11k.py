"""TBX11K: 11,200 films, healthy, sick without tuberculosis, or with active, latent or uncertain tuberculosis in boxes.

The folder of a film is its class; the boxes are COCO's JSON. Patients are not named. Films of the folders ``test`` (no
labels) and ``extra`` (other collections) are left out.

References
----------
Liu et al. 2020, "Rethinking Computer-Aided Tuberculosis Diagnosis",
https://doi.org/10.1109/CVPR42600.2020.00272; https://mmcheng.net/tb/
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cxr.errors import ManifestError
from cxr.labels import finding_of
from training.adapters.reading.boxes import box_row
from training.adapters.reading.dataset_folder import IMAGE_SUFFIXES, all_files, dataset_folder
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result

_LABELS = {"health": "normal", "sick": "abnormal", "tb": "tuberculosis"}
_UNCERTAIN = "pulmonarytuberculosis"  # neither active nor latent for certain
_SIDES = {"train": "TBX11K_train.txt", "val": "TBX11K_val.txt"}
_LICENCE = "TBX11K: non-commercial research"
_NOTE = "Patients are not named: figures are image-wise."


def index(
    root: Path,
    *,
    official_split: Annotated[bool, "Take the sides of lists/TBX11K_train.txt and TBX11K_val.txt."] = False,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index TBX11K.

    Parameters
    ----------
    root
        The folder with ``imgs``, ``annotations`` and ``lists``, or its parent.
    official_split
        See its help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is normal, abnormal (sick, no tuberculosis) or tuberculosis; boxes where annotations are there.

    Raises
    ------
    ManifestError
        If there is no folder of films, or the annotations can't be read.
    """
    outer = dataset_folder(root)
    base = outer / "TBX11K" if (outer / "TBX11K" / "imgs").is_dir() else outer
    pictures = base / "imgs"
    if not pictures.is_dir():
        raise ManifestError(f"The folder {outer.name!r} has no folder of films; looked for imgs.")
    drawn = _read_annotations(base / "annotations")
    sides = _sides(base / "lists") if official_split else {}
    rejected: list[Rejection] = []
    rows, boxes = [], []
    files = list(all_files(pictures))
    for path in files:
        name = path.relative_to(pictures).as_posix()
        label = _LABELS.get(path.parent.name, "")
        if path.suffix.casefold() not in IMAGE_SUFFIXES or not label:
            rejected.append(Rejection(f"imgs/{name}", 0, "label_missing" if label == "" else "not_image"))
            continue
        annotations = drawn.get(name, ())
        rows.append(_row(path, name, label, [term for term, _ in annotations]) | {"split": sides.get(name, "")})
        for term, sides_of_box in annotations:
            finding = finding_of("tbx11k", term)
            box = box_row(f"tbx11k:{name}", finding.name if finding is not None else "tuberculosis", sides_of_box)
            if box is None:
                rejected.append(Rejection(f"imgs/{name}", 0, "bad_box"))
            else:
                boxes.append(box)
    watch("films", len(files), len(files))
    return index_result(rows, rejected, [_NOTE], boxes=boxes)


def _row(path: Path, name: str, label: str, terms: Sequence[str]) -> dict[str, Any]:
    has_tuberculosis = label == "tuberculosis"
    return {
        "image_id": f"tbx11k:{name}",
        "path": str(path),
        "source": "tbx11k",
        "patient_id": "",
        "image_wise": "yes",
        "label": label,
        "label_normal": float(label == "normal"),
        "label_tuberculosis": float(has_tuberculosis),
        "label_tuberculosis_active": _kind("ActiveTuberculosis", terms, has_tuberculosis),
        "label_tuberculosis_sequelae": _kind("ObsoletePulmonaryTuberculosis", terms, has_tuberculosis),
        "licence": _LICENCE,
    }


def _kind(term: str, terms: Sequence[str], has_tuberculosis: bool) -> float | None:
    """Return whether a kind of tuberculosis is in a film: None where it has tuberculosis and no box says which."""
    if not has_tuberculosis or term in terms:
        return float(has_tuberculosis)
    if any(each.casefold() == _UNCERTAIN for each in terms):
        return -1.0
    return 0.0 if terms else None


def _read_annotations(folder: Path) -> Mapping[str, list[tuple[str, Sequence[object]]]]:
    """Return each film's boxes: label, and left, top, width and height."""
    drawn: dict[str, list[tuple[str, Sequence[object]]]] = {}
    for path in all_files(folder):
        if path.suffix.casefold() != ".json" or "test" in path.stem:
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            names = {image["id"]: str(image["file_name"]) for image in document["images"]}
            terms = {category["id"]: str(category["name"]) for category in document["categories"]}
            for annotation in document["annotations"]:
                box = (terms[annotation["category_id"]], tuple(annotation["bbox"]))
                boxes = drawn.setdefault(names[annotation["image_id"]], [])
                if box not in boxes:  # the data set has the same boxes in several files
                    boxes.append(box)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ManifestError(
                f"The annotations {path.name} can't be read ({type(error).__name__}); accepted is COCO's JSON with "
                "images, categories and annotations."
            ) from error
    return drawn


def _sides(folder: Path) -> Mapping[str, str]:
    sides: dict[str, str] = {}
    for side, name in _SIDES.items():
        try:
            sides |= dict.fromkeys((folder / name).read_text(encoding="utf-8").split(), side)
        except OSError as error:
            raise ManifestError(f"The list lists/{name} can't be read ({type(error).__name__}).") from error
    return sides
