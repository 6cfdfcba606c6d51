"""The evidence map as a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from cxr import product
from cxr.dicom import read_header
from cxr.domain import PackageStatus, ScoredImage
from cxr.errors import ReportError
from cxr.package import PackageManifest
from cxr.pixels.quality_checks import TURNED
from inference.report import evidence_map
from inference.report.build import BuiltReport, SourceDigests

CREATED = datetime(2024, 5, 1, 10, 0, tzinfo=UTC)
DIGESTS = SourceDigests(pixel_digest="p", identity_digest="i")
HEADING = 48  # pixels above the radiograph, with one line of notice
SIDE = 896

Scored = Callable[..., ScoredImage]


@pytest.fixture
def scored(model_manifest: Callable[..., PackageManifest], scored_by: Scored) -> Scored:
    def make(*findings: str, status: PackageStatus = PackageStatus.EVALUATED, scores: tuple[float, ...] = ()) -> Any:
        return scored_by(model_manifest(*findings, status=status), *scores)

    return make


def grey(value: float = 0.5, size: int = 32) -> NDArray[np.float32]:
    return np.full((size, size, 1), value, np.float32)


def radiograph(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    return picture[HEADING : HEADING + SIDE, :SIDE].astype(int)


def red_minus_blue(picture: NDArray[np.uint8], corner: str) -> int:
    """How orange (positive) or blue (negative) a corner of the drawn radiograph is."""
    row, column = {"top left": (50, 50), "bottom right": (SIDE - 50, SIDE - 50), "centre": (448, 448)}[corner]
    red, _, blue = radiograph(picture)[row, column]
    return int(red - blue)


def test_evidence_for_is_orange_and_against_is_blue_where_it_lies(scored: Scored) -> None:
    evidence = np.zeros((7, 7, 1), np.float32)
    evidence[0, 0], evidence[6, 6] = 2.0, -2.0
    picture = evidence_map.render(grey(), evidence, scored())
    assert red_minus_blue(picture, "top left") > 60
    assert red_minus_blue(picture, "bottom right") < -60
    assert red_minus_blue(picture, "centre") == 0


def test_without_evidence_the_radiograph_is_as_it_was(scored: Scored) -> None:
    ramp = np.linspace(0, 1, 32, dtype=np.float32).reshape(1, 32, 1).repeat(32, axis=0)
    shown = radiograph(evidence_map.render(ramp, np.zeros((7, 7, 1), np.float32), scored()))
    assert (shown == shown[..., :1]).all()  # grey
    assert shown[100, 0, 0] == 0
    assert shown[100, -1, 0] == 255
    assert (np.diff(shown[100, :, 0]) >= 0).all()


def test_the_map_of_the_highest_score_is_drawn(scored: Scored) -> None:
    evidence = np.zeros((7, 7, 2), np.float32)
    evidence[0, 0, 0] = evidence[6, 6, 1] = 2.0
    first = evidence_map.render(grey(), evidence, scored("covid19", "normal", scores=(0.8, 0.2)))
    second = evidence_map.render(grey(), evidence, scored("covid19", "normal", scores=(0.2, 0.8)))
    assert (red_minus_blue(first, "top left") > 60, red_minus_blue(first, "bottom right")) == (True, 0)
    assert (red_minus_blue(second, "top left"), red_minus_blue(second, "bottom right") > 60) == (0, True)


def test_the_notice_is_burned_in_and_grows_with_the_status(scored: Scored) -> None:
    evidence = np.zeros((7, 7, 1), np.float32)
    plain = evidence_map.render(grey(), evidence, scored())
    untrained = evidence_map.render(grey(), evidence, scored(status=PackageStatus.UNTRAINED))
    demonstration = evidence_map.render(grey(), evidence, scored(status=PackageStatus.DEMONSTRATION))
    assert (plain[:HEADING, :, 0] > 200).sum() > 500  # letters
    assert untrained.shape[0] == demonstration.shape[0] == plain.shape[0] + 36  # one line more
    assert (untrained[HEADING : HEADING + 36] != demonstration[HEADING : HEADING + 36]).any()
    for picture in (plain, untrained):  # nothing runs over the edge
        assert (picture[:HEADING, -4:] == 0).all()
        assert (picture[-100:, -4:] == 0).all()


def test_a_long_model_name_stays_inside_the_picture(scored: Scored) -> None:
    long = replace(scored(status=PackageStatus.DEMONSTRATION), model_name="W" * 64, model_version="W" * 32)
    picture = evidence_map.render(grey(), np.zeros((7, 7, 1), np.float32), long)
    assert (picture[-110:, -8:] == 0).all()


def test_the_overlay_is_the_same_picture_as_a_png(scored: Scored) -> None:
    evidence = np.random.default_rng(0).normal(size=(7, 7, 1)).astype(np.float32)
    image = scored()
    encoded = evidence_map.overlay_png(grey(), evidence, image)
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert encoded.startswith(b"\x89PNG")
    assert (decoded == evidence_map.render(grey(), evidence, image)).all()


@pytest.mark.parametrize(
    ("pixels", "evidence"),
    [
        (grey()[..., 0], np.zeros((7, 7, 1))),
        (grey(), np.zeros((7, 7))),
        (grey(), np.zeros((7, 7, 2))),
        (grey(), np.zeros((0, 7, 1))),
        (grey(), np.full((7, 7, 1), np.nan)),
        (grey(np.nan), np.zeros((7, 7, 1))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    scored: Scored, pixels: NDArray[np.float32], evidence: NDArray[np.float32]
) -> None:
    with pytest.raises(ReportError):
        evidence_map.render(pixels, evidence, scored())


@pytest.fixture
def capture(synthetic_xray: Callable[..., Dataset], scored: Scored) -> Callable[..., BuiltReport]:
    def make(
        scored_image: ScoredImage | None = None,
        created: datetime = CREATED,
        method: evidence_map.Method = evidence_map.Method.EVIDENCE,
        **elements: Any,
    ) -> BuiltReport:
        return evidence_map.build_evidence_map(
            synthetic_xray(**elements),
            scored_image or scored(),
            grey(),
            np.ones((7, 7, 1), np.float32),
            digests=DIGESTS,
            created=created,
            method=method,
        )

    return make


def test_the_secondary_capture_says_what_it_is(
    capture: Callable[..., BuiltReport], synthetic_xray: Callable[..., Dataset], scored: Scored
) -> None:
    source = synthetic_xray()
    read = dcmread(BytesIO(capture().content))
    assert read.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert read.ImageType == ["DERIVED", "SECONDARY"]
    assert read.ContentQualification == "RESEARCH"
    assert read.BurnedInAnnotation == "YES"
    assert read.SeriesNumber == product.SALIENCY_SERIES_NUMBER
    assert read.SeriesDescription == product.SALIENCY_SERIES_DESCRIPTION
    assert (read.StudyInstanceUID, read.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert read.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert read.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert read.DerivationCodeSequence[0].CodeValue == "130402"
    assert read.pixel_array.shape == (read.Rows, read.Columns, 3)
    assert (read.pixel_array == evidence_map.render(grey(), np.ones((7, 7, 1), np.float32), scored())).all()


def test_a_turned_film_is_shown_upright_and_its_map_names_that(
    capture: Callable[..., BuiltReport], scored: Scored
) -> None:
    plain, turned = scored(), replace(scored(), warnings=(TURNED,))
    read = dcmread(BytesIO(capture(turned, PatientOrientation=["F", "L"]).content))
    assert list(read.PatientOrientation) == ["L", "F"]  # as the picture in it lies
    assert "Turned upright" in read.DerivationDescription
    map_of = np.ones((7, 7, 1), np.float32)
    assert (read.pixel_array == evidence_map.render(grey(), map_of, turned)).all()
    assert read.pixel_array.shape[0] == evidence_map.render(grey(), map_of, plain).shape[0] + 36  # a caption more
    upright = dcmread(BytesIO(capture(PatientOrientation=["L", "F"]).content))
    assert "Turned" not in upright.DerivationDescription


def test_it_is_recognised_as_our_own(capture: Callable[..., BuiltReport]) -> None:
    assert read_header(dcmread(BytesIO(capture().content))).is_own_output


def test_an_untrained_model_is_named_in_the_series_too(capture: Callable[..., BuiltReport], scored: Scored) -> None:
    header = capture(scored(status=PackageStatus.UNTRAINED)).dataset
    assert header.SeriesDescription.startswith("UNTRAINED MODEL")
    assert len(header.SeriesDescription) <= 64


def test_the_same_input_gives_the_same_bytes_and_the_uid_does_not_tell_time(
    capture: Callable[..., BuiltReport],
) -> None:
    assert capture().content == capture().content
    later = capture(created=datetime(2025, 1, 1, tzinfo=UTC))
    assert later.sop_instance_uid == capture().sop_instance_uid
    assert later.content != capture().content


def test_the_moment_must_be_aware_and_the_study_known(capture: Callable[..., BuiltReport]) -> None:
    with pytest.raises(ReportError, match="time zone"):
        capture(created=CREATED.replace(tzinfo=None))
    with pytest.raises(ReportError, match="StudyInstanceUID"):
        capture(StudyInstanceUID=None)


def test_grad_cam_is_named_in_the_header_and_in_the_picture(
    capture: Callable[..., BuiltReport], scored: Scored
) -> None:
    exact, approximate = capture(), capture(method=evidence_map.Method.GRAD_CAM)
    assert approximate.sop_instance_uid != exact.sop_instance_uid
    header = dcmread(BytesIO(approximate.content))
    assert header.DerivationCodeSequence[0].CodeValue == "130403"
    assert header.DerivationDescription.startswith("Grad-CAM (approximation), gradient-weighted class activation")
    assert header.SeriesDescription == "AI Grad-CAM - RESEARCH USE ONLY"
    assert read_header(header).is_own_output
    evidence = np.ones((7, 7, 1), np.float32)
    exactly = evidence_map.render(grey(), evidence, scored())
    nearly = evidence_map.render(grey(), evidence, scored(), evidence_map.Method.GRAD_CAM)
    assert (radiograph(exactly) == radiograph(nearly)).all()
    bar = (slice(HEADING, HEADING + SIDE), slice(SIDE, None))
    bottom = (slice(HEADING + SIDE - 100, HEADING + SIDE - 80), slice(SIDE + 20, SIDE + 40))
    assert (exactly[bar] != nearly[bar]).any()
    assert int(exactly[bottom][..., 2].mean()) > int(exactly[bottom][..., 0].mean()) + 60  # blue: against
    assert abs(int(nearly[bottom][..., 2].mean()) - int(nearly[bottom][..., 0].mean())) < 20  # grey: nothing
    assert (exactly[-124:] != nearly[-124:]).any()  # the caption
