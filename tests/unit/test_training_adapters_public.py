from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from cxr.errors import ManifestError
from training.adapters import covid_chestxray, csv_table, midrc, radiography, rsna
from training.adapters.reading.result import IndexResult
from training.cases import complete

Xray = Callable[..., Dataset]


def reasons(found: IndexResult) -> list[tuple[str, int, str]]:
    return sorted((Path(one.source_file).name, one.line, one.reason) for one in found.rejected)


def picture(path: Path, height: int = 20, width: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width), np.uint8))
    return path


# RSNA


@pytest.fixture
def rsna_folder(tmp_path: Path, synthetic_xray: Xray) -> Path:
    classes = {"aa": "Normal", "bb": "Lung Opacity", "cc": "No Lung Opacity / Not Normal", "dd": "Normal", "ee": "Cat"}
    boxes = ["patientId,x,y,width,height,Target", "aa,,,,,0", "bb,1,2,3,4,1", "bb,5,6,7,8,1", "cc,,,,,0",
             "dd,1,2,3,4,1", "ee,,,,,0", "ff,,,,,0", "gg,,,,,0"]  # fmt: skip
    lines = ["patientId,class", *(f"{name},{term}" for name, term in classes.items()), "bb,Lung Opacity", "ff,Normal"]
    (tmp_path / "stage_2_train_labels.csv").write_text("\n".join(boxes))
    (tmp_path / "stage_2_detailed_class_info.csv").write_text("\n".join(lines))
    images = tmp_path / "stage_2_train_images"
    images.mkdir()
    for seed, name in enumerate(["aa", "bb", "cc", "dd", "stray"]):
        with disable_value_validation():  # the challenge writes 40, not 040Y
            xray = synthetic_xray(
                seed=seed, PatientID=name, PatientAge=str(40 + seed), PatientSex="F", ViewPosition="AP"
            )
        xray.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"  # the challenge's files are secondary captures
        xray.file_meta.MediaStorageSOPClassUID = xray.SOPClassUID
        with disable_value_validation():
            xray.save_as(images / f"{name}.dcm", enforce_file_format=True)
    return tmp_path


def test_rsna_has_one_line_per_image_and_three_classes(rsna_folder: Path) -> None:
    found = rsna.index(rsna_folder)
    assert dict(zip(found.cases["image_id"], found.cases["label"], strict=True)) == {
        "rsna:aa": "normal", "rsna:bb": "lung_opacity", "rsna:cc": "abnormal"
    }  # fmt: skip
    assert found.cases.loc[0, ["view", "sex", "age"]].tolist() == ["AP", "F", 40]
    assert reasons(found) == [
        ("stage_2_detailed_class_info.csv", 5, "label_contradictory"),
        ("stage_2_detailed_class_info.csv", 6, "label_unknown"),
        ("stage_2_detailed_class_info.csv", 8, "no_file"),
        ("stage_2_train_labels.csv", 9, "label_missing"),
        ("stray.dcm", 0, "not_listed"),
    ]


def test_rsna_boxes_are_kept(rsna_folder: Path) -> None:
    table = rsna_folder / "stage_2_train_labels.csv"
    table.write_text(table.read_text() + "\nbb,1,2,0,4,1")
    found = rsna.index(rsna_folder)
    assert found.boxes[["image_id", "finding", "x", "height"]].values.tolist() == [
        ["rsna:bb", "lung_opacity", 1, 4], ["rsna:bb", "lung_opacity", 5, 8]
    ]  # fmt: skip
    assert ("stage_2_train_labels.csv", 10, "bad_box") in reasons(found)


def test_rsna_is_image_wise_unless_the_map_to_nih_patients_is_given(rsna_folder: Path) -> None:
    without = rsna.index(rsna_folder)
    assert set(without.cases["patient_id"]) == {""}
    assert set(without.cases["image_wise"]) == {"yes"}
    assert "NIH patients recur" in without.notes[0]
    (rsna_folder / "map.json").write_text(
        json.dumps(
            [
                {"subset_img_id": name, "img_id": f"0000000{number // 2}_000.png"}
                for number, name in enumerate(("aa", "bb", "cc"))
            ]
        )
    )
    found = rsna.index(rsna_folder, nih_map="map.json")
    assert list(found.cases["patient_id"]) == ["nih:00000000", "nih:00000000", "nih:00000001"]
    assert set(found.cases["image_wise"]) == {""}
    (rsna_folder / "map.json").write_text("{}[")
    with pytest.raises(ManifestError, match="subset_img_id"):
        rsna.index(rsna_folder, nih_map="map.json")


