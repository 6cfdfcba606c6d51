from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxr.errors import ManifestError
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import DEFAULT_RECIPE
from training.adapters import bimcv


def attributes(**values: Any) -> dict[str, Any]:
    given = {"00080020": "20200401", "00080070": "Maker", "00100040": "F", "00101010": "061Y",
             "00280004": "MONOCHROME2", "00280101": 12, "00281050": 2000, "00281051": 1000}  # fmt: skip
    vr = {"00280101": "US", "00281050": "DS", "00281051": "DS", "00080020": "DA", "00280004": "CS", "00100040": "CS",
          "00101010": "AS", "00080070": "LO"}  # fmt: skip
    return {tag: {"vr": vr[tag], "Value": [value]} for tag, value in (given | values).items()}


def ramp() -> np.ndarray:
    return np.tile(np.linspace(1500, 2500, 80).astype(np.uint16), (80, 1))


def picture(root: Path, part: str, person: str, session: str, tail: str, **values: Any) -> Path:
    path = root / part / person / session / "mod-rx" / f"{person}_{session}_{tail}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), ramp())
    path.with_suffix(".json").write_text(json.dumps(attributes(**values)))
    return path


PA = "run-1_bp-chest_vp-pa_dx"


@pytest.fixture
def both(tmp_path: Path) -> Path:
    picture(tmp_path, "covid19_posi", "sub-S01", "ses-E01", PA)
    picture(tmp_path, "covid19_posi", "sub-S01", "ses-E02", "run-1_bp-chest_vp-ll_dx")
    picture(tmp_path, "covid19_posi", "sub-S02", "ses-E03", "run-1_bp-chest_cr")
    picture(tmp_path, "covid19_posi", "sub-S02", "ses-E04", "acq-2_run-1_bp-chest_vp-ap_cr", **{"00080020": "20200601"})
    picture(tmp_path, "covid19_neg", "sub-S77", "ses-E05", PA, **{"00280004": "MONOCHROME1"})
    picture(tmp_path, "covid19_neg", "sub-S77", "ses-E06", "run-1_bp-chest_vp-ap_cr")
    picture(tmp_path, "covid19_neg", "sub-S78", "ses-E07", PA).with_suffix(".json").unlink()
    (tmp_path / "listjoin_ok.tsv").write_text("idx\tcovid19_neg\tcovid19_posi\n0\tsub-S77\tsub-S01\n")
    tests = tmp_path / "covid19_posi" / "derivatives" / "EHR" / "sil_reg_covid_posi.tsv"
    tests.parent.mkdir(parents=True)
    tests.write_text(
        "participant\tdate\ttest\tresult\nsub-S01\t05.04.2020\tPCR\tPOSITIVO\nsub-S02\t01.04.2020\tPCR\tPOSITIVO\n"
        "sub-S02\t01.06.2020\tPCR\tNEGATIVO\nsub-S02\tsoon\tPCR\tPOSITIVO\n"
    )
    (tmp_path / "covid19_posi" / "participants.tsv").write_text("participant\tgender\tage\nsub-S01\tF\t61\n")
    return tmp_path


def test_both_collections_and_the_people_in_both(both: Path) -> None:
    found = bimcv.index(both)
    assert found.cases[["patient_id", "study_id", "label", "view"]].to_dict("list") == {
        "patient_id": ["bimcv:sub-S01", "bimcv:sub-S01"], "study_id": ["bimcv:ses-E01", "bimcv:ses-E06"],
        "label": ["covid19", "negative"], "view": ["PA", "AP"],
    }  # fmt: skip
    first = found.cases.iloc[0]
    assert (first["sex"], first["age"], first["acquired_on"], first["manufacturer"]) == ("F", 61, "2020-04-01", "Maker")
    assert "1 people are in both collections." in found.notes
    assert sorted((one.source_file.split("_")[-3], one.reason) for one in found.rejected if one.line == 0) == sorted(
        [("bp-chest", "lateral"), ("run-1", "view_unknown"), ("bp-chest", "outside_window"),
         ("bp-chest", "monochrome1"), ("bp-chest", "damaged")]
    )  # fmt: skip
    assert [(one.source_file, one.line) for one in found.rejected if one.reason == "bad_date"] == [
        ("covid19_posi/derivatives/EHR/sil_reg_covid_posi.tsv", 5)
    ]


def test_the_positive_collection_as_a_whole_and_the_other_views(both: Path) -> None:
    found = bimcv.index(both, ignore_tests=True, laterals=True, unknown_views=True)
    assert len(found.cases[found.cases["label"] == "covid19"]) == 4
    assert set(found.cases["view"]) == {"PA", "AP", "L", "unknown"}
    alone = bimcv.index(both / "covid19_neg")
    assert set(alone.cases["label"]) == {"negative"}
    assert list(alone.cases["patient_id"]) == ["bimcv:sub-S01"]


def test_converted_files_go_through_window_and_inversion_like_any_dicom(both: Path) -> None:
    found = bimcv.index(both, converted="dicom")
    assert "monochrome1" not in found.count_rejected()
    by_study = found.cases.set_index("study_id")["path"]
    plain = to_model_input(Path(by_study["bimcv:ses-E06"]), DEFAULT_RECIPE)[112, :, 0]
    inverted = to_model_input(Path(by_study["bimcv:ses-E05"]), DEFAULT_RECIPE)[112, :, 0]
    assert plain[5] < 0.1 < 0.9 < plain[-5]  # the window 1500 to 2500, not stored values over 65535
    np.testing.assert_allclose(inverted, 1 - plain, atol=0.01)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="neither covid19_posi nor covid19_neg"):
        bimcv.index(tmp_path)
