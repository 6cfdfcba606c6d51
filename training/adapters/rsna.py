"""RSNA Pneumonia Detection Challenge 2018 (Kaggle, stage 2): films of NIH ChestX-ray14 with new labels.

The table of boxes has one line per box, so several per image. Target 0 is not normal: the three
classes stand in a table of their own. ``patientId`` names an image, not a person: the same NIH
patient has many, and only the mapping that RSNA published tells.

References
----------
Shih et al. 2019, "Augmenting the National Institutes of Health Chest Radiograph Dataset with
Expert Annotations of Possible Pneumonia", https://doi.org/10.1148/ryai.2019180041
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from cxr.errors import ManifestError
from cxr.labels import finding_of
from training.adapters.reading.dataset_folder import find_one, folder
from training.adapters.reading.dicom_files import read_image
from training.adapters.reading.result import Indexed, Rejection, ReportProgress, indexed, silent
from training.adapters.reading.tables import LINE, read_table

_BOXES = ("stage_2_train_labels.csv", "train_labels.csv", "stage_1_train_labels.csv")
_CLASSES = ("stage_2_detailed_class_info.csv", "detailed_class_info.csv", "stage_1_detailed_class_info.csv")
_IMAGES = ("stage_2_train_images", "train_images", "stage_1_train_images")
_EVERY = 200
_BY_IMAGE = (
    "RSNA's patientId names an image, not a person: NIH patients recur. Give --nih-map to split by patient; without "
    "it figures are image-wise. RSNA and NIH films are the same: never combine them without the map."
)


def index(
    root: Path,
    *,
    nih_map: Annotated[
        str, "RSNA's pneumonia-challenge-dataset-mappings_2018.json, in the folder: gives NIH patients."
    ] = "",
    watch: ReportProgress = silent,
) -> Indexed:
    """Index the challenge's training images.

    Parameters
    ----------
    root
        The folder with the two tables and ``stage_2_train_images``.
    nih_map
        See its help.
    watch
        Told how far it is.

    Returns
    -------
    Indexed
        ``label`` is normal, lung_opacity, or abnormal (No Lung Opacity / Not Normal).

    Raises
    ------
    ManifestError
        If a table or the folder of images is missing.
    """
    base = folder(root)
    rejected: list[Rejection] = []
    boxes_file, classes_file = find_one(base, _BOXES, "table of boxes"), find_one(base, _CLASSES, "table of classes")
    boxes = read_table(boxes_file, rejected, required=("patientId", "Target"))
    classes = read_table(classes_file, rejected, required=("patientId", "class"))
    images = next((base / name for name in _IMAGES if (base / name).is_dir()), None)
    if images is None:
        raise ManifestError(f"The folder {base.name!r} has no folder of images; looked for {', '.join(_IMAGES)}.")
    patients = _patients(base, nih_map)
    labels = _labels(classes, boxes, rejected, classes_file.name, boxes_file.name)
    rows = []
    for number, (image, (label, line)) in enumerate(labels.items(), start=1):
        row = _row(images / f"{image}.dcm", image, label, patients)
        if isinstance(row, str):
            rejected.append(Rejection(classes_file.name, line, row))
        else:
            rows.append(row)
        if number % _EVERY == 0 or number == len(labels):
            watch("headers", number, len(labels))
    named = set(classes["patientId"]) | set(boxes["patientId"])
    rejected += [
        Rejection(path.relative_to(base).as_posix(), 0, "not_listed")
        for path in sorted(images.iterdir())
        if path.stem not in named and not path.name.startswith(".")
    ]
    return indexed(rows, rejected, [] if nih_map else [_BY_IMAGE])


def _patients(base: Path, nih_map: str) -> Mapping[str, str]:
    """NIH patient of each image: the part of the NIH file name in front of the underscore."""
    if not nih_map:
        return {}
    try:
        entries = json.loads((base / nih_map).read_text())
        return {entry["subset_img_id"]: entry["img_id"].partition("_")[0] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"The mapping {nih_map!r} can't be read ({type(error).__name__}); accepted is RSNA's list of objects with "
            "subset_img_id and img_id."
        ) from error


def _labels(
    classes: pd.DataFrame, boxes: pd.DataFrame, rejected: list[Rejection], classes_name: str, boxes_name: str
) -> dict[str, tuple[str, int]]:
    """Class and first line of every image; an image whose lines disagree is left out."""
    target = {image: set(part) for image, part in boxes.groupby("patientId")["Target"]}
    labels: dict[str, tuple[str, int]] = {}
    for image, part in classes.groupby("patientId", sort=False):
        line = int(part[LINE].iloc[0])
        findings = [finding_of("rsna", str(term)) for term in part["class"]]
        names = {finding.name for finding in findings if finding is not None}
        expected = {"1"} if names == {"lung_opacity"} else {"0"}
        if len(names) != 1 or None in findings:
            rejected.append(Rejection(classes_name, line, "label_contradictory" if len(names) > 1 else "label_unknown"))
        elif image not in target:
            rejected.append(Rejection(classes_name, line, "label_missing"))
        elif target[image] != expected:
            rejected.append(Rejection(classes_name, line, "label_contradictory"))
        else:
            labels[str(image)] = names.pop(), line
    known = set(classes["patientId"])
    unknown = boxes[~boxes["patientId"].isin(known)].drop_duplicates("patientId")
    rejected += [Rejection(boxes_name, int(line), "label_missing") for line in unknown[LINE]]
    return labels


def _row(path: Path, image: str, label: str, patients: Mapping[str, str]) -> dict[str, Any] | str:
    if not path.is_file():
        return "no_file"
    found = read_image(path)
    if isinstance(found, str):
        return found
    patient = f"nih:{patients[image]}" if image in patients else ""
    return found.row(image_id=f"rsna:{image}", source="rsna", label=label) | {
        "patient_id": patient,
        "image_wise": "" if patient else "yes",
        "site": "nih",
        "label_lung_opacity": float(label == "lung_opacity"),
        "licence": "RSNA: academic research and education",
    }