# ieee8023


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ("COVID-19", "covid19"), ("COVID-19, ARDS", "covid19"), ("Pneumonia/Viral/COVID-19", "covid19"),
        ("SARS", "viral_pneumonia"), ("Pneumonia/Viral/Influenza/H1N1", "viral_pneumonia"),
        ("Mycoplasma Bacterial Pneumonia", "bacterial_pneumonia"), ("Viral Pneumonia", "viral_pneumonia"),
        ("Klebsiella", "bacterial_pneumonia"), ("Pneumonia/Bacterial/Streptococcus", "bacterial_pneumonia"),
        ("Pneumonia", "other_pneumonia"), ("Pneumonia/Fungal/Pneumocystis", "other_pneumonia"),
        ("No Finding", "normal"), ("Tuberculosis", "abnormal"), ("todo", ""), ("Unknown", ""),
    ],
)  # fmt: skip
def test_flat_and_hierarchical_findings(finding: str, label: str) -> None:
    assert covid_chestxray.label_of(finding) == label


LATER = (
    "patientid,offset,sex,age,finding,RT_PCR_positive,survival,view,modality,date,location,folder,filename,doi,url,"
    "license,clinical_notes,"
)


def test_covid_chestxray(tmp_path: Path) -> None:
    lines = [
        LATER,
        '2,0,M,65,Pneumonia/Viral/COVID-19,Y,Y,PA,X-ray,"January 22, 2020","Hanoi, Vietnam",images,a.jpg,,,CC BY,x,',
        "2,3,M,65,Pneumonia/Viral/COVID-19,Y,Y,L,X-ray,2020,,images,b.jpg,,,CC BY,,",
        "3,,F,,Pneumonia,,,AP Supine,X-ray,2020,,images,c.jpg,,,,,",
        "4,,F,,COVID-19,,,Axial,CT,2020,,volumes,d.nii.gz,,,,,",
        "5,,F,,todo,,,PA,X-ray,2020,,images,e.jpg,,,,,",
        "6,,F,,COVID-19,,,PA,X-ray,2020,,images,missing.jpg,,,,,",
        "7,,F,,COVID-19,,,PA,X-ray,2020,,images,a.jpg,,,,,",
    ]  # fmt: skip
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    for name in "abcex":
        picture(tmp_path / "images" / f"{name}.jpg")
    found = covid_chestxray.index(tmp_path)
    assert found.cases[["label", "view"]].to_dict("list") == {
        "label": ["covid19", "other_pneumonia"], "view": ["PA", "AP_supine"]
    }  # fmt: skip
    first = found.cases.iloc[0]
    assert (first["patient_id"], first["age"], first["acquired_on"]) == ("covid-chestxray:2", 65, "2020-01-22")
    assert (first["site"], first["licence"]) == ("Hanoi, Vietnam", "CC BY")
    assert found.cases.iloc[1]["acquired_on"] == ""
    assert reasons(found) == [
        ("metadata.csv", 3, "lateral"), ("metadata.csv", 5, "not_radiograph"), ("metadata.csv", 6, "label_missing"),
        ("metadata.csv", 7, "no_file"), ("metadata.csv", 8, "duplicate"), ("x.jpg", 0, "not_listed"),
    ]  # fmt: skip
    assert len(covid_chestxray.index(tmp_path, laterals=True).cases) == 3


def test_an_early_fork_of_covid_chestxray(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        "Patientid,offset,sex,age,finding,survival,view,date,location,filename,doi, url,license,notes\n"
        "1, ,,,COVID-19,,PA,2019,,a.jpg,,https://example.org,,\n17,9,M,54,COVID-19,Y,CT,2020,,b.jpg,,,,\n"
    )
    picture(tmp_path / "images" / "a.jpg")
    found = covid_chestxray.index(tmp_path)
    assert list(found.cases["patient_id"]) == ["covid-chestxray:1"]
    assert reasons(found) == [("metadata.csv", 3, "not_radiograph")]


# Radiography database


