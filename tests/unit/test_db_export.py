"""Exports: complete, typed, without identifiers unless asked for, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from cxr.domain import JobState, PackageStatus, View
from db.results.export import COLUMNS, as_record, columns, write_csv, write_json, write_parquet
from db.results.filters import IdentifierForm
from db.schema.records import ResultRow

ROW = ResultRow(
    image_id=1,
    job_id=2,
    sop_instance_uid="1.2.3",
    study_instance_uid="1.2",
    series_instance_uid=None,
    accession_number="ACC1",
    patient_id="SYN1",
    study_date="20260110",
    modality="CR",
    peer_ae_title="ORTHANC",
    received_at=datetime(2026, 1, 10, 13, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=1))),
    state=JobState.REPORTED,
    view=View.FRONTAL,
    is_chest=True,
    reason="view_position_frontal",
    finding="covid19",
    score=0.25,
    threshold=0.5,
    at_or_above=False,
    model="resnet50",
    model_version="1.0.0",
    fingerprint="ab" * 32,
    model_status=PackageStatus.UNTRAINED,
    scored_at=datetime(2026, 1, 10, 12, 1, tzinfo=UTC),
    error_code=None,
    delivered=None,
    is_latest=True,
)

DESIGN_NAMES = {
    "sop_instance_uid", "study_instance_uid", "accession_number", "received_at", "state", "view", "reason",
    "finding", "score", "model", "fingerprint", "error_code",
}  # fmt: skip


UIDS = {"sop_instance_uid", "study_instance_uid", "series_instance_uid"}


def as_csv(*rows: ResultRow, form: IdentifierForm = IdentifierForm.FULL) -> list[dict[str, str]]:
    stream = io.StringIO(newline="")
    assert write_csv(rows, stream, form=form) == len(rows)
    return list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))


def test_the_names_that_are_interface_are_there() -> None:
    assert set(COLUMNS) >= DESIGN_NAMES


def test_json_has_one_typed_object_per_line() -> None:
    stream = io.StringIO()
    assert write_json([ROW, ROW], stream, form=IdentifierForm.FULL) == 2
    first, second, end = stream.getvalue().split("\n")
    assert (first, end) == (second, "")
    record = json.loads(first)
    assert list(record) == list(COLUMNS)
    assert record["received_at"] == "2026-01-10T12:00:00.250Z"
    assert (record["state"], record["view"], record["model_status"]) == ("reported", "frontal", "untrained")
    assert (record["score"], record["at_or_above"], record["delivered"]) == (0.25, False, None)


@pytest.mark.parametrize(
    ("form", "left_out"),
    [
        (IdentifierForm.FULL, set()),
        (IdentifierForm.UIDS, {"patient_id", "accession_number"}),
        (IdentifierForm.PSEUDONYM, {"study_date"}),
        (IdentifierForm.NONE, {"patient_id", "accession_number", "study_date", *UIDS}),
    ],
)
def test_what_identifies_is_in_only_if_asked_for(form: IdentifierForm, left_out: set[str]) -> None:
    assert set(COLUMNS) - set(columns(form)) == left_out
    stream = io.StringIO()
    write_json([ROW], stream, form=form)
    assert set(json.loads(stream.getvalue())) == set(columns(form))
    (record,) = as_csv(ROW, form=form)
    assert set(record) == set(columns(form))


def test_csv_has_a_header_and_empty_cells_for_what_is_absent() -> None:
    (record,) = as_csv(ROW)
    assert list(record) == list(COLUMNS)
    assert (record["score"], record["error_code"], record["is_latest"], record["at_or_above"]) == (
        "0.25", "", "true", "false",
    )  # fmt: skip


def test_no_rows_give_a_header_alone() -> None:
    stream = io.StringIO(newline="")
    assert write_csv([], stream, form=IdentifierForm.UIDS) == 0
    assert stream.getvalue() == ",".join(columns(IdentifierForm.UIDS)) + "\r\n"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x","y")', "=cmd|' /C calc'!A0"]
)
def test_no_cell_is_a_formula(text: str) -> None:
    (record,) = as_csv(dataclasses.replace(ROW, accession_number=text))
    assert record["accession_number"] == f"'{text.replace(chr(13), '')}"


@pytest.mark.parametrize("text", ["\x1b]0;title\x07A", "A\x1b[2J", "\x9b2JA", "A\x07\x85", "\u202eA"])
def test_no_control_character_of_a_peer_is_exported(text: str, tmp_path: Path) -> None:
    row = dataclasses.replace(ROW, accession_number=text, peer_ae_title=text)
    (record,) = as_csv(row)
    assert (record["accession_number"], record["peer_ae_title"]) == ("A", "A")
    stream = io.StringIO()
    write_json([row], stream, form=IdentifierForm.FULL)
    assert json.loads(stream.getvalue())["accession_number"] == "A"
    write_parquet(iter([row]), tmp_path / "out.parquet", form=IdentifierForm.FULL)
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "out.parquet")["accession_number"][0].as_py() == "A"


@pytest.mark.parametrize("text", ["A,B", 'A "quoted" B', "two\nlines", "日本語", "A=B"])
def test_other_texts_come_back_as_they_were(text: str) -> None:
    (record,) = as_csv(dataclasses.replace(ROW, accession_number=text))
    assert record["accession_number"] == text


def test_a_negative_number_is_a_number() -> None:
    (record,) = as_csv(dataclasses.replace(ROW, score=-0.5))
    assert record["score"] == "-0.5"


def test_parquet_keeps_types_and_absent_values(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    empty = dataclasses.replace(ROW, image_id=2, finding=None, score=None, scored_at=None, at_or_above=None)
    assert write_parquet(iter([ROW, empty]), tmp_path / "out.parquet", form=IdentifierForm.FULL) == 2
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == list(COLUMNS)
    types = {
        name: str(table.schema.field(name).type) for name in ("image_id", "score", "received_at", "is_chest", "state")
    }
    assert types == {
        "image_id": "int64",
        "score": "double",
        "received_at": "timestamp[us, tz=UTC]",
        "is_chest": "bool",
        "state": "string",
    }
    first, second = table.to_pylist()
    assert first["received_at"] == ROW.received_at
    assert (first["state"], first["score"]) == ("reported", 0.25)
    assert (second["finding"], second["score"], second["scored_at"]) == (None, None, None)


def test_parquet_without_identifiers(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet([ROW], tmp_path / "out.parquet", form=IdentifierForm.UIDS)
    assert not {"patient_id", "accession_number"} & set(parquet.read_table(tmp_path / "out.parquet").column_names)


def test_many_rows_are_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("db.results.export._ROW_GROUP", 10)
    count = write_parquet(
        (dataclasses.replace(ROW, image_id=n) for n in range(25)), tmp_path / "out", form=IdentifierForm.FULL
    )
    assert count == 25
    assert parquet.read_table(tmp_path / "out").column("image_id").to_pylist() == list(range(25))
    assert parquet.ParquetFile(tmp_path / "out").num_row_groups == 3


def test_where_pyarrow_is_missing_the_message_says_what_to_do(tmp_path: Path) -> None:
    """As in the listener's image: pyarrow can't be imported there."""
    script = """
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from db.results.export import write_parquet
from db.results.filters import IdentifierForm
from cxr.errors import StorageError
try:
    write_parquet([], Path(sys.argv[1]), form=IdentifierForm.UIDS)
except StorageError as error:
    print(error)
"""
    out = tmp_path / "out.parquet"
    done = subprocess.run([sys.executable, "-c", script, str(out)], capture_output=True, text=True, check=True)
    assert "cxr-listener[worker]" in done.stdout
    assert not out.exists()


def test_a_record_is_plain() -> None:
    record: dict[str, Any] = as_record(ROW, ["state", "received_at"])
    assert record == {"state": "reported", "received_at": "2026-01-10T12:00:00.250Z"}
    assert type(record["state"]) is str
