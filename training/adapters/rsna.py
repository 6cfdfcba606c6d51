"""RSNA Pneumonia Detection Challenge 2018 (Kaggle, stage 2): films of NIH ChestX-ray14 with new labels.

The table of boxes has one line per box, so several per image. Target 0 is not "normal": the three
classes are in a second table. ``patientId`` identifies an image, not a person: an NIH patient has
several, which RSNA's published mapping joins.

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
from training.adapters.reading.boxes import box_row
from training.adapters.reading.dataset_folder import dataset_folder, find_one
from training.adapters.reading.dicom_files import read_image
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.tables import LINE, read_table

_BOXES = ("stage_2_train_labels.csv", "train_labels.csv", "stage_1_train_labels.csv")
_CLASSES = ("stage_2_detailed_class_info.csv", "detailed_class_info.csv", "stage_1_detailed_class_info.csv")
_IMAGES = ("stage_2_train_images", "train_images", "stage_1_train_images")
_SIDES = ("x", "y", "width", "height")
_EVERY = 200
_BY_IMAGE = (
    "RSNA's patientId identifies an image, not a person, and NIH patients recur: give --nih-map to split by patient; "
    "without it figures are image-wise. RSNA and NIH films are the same: never combine them without the map."
)


def index(
    root: Path,
    *,
    nih_map: Annotated[
        str, "RSNA's pneumonia-challenge-dataset-mappings_2018.json, in the folder: maps images to NIH patients."
    ] = "",
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index the challenge's training images.

    Parameters
    ----------
    root
        The folder with the two tables and ``stage_2_train_images``.
    nih_map
        RSNA's mapping of images to NIH patients.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is normal, lung_opacity, or abnormal (No Lung Opacity / Not Normal); boxes of opacities.

    Raises
    ------
    ManifestError
        If a table or the folder of images is missing.
    """
    base = dataset_folder(root)
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
    listed = set(classes["patientId"]) | set(boxes["patientId"])
    rejected += [
        Rejection(path.relative_to(base).as_posix(), 0, "not_listed")
        for path in sorted(images.iterdir())
        if path.stem not in listed and not path.name.startswith(".")
    ]
    drawn = _boxes(boxes, rejected, boxes_file.name)
    return index_result(rows, rejected, [] if nih_map else [_BY_IMAGE], boxes=drawn)


def _boxes(table: pd.DataFrame, rejected: list[Rejection], name: str) -> list[dict[str, Any]]:
    """Return the boxes of opacities, where the table has their sides; reject those that are none."""
    if not set(_SIDES) <= set(table.columns):
        return []
    boxes = []
    for row in table[table["Target"] == "1"].to_dict("records"):
        box = box_row(f"rsna:{row['patientId']}", "lung_opacity", [row[side] for side in _SIDES])
        if box is None:
            rejected.append(Rejection(name, int(row[LINE]), "bad_box"))
        else:
            boxes.append(box)
    return boxes


def _patients(base: Path, nih_map: str) -> Mapping[str, str]:
    """Return the NIH patient of each image: the part of the NIH file name before the underscore."""
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
    """Return class and first line of every image; reject an image whose lines disagree."""
    targets = {image: set(part) for image, part in boxes.groupby("patientId")["Target"]}
    labels: dict[str, tuple[str, int]] = {}
    for image, part in classes.groupby("patientId", sort=False):
        line = int(part[LINE].iloc[0])
        findings = [finding_of("rsna", str(term)) for term in part["class"]]
        names = {finding.name for finding in findings if finding is not None}
        expected = {"1"} if names == {"lung_opacity"} else {"0"}
        if len(names) != 1 or None in findings:
            rejected.append(Rejection(classes_name, line, "label_contradictory" if len(names) > 1 else "label_unknown"))
        elif image not in targets:
            rejected.append(Rejection(classes_name, line, "label_missing"))
        elif targets[image] != expected:
            rejected.append(Rejection(classes_name, line, "label_contradictory"))
        else:
            labels[str(image)] = names.pop(), line
    classified = set(classes["patientId"])
    unknown = boxes[~boxes["patientId"].isin(classified)].drop_duplicates("patientId")
    rejected += [Rejection(boxes_name, int(line), "label_missing") for line in unknown[LINE]]
    return labels


def _row(path: Path, image: str, label: str, patients: Mapping[str, str]) -> dict[str, Any] | str:
    if not path.is_file():
        return "no_file"
    dicom_image = read_image(path)
    if isinstance(dicom_image, str):
        return dicom_image
    patient = f"nih:{patients[image]}" if image in patients else ""
    return dicom_image.row(image_id=f"rsna:{image}", source="rsna", label=label) | {
        "patient_id": patient,
        "image_wise": "" if patient else "yes",
        "site": "nih",
        "label_lung_opacity": float(label == "lung_opacity"),
        "licence": "RSNA: academic research and education",
    }