@pytest.mark.parametrize("layout", ["2020", "2021"])
def test_radiography_in_both_layouts(tmp_path: Path, layout: str) -> None:
    base = tmp_path / "COVID-19_Radiography_Dataset"
    for name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        inner = base / name / ("images" if layout == "2021" else "")
        picture(inner / f"{name}-1.png")
        picture(inner / f"{name}-2.png")
        if layout == "2021":
            picture(base / name / "masks" / f"{name}-1.png")
    sheet = pd.DataFrame(
        {
            "FILE NAME": ["COVID-1", "COVID-9"],
            "FORMAT": "PNG",
            "SIZE": "256*256",
            "URL": ["https://sirm.org/", "https://x"],
        }
    )
    sheet.to_excel(base / "COVID.metadata.xlsx", index=False)
    (base / "Normal" / "Thumbs.db").write_bytes(b"") if layout == "2020" else None
    found = radiography.index(tmp_path)
    cases = found.cases.set_index("image_id")
    inner = "images/" if layout == "2021" else ""
    assert cases["label"].value_counts().to_dict() == {
        "covid19": 2, "lung_opacity": 2, "normal": 2, "viral_pneumonia": 2
    }  # fmt: skip
    assert cases.loc[f"radiography:COVID/{inner}COVID-1.png", "source"] == "https://sirm.org/"
    assert cases.loc[f"radiography:COVID/{inner}COVID-2.png", "source"] == "radiography"
    assert (cases["image_wise"] == "yes").all()
    assert (cases["patient_id"] == "").all()
    masks = [Path(mask).name for mask in cases["mask_path"] if mask]
    assert len(masks) == (4 if layout == "2021" else 0)
    expected = [("COVID.metadata.xlsx", 3, "no_file")]
    assert reasons(found) == expected + ([("Thumbs.db", 0, "not_image")] if layout == "2020" else [])


def test_radiography_without_its_folders_or_with_a_damaged_workbook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="none of the folders COVID"):
        radiography.index(tmp_path)
    picture(tmp_path / "COVID" / "COVID-1.png")
    (tmp_path / "COVID.metadata.xlsx").write_bytes(b"no workbook")
    with pytest.raises(ManifestError, match="can't be read"):
        radiography.index(tmp_path)


def test_the_shared_radiography_database(shared_data: Path) -> None:
    found = radiography.index(shared_data / "radiography_db")
    assert found.cases["label"].value_counts().to_dict() == {"covid19": 650, "normal": 650}
    assert found.rejected == ()


# MIDRC and RICORD


def test_midrc_takes_the_nearest_test_and_leaves_copies_out(tmp_path: Path, synthetic_xray: Xray) -> None:
    def save(name: str, seed: int, **elements: Any) -> str:
        xray = synthetic_xray(seed=seed, PatientID=f"10001-{seed}", **elements)
        path = tmp_path / "cases" / name / "1.dcm"
        path.parent.mkdir(parents=True)
        xray.save_as(path, enforce_file_format=True)
        return str(xray.StudyInstanceUID)

    studies = {
        save("positive", 1): ("[-1, 30]", "[2]"),
        save("negative", 2): ("", "[0]"),
        save("far", 3): ("[20]", ""),
        save("both", 4): ("1", "-1"),
        save("untested", 5): ("", ""),
    }
    save("copy", 6, SeriesDescription="CHEST AP BONE SUPPRESSED")
    save("capture", 7, ImageType=["DERIVED", "SECONDARY"])
    rows = ["submitter_id\tcase_ids\tstudy_uid\tdays_from_study_to_pos_covid_test\tdays_from_study_to_neg_covid_test"]
    rows += [f"s{n}\t10001-{n}\t{uid}\t{pos}\t{neg}" for n, (uid, (pos, neg)) in enumerate(studies.items(), start=1)]
    rows += ["s9\t10001-9\t1.2.3.4\t[0]\t"]
    (tmp_path / "imaging_studies.tsv").write_text("\n".join(rows))
    (tmp_path / "cases.csv").write_text(
        "submitter_id,sex,age_at_index,covid19_positive,site_id\n10001-1,Female,61,Yes,siteA\n10001-5,Male,50,No,siteA\n"
    )
    found = midrc.index(tmp_path)
    assert dict(zip(found.cases["patient_id"], found.cases["label"], strict=True)) == {
        "midrc:10001-1": "covid19", "midrc:10001-2": "negative"
    }  # fmt: skip
    cases = found.cases.set_index("patient_id")
    assert cases.loc["midrc:10001-1", ["sex", "age", "site"]].tolist() == ["F", 61, "siteA"]
    assert cases.loc["midrc:10001-2", "site"] == "10001"
    by_folder = {Path(one.source_file).parent.name or one.source_file: one.reason for one in found.rejected}
    assert by_folder == {
        "far": "outside_window", "both": "label_contradictory", "untested": "no_test", "copy": "processed_copy",
        "capture": "secondary_capture", "imaging_studies.tsv": "no_image",
    }  # fmt: skip
    by_case = midrc.index(tmp_path, by_case=True)
    assert by_case.cases.set_index("patient_id").loc["midrc:10001-5", "label"] == "negative"


