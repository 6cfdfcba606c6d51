from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from cxr.errors import ManifestError
from training.adapters import audit_export, institutional
from training.adapters.reading.result import IndexResult

Xray = Callable[..., Dataset]


@pytest.fixture
def site(tmp_path: Path, synthetic_xray: Xray) -> Callable[..., None]:
    """Write DICOM files and a table into the test's folder: name -> elements; the n-th has seed n."""

    def make(images: dict[str, dict[str, Any]], table: str, *, name: str = "results.csv") -> None:
        for seed, (file, elements) in enumerate(images.items(), start=1):
            path = tmp_path / "dicom" / f"{file}.dcm"
            path.parent.mkdir(exist_ok=True)
            synthetic_xray(seed=seed, **elements).save_as(path, enforce_file_format=True)
        (tmp_path / name).write_text(table)

    return make


def reasons(found: IndexResult) -> list[tuple[str, int, str]]:
    return sorted((Path(one.source_file).name, one.line, one.reason) for one in found.rejected)


def labels(found: IndexResult) -> dict[str, str]:
    return {Path(row["path"]).stem: row["label"] for row in found.cases.to_dict("records")}


def test_results_join_by_uid_accession_and_patient_with_date(
    tmp_path: Path, site: Callable[..., None], synthetic_xray: Xray
) -> None:
    uid = synthetic_xray(seed=1).SOPInstanceUID
    site(
        {"by_uid": {}, "by_accession": {}, "by_patient": {"StudyDate": "20200410"}},
        f"sop_instance_uid,accession,mrn,test_date,result\n{uid},,,,Positive\n,ACC2,,,not detected\n"
        ",,SYN3,2020-04-12,POS\n",
    )
    found = institutional.index(tmp_path)
    assert labels(found) == {"by_uid": "covid19", "by_accession": "negative", "by_patient": "covid19"}
    assert found.rejected == ()
    row = next(row for row in found.cases.to_dict("records") if row["path"].endswith("by_uid.dcm"))
    assert row["image_id"] == f"institutional:{uid}"
    assert (row["patient_id"], row["view"], row["acquired_on"]) == ("SYN1", "PA", "2020-04-01")
    assert (row["manufacturer"], row["label_covid19"]) == ("Synthetic", 1)
    assert Path(row["path"]).is_file()


def test_what_does_not_join_is_named_on_both_sides(tmp_path: Path, site: Callable[..., None]) -> None:
    site(
        {"joined": {"StudyDate": "20200401"}, "lonely": {}, "late": {"StudyDate": "20200501"}},
        "patient_id,tested_at,result\nSYN1,2020-04-01,negative\nNOBODY,2020-04-01,positive\nSYN3,2020-05-04,positive\n"
        "SYN1,,positive\nSYN1,2020-04-02,perhaps\nSYN1,2020-04-02,\nSYN1,02/04/2020,positive\n",
    )
    found = institutional.index(tmp_path)
    assert labels(found) == {"joined": "negative"}
    assert reasons(found) == [
        ("late.dcm", 0, "no_test"), ("lonely.dcm", 0, "no_test"), ("results.csv", 3, "no_image"),
        ("results.csv", 4, "outside_window"), ("results.csv", 5, "no_join_key"), ("results.csv", 6, "label_unknown"),
        ("results.csv", 7, "label_missing"), ("results.csv", 8, "bad_date"),
    ]  # fmt: skip
    assert found.notes[0] == "1 of 3 images have a result within 2 days."


@pytest.mark.parametrize(("days", "expected"), [(2, {}), (3, {"a": "covid19"})])
def test_window_counts_days_in_both_directions(
    tmp_path: Path, site: Callable[..., None], days: int, expected: dict[str, str]
) -> None:
    site({"a": {"StudyDate": "20200401"}}, "patient_id,tested_at,result\nSYN1,20200404,positive\n")
    if expected:
        assert labels(institutional.index(tmp_path, days=days)) == expected
    else:
        with pytest.raises(ManifestError, match="none within the days"):
            institutional.index(tmp_path, days=days)


