"""The frontal filter on every shared file, and rule by rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr._snomed_dict import mapping as pydicom_snomed

from cxr import product
from cxr.dicom import open_dataset, read_header
from cxr.domain import Code, ImageHeader, JobState, UnknownView, View, ViewDecision
from cxr.errors import IntakeError
from cxr.view import REASONS, decide_view, initial_state
from cxr.view import vocabulary as terms
from cxr.view.decide import NEVER_ASSUMED

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SC = "1.2.840.10008.5.1.4.1.1.7"

# file -> (view, is it a chest, reason); all others of dicom.csv are unreadable (tests of cxr.dicom.header)
EXPECTED: dict[str, tuple[str, bool | None, str]] = {
    "chest_frontal/barre_CR-MONO1-10-chest": ("frontal", True, "view_position_frontal"),
    "chest_frontal/nema_RG1_J2KI.dcm": ("frontal", True, "view_position_frontal"),
    "chest_frontal/nih_00000001_000.dcm": ("unknown", None, "view_unknown"),
    "chest_frontal/nih_nhsx_Covid0000.dcm": ("unknown", None, "view_unknown"),
    "chest_frontal/rsna_850819.dcm": ("frontal", True, "view_position_frontal"),
    "chest_frontal/rsna_850819_fake_MONO1.dcm": ("frontal", True, "view_position_frontal"),
    "chest_lateral/lidc_0005_lateral.dcm": ("not_frontal", True, "patient_orientation_not_frontal"),
    "radiograph_other/fodicom_CR-ModalitySequenceLUT.dcm": ("not_frontal", False, "description_not_chest"),
    "radiograph_other/fodicom_OutOfBoundsOverlay.dcm": ("not_frontal", None, "sop_class"),
    "radiograph_other/nema_RG2_J2KI.dcm": ("not_frontal", False, "body_part_not_chest"),
    "radiograph_other/nema_RG3_JLSL.dcm": ("not_frontal", False, "body_part_not_chest"),
    "radiograph_other/nema_RG3_JLSN.dcm": ("not_frontal", False, "body_part_not_chest"),
    "radiograph_other/nema_RG3_JPLY.dcm": ("not_frontal", False, "body_part_not_chest"),
    "radiograph_other/nhsx_sample_scout.dcm": ("unknown", None, "view_unknown"),
    "radiograph_other/pydicom_chrJapMulti.dcm": ("frontal", True, "view_position_frontal"),
    "radiograph_other/pydicom_chrKoreanMulti.dcm": ("frontal", True, "view_position_frontal"),
    "radiograph_other/pydicom_dicomdir_CR1_6154.dcm": ("not_frontal", False, "body_part_not_chest"),
    "radiograph_other/pydicom_dicomdir_CR2_6247.dcm": ("not_frontal", False, "body_part_not_chest"),
    "radiograph_other/pydicom_dicomdir_CR3_6278.dcm": ("not_frontal", False, "body_part_not_chest"),
    "radiograph_other/tcga_topogram.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/dcmnorm_pdf.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/fodicom_GH364_us_jpegls.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/nema_CT2_J2KR.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/orthanc_ColorTestMalaterre.dcm": ("unknown", None, "view_unknown"),
    "other_modality/orthanc_Issue137_M3D.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/orthanc_Issue168_PR.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/orthanc_ct_chest_70.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/orthanc_milvue_sc.dcm": ("unknown", None, "view_unknown"),
    "other_modality/orthanc_sample-pdf.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_CT_small.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_ExplVR_BigEnd.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_HTJ2KLossless_08_RGB.dcm": ("unknown", None, "view_unknown"),
    "other_modality/pydicom_MR_small_RLE.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_MR_small_bigendian.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_MR_small_implicit.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_SC_rgb_jpeg_gdcm.dcm": ("unknown", None, "view_unknown"),
    "other_modality/pydicom_SC_rgb_rle.dcm": ("unknown", None, "view_unknown"),
    "other_modality/pydicom_SC_rgb_small_odd.dcm": ("unknown", None, "view_unknown"),
    "other_modality/pydicom_emri_small.dcm": ("not_frontal", None, "not_product"),
    "other_modality/pydicom_examples_palette.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_rtdose.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_rtplan.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/pydicom_test-SR.dcm": ("not_frontal", None, "sop_class"),
    "other_modality/tcia_LCTSC_CT01.dcm": ("not_frontal", None, "sop_class"),
    "bad/gdcm_PrivateGE_BE.dcm": ("not_frontal", None, "sop_class"),
    "bad/okie_tag_after_pixel.dcm": ("not_frontal", None, "sop_class"),
    "bad/orthanc_2026-05-26-oob-monochrome-46341.dcm": ("unknown", None, "view_unknown"),
    "bad/orthanc_2026-05-26-oob-monochrome-65535.dcm": ("unknown", None, "view_unknown"),
    "bad/orthanc_Issue146.dcm": ("not_frontal", None, "sop_class"),
    "bad/orthanc_Issue22-NoPixelData.dcm": ("not_frontal", None, "not_product"),
    "bad/orthanc_MultiframeWindowing.dcm": ("not_frontal", None, "sop_class"),
    "bad/orthanc_UnknownSopClassUid.dcm": ("not_frontal", None, "sop_class"),
    "bad/pydicom_JPEG2000-embedded-sequence-delimiter.dcm": ("not_frontal", None, "modality"),
    "bad/pydicom_MR_truncated.dcm": ("not_frontal", None, "sop_class"),
    "bad/pydicom_badVR.dcm": ("not_frontal", None, "sop_class"),
    "bad/pydicom_rtplan_truncated.dcm": ("not_frontal", None, "sop_class"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # about the malformed files among them
def test_every_shared_file_gets_the_expected_decision(shared_data: Path) -> None:
    decided = {}
    for path in sorted((shared_data / "dicom").rglob("*")):
        if path.is_file():
            try:
                decision = decide_view(read_header(open_dataset(path)))
            except IntakeError:
                continue
            name = path.relative_to(shared_data / "dicom").as_posix()
            decided[name] = (decision.view.value, decision.is_chest, decision.reason)
    assert decided == EXPECTED


def header(**fields: Any) -> ImageHeader:
    """Make the header of a chest radiograph whose view is not told."""
    given_fields = {
        "sop_class_uid": CR,
        "sop_instance_uid": "1.2.3",
        "modality": "CR",
        "body_part_examined": "CHEST",
    } | fields
    return ImageHeader(**given_fields)


def decided(**fields: Any) -> tuple[str, str]:
    decision = decide_view(header(**fields))
    return decision.view.value, decision.reason


def srt(value: str, scheme: str = "SRT") -> Code:
    return Code(value=value, scheme_designator=scheme)


PA_CODE, LATERAL_CODE = srt("R-10214"), srt("R-102CD")


# What the object is


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"is_own_output": True}, "own_output"),
        ({"content_qualification": "RESEARCH"}, "not_product"),
        ({"content_qualification": "SERVICE"}, "not_product"),
        ({"quality_control_image": "YES"}, "quality_control_image"),
        ({"is_animal": True}, "animal"),
        ({"sop_class_uid": DX_FOR_PROCESSING}, "for_processing"),
        ({"sop_class_uid": DX, "presentation_intent_type": "FOR PROCESSING"}, "for_processing"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34"}, "sop_class"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7.2"}, "sop_class"),
        ({"sop_class_uid": SC, "modality": "CT"}, "modality"),
        ({"modality": "MG"}, "modality"),
    ],
)
def test_an_object_that_is_no_chest_radiograph_is_refused_whatever_its_view(
    fields: dict[str, Any], reason: str
) -> None:
    decision = decide_view(header(view_position="PA", view_codes=(PA_CODE,), **fields))
    assert (decision.view, decision.reason) == (View.NOT_FRONTAL, reason)
    assert decision.evidence
    assert not decision.is_scorable


def test_the_first_reason_is_the_one_that_is_given() -> None:
    everything = {
        "is_own_output": True,
        "content_qualification": "RESEARCH",
        "quality_control_image": "YES",
        "is_animal": True,
        "presentation_intent_type": "FOR PROCESSING",
        "sop_class_uid": "1.2.3",
        "modality": "CT",
    }
    reasons = []
    for keyword in list(everything):
        reasons.append(decided(**everything)[1])
        del everything[keyword]
    assert reasons == [
        "own_output", "not_product", "quality_control_image", "animal", "for_processing", "sop_class", "modality"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"content_qualification": "PRODUCT"},
        {"quality_control_image": "NO"},
        {"presentation_intent_type": "FOR PRESENTATION", "sop_class_uid": DX, "modality": "DX"},
        {"sop_class_uid": SC, "modality": "OT"},
        {"modality": None},
        {"number_of_frames": 3},  # multi-frame and colour images fail at their pixels, with a code
        {"samples_per_pixel": 3, "photometric_interpretation": "RGB"},
    ],
)
def test_what_speaks_not_against_an_image(fields: dict[str, Any]) -> None:
    assert decided(view_position="PA", **fields) == ("frontal", "view_position_frontal")


# Which part of the body


@pytest.mark.parametrize(
    "part",
    ["CHEST", "THORAX", "LUNG", "LUNGS", "CHEST PA", "CHEST_PA", "TORAX", "PORT CHEST", "CXR"],
)
def test_words_for_chest(part: str) -> None:
    decision = decide_view(header(body_part_examined=part, view_position="AP"))
    assert (decision.view, decision.is_chest) == (View.FRONTAL, True)


@pytest.mark.parametrize("part", [None, "UNKNOWN", "OTHER", "N/A", "NONE", "SOMETHING", "EXTREMETY", "ICU"])
def test_an_absent_body_part_is_unknown_and_no_rejection(part: str | None) -> None:
    decision = decide_view(header(body_part_examined=part, view_position="PA"))
    assert (decision.view, decision.is_chest) == (View.FRONTAL, None)
    assert decision.is_scorable


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("HIP", "body_part_not_chest"),
        ("C-SPINE", "body_part_not_chest"),
        ("RIBS", "body_part_not_chest"),
    ],
)
def test_another_body_part_is_a_rejection(part: str, reason: str) -> None:
    decision = decide_view(header(body_part_examined=part, view_position="PA"))
    assert (decision.view, decision.is_chest, decision.reason) == (View.NOT_FRONTAL, False, reason)


@pytest.mark.parametrize("part", ["CHEST ABDOMEN", "CHESTABDPELVIS", "NECKCHEST", "THORAX UND ABDOMEN"])
def test_the_chest_with_another_part_waits_for_a_person(part: str) -> None:
    decision = decide_view(header(body_part_examined=part, view_position="AP"))
    assert (decision.view, decision.is_chest, decision.reason) == (View.UNKNOWN, None, "chest_and_other_part")
    assert [initial_state(decision, setting) for setting in (UnknownView.SCORE, UnknownView.MODEL)] == [
        JobState.HELD,
        JobState.HELD,
    ]
    lateral = decide_view(header(body_part_examined=part, view_position="LL"))
    assert lateral.view is View.NOT_FRONTAL


CHEST_REGIONS = [
    ("816094009", "SCT"),
    ("51185008", "SCT"),
    ("39607008", "SCT"),
    ("T-D3000", "SRT"),
    ("T-28000", "SNM3"),
]


@pytest.mark.parametrize("code", CHEST_REGIONS)
def test_region_codes_of_the_chest(code: tuple[str, str]) -> None:
    decision = decide_view(header(body_part_examined=None, anatomic_region=srt(*code), view_position="PA"))
    assert (decision.view, decision.is_chest) == (View.FRONTAL, True)


def test_another_region_is_a_rejection_and_a_contradiction_is_for_a_person() -> None:
    rib = srt("113197003", "SCT")
    assert decided(body_part_examined=None, anatomic_region=rib, view_position="PA") == (
        "not_frontal",
        "anatomic_region_not_chest",
    )
    assert decided(anatomic_region=rib, view_position="PA") == ("unknown", "anatomy_contradictory")
    chest = srt("T-D3000")
    assert decided(anatomic_region=chest, body_part_examined="HIP") == ("unknown", "anatomy_contradictory")
    assert decided(anatomic_region=chest, body_part_examined="HIP", view_position="LL") == (
        "not_frontal",
        "view_position_not_frontal",
    )


@pytest.mark.parametrize(
    ("texts", "is_chest"),
    [
        ({"series_description": "Thorax a.p."}, True),
        ({"protocol_name": "W033 Chest PA"}, True),
        ({"study_description": "XR CHEST AND ABDOMEN"}, True),
        ({"series_description": "HAND LEFT", "study_description": "Chest"}, False),
        ({"series_description": "C Spine AP"}, False),
        ({"study_description": "Two views"}, None),
    ],
)
def test_descriptions_count_only_where_no_coded_anatomy_is(texts: dict[str, str], is_chest: bool | None) -> None:
    assert decide_view(header(body_part_examined=None, view_position="PA", **texts)).is_chest is is_chest
    is_contradictory = is_chest is False
    beside_chest = decide_view(header(view_position="PA", **texts))
    assert beside_chest.is_chest is (None if is_contradictory else True)
    assert (beside_chest.reason == "anatomy_contradictory") is is_contradictory


# Which projection


@pytest.mark.parametrize("scheme", ["SRT", "SNM3", "99SDM"])
@pytest.mark.parametrize("value", ["R-10202", "R-10206", "R-10214", "R-40888"])
def test_frontal_codes_of_snomed_rt(value: str, scheme: str) -> None:
    assert decided(view_codes=(srt(value, scheme),)) == ("frontal", "view_code_frontal")


@pytest.mark.parametrize("value", ["272479007", "399348003", "399033003"])
def test_frontal_codes_of_snomed_ct(value: str) -> None:
    assert decided(view_codes=(srt(value, "SCT"),)) == ("frontal", "view_code_frontal")


@pytest.mark.parametrize("code", sorted(terms.OTHER_VIEW_CODES))
def test_every_other_view_code_is_not_frontal(code: tuple[str, str]) -> None:
    assert decided(view_codes=(srt(*code),)) == ("not_frontal", "view_code_not_frontal")


@pytest.mark.parametrize(
    "code",
    [srt("R-10214", ""), srt("4711", "99X"), srt("C0442212", "UMLS")],
)
def test_a_code_under_another_scheme_says_nothing(code: Code) -> None:
    assert decided(view_codes=(code,)) == ("unknown", "view_unknown")


@pytest.mark.parametrize(
    "code",
    [
        srt("R-10214", "SCT"),
        srt("272479007", "SNM3"),
        srt("272479007", "2.16.840.1.113883.6.96"),
        srt("272479007", "SNOMED-CT"),
    ],
)
def test_designators_of_snomed_are_mixed_up_by_senders(code: Code) -> None:
    assert decided(view_codes=(code,)) == ("frontal", "view_code_frontal")


def test_a_code_of_the_site_says_what_its_meaning_says() -> None:
    def own(meaning: str) -> tuple[str, str]:
        return decided(view_codes=(Code(value="4711", scheme_designator="99X", meaning=meaning),))

    assert own("Chest PA") == ("frontal", "view_code_frontal")
    assert own("Chest left lateral") == ("not_frontal", "view_code_not_frontal")
    assert own("PA oblique") == ("not_frontal", "view_code_not_frontal")
    assert own("Standing") == ("unknown", "view_unknown")


def test_frontal_and_other_view_codes_of_one_image_do_not_make_a_frontal() -> None:
    assert decided(view_codes=(PA_CODE, LATERAL_CODE)) == ("not_frontal", "view_code_not_frontal")


@pytest.mark.parametrize("position", ["PA", "AP", "P.A.", "AP SUPINE", "AP_ERECT", "ANTEROPOSTERIOR", "FRONTAL"])
def test_frontal_view_positions(position: str) -> None:
    assert decided(view_position=position) == ("frontal", "view_position_frontal")


@pytest.mark.parametrize(
    "position",
    ["LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT", "L LAT", "RAO", "AP LORDOTIC", "PA OBLIQUE", "LLD AP"],
)
def test_other_view_positions(position: str) -> None:
    assert decided(view_position=position) == ("not_frontal", "view_position_not_frontal")


@pytest.mark.parametrize("position", ["", "ERECT", "SUPINE", "PATH", "APPROX", "UNKNOWN"])
def test_a_position_that_is_no_view_says_nothing(position: str) -> None:
    assert decided(view_position=position) == ("unknown", "view_unknown")


@pytest.mark.parametrize(
    "orientation", [("L", "F"), ("R", "F"), ("L", "H"), ("F", "L"), ("H", "R"), ("LF", "F"), ("LH", "FR")]
)
def test_orientation_alone_is_weak_and_taken_as_frontal(orientation: tuple[str, str]) -> None:
    assert decided(patient_orientation=orientation) == ("frontal", "patient_orientation_frontal")


@pytest.mark.parametrize(
    "orientation", [("P", "F"), ("A", "F"), ("A", "H"), ("F", "P"), ("L", "P"), ("LA", "F"), ("PR", "F"), ("R", "PF")]
)
def test_an_orientation_that_is_not_frontal(orientation: tuple[str, str]) -> None:
    assert decided(patient_orientation=orientation) == ("not_frontal", "patient_orientation_not_frontal")


@pytest.mark.parametrize(
    "orientation", [(), ("L",), ("L", ""), ("L", "R"), ("H", "F"), ("X", "F"), ("L", "F", "A"), ("CR", "V")]
)
def test_an_orientation_that_is_none_says_nothing(orientation: tuple[str, ...]) -> None:
    assert decided(patient_orientation=orientation) == ("unknown", "view_unknown")


@pytest.mark.parametrize(
    "fields",
    [
        {"view_codes": (PA_CODE,), "view_position": "LL"},
        {"view_codes": (LATERAL_CODE,), "view_position": "PA"},
        {"view_position": "PA", "patient_orientation": ("P", "F")},
        {"view_codes": (PA_CODE,), "patient_orientation": ("A", "F")},
        {"view_position": "AP", "series_description": "CHEST LAT"},
        {"view_position": "PA", "processing_description": "CHEST,LAT"},
        {"view_position": "PA", "body_part_examined": "CHEST LAT"},
    ],
)
def test_a_contradiction_is_never_scored_unseen(fields: dict[str, Any]) -> None:
    decision = decide_view(header(**fields))
    assert (decision.view, decision.reason) == (View.UNKNOWN, "view_contradictory")
    assert initial_state(decision, UnknownView.SCORE) is JobState.HELD
    assert initial_state(decision, UnknownView.HOLD) is JobState.HELD
    assert initial_state(decision, UnknownView.REJECT) is JobState.NOT_SCORED


def test_weak_evidence_does_not_outweigh_a_lateral_that_somebody_chose() -> None:
    # As the Agfa files of a cervical spine have it: View Position LL, Patient Orientation L\\F.
    assert decided(view_position="LL", patient_orientation=("L", "F")) == ("not_frontal", "view_position_not_frontal")
    assert decided(series_description="Chest lateral", patient_orientation=("L", "F")) == (
        "not_frontal",
        "description_not_frontal",
    )


def test_of_several_that_are_not_frontal_the_strongest_gives_the_reason() -> None:
    fields = {"view_position": "LL", "series_description": "Chest lateral"}
    assert decided(**fields) == ("not_frontal", "view_position_not_frontal")


@pytest.mark.parametrize("text", ["Thorax seitlich", "CHEST LAT", "Lateral", "thorax profil"])
def test_a_series_that_is_called_lateral_is_not_frontal(text: str) -> None:
    assert decided(series_description=text) == ("not_frontal", "description_not_frontal")
    assert decided(protocol_name=text) == ("not_frontal", "description_not_frontal")


@pytest.mark.parametrize("text", ["Chest PA and lateral", "Bilateral", "Thorax p.a./lat", "latest"])
def test_a_text_about_both_views_or_neither_says_nothing(text: str) -> None:
    assert decided(series_description=text) == ("unknown", "view_unknown")


def test_a_text_is_never_enough_for_a_frontal() -> None:
    assert decided(series_description="Chest PA", protocol_name="AP", study_description="PA") == (
        "unknown",
        "view_unknown",
    )
    assert decided(study_description="Chest lateral") == ("unknown", "view_unknown")


# What becomes of the image


@pytest.mark.parametrize(
    ("view", "is_chest", "unknown", "state"),
    [
        (View.FRONTAL, True, UnknownView.REJECT, JobState.QUEUED),
        (View.FRONTAL, None, UnknownView.HOLD, JobState.QUEUED),
        (View.FRONTAL, False, UnknownView.SCORE, JobState.NOT_SCORED),
        (View.NOT_FRONTAL, True, UnknownView.SCORE, JobState.NOT_SCORED),
        (View.UNKNOWN, None, UnknownView.HOLD, JobState.HELD),
        (View.UNKNOWN, True, UnknownView.SCORE, JobState.QUEUED),
        (View.UNKNOWN, True, UnknownView.REJECT, JobState.NOT_SCORED),
        (View.UNKNOWN, False, UnknownView.SCORE, JobState.NOT_SCORED),
    ],
)
def test_first_state(view: View, is_chest: bool | None, unknown: UnknownView, state: JobState) -> None:
    decision = ViewDecision(view=view, is_chest=is_chest, reason="view_unknown")
    assert initial_state(decision, unknown) is state


# Properties

TEXT = st.one_of(
    st.none(), st.text(max_size=20), st.sampled_from(["PA", "LL", "CHEST", "HIP", "Chest lat", "XQZ^CANARY"])
)
CODES = st.builds(
    Code,
    value=st.sampled_from(["R-10214", "R-102CD", "T-D3000", "272479007", "XQZ^CANARY"]),
    scheme_designator=st.sampled_from(["SRT", "SCT", "", "XQZ^CANARY"]),
    meaning=st.just("XQZ^CANARY"),
)
HEADERS = st.builds(
    ImageHeader,
    sop_class_uid=st.sampled_from([CR, DX, SC, DX_FOR_PROCESSING, "1.2.3"]),
    sop_instance_uid=st.just("1.2.3"),
    modality=st.sampled_from([None, "CR", "CT", "XQZ^CANARY"]),
    body_part_examined=TEXT,
    anatomic_region=st.one_of(st.none(), CODES),
    view_position=TEXT,
    view_codes=st.lists(CODES, max_size=2).map(tuple),
    patient_orientation=st.lists(st.sampled_from(["L", "F", "A", "P", "", "XQZ^CANARY"]), max_size=3).map(tuple),
    series_description=TEXT,
    protocol_name=TEXT,
    study_description=TEXT,
    presentation_intent_type=st.sampled_from([None, "FOR PROCESSING", "XQZ^CANARY"]),
    content_qualification=st.sampled_from([None, "RESEARCH", "XQZ^CANARY"]),
    quality_control_image=st.sampled_from([None, "YES", "XQZ^CANARY"]),
    is_animal=st.booleans(),
    is_own_output=st.booleans(),
)


@given(HEADERS)
@settings(max_examples=500, deadline=None)
def test_every_header_gets_a_listed_reason_and_no_text_of_the_peer(given_header: ImageHeader) -> None:
    decision = decide_view(given_header)
    assert decision.reason in REASONS
    assert "XQZ" not in str(decision.evidence)
    assert "CANARY" not in str(decision.evidence)


@given(HEADERS)
@settings(max_examples=500, deadline=None)
def test_whatever_says_not_frontal_is_never_scored(given_header: ImageHeader) -> None:
    decision = decide_view(given_header)
    says_lateral = (
        given_header.view_position == "LL"
        or LATERAL_CODE in [srt(code.value, code.scheme_designator) for code in given_header.view_codes]
        or (len(given_header.patient_orientation) == 2 and given_header.patient_orientation in {("P", "F"), ("A", "F")})
    )
    if says_lateral or given_header.is_own_output or given_header.is_animal:
        assert not decision.is_scorable
        assert initial_state(decision, UnknownView.SCORE) is not JobState.QUEUED


def test_reasons_that_are_never_assumed_are_reasons() -> None:
    assert set(REASONS) > NEVER_ASSUMED
    assert all(text.endswith(".") and len(text) < 120 for text in REASONS.values())


def test_our_own_secondary_capture_is_refused_from_its_bytes(synthetic_xray: Callable[..., Dataset]) -> None:
    own = synthetic_xray(SOPClassUID=SC, Manufacturer=product.MANUFACTURER)
    assert decide_view(read_header(own)).reason == "own_output"


# The tables


def test_code_tables_agree_with_pydicom_where_it_knows_the_pair() -> None:
    # Replaced since: R-10214, R-10218 and R-10222 by R-40888, R-40985 and G-A145 (PS3.16 CID 4010).
    retired = {"R-10214", "R-10218", "R-10222"}
    to_ct = pydicom_snomed["SRT"]
    rows = (*terms._FRONTAL_VIEWS, *terms._OTHER_VIEWS, *terms._CHEST_REGIONS)
    for sct, rt, meaning in rows:
        if rt in to_ct and rt not in retired:
            assert to_ct[rt] == sct, meaning
    unknown = {rt for _, rt, _ in rows if rt and rt not in to_ct}
    assert unknown <= retired | {"R-4077D", "R-40780"}


def test_no_term_is_in_two_tables() -> None:
    assert not terms.FRONTAL_VIEW_CODES.keys() & terms.OTHER_VIEW_CODES.keys()
    assert not terms.CHEST_REGION_CODES.keys() & terms.OTHER_REGION_CODES.keys()
    assert not terms.FRONTAL.words & terms.OTHER_POSITIONS
    assert not terms.CHEST.words & terms.OTHER_BODY_PARTS.words
    for vocabulary in (terms.FRONTAL, terms.LATERAL, terms.CHEST, terms.OTHER_BODY_PARTS):
        for term in (*vocabulary.words, *vocabulary.stems, *vocabulary.parts):
            assert terms.fold(term) == term  # or it would never be found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("P.A.", {"PA"}),
        ("a.p. erect", {"AP", "ERECT"}),
        ("C-SPINE", {"CSPINE"}),
        ("L Spine lat", {"LSPINE", "LAT"}),
        ("CHEST_PA/LAT", {"CHEST", "PA", "LAT"}),
        ("Tórax", {"TORAX"}),
        ("A-P", {"AP"}),
        ("P / A", {"PA"}),
        ("PA1", {"PA"}),
        ("POSTERIOR_ANTERIOR", {"POSTEROANTERIOR"}),
        ("ŁÓDŹ", {"LODZ"}),
        ("", set()),
    ],
)
def test_words(text: str, words: set[str]) -> None:
    assert terms.words_of(text) == words
