"""``cxr train merge``: several collections, a patient and a film once."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from training.cases import complete, read_manifest, resolve_paths, write_manifest


def film(seed: int) -> np.ndarray:
    """A smooth picture, as far from noise as a radiograph is."""
    noise = np.random.default_rng(seed).normal(size=(12, 12)).astype(np.float32)
    smooth = cv2.resize(noise, (200, 200), interpolation=cv2.INTER_CUBIC)
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def collection(folder: Path, name: str, rows: list[dict[str, object]]) -> Path:
    """Write a manifest and its films; ``seed`` is the film's."""
    (folder / name).mkdir()
    cases = []
    for number, row in enumerate(rows):
        path = folder / name / f"{number}.png"
        cv2.imwrite(str(path), film(int(str(row.pop("seed")))))
        cases.append({"image_id": f"{name}:{number}", "path": str(path), "source": name} | row)
    write_manifest(complete(pd.DataFrame(cases)), folder / f"{name}.csv")
    return folder / f"{name}.csv"


def merge(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", "merge", *arguments, "-o", str(folder / "all.csv")])


def test_columns_are_united_by_name_whatever_their_order(tmp_path: Path) -> None:
    first = collection(
        tmp_path, "cohen", [{"seed": 1, "patient_id": "cohen:1", "label": "covid19", "label_covid19": 1}]
    )
    second = collection(
        tmp_path, "rsna", [{"seed": 2, "patient_id": "nih:00000001", "label": "lung_opacity", "label_lung_opacity": 1}]
    )
    done = merge(tmp_path, str(first), str(second))
    assert done.exit_code == 0, done.output
    merged = resolve_paths(read_manifest(tmp_path / "all.csv"), tmp_path).set_index("source")
    assert merged["label_covid19"].to_dict()["cohen"] == 1
    assert np.isnan(merged["label_covid19"]["rsna"])
    assert merged["label_lung_opacity"]["rsna"] == 1
    assert np.isnan(merged["label_lung_opacity"]["cohen"])
    assert all(Path(path).is_file() for path in merged["path"])


def test_patients_are_named_by_collection_unless_collections_share_them(tmp_path: Path) -> None:
    files = [
        collection(tmp_path, "nih", [{"seed": 1, "patient_id": "13"}]),
        collection(tmp_path, "rsna", [{"seed": 2, "patient_id": "nih:00000013"}]),
        collection(tmp_path, "y2020", [{"seed": 3, "patient_id": "13"}]),
        collection(
            tmp_path, "y2021", [{"seed": 4, "patient_id": "13"}, {"seed": 5, "patient_id": "", "image_wise": "yes"}]
        ),
    ]  # fmt: skip
    done = merge(tmp_path, str(files[0]), str(files[1]), f"hospital={files[2]}", f"hospital={files[3]}")
    assert done.exit_code == 0, done.output
    patients = read_manifest(tmp_path / "all.csv")["patient_id"].tolist()
    assert patients == ["nih:00000013", "nih:00000013", "hospital:13", "hospital:13", ""]
    assert "1 patient IDs are the same in manifests of different names" in done.output


def test_a_film_of_two_collections_is_taken_once_and_its_patient_is_one(tmp_path: Path) -> None:
    first = collection(
        tmp_path, "a", [{"seed": 1, "patient_id": "a:1", "label": "normal"}, {"seed": 2, "patient_id": "a:2"}]
    )
    second = collection(
        tmp_path,
        "b",
        [
            {"seed": 1, "patient_id": "b:7", "label": "covid19"},
            {"seed": 3, "patient_id": "b:7"},
            {"seed": 4, "patient_id": "b:8"},
            {"seed": 2, "patient_id": "b:9"},
        ],
    )
    small = cv2.resize(cv2.imread(str(tmp_path / "b" / "3.png")), (150, 150), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "b" / "3.png"), small)  # a near copy
    done = merge(tmp_path, str(first), str(second), "--json")
    assert done.exit_code == 0, done.output
    merged = read_manifest(tmp_path / "all.csv")
    assert merged["image_id"].tolist() == ["a:0", "a:1", "b:1", "b:2"]
    assert merged["patient_id"].tolist() == ["a:1", "a:2", "a:1", "b:8"]
    left_out = pd.read_csv(tmp_path / "all.rejected.csv")
    assert left_out[["source_file", "line", "reason"]].to_numpy().tolist() == [
        ["b.csv", 2, "other_collection"],
        ["b.csv", 5, "other_collection"],
    ]
    summary = json.loads(done.stdout)
    assert [(row["images"], row["copies_left_out"]) for row in summary["collections"]] == [(2, 0), (2, 2)]
    assert summary["notes"][0].startswith(
        "2 films were in an earlier manifest and are left out (1 with the same bytes, 1 with another label there); 2 pa"
    )


def test_copies_within_a_collection_stay(tmp_path: Path) -> None:
    first = collection(tmp_path, "a", [{"seed": 1, "patient_id": "1"}, {"seed": 1, "patient_id": "1"}])
    second = collection(tmp_path, "b", [{"seed": 2, "patient_id": "1"}])
    assert merge(tmp_path, str(first), str(second)).exit_code == 0
    assert len(read_manifest(tmp_path / "all.csv")) == 3


def test_an_image_id_of_two_manifests_is_refused_with_both_lines(tmp_path: Path) -> None:
    first = collection(tmp_path, "a", [{"seed": 1, "patient_id": "1"}, {"seed": 2, "patient_id": "1", "image_id": "x"}])
    second = collection(tmp_path, "b", [{"seed": 3, "patient_id": "1", "image_id": "x"}])
    done = merge(tmp_path, str(first), str(second))
    assert done.exit_code == 1
    assert "Line 2 of b.csv has the image_id of line 3 of a.csv" in str(done.exception)
    assert not (tmp_path / "all.csv").exists()


@pytest.mark.parametrize(
    ("sides", "patients", "are_kept"),
    [(("train", "test"), ("1", "2"), True), (("train", ""), ("1", "2"), False), (("train", "test"), ("1", "1"), False)],
)
def test_sides_stay_if_every_case_has_one_and_no_patient_two(
    tmp_path: Path, sides: tuple[str, str], patients: tuple[str, str], are_kept: bool
) -> None:
    first = collection(tmp_path, "a", [{"seed": 1, "patient_id": patients[0], "split": sides[0]}])
    second = collection(tmp_path, "b", [{"seed": 2, "patient_id": patients[1], "split": sides[1]}])
    done = merge(tmp_path, f"h={first}", f"h={second}", "--no-files")
    assert read_manifest(tmp_path / "all.csv")["split"].tolist() == (list(sides) if are_kept else ["", ""])
    assert ("next, cxr train split" in done.output) == (not are_kept)


def test_what_came_from_where_is_printed_at_80_columns(tmp_path: Path) -> None:
    first = collection(tmp_path, "cohen", [{"seed": 1, "patient_id": "cohen:1", "label": "covid19"}])
    second = collection(tmp_path, "rsna", [{"seed": 2, "patient_id": "nih:1", "label": "lung_opacity"}])
    done = CliRunner().invoke(
        app, ["train", "merge", str(first), str(second), "-o", str(tmp_path / "all.csv")], env={"COLUMNS": "80"}
    )
    for words in ("all.csv: 2 images", "cohen.csv", "rsna.csv", "known patients", "covid19", "lung_opacity"):
        assert words in done.output