def test_an_accession_number_of_another_time_does_not_join(tmp_path: Path, site: Callable[..., None]) -> None:
    site(
        {"near": {"StudyDate": "20200401"}, "far": {"StudyDate": "20200401"}},
        "accession_number,tested_at,result\nACC1,2020-04-02,positive\nACC2,2020-06-01,positive\n",
    )
    found = institutional.index(tmp_path)
    assert labels(found) == {"near": "covid19"}
    assert ("results.csv", 3, "outside_window") in reasons(found)


@pytest.mark.parametrize("days", [2, 36500])
def test_an_image_without_a_date_does_not_join_by_patient_id(
    tmp_path: Path, site: Callable[..., None], days: int
) -> None:
    undated = {"StudyDate": "", "SeriesDate": "", "AcquisitionDate": "", "ContentDate": "", "AcquisitionDateTime": ""}
    site(
        {"undated": undated, "by_accession": undated},
        "patient_id,accession,tested_at,result\nSYN1,,2020-04-01,positive\n,ACC2,2020-04-01,negative\n",
    )
    found = institutional.index(tmp_path, days=days)
    assert labels(found) == {"by_accession": "negative"}
    assert reasons(found) == [("results.csv", 2, "outside_window"), ("undated.dcm", 0, "no_test")]


def test_several_tests_each_image_takes_the_nearest_and_says_if_another_differs(
    tmp_path: Path, site: Callable[..., None]
) -> None:
    patient = {"PatientID": "ONE"}
    site(
        {
            "day1": patient | {"StudyDate": "20200401"},
            "day5": patient | {"StudyDate": "20200405"},
            "day6": patient | {"StudyDate": "20200406"},
        },
        "patient_id,tested_at,result\nONE,2020-04-02,negative\nONE,2020-04-05,positive\nONE,2020-04-03,positive\n",
    )
    found = institutional.index(tmp_path)
    assert labels(found) == {"day1": "negative", "day5": "covid19"}
    notes = {Path(row["path"]).stem: row["note"] for row in found.cases.to_dict("records")}
    assert "says otherwise" in notes["day1"]
    assert notes["day5"] == ""
    assert reasons(found) == [("day6.dcm", 0, "nearer_image"), ("results.csv", 4, "nearer_test")]

    every = institutional.index(tmp_path, every_image=True)
    assert labels(every) == {"day1": "negative", "day5": "covid19", "day6": "covid19"}


def test_two_tests_of_one_day_that_contradict_each_other_label_nothing(
    tmp_path: Path, site: Callable[..., None]
) -> None:
    site(
        {"disputed": {"StudyDate": "20200401"}, "clear": {"StudyDate": "20200401"}},
        "patient_id,tested_at,result\nSYN1,2020-04-01,negative\nSYN1,2020-04-01,positive\nSYN2,2020-04-01,positive\n",
    )
    found = institutional.index(tmp_path)
    assert labels(found) == {"clear": "covid19"}
    assert reasons(found) == [
        ("disputed.dcm", 0, "label_contradictory"), ("results.csv", 2, "label_contradictory"),
        ("results.csv", 3, "label_contradictory"),
    ]  # fmt: skip


def test_only_what_the_service_would_score_is_taken(tmp_path: Path, site: Callable[..., None]) -> None:
    site(
        {
            "frontal": {},
            "lateral": {"ViewPosition": "LL", "PatientOrientation": ["A", "F"]},
            "untold": {"ViewPosition": None, "PatientOrientation": None},
            "hand": {"BodyPartExamined": "HAND"},
            "again": {"SOPInstanceUID": "1.2.3"},
            "copy": {"SOPInstanceUID": "1.2.3"},
        },
        "accession_number,result\n" + "".join(f"ACC{number},positive\n" for number in range(1, 7)),
    )
    (tmp_path / "dicom" / "notes.txt").write_text("no image")
    found = institutional.index(tmp_path)
    assert sorted(labels(found)) == ["again", "frontal"] or sorted(labels(found)) == ["copy", "frontal"]
    files = {name: reason for name, line, reason in reasons(found) if line == 0}
    assert files["lateral.dcm"] == "view_position_not_frontal"
    assert files["untold.dcm"] == "view_unknown"
    assert files["hand.dcm"] == "body_part_not_chest"
    assert files["notes.txt"] == "not_dicom"
    assert "duplicate" in files.values()
    assert "untold" in labels(institutional.index(tmp_path, unknown_views=True))


