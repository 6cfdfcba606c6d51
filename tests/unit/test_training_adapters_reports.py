"""Collections whose labels come from reports: small tables of our own in the layout of the real ones."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from cxr.errors import ManifestError
from cxr.labels import FINDINGS
from training.adapters.reading.chexpert_labels import LABELS
from training.adapters.reading.result import IndexResult
from training.adapters.reports import brax, mimic, nih, openi, padchest
from training.cases import label_columns

Xray = Callable[..., Dataset]


def reasons(found: IndexResult) -> list[tuple[str, int, str]]:
    return sorted((one.source_file, one.line, one.reason) for one in found.rejected)


def positives(found: IndexResult) -> list[set[str]]:
    """The findings of each case that are present."""
    names = label_columns(found.cases)
    return [{name.removeprefix("label_") for name in names if case[name] == 1} for _, case in found.cases.iterrows()]


def empty(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def check_columns(found: IndexResult) -> None:
    """Every column is a finding that a recipe can name."""
    assert {name.removeprefix("label_") for name in label_columns(found.cases)} <= FINDINGS.keys()


# NIH ChestX-ray14

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


@pytest.fixture
def nih_folder(tmp_path: Path) -> Path:
    films = [
        "00000007_000.png,No Finding,0,7,61,F,PA",
        "00000007_001.png,Edema|Pleural_Thickening,1,7,062Y,F,AP",
        "00000008_000.png,Effusion|No Finding,0,8,50,M,PA",
        "00000009_000.png,Effusion|Swelling,0,9,50,M,PA",
        "00000009_001.png,,1,9,50,M,PA",
        "00000010_000.png,Hernia,0,10,50,M,LL",
        "00000010_001.png,Hernia,1,10,50,M,PA",
        "00000011_000.png,Mass,0,,50,M,PA",
        "00000007_000.png,No Finding,0,7,61,F,PA",
        "00000012_000.png,Infiltration|Pneumonia,0,12,430,M,AP",
    ]
    lines = [NIH_HEADER, *(f"{film},2500,2048,0.168,0.168" for film in films)]
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines))
    for number, film in enumerate(films):
        if "00000010_001" not in film:
            empty(tmp_path / f"images_{number % 2 + 1:03}" / "images" / film.split(",")[0])
    (tmp_path / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000012_000.png,Infiltrate,225.5,547.0,86.7,79.2\n"
        "00000008_000.png,Effusion,1,2,3,4\n00000012_000.png,Pneumonia,x,2,3,4\n00000012_000.png,Swelling,1,2,3,4\n"
    )
    (tmp_path / "test_list.txt").write_text("00000012_000.png\n")
    return tmp_path


def test_nih_labels_are_complete_and_images_are_found_in_subfolders(nih_folder: Path) -> None:
    found = nih.index(nih_folder)
    cases = found.cases.set_index("image_id")
    assert list(cases["label"]) == ["normal", "abnormal", "abnormal"]
    assert positives(found) == [{"normal"}, {"edema", "pleural_thickening"}, {"infiltration", "other_pneumonia"}]
    check_columns(found)
    assert len(label_columns(found.cases)) == 15
    assert not found.cases[label_columns(found.cases)].isna().any(axis=None)
    assert list(cases["patient_id"]) == ["nih:00000007", "nih:00000007", "nih:00000012"]
    assert cases["age"].tolist()[:2] == [61, 62]
    assert cases["age"].isna().tolist() == [False, False, True]  # an impossible age is lost, the film is not
    assert cases.loc["nih:00000007_001.png", "path"] == str(nih_folder / "images_002/images/00000007_001.png")
    table, boxes = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"
    assert reasons(found) == [
        (boxes, 4, "bad_box"), (boxes, 5, "label_unknown"),
        (table, 4, "label_contradictory"), (table, 5, "label_unknown"), (table, 6, "label_missing"),
        (table, 7, "bad_view"), (table, 8, "no_file"), (table, 9, "no_patient"), (table, 10, "duplicate"),
    ]  # fmt: skip


def test_nih_boxes_are_kept(nih_folder: Path) -> None:
    assert nih.index(nih_folder).boxes.to_dict("records") == [
        {"image_id": "nih:00000012_000.png", "finding": "infiltration", "reader": "", "x": 225.5, "y": 547.0,
         "width": 86.7, "height": 79.2}
    ]  # fmt: skip


def test_nih_lists_of_the_official_sides(nih_folder: Path) -> None:
    assert list(nih.index(nih_folder, part="test").cases["image_id"]) == ["nih:00000012_000.png"]
    with pytest.raises(ManifestError, match=r"looked for train_val_list\.txt"):
        nih.index(nih_folder, part="train_val")


def test_nih_without_looking_for_files(nih_folder: Path) -> None:
    found = nih.index(nih_folder, check_files=False)
    assert len(found.cases) == 4
    assert "no_file" not in found.count_rejected()


# PadChest

PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Manufacturer_DICOM,"
    "MethodLabel,Labels"
)


def padchest_folder(root: Path, films: list[tuple[str, str, str]], *, method: str = "Physician") -> Path:
    lines = [PADCHEST_HEADER]
    for number, (name, projection, labels) in enumerate(films):
        lines.append(
            f"{number},{name},{number % 3},20140302,s{number},p{number // 2},1950.0,F,{projection},Maker,{method},"
            f'"{labels}"'
        )
        if "gone" not in name:
            empty(root / str(number % 3) / name)
    with gzip.open(root / f"{PADCHEST}.gz", "wt") as stream:
        stream.write("\n".join(lines))
    return root


def test_padchest_labels_are_lists_in_a_tree(tmp_path: Path) -> None:
    films = [
        ("a.png", "PA", "['normal']"),
        ("b.png", "AP_horizontal", "['laminar atelectasis', ' callus rib fracture', 'unchanged']"),
        ("c.png", "AP", "['air bronchogram', 'an unlisted label']"),
        ("d.png", "PA", "['pacemaker', 'suboptimal study']"),
    ]
    found = padchest.index(padchest_folder(tmp_path, films))
    assert found.rejected == ()
    assert list(found.cases["label"]) == ["normal", "abnormal", "abnormal", ""]
    assert list(found.cases["view"]) == ["PA", "AP_supine", "AP", "PA"]
    assert positives(found) == [
        {"normal"}, {"atelectasis", "fracture", "rib_fracture"}, {"consolidation", "alveolar_pattern", "infiltration"},
        {"pacemaker", "electrical_device"},
    ]  # fmt: skip
    check_columns(found)
    first = found.cases.iloc[0]
    assert first["path"] == str(tmp_path / "0/a.png")
    assert (first["patient_id"], first["age"], first["sex"]) == ("padchest:p0", 64, "F")
    assert (first["acquired_on"], first["manufacturer"]) == ("2014-03-02", "Maker")


def test_padchest_says_why_a_film_is_left_out(tmp_path: Path) -> None:
    films = [
        ("a.png", "PA", "['normal']"), ("b.png", "L", "['normal']"), ("c.png", "COSTAL", "['normal']"),
        ("d.png", "EXCLUDE", "['normal']"), ("e.png", "UNK", "['normal']"), ("f.png", "PA", "['exclude', 'nodule']"),
        ("g.png", "PA", "['unchanged', '']"), ("h.png", "PA", ""), ("i.png", "PA", "['normal', 'nodule']"),
        ("gone.png", "PA", "['nodule']"), ("a.png", "PA", "['nodule']"),
    ]  # fmt: skip
    found = padchest.index(padchest_folder(tmp_path, films))
    assert [(line, reason) for _, line, reason in reasons(found)] == [
        (3, "lateral"), (4, "not_radiograph"), (5, "excluded"), (6, "bad_view"), (7, "excluded"),
        (8, "label_missing"), (9, "label_missing"), (10, "label_contradictory"), (11, "no_file"), (12, "duplicate"),
    ]  # fmt: skip
    assert len(padchest.index(tmp_path, laterals=True).cases) == 2


def test_padchest_labels_by_a_network_can_be_left_out(tmp_path: Path) -> None:
    padchest_folder(tmp_path, [("a.png", "PA", "['normal']")], method="RNN_model")
    assert padchest.index(tmp_path).notes[0].startswith("The labels of 1 images were read by a neural network")
    with pytest.raises(ManifestError, match="another part of the data set"):
        padchest.index(tmp_path, labels="physician")


# MIMIC-CXR-JPG


def chexpert_values(**findings: float) -> str:
    return ",".join(str(findings.get(name.replace(" ", "_"), "")) for name in LABELS)


@pytest.fixture
def mimic_folder(tmp_path: Path) -> Path:
    views = ["PA", "LATERAL", "", "AP", "ODD", "PA", "AP"]
    lines = ["dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition"]
    lines += [f"film{number},1000003{number // 4},5000000{number},CHEST,{view}" for number, view in enumerate(views)]
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(lines))
    labels = [f"1000003{number // 4},5000000{number}" for number in range(6)]
    values = [{"No_Finding": 1.0}, {}, {"Edema": 1.0}, {"Edema": -1.0, "Fracture": 1.0}, {"Edema": 1.0}, {}]
    rows = [f"{key},{chexpert_values(**each)}" for key, each in zip(labels, values, strict=True)]
    header = ",".join(["subject_id", "study_id", *LABELS])
    with gzip.open(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", "wt") as stream:
        stream.write("\n".join([header, *rows]))
    (tmp_path / "mimic-cxr-2.0.0-split.csv").write_text(
        "dicom_id,study_id,subject_id,split\nfilm0,50000000,10000030,train\nfilm3,50000003,10000030,validate\n"
    )
    for number in range(7):
        empty(tmp_path / f"files/p10/p1000003{number // 4}/s5000000{number}/film{number}.jpg")
    return tmp_path


def test_mimic_labels_of_a_study_are_those_of_its_films(mimic_folder: Path) -> None:
    found = mimic.index(mimic_folder, official_split=True)
    assert list(found.cases["image_id"]) == ["mimic:film0", "mimic:film3"]
    assert list(found.cases["label"]) == ["normal", "abnormal"]
    assert list(found.cases["split"]) == ["train", "val"]
    assert found.cases.loc[1, ["patient_id", "study_id", "label_edema", "label_fracture"]].tolist() == [
        "mimic:p10000030", "mimic:p10000030/s50000003", -1, 1
    ]  # fmt: skip
    assert found.cases["label_cardiomegaly"].isna().all()
    check_columns(found)
    assert [(line, reason) for _, line, reason in reasons(found)] == [
        (3, "lateral"), (4, "view_unknown"), (6, "bad_view"), (7, "label_ambiguous"), (8, "label_missing")
    ]  # fmt: skip


def test_mimic_options(mimic_folder: Path) -> None:
    found = mimic.index(
        mimic_folder, unknown_views=True, laterals=True, blank="negative", uncertain="ones", ambiguous="unlabelled"
    )
    assert list(found.cases["view"]) == ["PA", "L", "unknown", "AP", "PA"]
    assert list(found.cases["label"]) == ["normal", "", "abnormal", "abnormal", ""]
    assert (found.cases["label_cardiomegaly"] == 0).all()
    assert found.cases.loc[3, "label_edema"] == 1
    with pytest.raises(ManifestError, match=r"looked for mimic-cxr-2\.1\.0-negbio\.csv"):
        mimic.index(mimic_folder, labeler="negbio")


# BRAX


def test_brax(tmp_path: Path) -> None:
    header = ["DicomPath", "PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber", *LABELS]
    films = [
        ("PA", chexpert_values(No_Finding=1.0)),
        ("AP", chexpert_values(Lung_Lesion=1.0, Edema=-1.0)),
        ("L", chexpert_values(Edema=1.0)),
        ("", chexpert_values(Edema=1.0)),
        ("OBLIQUE", chexpert_values(Edema=1.0)),
        ("PA", chexpert_values(Edema=7.0)),
        ("PA", chexpert_values(Edema=1.0, No_Finding=1.0)),
        ("PA", chexpert_values()),
    ]
    lines = [",".join([*header, "ViewPosition", "Manufacturer"])]
    for number, (view, values) in enumerate(films):
        path = f"images/id_{number}/image.png"
        empty(tmp_path / path)
        lines.append(f"x.dcm,{path},id_{number},F,45,acc{number},{values},{view},Maker")
    (tmp_path / "master_spreadsheet_update.csv").write_text("\n".join(lines))
    found = brax.index(tmp_path)
    assert found.cases[["label", "view", "sex", "age", "manufacturer"]].values.tolist() == [
        ["normal", "PA", "F", 45, "Maker"], ["abnormal", "AP", "F", 45, "Maker"]
    ]  # fmt: skip
    assert list(found.cases["patient_id"]) == ["brax:id_0", "brax:id_1"]
    assert found.cases["label_lung_lesion"].tolist()[1] == 1
    check_columns(found)
    assert [(line, reason) for _, line, reason in reasons(found)] == [
        (4, "lateral"), (5, "view_unknown"), (6, "bad_view"), (7, "bad_finding"), (8, "label_contradictory"),
        (9, "label_ambiguous"),
    ]  # fmt: skip
    assert len(brax.index(tmp_path, unknown_views=True, laterals=True).cases) == 4


# Open-i


def report(number: int, terms: list[str], films: list[str]) -> str:
    major = "".join(f"<major>{term}</major>" for term in terms)
    images = "".join(f'<parentImage id="{film}"/>' for film in films)
    return f'<eCitation><uId id="CXR{number}"/><MeSH>{major}<automatic>ghost</automatic></MeSH>{images}</eCitation>'


def test_openi_reports_in_xml_with_dicom_films(tmp_path: Path, synthetic_xray: Xray) -> None:
    (tmp_path / "ecgen-radiology").mkdir()
    texts = [
        report(1, ["normal"], ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
        report(2, ["Opacity/lung/base/left", "Calcified Granuloma/hilum"], ["CXR2_IM-0002-0001-0002"]),
        report(3, ["No Indexing"], ["CXR3_1_IM-0003-1001"]),
        report(4, ["Medical Device"], ["CXR4_1_IM-0004-1001"]),
        report(5, ["normal", "Scoliosis"], ["CXR5_1_IM-0005-1001"]),
        report(6, ["normal"], []),
        "<eCitation><uId",
    ]
    for number, text in enumerate(texts, start=1):
        (tmp_path / "ecgen-radiology" / f"{number}.xml").write_text(text)
    (tmp_path / "dcm").mkdir()
    views = {"1_IM-0001-3001": "PA", "1_IM-0001-4001": "LL", "2_IM-0002-0001-0002": "AP"}
    for seed, (name, view) in enumerate(views.items()):
        synthetic_xray(seed=seed, ViewPosition=view, PatientOrientation=None).save_as(
            tmp_path / "dcm" / f"{name}.dcm", enforce_file_format=True
        )
    found = openi.index(tmp_path)
    assert found.cases[["image_id", "label", "view", "patient_id"]].values.tolist() == [
        ["openi:1_IM-0001-3001", "normal", "PA", "openi:1"],
        ["openi:2_IM-0002-0001-0002", "abnormal", "AP", "openi:2"],
    ]
    assert positives(found) == [{"normal"}, {"lung_opacity", "granuloma"}]
    check_columns(found)
    by_name = {(Path(name).name, reason) for name, _, reason in reasons(found)}
    assert by_name == {
        ("1.xml", "view_position_not_frontal"), ("3.xml", "label_missing"), ("4.xml", "no_file"),
        ("5.xml", "label_contradictory"), ("6.xml", "no_path"), ("7.xml", "damaged"),
    }  # fmt: skip


def test_openi_in_kaggles_tables(tmp_path: Path) -> None:
    (tmp_path / "indiana_reports.csv").write_text(
        "uid,MeSH,Problems\n1,normal,normal\n2,Cardiomegaly/mild;Tube; inserted,Cardiomegaly\n3,,\n"
    )
    (tmp_path / "indiana_projections.csv").write_text(
        "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"
        "2,2_IM-0652-1001.dcm.png,Frontal\n3,3_IM-1384-1001.dcm.png,Frontal\n"
    )
    for name in ("1_IM-0001-4001", "1_IM-0001-3001", "2_IM-0652-1001", "3_IM-1384-1001", "9_IM-0009-1001"):
        empty(tmp_path / "images" / "images_normalized" / f"{name}.dcm.png")
    found = openi.index(tmp_path)
    assert found.cases[["image_id", "label", "view"]].values.tolist() == [
        ["openi:1_IM-0001-4001", "normal", "unknown"], ["openi:2_IM-0652-1001", "abnormal", "unknown"]
    ]  # fmt: skip
    assert positives(found)[1] == {"cardiomegaly"}
    assert reasons(found) == [
        ("images/images_normalized/9_IM-0009-1001.dcm.png", 0, "not_listed"),
        ("indiana_reports.csv", 2, "lateral"), ("indiana_reports.csv", 4, "label_missing"),
    ]  # fmt: skip
    with pytest.raises(ManifestError, match="has no reports"):
        openi.index(empty(tmp_path / "elsewhere" / "x").parent)