def test_ricord_is_all_covid(tmp_path: Path, synthetic_xray: Xray) -> None:
    xray = synthetic_xray(seed=1, PatientID="MIDRC-RICORD-1C-SITE2-000001", ViewPosition="AP")
    (tmp_path / "d").mkdir()
    xray.save_as(tmp_path / "d" / "1-1.dcm", enforce_file_format=True)
    header = "Series UID,Collection,Subject ID,Study UID,Modality,File Location"
    (tmp_path / "metadata.csv").write_text(
        f"{header}\n1.2,MIDRC-RICORD-1C,MIDRC-RICORD-1C-SITE2-000001,{xray.StudyInstanceUID},CR,./d\n"
        "1.3,MIDRC-RICORD-1C,MIDRC-RICORD-1C-SITE2-000002,1.9.9,CR,./e\n"
    )
    found = midrc.index(tmp_path)
    assert found.cases.loc[0, ["source", "label", "site", "patient_id"]].tolist() == [
        "ricord", "covid19", "SITE2", "ricord:MIDRC-RICORD-1C-SITE2-000001"
    ]  # fmt: skip
    assert reasons(found) == [("metadata.csv", 3, "no_image")]
    (tmp_path / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ManifestError, match="None of the tables"):
        midrc.index(tmp_path)


# Any CSV


def test_any_csv_with_columns_of_its_own(tmp_path: Path) -> None:
    for name in "abcdefg":
        picture(tmp_path / "img" / f"{name}.png")
    (tmp_path / "list.csv").write_text(
        "file,finding,view,sex,age,who,ok,when,label_edema,label_text\n"
        "img/a.png,COVID,PA,F,64Y,p1,yes,03/04/2020,1,x\n"
        "img/b.png,normal,,M,,,yes,,,x\n"
        "img/c.png,normal,LL,M,,p2,yes,,,x\n"
        "img/d.png,normal,PA,M,,p2,no,,,x\n"
        "img/missing.png,normal,PA,M,,p2,yes,,,x\n"
        ",normal,PA,M,,p2,yes,,,x\n"
        "img/e.png,No Idea,PA,M,,p2,yes,,,x\n"
        "img/f.png,normal,PA,M,500,p2,yes,,,x\n"
        "img/g.png,normal,PA,M,,p2,yes,2020,,x\n"
        "img/a.png,normal,PA,M,,p2,yes,,,x\n"
    )
    columns = ("path=file", "label=finding", "patient_id=who", "acquired_on=when")
    found = csv_table.index(
        tmp_path, column=columns, label=("covid19=COVID",), where=("ok=yes",), source="ours", date_format="%d/%m/%Y"
    )
    first, second, *optional = found.cases.to_dict("records")
    assert first["image_id"] == "ours:img/a.png"
    assert (first["label"], first["sex"], first["age"], first["acquired_on"]) == ("covid19", "F", 64, "2020-04-03")
    assert (first["label_edema"], first["image_wise"], first["path"]) == (1, "", str(tmp_path / "img/a.png"))
    assert (second["view"], second["image_wise"]) == ("unknown", "yes")
    assert "label_text" not in found.cases
    assert [(line, reason) for _, line, reason in reasons(found)] == [
        (4, "lateral"), (5, "filtered"), (6, "no_file"), (7, "no_path"), (8, "label_unknown"), (11, "duplicate"),
    ]  # fmt: skip
    # An age or a date that can't be read loses the value, not the film; the lines are named, and no value.
    assert [Path(each["path"]).name for each in optional] == ["f.png", "g.png"]
    assert np.isnan(optional[0]["age"])
    assert optional[1]["acquired_on"] == ""
    said = " ".join(found.notes)
    assert "age can't be read in 1 lines, and is left empty there (line 9)" in said
    assert "acquired_on can't be read in 1 lines, and is left empty there (line 10)" in said
    assert "500" not in said
    assert "Unknown words: 'No Idea' (1). Map them with --label CLASS=WORD." in found.notes


