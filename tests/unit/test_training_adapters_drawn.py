"""Collections that people read or drew for the purpose: small ones of our own in the layout of the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset

from cxr.errors import ManifestError
from cxr.labels import FINDINGS
from training.adapters import covidx, siim_covid19, siim_pneumothorax, vindr
from training.adapters.reading.reader_votes import agreement, decide
from training.adapters.reading.result import IndexResult
from training.adapters.tuberculosis import shenzhen_montgomery, tbx11k
from training.cases import label_columns

Xray = Callable[..., Dataset]


def reasons(found: IndexResult) -> list[tuple[str, int, str]]:
    return sorted((one.source_file, one.line, one.reason) for one in found.rejected)


def picture(path: Path, white: tuple[slice, slice] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((20, 30), np.uint8)
    if white is not None:
        pixels[white] = 255
    cv2.imwrite(str(path), pixels)
    return path


def columns_are_findings(found: IndexResult) -> bool:
    return {name.removeprefix("label_") for name in label_columns(found.cases)} <= FINDINGS.keys()


# Readers


def test_decisions_of_readers() -> None:
    votes = pd.DataFrame({"edema": [1, 1, 0, 1, 0, 0], "mass": [0, 0, 0, 1, 1, 1]}, index=list("aaabbb"), dtype=float)
    assert decide(votes, "majority").to_dict("list") == {"edema": [1, 0], "mass": [0, 1]}
    assert decide(votes, "any").to_dict("list") == {"edema": [1, 1], "mass": [0, 1]}


def test_agreement_is_fleiss_kappa() -> None:
    # Fleiss' own formula, for two films of three readers: P = (1/3 + 1) / 2, by chance (4/6)^2 + (2/6)^2.
    votes = pd.DataFrame({"edema": [1, 1, 0, 1, 1, 0], "mass": [1, 1, 1, 0, 0, 0]}, index=list("aaabbb"), dtype=float)
    found = agreement(votes)
    assert found["edema"] == pytest.approx((1 / 3 - 5 / 9) / (1 - 5 / 9))
    assert found["mass"] == pytest.approx(1)
    alone = agreement(votes.iloc[[0, 3]])
    assert alone["edema"] != alone["edema"]


# VinDr-CXR

KAGGLE = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]


def kaggle_folder(root: Path) -> Path:
    rows = [
        "aa,No finding,14,R1,,,,", "aa,No finding,14,R2,,,,", "aa,Cardiomegaly,3,R3,1,2,11,22",
        "bb,Cardiomegaly,3,R1,1,2,11,22", "bb,Cardiomegaly,3,R2,2,2,12,22", "bb,Nodule/Mass,8,R2,5,5,6,6",
        "bb,ILD,5,R3,5,5,9,9",
        "cc,Cardiomegaly,3,R1,1,2,3,4", "cc,ILD,5,R2,1,2,3,4", "cc,Pneumothorax,12,R3,1,2,3,4",
        "gone,No finding,14,R1,,,,", "gone,Dragon,99,R1,,,,",
    ]  # fmt: skip
    (root / "train.csv").write_text("\n".join([*KAGGLE, *rows]))
    for name in ("aa", "bb", "cc"):
        picture(root / "train" / f"{name}.png")
    return root


def test_vindr_decides_by_most_readers_or_any(tmp_path: Path) -> None:
    found = vindr.index(kaggle_folder(tmp_path))
    cases = found.cases.set_index("image_id")
    assert cases["label"].to_dict() == {"vindr:aa": "normal", "vindr:bb": "abnormal", "vindr:cc": "abnormal"}
    assert cases["label_cardiomegaly"].tolist() == [0, 1, 0]
    assert cases["label_normal"].tolist() == [1, 0, 0]
    assert columns_are_findings(found)
    assert "label_edema" not in cases  # Kaggle's readers were not asked
    assert set(cases["image_wise"]) == {"yes"}
    assert set(cases["view"]) == {"PA"}
    assert found.notes[1].startswith("Agreement of the readers (Fleiss' kappa): ")
    assert reasons(found) == [("train.csv", 12, "no_file"), ("train.csv", 13, "label_unknown")]
    any_reader = vindr.index(tmp_path, readers="any").cases.set_index("image_id")
    assert any_reader["label"].tolist() == ["abnormal"] * 3
    assert any_reader["label_cardiomegaly"].tolist() == [1, 1, 1]
    assert any_reader["label_nodule_or_mass"].tolist() == [0, 1, 0]


def test_vindr_boxes_have_their_reader(tmp_path: Path) -> None:
    boxes = vindr.index(kaggle_folder(tmp_path)).boxes
    assert len(boxes) == 8
    assert boxes.iloc[0].to_dict() == {
        "image_id": "vindr:aa", "finding": "cardiomegaly", "reader": "R3", "x": 1, "y": 2, "width": 10, "height": 20
    }  # fmt: skip


def test_vindr_in_physionets_tables_with_dicom_films(tmp_path: Path, synthetic_xray: Xray) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "image_labels_train.csv").write_text(
        "image_id,rad_ID,Cardiomegaly,Other diseases,Pneumonia,No finding\n"
        "aa,R1,0,0,1,0\naa,R2,0,1,1,0\naa,R3,0,0,0,1\nbb,R1,0,0,0,1\nbb,R2,0,0,0,x\n"
    )
    (folder / "annotations_train.csv").write_text(
        "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\naa,R1,Cardiomegaly,1,1,5,4\naa,R1,Cardiomegaly,1,1,1,4\n"
    )
    (folder / "image_labels_test.csv").write_text("image_id,Cardiomegaly,No finding\ntt,1,0\n")
    for seed, (side, name) in enumerate((("train", "aa"), ("train", "bb"), ("test", "tt"))):
        (tmp_path / side).mkdir(exist_ok=True)
        synthetic_xray(seed=seed, ViewPosition=None, PatientAge="044Y").save_as(
            tmp_path / side / f"{name}.dicom", enforce_file_format=True
        )
    found = vindr.index(tmp_path)
    cases = found.cases.set_index("image_id")
    assert cases.loc["vindr:aa", ["label", "label_other_pneumonia", "label_other_disease", "age"]].tolist() == [
        "abnormal", 1, 0, 44
    ]  # fmt: skip
    assert (cases.loc["vindr:bb", "label"], cases.loc["vindr:bb", "patient_id"]) == ("normal", "")
    assert reasons(found) == [("image_labels_train.csv", 6, "bad_finding")]
    assert len(found.boxes) == 1
    assert list(vindr.index(tmp_path, part="test").cases["label"]) == ["abnormal"]
    with pytest.raises(ManifestError, match=r"looked for annotations/image_labels_train\.csv"):
        vindr.index(folder)


# Shenzhen and Montgomery


def test_shenzhen_and_montgomery(tmp_path: Path) -> None:
    china, montgomery = tmp_path / "ChinaSet_AllFiles", tmp_path / "MontgomerySet"
    readings = {
        china / "ClinicalReadings/CHNCXR_0001_0.txt": "male 45yrs\nnormal",
        china / "ClinicalReadings/CHNCXR_0002_1.txt": "female , 6 months\nPTB",
        montgomery / "ClinicalReadings/MCUCXR_0003_1.txt": "Patient's Sex: F\nPatient's Age: 031Y\nfree text 88yrs",
    }
    for path, text in readings.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("CHNCXR_0001_0", "CHNCXR_0002_1", "CHNCXR_0003_1", "overview"):
        picture(china / "CXR_png" / f"{name}.png")
    picture(montgomery / "CXR_png/MCUCXR_0003_1.png")
    picture(tmp_path / "mask/CHNCXR_0001_0_mask.png")
    picture(montgomery / "ManualMask/leftMask/MCUCXR_0003_1.png", (slice(0, 20), slice(0, 5)))
    picture(montgomery / "ManualMask/rightMask/MCUCXR_0003_1.png", (slice(0, 20), slice(25, 30)))
    found = shenzhen_montgomery.index(tmp_path)
    cases = found.cases.set_index("image_id")
    assert cases[["label", "sex", "label_tuberculosis"]].to_dict("index") == {
        "shenzhen:CHNCXR_0001_0": {"label": "normal", "sex": "M", "label_tuberculosis": 0},
        "shenzhen:CHNCXR_0002_1": {"label": "tuberculosis", "sex": "F", "label_tuberculosis": 1},
        "shenzhen:CHNCXR_0003_1": {"label": "tuberculosis", "sex": "", "label_tuberculosis": 1},
        "montgomery:MCUCXR_0003_1": {"label": "tuberculosis", "sex": "F", "label_tuberculosis": 1},
    }
    ages = cases["age"].tolist()
    assert (ages[0], ages[1], ages[3]) == (45, 0.5, 31)
    assert ages[2] != ages[2]
    assert cases["patient_id"].is_unique
    masks = cases["mask_path"].tolist()
    assert masks[0] == str(tmp_path / "mask/CHNCXR_0001_0_mask.png")
    assert masks[1:3] == ["", ""]
    joined = cv2.imread(masks[3], cv2.IMREAD_GRAYSCALE)
    assert joined is not None
    assert np.count_nonzero(joined) == 20 * 10
    assert "2 of 4 films have a lung mask." in found.notes
    assert reasons(found) == [("ChinaSet_AllFiles/CXR_png/overview.png", 0, "not_listed")]
    assert columns_are_findings(found)
    assert len(shenzhen_montgomery.index(tmp_path).cases) == 4  # its own masks are no films


# TBX11K


@pytest.fixture
def tbx_folder(tmp_path: Path) -> Path:
    base = tmp_path / "TBX11K"
    for name in ("health/h1", "sick/s1", "tb/tb1", "tb/tb2", "tb/tb3", "test/t1"):
        picture(base / "imgs" / f"{name}.png")
    document = {
        "images": [{"id": n, "file_name": f"tb/tb{n}.png"} for n in (1, 2)],
        "categories": [
            {"id": 1, "name": "ActiveTuberculosis"}, {"id": 2, "name": "ObsoletePulmonaryTuberculosis"},
            {"id": 3, "name": "PulmonaryTuberculosis"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]},
            {"image_id": 2, "category_id": 3, "bbox": [1, 2, 0, 4]},
        ],
    }  # fmt: skip
    (base / "annotations/json").mkdir(parents=True)
    for name in ("TBX11K_trainval_only_tb", "TBX11K_trainval"):
        (base / "annotations/json" / f"{name}.json").write_text(json.dumps(document))
    (base / "lists").mkdir()
    (base / "lists/TBX11K_train.txt").write_text("health/h1.png\ntb/tb1.png\n")
    (base / "lists/TBX11K_val.txt").write_text("sick/s1.png\n")
    return tmp_path


def test_tbx11k_kinds_of_tuberculosis_are_those_of_the_boxes(tbx_folder: Path) -> None:
    found = tbx11k.index(tbx_folder, official_split=True)
    cases = found.cases.set_index("image_id")
    assert cases["label"].tolist() == ["normal", "abnormal", "tuberculosis", "tuberculosis", "tuberculosis"]
    assert cases["label_tuberculosis"].tolist() == [0, 0, 1, 1, 1]
    assert cases["label_tuberculosis_active"].fillna(9).tolist() == [0, 0, 1, -1, 9]
    assert cases["label_tuberculosis_sequelae"].fillna(9).tolist() == [0, 0, 0, -1, 9]
    assert cases["split"].tolist() == ["train", "val", "train", "", ""]
    assert [(box["finding"], box["width"]) for box in found.boxes.to_dict("records")] == [
        ("tuberculosis_active", 3), ("tuberculosis", 3)
    ]  # fmt: skip
    assert reasons(found) == [("imgs/tb/tb2.png", 0, "bad_box"), ("imgs/test/t1.png", 0, "label_missing")]
    assert columns_are_findings(found)


def test_tbx11k_with_what_it_cannot_read_is_refused(tbx_folder: Path) -> None:
    (tbx_folder / "TBX11K/annotations/json/x.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"x\.json can't be read \(KeyError\)"):
        tbx11k.index(tbx_folder)
    with pytest.raises(ManifestError, match="looked for imgs"):
        tbx11k.index(tbx_folder / "TBX11K" / "lists")


# SIIM-FISABIO-RSNA COVID-19


def test_siim_covid19_studies_label_their_films(tmp_path: Path, synthetic_xray: Xray) -> None:
    classes = "Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance"
    (tmp_path / "train_study_level.csv").write_text(
        f"id,{classes}\ns1_study,0,1,0,0\ns2_study,1,0,0,0\ns3_study,0,1,1,0\ns4_study,0,0,0,1\n"
    )
    box = "\"[{'x': 7.5, 'y': 5, 'width': 10, 'height': 20}, {'x': 1, 'y': 1, 'width': 0, 'height': 2}]\""
    (tmp_path / "train_image_level.csv").write_text(
        f"id,boxes,label,StudyInstanceUID\na_image,{box},opacity,s1\nb_image,,none,s1\nc_image,,none,s2\n"
        "d_image,,none,s3\ne_image,,none,s4\na_image,,none,s1\n"
    )
    for seed, name in enumerate("abcd"):
        path = tmp_path / "train" / f"study{seed}" / "series" / f"{name}.dcm"
        path.parent.mkdir(parents=True)
        synthetic_xray(seed=seed, PatientID=f"person{seed // 2}").save_as(path, enforce_file_format=True)
    found = siim_covid19.index(tmp_path)
    cases = found.cases.set_index("image_id")
    assert cases["label"].to_dict() == {
        "siim-covid19:a": "covid19_typical", "siim-covid19:b": "covid19_typical", "siim-covid19:c": "negative"
    }  # fmt: skip
    assert cases["label_lung_opacity"].fillna(9).tolist() == [1, 9, 0]
    assert cases["label_covid19_typical"].tolist() == [1, 1, 0]
    assert cases["patient_id"].tolist() == ["siim-covid19:person0", "siim-covid19:person0", "siim-covid19:person1"]
    assert found.boxes[["finding", "x", "height"]].to_dict("records") == [
        {"finding": "lung_opacity", "x": 7.5, "height": 20}
    ]
    assert reasons(found) == [
        ("train_image_level.csv", 2, "bad_box"), ("train_image_level.csv", 5, "label_missing"),
        ("train_image_level.csv", 6, "no_file"), ("train_image_level.csv", 7, "duplicate"),
        ("train_study_level.csv", 4, "label_contradictory"),
    ]  # fmt: skip
    assert columns_are_findings(found)


# SIIM-ACR pneumothorax


def test_siim_pneumothorax_has_one_line_per_film(tmp_path: Path, synthetic_xray: Xray) -> None:
    (tmp_path / "train-rle.csv").write_text(
        "ImageId, EncodedPixels\n1.1, -1\n1.2,5 3 10 2\n1.2,9 1\n1.3,-1\n1.3,4 1\n1.4,-1\n1.5,\n"
    )
    for seed, name in enumerate(("1.1", "1.2", "1.3")):
        path = tmp_path / "dicom-images-train" / name / f"{name}.dcm"
        path.parent.mkdir(parents=True)
        synthetic_xray(seed=seed).save_as(path, enforce_file_format=True)
    found = siim_pneumothorax.index(tmp_path)
    assert found.cases[["image_id", "label", "label_pneumothorax", "patient_id", "image_wise"]].values.tolist() == [
        ["siim-pneumothorax:1.1", "negative", 0, "", "yes"], ["siim-pneumothorax:1.2", "pneumothorax", 1, "", "yes"]
    ]  # fmt: skip
    assert [(line, reason) for _, line, reason in reasons(found)] == [
        (5, "label_contradictory"), (7, "no_file"), (8, "label_missing")
    ]  # fmt: skip
    assert "never combine" in found.notes[0]


# COVIDx


def test_covidx_patients_are_those_of_its_sources(tmp_path: Path) -> None:
    (tmp_path / "train_COVIDx9B.txt").write_text(
        "7 a.png positive cohen\nuuid1 b.png negative rsna\nMIDRC-1 c.png positive ricord\nx d.png\n9 e.png odd cohen\n"
        "7 gone.png positive cohen\n\n7 a.png positive cohen\n"
    )
    (tmp_path / "test_COVIDx9B.txt").write_text("MIDRC-2 a.png pneumonia\n")
    for name in ("train/a", "train/b", "train/c", "train/d", "train/e", "test/a"):
        picture(tmp_path / f"{name}.png")
    found = covidx.index(tmp_path, official_split=True)
    cases = found.cases.set_index("image_id")
    assert cases[["label", "patient_id", "source", "image_wise", "split"]].to_dict("index") == {
        "covidx:test/a.png": {"label": "other_pneumonia", "patient_id": "covidx:MIDRC-2", "source": "covidx",
                              "image_wise": "", "split": "test"},
        "covidx:train/a.png": {"label": "covid19", "patient_id": "covid-chestxray:7", "source": "covidx-cohen",
                               "image_wise": "", "split": "train"},
        "covidx:train/b.png": {"label": "negative", "patient_id": "", "source": "covidx-rsna", "image_wise": "yes",
                               "split": "train"},
        "covidx:train/c.png": {"label": "covid19", "patient_id": "covidx:ricord:MIDRC-1", "source": "covidx-ricord",
                               "image_wise": "", "split": "train"},
    }  # fmt: skip
    assert [(line, reason) for _, line, reason in reasons(found)] == [
        (4, "fields"), (5, "label_unknown"), (6, "no_file"), (8, "duplicate")
    ]  # fmt: skip
    assert len(found.notes) == 2
    (tmp_path / "train_COVIDx8B.txt").write_text("")
    with pytest.raises(ManifestError, match="keep those of one version"):
        covidx.index(tmp_path)
    with pytest.raises(ManifestError, match="has no list"):
        covidx.index(tmp_path / "train")