def test_a_laboratorys_own_words_and_columns(tmp_path: Path, site: Callable[..., None]) -> None:
    site(
        {"a": {"StudyDate": "20200403"}, "b": {"StudyDate": "20200403", "InstitutionName": "South"}},
        "Fall;Abnahme;Befund;Haus\nSYN1;03.04.2020;nachgewiesen;North\nSYN2;03.04.2020;unauffällig;\n",
    )
    column = ("patient_id=Fall", "tested_at=Abnahme", "result=Befund", "site=Haus")
    word = ("covid19=nachgewiesen", "normal=unauffällig")
    found = institutional.index(tmp_path, column=column, word=word)
    assert labels(found) == {"a": "covid19", "b": "normal"}
    assert list(found.cases["site"]) == ["North", "South"]
    assert set(institutional.index(tmp_path, column=column, word=word, site="All").cases["site"]) == {"All"}


def test_without_a_patient_the_line_says_image_wise(tmp_path: Path, site: Callable[..., None]) -> None:
    site({"a": {"PatientID": ""}, "b": {}}, "accession_number,result\nACC1,positive\nACC2,negative\n")
    assert list(institutional.index(tmp_path).cases["image_wise"]) == ["yes", ""]


def test_a_table_that_can_not_be_used_is_refused(tmp_path: Path, site: Callable[..., None]) -> None:
    site({"a": {}}, "who,what\nx,y\n")
    with pytest.raises(ManifestError, match="needs a result and a column to find the image by"):
        institutional.index(tmp_path)
    with pytest.raises(ManifestError, match="--column got 'colour'"):
        institutional.index(tmp_path, column=("colour=what",))
    with pytest.raises(ManifestError, match=r"no file 'other\.csv'"):
        institutional.index(tmp_path, results="other.csv")
    (tmp_path / "second.csv").write_text("a\n")
    with pytest.raises(ManifestError, match=r"holds results\.csv, second\.csv"):
        institutional.index(tmp_path)


def test_the_audit_export_says_which_images_count(
    tmp_path: Path, site: Callable[..., None], synthetic_xray: Xray
) -> None:
    uids = [synthetic_xray(seed=seed).SOPInstanceUID for seed in range(1, 7)]
    states = ["reported", "reported", "not_scored", "reported", "held", "reported"]
    views = ["frontal", "unknown", "not_frontal", "frontal", "unknown", "frontal"]
    rows = ["image_id,sop_instance_uid,state,view,reason,finding,is_latest"]
    for number, (uid, state, view) in enumerate(zip(uids, states, views, strict=True), start=1):
        why = {"frontal": "view_position_frontal", "unknown": "view_unknown"}.get(view, "view_position_not_frontal")
        latest = "false" if number == 4 else "true"
        rows += [f"{number},{uid},{state},{view},{why},{finding},{latest}" for finding in ("covid19", "normal")]
    untold = {"ViewPosition": None, "PatientOrientation": None}
    site({"a": {}, "released": untold, "lateral": {}, "old": {}, "held": untold}, "\n".join(rows), name="export.csv")
    (tmp_path / "labels.csv").write_text(
        "sop_instance_uid,label\n" + "".join(f"{uid},{'covid19' if n else 'normal'}\n" for n, uid in enumerate(uids))
    )
    found = audit_export.index(tmp_path)
    assert labels(found) == {"a": "normal", "released": "covid19"}
    assert set(reasons(found)) >= {
        ("export.csv", 6, "view_position_not_frontal"), ("export.csv", 8, "not_latest"),
        ("export.csv", 10, "view_unknown"), ("export.csv", 12, "no_file"), ("labels.csv", 4, "no_image"),
    }  # fmt: skip
    assert "not_listed" not in found.count_rejected()  # every file is in the export; its line has the reason
    assert list(found.cases["patient_id"]) == ["SYN1", "SYN2"]