def test_a_manifest_is_a_csv_like_any_other(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text("image_id,path,patient_id,label_edema,split\nx,a.png,p,-1,test\n")
    case = csv_table.index(tmp_path).cases.iloc[0]
    assert (case["image_id"], case["label_edema"], case["split"], case["source"]) == ("x", -1, "test", "m")


def test_several_labels_in_a_field_of_a_csv(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "m.csv").write_text(
        "path,label,patient_id\na.png,Cough | Effusion,1\nb.png,Effusion,2\nc.png,No Finding,\nd.png,,4\n"
    )
    found = csv_table.index(
        tmp_path, split_labels="|", label=("pleural_effusion=Effusion", "normal=No Finding"), prefix="ours:"
    )
    assert list(found.cases["label"]) == ["", "pleural_effusion", "normal", ""]
    columns = ["label_cough", "label_normal", "label_pleural_effusion"]
    assert found.cases[columns].fillna(9).values.tolist() == [[1, 0, 1], [0, 0, 1], [0, 1, 0], [9, 9, 9]]
    assert list(found.cases["patient_id"]) == ["ours:1", "ours:2", "", "ours:4"]
    assert found.cases.loc[0, "image_id"] == "ours:m:a.png"
    assert found.notes == (
        "Unknown findings: cough. Name them by --label FINDING=WORD (docs/conformance.md lists them), or define them "
        "in the recipe, as task.findings.",
    )


def test_images_of_a_csv_are_found_in_subfolders_by_name(tmp_path: Path) -> None:
    for name in ("a.png", "images_001/images/b.png", "x/c.png", "y/c.png"):
        picture(tmp_path / name)
    (tmp_path / "m.csv").write_text("path\na.png\nb.png\nc.png\nd.png\nb.png\n")
    with_search = csv_table.index(tmp_path, search=True)
    assert list(with_search.cases["path"]) == [str(tmp_path / "a.png"), str(tmp_path / "images_001/images/b.png")]
    assert [(line, reason) for _, line, reason in reasons(with_search)] == [
        (4, "several_files"), (5, "no_file"), (6, "duplicate")
    ]  # fmt: skip
    assert list(csv_table.index(tmp_path).cases["path"]) == [str(tmp_path / "a.png")]


def test_a_csv_without_a_path_or_with_a_wrong_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,label\na.png,x\n")
    with pytest.raises(ManifestError, match="--column path=NAME"):
        csv_table.index(tmp_path)
    with pytest.raises(ManifestError, match="lacks the column name"):
        csv_table.index(tmp_path, column=("path=name",))
    with pytest.raises(ManifestError, match="--column got 'colour'"):
        csv_table.index(tmp_path, column=("colour=file",))


def test_the_shared_images(shared_data: Path) -> None:
    columns = ("path=file", "label=finding", "source=source_dataset")
    uncertain = "COVID-CXNet COVID-19 CXR collection (Haghanifar et al. 2020)"
    found = csv_table.index(
        shared_data, table="images.csv", column=columns, where=("label_conflict=no",), image_wise_source=(uncertain,)
    )
    assert len(found.cases) + len(found.rejected) == 2423
    assert found.count_rejected().keys() == {"filtered", "lateral"}
    assert set(found.cases.loc[found.cases["image_wise"] == "yes", "source"]) == {uncertain}


def test_nan_is_no_patient(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "m.csv").write_text("path,patient_id\na.png,nan\nb.png,NaN\nc.png,p1\n")
    found = csv_table.index(tmp_path).cases
    assert found["patient_id"].tolist() == ["", "", "p1"]
    assert found["image_wise"].tolist() == ["yes", "yes", ""]
    with pytest.raises(ManifestError, match="word for no patient"):
        complete(found.assign(patient_id="nan"))
