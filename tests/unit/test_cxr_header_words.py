"""How sites fill in headers: some hundred combinations, each with its source, and public collections' own."""

from __future__ import annotations

import ast
import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxr.dicom import read_header
from cxr.domain import UnknownView, ViewDecision
from cxr.view import decide_view, initial_state

with (Path(__file__).parents[1] / "data" / "header_words.csv").open(encoding="utf-8", newline="") as file:
    COMBINATIONS = list(csv.DictReader(file))

Make = Callable[..., Dataset]


def coded(text: str) -> Sequence | None:
    """A code sequence of ``value|scheme|meaning``."""
    if not text:
        return None
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = text.split("|")
    return Sequence([item])


def decide(row: dict[str, str], make: Make) -> ViewDecision:
    dataset = make(SpecificCharacterSet="ISO_IR 192", BodyPartExamined=None, ViewPosition=None, PatientOrientation=None)
    values = {
        "Modality": row.get("modality"),
        "SOPClassUID": row.get("sop_class_uid"),
        "BodyPartExamined": row.get("body_part"),
        "ViewPosition": row.get("view_position"),
        "PatientOrientation": row.get("patient_orientation", "").split("\\"),
        "SeriesDescription": row.get("series_description"),
        "AnatomicRegionSequence": coded(row.get("anatomic_region", "")),
        "ViewCodeSequence": coded(row.get("view_code", "")),
    }
    for keyword, value in values.items():
        if value and value != [""]:
            setattr(dataset, keyword, value)
    dataset.set_original_encoding(False, True, "ISO_IR 192")
    return decide_view(read_header(dataset))


def state_of(row: dict[str, str], make: Make) -> str:
    return initial_state(decide(row, make), UnknownView.HOLD).value


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's, about texts of sites in code strings
@pytest.mark.parametrize("source", sorted({row["source"] for row in COMBINATIONS}))
def test_headers_of_sites_get_the_state_that_they_should(source: str, synthetic_xray: Make) -> None:
    rows = [row for row in COMBINATIONS if row["source"] == source]
    wrong = [tuple(row.values()) for row in rows if state_of(row, synthetic_xray) != row["expected"]]
    assert wrong == []


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_words_for_chest_are_known_to_be_the_chest(synthetic_xray: Make) -> None:
    rows = [row for row in COMBINATIONS if row["source"].startswith("word for chest")]
    assert [row["body_part"] for row in rows if decide(row, synthetic_xray).is_chest is not True] == []
    assert len(rows) > 80


def test_there_are_enough_combinations_and_each_is_there_once() -> None:
    keys = [tuple(row.values())[:6] for row in COMBINATIONS]
    assert len(keys) == len(set(keys)) >= 300
    assert all(row["source"] for row in COMBINATIONS)


@pytest.fixture
def tables(shared_data: Path) -> Path:
    folder = shared_data / "headers"
    if not folder.is_dir():
        pytest.skip("the tables of public headers are not here")
    return folder


def counted(path: Path, make: Make, is_lateral: Callable[[dict[str, str]], bool]) -> dict[tuple[bool, str], int]:
    """Films by (is it a lateral, what becomes of it)."""
    found: dict[tuple[bool, str], int] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            orientation = row.get("patient_orientation") or "[]"
            fields = row | {
                "body_part": row.get("body_part_examined", ""),
                "patient_orientation": "\\".join(ast.literal_eval(orientation)),
            }
            key = is_lateral(row), state_of(fields, make)
            found[key] = found.get(key, 0) + int(row["films"])
    return found


def test_no_frontal_film_of_public_collections_is_dropped(tables: Path, synthetic_xray: Make) -> None:
    indiana = counted(tables / "indiana.csv", synthetic_xray, lambda row: row["view_by_clustering"] != "PA")
    assert indiana.get((False, "not_scored"), 0) == 0
    padchest = counted(
        tables / "padchest.csv", synthetic_xray, lambda row: row["projection"] not in {"PA", "AP", "AP_horizontal"}
    )
    assert padchest.get((False, "not_scored"), 0) == 0
    assert padchest.get((True, "queued"), 0) == 0
    assert counted(tables / "rsna.csv", synthetic_xray, lambda _: False) == {(False, "queued"): 26_684}
