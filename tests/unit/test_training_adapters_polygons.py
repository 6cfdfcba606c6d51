from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxr.errors import ManifestError
from training.adapters import darwin
from training.adapters.reading.polygons import fill

SQUARE = [(10, 10), (50, 10), (50, 50), (10, 50)]
HOLE = [(20, 20), (40, 20), (40, 40), (20, 40)]
OTHER = [(60, 10), (90, 10), (90, 50), (60, 50)]


def points(path: list[tuple[int, int]]) -> list[dict[str, float]]:
    return [{"x": float(x), "y": float(y)} for x, y in path]


def tags(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "tag": {}} for name in names]


def version_1(name: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    image = {"width": 100, "height": 60, "original_filename": name, "filename": name, "path": "/"}
    return {"dataset": "covid", "image": image, "annotations": annotations}


def version_2(name: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    slot = {"type": "image", "slot_name": "0", "width": 100, "height": 60, "source_files": [{"file_name": name}]}
    return {"version": "2.0", "item": {"name": name, "path": "/", "slots": [slot]}, "annotations": annotations}


def export(root: Path, **documents: dict[str, Any]) -> None:
    for name, document in documents.items():
        (root / "annotations").mkdir(exist_ok=True)
        (root / "images").mkdir(exist_ok=True)
        (root / "annotations" / f"{name}.json").write_text(json.dumps(document))
        cv2.imwrite(str(root / "images" / f"{name}.png"), np.zeros((60, 100), np.uint8))


def test_a_path_within_another_is_a_hole_and_polygons_are_joined() -> None:
    mask = fill([[SQUARE, HOLE], [OTHER]], width=100, height=60)
    assert mask.shape == (60, 100)
    assert set(np.unique(mask)) == {0, 255}
    assert mask[15, 15] == 255
    assert mask[30, 30] == 0
    assert mask[30, 75] == 255
    assert mask[30, 55] == 0
    assert (mask > 0).sum() == 41 * 41 - 19 * 19 + 31 * 41  # borders belong to it
    overlapping = fill([[SQUARE], [HOLE]], width=100, height=60)
    assert overlapping[30, 30] == 255


@pytest.mark.parametrize("version", [version_1, version_2])
def test_both_versions_give_the_same_mask_and_label(tmp_path: Path, version: Any) -> None:
    if version is version_1:
        lungs = [{"name": "Lung", "polygon": {"path": points(path)}} for path in (SQUARE, OTHER)]
    else:
        lungs = [
            {"name": "Lung", "polygon": {"paths": [points(path)]}, "slot_names": ["0"]} for path in (SQUARE, OTHER)
        ]
    export(tmp_path, a=version("a.png", [*tags("COVID-19", "Viral Pneumonia", "Sex/M", "Age/54", "View/AP"), *lungs]))
    found = darwin.index(tmp_path)
    case = found.cases.iloc[0]
    assert (case["label"], case["sex"], case["age"], case["view"]) == ("covid19", "M", 54, "AP")
    assert case["image_wise"] == "yes"
    mask = cv2.imread(case["mask_path"], cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, fill([[SQUARE], [OTHER]], width=100, height=60))
    assert Path(case["mask_path"]) == tmp_path / "lung_masks" / "annotations" / "a.png"
    assert found.rejected == ()
    again = darwin.index(tmp_path)  # its own masks are no pictures of the export
    assert again.rejected == ()


def test_holes_of_either_version(tmp_path: Path) -> None:
    lung = {"name": "Lung", "polygon": {"paths": [points(SQUARE), points(HOLE)]}}
    older = {"name": "Lung", "complex_polygon": {"path": [points(SQUARE), points(HOLE)]}}
    export(
        tmp_path,
        a=version_2("a.png", [*tags("No Pneumonia (healthy)"), lung]),
        b=version_1("b.png", [*tags("Bacterial Pneumonia"), older]),
    )
    found = darwin.index(tmp_path)
    assert list(found.cases["label"]) == ["normal", "bacterial_pneumonia"]
    for mask_path in found.cases["mask_path"]:
        assert cv2.imread(mask_path, cv2.IMREAD_UNCHANGED)[30, 30] == 0


@pytest.mark.parametrize(
    ("tag", "label"),
    [("Viral Pneumonia", "viral_pneumonia"), ("Undefined Pneumonia", "other_pneumonia"), ("SARS", "viral_pneumonia"),
     ("Fungal Pneumonia", "other_pneumonia"), ("Klebsiella", "bacterial_pneumonia"), ("No Finding", "normal")],
)  # fmt: skip
def test_tags(tmp_path: Path, tag: str, label: str) -> None:
    export(tmp_path, a=version_1("a.png", tags(tag, "Checked")))
    assert list(darwin.index(tmp_path).cases["label"]) == [label]


@pytest.mark.parametrize("sign", [":", "/", " : ", ": "])
@pytest.mark.parametrize("patient", ["PatientID", "Patient ID", "patient_id", "Patient-ID"])
def test_values_are_read_whatever_stands_between_key_and_value(tmp_path: Path, sign: str, patient: str) -> None:
    named = [f"{patient}{sign}117", f"Age{sign}55", f"location{sign}Hannover: ward 3/4, Germany", f"Sex{sign}F"]
    export(tmp_path, a=version_1("a.png", tags("COVID-19", "View/PA", *named)))
    case = darwin.index(tmp_path).cases.iloc[0]
    assert (case["patient_id"], case["image_wise"], case["age"]) == ("v7-darwin:117", "", 55)
    assert (case["site"], case["sex"], case["view"]) == ("Hannover: ward 3/4, Germany", "F", "PA")
    assert case["label"] == "covid19"


def test_ct_and_laterals_are_counted_once(tmp_path: Path) -> None:
    export(
        tmp_path,
        a=version_1("a.png", tags("COVID-19", "View/PA")),
        ct=version_1("ct.png", tags("COVID-19", "Modality/CT")),
        axial=version_1("axial.png", tags("COVID-19", "View/Axial")),
        lateral=version_1("lateral.png", tags("COVID-19", "View/L")),
    )
    found = darwin.index(tmp_path)
    assert len(found.cases) + len(found.rejected) == 4
    assert found.count_rejected() == {"not_radiograph": 2, "lateral": 1}


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    lung = {"name": "Lung", "polygon": {"path": points(SQUARE)}}
    wrong = version_1("size.png", [*tags("SARS"), lung])
    wrong["image"]["width"] = 99
    export(
        tmp_path,
        good=version_1("good.png", [*tags("SARS", "Patient ID/7"), lung]),
        twice=version_1("good.png", [*tags("SARS"), lung]),
        size=wrong,
        lateral=version_1("lateral.png", tags("SARS", "View/L")),
        odd=version_1("odd.png", tags("Checked")),
        untagged=version_1("untagged.png", [lung]),
        gone=version_1("elsewhere.png", tags("SARS")),
        none={"annotations": 3},
        bare=version_1("bare.png", tags("SARS")),
    )
    found = darwin.index(tmp_path, need_lungs=True)
    assert list(found.cases["patient_id"]) == ["v7-darwin:7"]
    assert {Path(one.source_file).stem: one.reason for one in found.rejected if one.source_file.endswith("json")} == {
        "twice": "duplicate", "size": "size_differs", "lateral": "lateral", "odd": "label_unknown",
        "untagged": "label_missing", "gone": "no_file", "none": "damaged", "bare": "no_lungs",
    }  # fmt: skip
    # A picture whose annotation is left out is counted once, with the annotation's reason.
    pictures = {Path(one.source_file).name: one.reason for one in found.rejected if one.source_file.endswith("png")}
    assert pictures == {"gone.png": "not_listed", "none.png": "not_listed", "twice.png": "not_listed"}
    assert len(darwin.index(tmp_path).cases) == 2


def test_masks_that_can_not_be_written_are_said(tmp_path: Path) -> None:
    lung = {"name": "Lung", "polygon": {"path": points(SQUARE)}}
    export(tmp_path, a=version_1("a.png", [*tags("SARS"), lung]))
    (tmp_path / "lung_masks").write_text("a file")
    with pytest.raises(ManifestError, match="--masks"):
        darwin.index(tmp_path)