def test_unknown_words_are_named_with_the_option_that_maps_them(
    tmp_path: Path, site: Callable[..., None], synthetic_xray: Xray
) -> None:
    uids = [synthetic_xray(seed=seed).SOPInstanceUID for seed in (1, 2, 3)]
    lines = "".join(f"{uid},{word}\n" for uid, word in zip(uids, ("positiv", "negativ", "positiv"), strict=True))
    site({"a": {}, "b": {}, "c": {}}, f"sop_instance_uid,result\n{lines}")
    with pytest.raises(ManifestError, match=r"'positiv' \(2\), 'negativ' \(1\)\. Map them with --word CLASS=WORD"):
        institutional.index(tmp_path)
    assert len(institutional.index(tmp_path, word=("covid19=positiv", "negative=negativ")).cases) == 3


def test_a_line_that_names_its_image_needs_no_date(
    tmp_path: Path, site: Callable[..., None], synthetic_xray: Xray
) -> None:
    uid = synthetic_xray(seed=1).SOPInstanceUID
    site({"a": {}}, f"sop_instance_uid,test_date,result\n{uid},03/04/2020,positive\n")
    assert labels(institutional.index(tmp_path)) == {"a": "covid19"}


@pytest.mark.parametrize("state", ["queued", "scoring", "failed"])
@pytest.mark.parametrize(
    ("view", "reason", "is_released"),
    [
        ("frontal", "view_position_frontal", False),
        ("unknown", "view_unknown", False),  # may be scored without a person, by the setting view.unknown
        ("frontal", "pixels_unsure", True),
        ("frontal", "pixels_lateral", True),
        ("unknown", "view_contradictory", True),
    ],
)
def test_an_image_that_is_not_scored_counts_only_if_a_person_released_it(
    tmp_path: Path,
    site: Callable[..., None],
    synthetic_xray: Xray,
    state: str,
    view: str,
    reason: str,
    is_released: bool,
) -> None:
    uids = [synthetic_xray(seed=seed).SOPInstanceUID for seed in (1, 2)]
    rows = [
        "image_id,sop_instance_uid,state,view,reason,finding,is_latest",
        f"1,{uids[0]},reported,frontal,view_position_frontal,covid19,true",
        f"2,{uids[1]},{state},{view},{reason},,true",
    ]
    site({"scored": {}, "waiting": {}}, "\n".join(rows), name="export.csv")
    (tmp_path / "labels.csv").write_text(f"sop_instance_uid,label\n{uids[0]},normal\n{uids[1]},covid19\n")
    found = audit_export.index(tmp_path)
    assert set(labels(found)) == ({"scored", "waiting"} if is_released else {"scored"})
    assert (("export.csv", 3, "not_yet_scored") in reasons(found)) == (not is_released)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("held", "pixels_unsure"),
        ("held", "pixels_lateral"),
        ("held", "pixels_not_a_chest"),
        ("held", "contradictory_view"),
        ("not_scored", "pixels_lateral"),
        ("not_scored", "purged"),
    ],
)
def test_an_image_whose_pixels_speak_against_its_header_trains_nothing(
    tmp_path: Path, site: Callable[..., None], synthetic_xray: Xray, state: str, reason: str
) -> None:
    uids = [synthetic_xray(seed=seed).SOPInstanceUID for seed in (1, 2)]
    rows = [
        "image_id,sop_instance_uid,state,view,reason,finding,is_latest",
        f"1,{uids[0]},reported,frontal,view_position_frontal,covid19,true",
        f"2,{uids[1]},{state},frontal,{reason},covid19,true",
    ]
    site({"good": {}, "doubtful": {}}, "\n".join(rows), name="export.csv")
    (tmp_path / "labels.csv").write_text(f"sop_instance_uid,label\n{uids[0]},normal\n{uids[1]},covid19\n")
    found = audit_export.index(tmp_path)
    assert labels(found) == {"good": "normal"}
    assert ("export.csv", 3, reason) in reasons(found)
