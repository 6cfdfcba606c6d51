from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from cxr.errors import ManifestError
from training.adapters.reading.result import REASONS, Rejection, parse_pairs
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, date_of, sex_of, view_of


def test_lines_of_the_wrong_length_are_named_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n1,2\n3\n"4\n4",5\n6,7,8\n\n9,10\n')
    rejected: list[Rejection] = []
    table = read_table(tmp_path / "t.csv", rejected)
    assert table["b"].tolist() == ["2", "5", "10"]
    assert table[LINE].tolist() == [2, 5, 8]
    assert rejected == [Rejection("t.csv", 3, "fields"), Rejection("t.csv", 6, "fields")]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffName;Größe\n a ;b\n".encode(),
        "Name\tGröße\n a\tb \n".encode(),
        "Name,Größe\r\na,b\r\n".encode("cp1252"),
        "Name\tGröße\r\na\tb\r\n".encode("utf-16"),  # Excel's "Unicode text"
        "\ufeffName,Größe\na,b\n".encode("utf-16-be"),
    ],
)
def test_hospital_tables_are_read_whatever_their_delimiter_and_encoding(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    table = read_table(tmp_path / "t.csv", [], required=["name"])
    assert table.drop(columns=LINE).to_dict("records") == [{"name": "a", "Größe": "b"}]


def test_a_table_without_a_column_or_with_one_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,a\n1,2\n")
    with pytest.raises(ManifestError, match="lacks the column b"):
        read_table(tmp_path / "t.csv", [], required=["b"])
    with pytest.raises(ManifestError, match="twice"):
        read_table(tmp_path / "t.csv", [])
    with pytest.raises(ManifestError, match="can't be read"):
        read_table(tmp_path / "missing.csv", [])


def test_columns_without_a_name_do_not_disturb(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,,\n1,,\n")
    assert read_table(tmp_path / "t.csv", [], required=["a"])["a"].tolist() == ["1"]


def test_large_tables_keep_line_numbers_across_chunks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n" + "".join(f"{number}\n" for number in range(45_000)))
    table = read_table(tmp_path / "t.csv", [])
    assert table["a"].tolist() == [str(number) for number in range(45_000)]
    assert table[LINE].tolist() == list(range(2, 45_002))


def test_sex_age_and_view() -> None:
    assert [sex_of(text) for text in ("Male", "f", "Unknown", "")] == ["M", "F", "", ""]
    assert [age_of(text) for text in ("64", "064Y", "18M", "64.5", "45,5", "0", "", "x", "400")] == [
        64, 64, 1.5, 64.5, 45.5, 0, None, None, None
    ]  # fmt: skip
    assert [view_of(text) for text in ("PA", "AP Supine", "LL", "", "Coronal")] == [
        "PA",
        "AP_supine",
        "L",
        "unknown",
        None,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "2020-03-04",
        "20200304",
        "04.03.2020",
        "March 4, 2020",
        "Mar 4, 2020",
        "2020-03-04T23:59:00",
        "2020-03-04 08:00",
        "4.3.20",
        "04.03.20",
        "43894",
        "43894.75",
    ],
)
def test_dates_are_read(text: str) -> None:
    assert date_of(text) == date(2020, 3, 4)


@pytest.mark.parametrize(
    "text", ["03/04/2020", "2020", "", "20201301", "soon", "19010101", "1900-01-01", "123", "99999"]
)
def test_what_is_no_date_or_two_is_unknown(text: str) -> None:
    assert date_of(text) is None


def test_the_form_of_an_ambiguous_date_can_be_told() -> None:
    assert date_of("03/04/2020", form="%d/%m/%Y") == date(2020, 4, 3)
    assert date_of("2020-04-03", form="%d/%m/%Y") is None


def test_options_in_pairs() -> None:
    assert parse_pairs(["a=b", "c = d=e"], "--x") == {"a": "b", "c": "d=e"}
    with pytest.raises(ManifestError, match="--x got 'ab'"):
        parse_pairs(["ab"], "--x")


def test_every_reason_is_a_sentence() -> None:
    assert all(text.endswith(".") and text[0].isupper() for text in REASONS.values())
