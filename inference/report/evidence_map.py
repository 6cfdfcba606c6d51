"""Where the evidence for a finding lies in the picture: as a Secondary Capture, and as a PNG.

The map is the model's own where it has one (its logit is the mean of the map), else Grad-CAM, an
approximation by gradients that is named as such wherever it appears. It is drawn over what the
model saw, with the notice burned in, because viewers show pictures without their headers.

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
from inference.report.build import BuiltReport, ReportOptions, SourceDigests, finish, identify
from inference.report.header import code_item, shared_modules
from inference.report.source import SourceImage, read_source
from inference.report.words import words_for

if TYPE_CHECKING:
    from datetime import datetime

    from cxr.domain import Code, Score, ScoredImage
    from cxr.package import PackageManifest

_SIDE = 896  # pixels of the drawn radiograph; four times the usual model input
_LINE = 36  # pixels per line of text
_BAR = 150  # pixels of width for the colour bar and its numbers
_MOST_OPAQUE = 0.6
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TOWARDS = np.array((255, 90, 0), np.float32)  # RGB; evidence for the finding
_AGAINST = np.array((0, 110, 255), np.float32)  # RGB; evidence against it
_WHITE = (255, 255, 255)
_WARNING = (255, 220, 0)

Rgb = NDArray[np.uint8]


class Method(Enum):
    """How a map came about, and what it is called for it.

    Parameters
    ----------
    title
        In the picture and in texts; ASCII.
    unit
        Of the map's values.
    code
        What the Secondary Capture was derived by.
    series
        Its Series Description, without what the package's status adds.
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
        """How maps of this package come about."""
        return cls.GRAD_CAM if package.outputs.evidence is None else cls.EVIDENCE


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The class whose map is drawn: the one with the highest score."""

    score: Score
    evidence: NDArray[np.float32]  # (rows, columns), logits


def saliency(
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
    """Make the evidence map of one image as a Secondary Capture in the image's study.

    Parameters
    ----------
    source
        The received image, freshly read, pixels not needed.
    scored
        What the model says; the class with the highest score is drawn.
    pixels
        What the model saw; shape (size, size, 1), in [0, 1].
    evidence
        Evidence per class, shape (rows, columns, classes), in logits, in the order of the scores.
    digests
        Of the image.
    created
        The moment that all stamps tell; aware.
    options
        As for the report.
    method
        How the map came about.

    Raises
    ------
    ReportError
        If the image's UIDs or the shapes do not allow a valid object.
    """
    if created.tzinfo is None:
        raise ReportError("The moment of creation has no time zone: give an aware datetime.")
    picture = render(pixels, evidence, scored, method)
    with warnings.catch_warnings():
        # On purpose: pydicom names values in its warnings, and these would be a patient's.
        warnings.simplefilter("ignore")
        image = read_source(source)
        identity = identify(
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
        _add_capture(capture, image, _drawn(evidence, scored).score.finding, method)
        if not read_geometry(source).is_upright:  # the map lies over the picture as the model saw it
            capture.PatientOrientation = ["L", "F"]
            capture.DerivationDescription += " Turned upright, by Patient Orientation of the source."
        _add_pixels(capture, picture)
    return finish(capture)


def overlay(
    pixels: NDArray[np.float32],
    evidence: NDArray[np.float32],
    scored: ScoredImage,
    method: Method = Method.EVIDENCE,
) -> bytes:
    """Make the same picture as a PNG file.

    Parameters
    ----------
    pixels
        What the model saw; shape (size, size, 1), in [0, 1].
    evidence
        Evidence per class, shape (rows, columns, classes), in logits, in the order of the scores.
    scored
        What the model says.
    method
        How the map came about.

    Raises
    ------
    ReportError
        If the shapes do not fit each other.
    """
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
        What the model saw; shape (size, size, 1), in [0, 1].
    evidence
        Evidence per class, shape (rows, columns, classes), in logits, in the order of the scores.
    scored
        What the model says.
    method
        How the map came about.

    Returns
    -------
    ndarray
        RGB, shape (height, width, 3), uint8.

    Raises
    ------
    ReportError
        If the shapes do not fit each other, or there is a value that is not finite.
    """
    drawn = _drawn(evidence, scored)
    grey = np.asarray(pixels, np.float32)
    if grey.ndim != 3 or grey.shape[2] != 1 or not np.isfinite(grey).all():
        raise ReportError("The picture has another shape than (size, size, 1), or values that are not finite.")
    limit = float(np.abs(drawn.evidence).max()) or 1.0
    radiograph = cv2.resize(grey[..., 0].clip(0, 1), (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    strength = cv2.resize(drawn.evidence / limit, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    body = np.hstack([_blend(radiograph, strength), _colour_bar(limit, method)])
    captions = _captions(scored, drawn, method)
    return np.vstack([_banner(_notices(scored), body.shape[1]), body, _banner(captions, body.shape[1])])


def _drawn(evidence: NDArray[np.float32], scored: ScoredImage) -> _Drawn:
    maps = np.asarray(evidence, np.float32)
    if maps.ndim != 3 or maps.shape[2] != len(scored.scores) or not maps.size or not np.isfinite(maps).all():
        raise ReportError("The evidence has another shape than (rows, columns, scores), or values that are not finite.")
    index = max(range(len(scored.scores)), key=lambda each: scored.scores[each].score)
    return _Drawn(scored.scores[index], np.ascontiguousarray(maps[..., index]))


def _blend(grey: NDArray[np.float32], strength: NDArray[np.float32]) -> Rgb:
    """Lay colour over grey: orange for, blue against, the stronger the more opaque."""
    colour = np.where(strength[..., None] >= 0, _TOWARDS, _AGAINST)
    opacity = (np.abs(strength) * _MOST_OPAQUE)[..., None]
    mixed: Rgb = np.rint(grey[..., None] * 255 * (1 - opacity) + colour * opacity).clip(0, 255).astype(np.uint8)
    return mixed


def _colour_bar(limit: float, method: Method) -> Rgb:
    """Draw what a colour stands for; Grad-CAM has nothing below 0."""
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
    status = words_for(scored.status)
    if status.prefix:
        lines.append((status.status, _WARNING))
    return lines


def _captions(scored: ScoredImage, drawn: _Drawn, method: Method) -> list[tuple[str, tuple[int, int, int]]]:
    prefix = words_for(scored.status).prefix
    lay = [("Picture turned upright, by Patient Orientation", _WHITE)] if TURNED in scored.warnings else []
    return [
        (f"{method.title} for {drawn.score.finding}: score {drawn.score.score * 100:.2f} %", _WHITE),
        (f"{prefix}{scored.model_name} {scored.model_version}", _WHITE),
        (f"Package {scored.fingerprint[:16]}; not a segmentation, not a finding", _WHITE),
        *lay,
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
