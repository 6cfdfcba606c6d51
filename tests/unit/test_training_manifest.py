from __future__ import annotations

import re
import stat
from pathlib import Path

import pandas as pd
import pytest

from cxr.errors import ManifestError
from training.cases import COLUMNS, complete, read_manifest, relative_paths, resolve_paths, write_manifest
from training.cases.manifest import label_columns

ROW = {"image_id": "a", "path": "a.png", "patient_id": "p1"}


def frame(**values: object) -> pd.DataFrame:
    return pd.DataFrame([ROW | values])


def test_columns_that_were_not_given_are_there_and_empty() -> None:
    table = complete(frame(label_covid19=1))
    assert list(table.columns) == [*COLUMNS, "label_covid19"]
    assert table.loc[0, "view"] == "unknown"
    assert table.loc[0, "weight"] == 1.0
    assert table["age"].isna().all()
    assert table.loc[0, "split"] == ""
    assert label_columns(table) == ["label_covid19"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    table = complete(
        pd.DataFrame(
            [
                ROW | {"label": "covid19", "age": 64, "weight": 0.25, "label_edema": -1, "note": "two\nlines, \"x\""},
                ROW | {"image_id": "b", "patient_id": "", "image_wise": "yes", "label_edema": "", "age": ""},
            ]
        )
    )  # fmt: skip
    write_manifest(table, tmp_path / "deep" / "manifest.csv")
    read = read_manifest(tmp_path / "deep" / "manifest.csv")
    pd.testing.assert_frame_equal(read, table)
    assert read.loc[0, "note"] == 'two lines, "x"'
    text = (tmp_path / "deep" / "manifest.csv").read_text()
    assert ",64," in text
    assert ",0.25," in text
    assert ",-1\n" in text


def test_manifest_is_its_owners_alone_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    write_manifest(complete(frame()), path)
    write_manifest(complete(frame(note="again")), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_manifest_that_is_refused_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    write_manifest(complete(frame()), path)
    before = path.read_bytes()
    with pytest.raises(ManifestError):
        write_manifest(frame(view="oblique"), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"image_id": ""}, "image_id is empty"),
        ({"path": ""}, "path is empty"),
        ({"view": "oblique"}, "view is not one of PA, AP, AP_supine, L, unknown"),
        ({"sex": "female"}, "sex is not one of M, F, nothing"),
        ({"age": "old"}, "age is not a number"),
        ({"age": 121}, "age is not within 0 to 120 years"),
        ({"age": -1}, "age is not within"),
        ({"weight": -1}, "weight is not a finite number"),
        ({"weight": "inf"}, "weight is not a finite number"),
        ({"acquired_on": "2020-13-01"}, "acquired_on is not a date"),
        ({"acquired_on": "01.02.2020"}, "acquired_on is not a date"),
        ({"split": "dev"}, "split is not one of train, val, test, nothing"),
        ({"label": "COVID 19"}, "label is not a class name"),
        ({"label_edema": 2}, "label_edema is not 1, 0, -1 or nothing"),
        ({"label_edema": "maybe"}, "label_edema is not a number"),
        ({"image_wise": "no"}, "image_wise is not one of yes, nothing"),
        ({"patient_id": ""}, "patient_id is empty"),
    ],
)
def test_a_wrong_value_is_named_with_its_column(values: dict[str, object], fault: str) -> None:
    with pytest.raises(ManifestError, match="In row 0, " + fault):
        complete(frame(**values))


def test_a_wrong_value_is_shown_unless_it_is_a_patients() -> None:
    with pytest.raises(ManifestError, match=r"label is not a class name.*got 'COVID 19'"):
        complete(frame(label="COVID 19"))
    for values in ({"sex": "female"}, {"age": "forty"}, {"acquired_on": "1.2.3"}):
        with pytest.raises(ManifestError) as caught:
            complete(frame(**values))
        assert str(next(iter(values.values()))) not in str(caught.value)


def test_a_second_image_of_the_same_name_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"In row 1, image_id occurs a second time; .*\(and 1 more rows like it\)"):
        complete(pd.DataFrame([ROW, ROW, ROW]))


@pytest.mark.parametrize(
    ("header", "fault"),
    [("image_id", "lacks the column path"), ("image_id,path,patientid", "unknown column 'patientid'")],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: str, fault: str) -> None:
    (tmp_path / "m.csv").write_text(header + "\n")
    with pytest.raises(ManifestError, match=fault):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("b,b.png,p,1,1", "Line 4 of m.csv has 5 fields, the header line 4 columns"),
        ("b,b.png,p", "Line 4 of m.csv has 3 fields"),
        ("image_id,path,patient_id,label_covid19", "Line 4 of m.csv has a second header line"),
    ],
)
def test_a_line_that_does_not_fit_the_header_is_named(tmp_path: Path, line: str, fault: str) -> None:
    (tmp_path / "m.csv").write_text(f"image_id,path,patient_id,label_covid19\n\na,a.png,p,1\n{line}\n")
    with pytest.raises(ManifestError, match=re.escape(fault)):
        read_manifest(tmp_path / "m.csv")


def test_lines_that_all_have_a_field_too_many_do_not_move_the_columns(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image_id,path,patient_id\nx,a,a.png,p\ny,b,b.png,p\n")
    with pytest.raises(ManifestError, match=r"Line 2 of m\.csv has 4 fields"):
        read_manifest(tmp_path / "m.csv")


def test_the_line_of_a_wrong_value_counts_line_breaks_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        'image_id,path,patient_id,note,view\na,a.png,p,"first\nsecond",PA\n\nb,b.png,p,,AP\nc,c.png,p,,SIDE\n'
    )
    with pytest.raises(ManifestError, match=r"In line 6 of m\.csv, view"):
        read_manifest(tmp_path / "m.csv")


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"image_id,path\n\xff\xfe,b\n")
    for name in ("m.csv", "missing.csv"):
        with pytest.raises(ManifestError, match="can't be read"):
            read_manifest(tmp_path / name)


def test_paths_count_from_the_manifests_folder_and_back(tmp_path: Path) -> None:
    table = complete(
        pd.DataFrame(
            [
                ROW | {"path": "images/a.png", "mask_path": "masks/a.png"},
                ROW | {"image_id": "b", "path": "/elsewhere/b.png", "mask_path": ""},
            ]
        )
    )
    resolved = resolve_paths(table, tmp_path)
    assert list(resolved["path"]) == [str(tmp_path / "images/a.png"), "/elsewhere/b.png"]
    assert list(resolved["mask_path"]) == [str(tmp_path / "masks/a.png"), ""]
    pd.testing.assert_frame_equal(relative_paths(resolved, tmp_path), table)
