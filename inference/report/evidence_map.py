"""Evidence map of a finding over the radiograph, as a Secondary Capture and as a PNG.

The map is the model's own if it has one (its mean is the logit before calibration), else Grad-CAM, a gradient
approximation that is labelled as such wherever it appears. It is drawn over the model's input, with the notice
burned in, because viewers show pictures without their headers.

References
----------
DICOM PS3.3 Sections A.8.1, C.8.6.1, C.7.6.1; PS3.16 CID 217
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import SecondaryCaptureImageStorage

from cxr import product
from cxr.errors import ReportError
from cxr.pixels.geometry import read_geometry
from cxr.pixels.quality_checks import TURNED
from inference.report import codes
from inference.report.build import BuiltReport, ReportOptions, SourceDigests, derive_identity, finalise
from inference.report.header import code_item, shared_modules
from inference.report.source import EvidenceMapReference, SourceImage, read_source
from inference.report.words import wording_for

if TYPE_CHECKING:
    from datetime import datetime

    from cxr.domain import Code, Score, ScoredImage
    from cxr.package import PackageManifest

_SIDE = 896  # pixels of the drawn radiograph; four times the usual model input
_LINE = 36  # pixels per line of text
_BAR = 150  # pixels; width of the colour bar with its numbers
_MOST_OPAQUE = 0.6
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TOWARDS = np.array((255, 90, 0), np.float32)  # RGB; evidence for the finding
_AGAINST = np.array((0, 110, 255), np.float32)  # RGB; evidence against it
_WHITE = (255, 255, 255)
_WARNING = (255, 220, 0)

Rgb = NDArray[np.uint8]


class Method(Enum):
    """Method of the map, with its names.

    Parameters
    ----------
    title
        Name in the picture and in texts; ASCII.
    unit
        Unit of the map's values.
    code
        Derivation code of the Secondary Capture.
    series
        Series Description, without the prefix of the package's status.
    """

    EVIDENCE = ("Evidence map", "logits", codes.CLASS_ACTIVATION, product.SALIENCY_SERIES_DESCRIPTION)
    GRAD_CAM = ("Grad-CAM (approximation)", "relative", codes.GRAD_CAM, product.GRAD_CAM_SERIES_DESCRIPTION)

    def __init__(self, title: str, unit: str, code: Code, series: str) -> None:
        self.title = title
        self.unit = unit
        self.code = code
        self.series = series

    @classmethod
    def of(cls, package: PackageManifest) -> Method:
        """Return the method for a package."""
        return cls.GRAD_CAM if package.outputs.evidence is None else cls.EVIDENCE


@dataclass(frozen=True, slots=True)
class _ClassMap:
    """Map of the class with the highest score."""

    score: Score
    evidence: NDArray[np.float32]  # (rows, columns), logits


def build_evidence_map(
    source: Dataset,
    scored: ScoredImage,
    pixels: NDArray[np.float32],
    evidence: NDArray[np.float32],
    *,
    digests: SourceDigests,
    created: datetime,
    options: ReportOptions | None = None,
    method: Method = Method.EVIDENCE,
) -> BuiltReport:
    """Build the evidence map of one image as a Secondary Capture in the image's study.

    Parameters
    ----------
    source
        Received image, freshly read, pixels not needed.
    scored
        Scores of the image; the map of the class with the highest score is drawn.
    pixels
        Input of the model; shape (size, size, 1), in [0, 1].
    evidence
        Evidence per class, shape (rows, columns, classes), in logits (Grad-CAM: relative), in the order of the scores.
    digests
        Digests of the image.
    created
        Time of creation for all date and time attributes, aware.
    options
        Options of the report.
    method
        Method of the map.

    Raises
    ------
    ReportError
        If the image's UIDs or the shapes do not allow a valid object.
    """
    if created.tzinfo is None:
        raise ReportError("The time of creation has no time zone: pass an aware datetime.")
    picture = render(pixels, evidence, scored, method)
    with warnings.catch_warnings():
        # Suppressed on purpose: pydicom's warnings quote values, which may be a patient's.
        warnings.simplefilter("ignore")
        image = read_source(source)
        identity = derive_identity(
            image,
            scored,
            digests,
            options or ReportOptions(),
            created,
            kind="saliency" if method is Method.EVIDENCE else f"saliency/{method.name.lower()}",
            sop_class=str(SecondaryCaptureImageStorage),
        )
        capture = shared_modules(
            source,
            identity,
            modality="OT",
            number=product.SALIENCY_SERIES_NUMBER,
            description=method.series,
        )
        _add_capture(capture, image, _class_map(evidence, scored).score.finding, method)
        if not read_geometry(source).is_upright:  # the map lies over the model's input, which is upright
            capture.PatientOrientation = ["L", "F"]
            capture.DerivationDescription += " Turned upright, by Patient Orientation of the source."
        _add_pixels(capture, picture)
    return finalise(capture)


def reference_to(built: BuiltReport, scored: ScoredImage) -> EvidenceMapReference:
    """Return the reference by which the report of the same image refers to an evidence map."""
    return EvidenceMapReference(
        sop_class_uid=built.sop_class_uid,
        sop_instance_uid=built.sop_instance_uid,
        series_instance_uid=built.series_instance_uid,
        finding=_highest(scored).finding,
    )


def overlay_png(
    pixels: NDArray[np.float32],
    evidence: NDArray[np.float32],
    scored: ScoredImage,
    method: Method = Method.EVIDENCE,
) -> bytes:
    """Return the picture of ``render`` as a PNG file; arguments and errors as there."""
    picture = render(pixels, evidence, scored, method)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return bytes(encoded.tobytes())


def render(
    pixels: NDArray[np.float32],
    evidence: NDArray[np.float32],
    scored: ScoredImage,
    method: Method = Method.EVIDENCE,
) -> Rgb:
    """Draw the radiograph with the evidence over it, the notice, and a colour bar.

    Parameters
    ----------
    pixels
        Input of the model; shape (size, size, 1), in [0, 1].
    evidence
        Evidence per class, shape (rows, columns, classes), in logits (Grad-CAM: relative), in the order of the scores.
    scored
        Scores of the image.
    method
        Method of the map.

    Returns
    -------
    ndarray
        RGB, shape (height, width, 3), uint8.

    Raises
    ------
    ReportError
        If the shapes do not match, or a value is not finite.
    """
    class_map = _class_map(evidence, scored)
    grey = np.asarray(pixels, np.float32)
    if grey.ndim != 3 or grey.shape[2] != 1 or not np.isfinite(grey).all():
        raise ReportError("The picture has another shape than (size, size, 1), or values that are not finite.")
    limit = float(np.abs(class_map.evidence).max()) or 1.0
    radiograph = cv2.resize(grey[..., 0].clip(0, 1), (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    strength = cv2.resize(class_map.evidence / limit, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    body = np.hstack([_blend(radiograph, strength), _colour_bar(limit, method)])
    captions = _captions(scored, class_map, method)
    return np.vstack([_banner(_notices(scored), body.shape[1]), body, _banner(captions, body.shape[1])])


def _class_map(evidence: NDArray[np.float32], scored: ScoredImage) -> _ClassMap:
    maps = np.asarray(evidence, np.float32)
    if maps.ndim != 3 or maps.shape[2] != len(scored.scores) or not maps.size or not np.isfinite(maps).all():
        raise ReportError("The evidence has another shape than (rows, columns, scores), or values that are not finite.")
    highest = _highest(scored)
    return _ClassMap(highest, np.ascontiguousarray(maps[..., scored.scores.index(highest)]))


def _highest(scored: ScoredImage) -> Score:
    return max(scored.scores, key=lambda score: score.score)


def _blend(grey: NDArray[np.float32], strength: NDArray[np.float32]) -> Rgb:
    """Blend colour over grey: orange for the finding, blue against it; opacity grows with the evidence."""
    colour = np.where(strength[..., None] >= 0, _TOWARDS, _AGAINST)
    opacity = (np.abs(strength) * _MOST_OPAQUE)[..., None]
    mixed: Rgb = np.rint(grey[..., None] * 255 * (1 - opacity) + colour * opacity).clip(0, 255).astype(np.uint8)
    return mixed


def _colour_bar(limit: float, method: Method) -> Rgb:
    """Draw the colour bar; Grad-CAM has no values below 0."""
    panel = np.zeros((_SIDE, _BAR, 3), np.uint8)
    top, bottom = 2 * _LINE, _SIDE - 2 * _LINE
    lowest = -1.0 if method is Method.EVIDENCE else 0.0
    scale = np.linspace(1, lowest, bottom - top, dtype=np.float32)[:, None].repeat(30, axis=1)
    panel[top:bottom, 15:45] = _blend(np.full_like(scale, 0.5), scale)
    numbers = [(1.0, top + 12), (lowest, bottom)] + ([(0.0, _SIDE // 2)] if lowest else [])
    for share, row in numbers:
        _write(panel, f"{share * limit:+.2g}", (52, row), _WHITE, 0.6)
    _write(panel, "for", (15, top - 12), _WHITE, 0.6)
    _write(panel, "against" if lowest else "nothing", (15, bottom + 24), _WHITE, 0.6)
    _write(panel, method.unit, (15, bottom + 48), _WHITE, 0.6)
    return panel


def _notices(scored: ScoredImage) -> list[tuple[str, tuple[int, int, int]]]:
    lines = [(product.NOTICE, _WARNING)]
    status = wording_for(scored.status)
    if status.prefix:
        lines.append((status.status, _WARNING))
    return lines


def _captions(scored: ScoredImage, class_map: _ClassMap, method: Method) -> list[tuple[str, tuple[int, int, int]]]:
    prefix = wording_for(scored.status).prefix
    orientation = [("Picture turned upright, by Patient Orientation", _WHITE)] if TURNED in scored.warnings else []
    return [
        (f"{method.title} for {class_map.score.finding}: score {class_map.score.score * 100:.2f} %", _WHITE),
        (f"{prefix}{scored.model_name} {scored.model_version}", _WHITE),
        (f"Package {scored.fingerprint[:16]}; not a segmentation, not a finding", _WHITE),
        *orientation,
    ]


def _banner(lines: list[tuple[str, tuple[int, int, int]]], width: int) -> Rgb:
    panel = np.zeros((len(lines) * _LINE + 12, width, 3), np.uint8)
    for number, (text, colour) in enumerate(lines, start=1):
        _write(panel, text, (12, number * _LINE - 6), colour, _fitting_scale(text, width - 24))
    return panel


def _fitting_scale(text: str, width: int) -> float:
    (natural, _), _ = cv2.getTextSize(text, _FONT, 1.0, 2)
    return float(min(0.9, width / max(natural, 1)))


def _write(panel: Rgb, text: str, origin: tuple[int, int], colour: tuple[int, int, int], scale: float) -> None:
    cv2.putText(panel, text, origin, _FONT, scale, colour, 2 if scale > 0.7 else 1, cv2.LINE_AA)


def _add_capture(capture: Dataset, image: SourceImage, finding: str, method: Method) -> None:
    """Add General Image, SC Equipment and SC Image (PS3.3 Sections C.7.6.1, C.8.6.1, C.8.6.2)."""
    reference = code_item(codes.SOURCE_FOR_PROCESSING)
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    item.PurposeOfReferenceCodeSequence = Sequence([reference])
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.ConversionType = "WSD"
    capture.PatientOrientation = list(image.patient_orientation or ())
    capture.ImageLaterality = "U"
    capture.BurnedInAnnotation = "YES"
    capture.DerivationDescription = f"{method.title}, {method.code.meaning.lower()}, for {finding}. {product.NOTICE}"
    capture.DerivationCodeSequence = Sequence([code_item(method.code)])
    capture.SourceImageSequence = Sequence([item])


def _add_pixels(capture: Dataset, picture: Rgb) -> None:
    capture.SamplesPerPixel = 3
    capture.PhotometricInterpretation = "RGB"
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = picture.shape[:2]
    capture.BitsAllocated, capture.BitsStored, capture.HighBit = 8, 8, 7
    capture.PixelRepresentation = 0
    capture.add_new("PixelData", "OB", picture.tobytes() + b"\0" * (picture.size % 2))
