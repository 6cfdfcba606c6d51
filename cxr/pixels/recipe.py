"""How stored pixels become the model's input: a small, frozen, versioned recipe.

A recipe stands in the model package, its digest in the package's fingerprint. Training and serving
call ``cxr.pixels.model_input.to_model_input`` with the same recipe, so that they see the same bytes. Whatever
changes a pixel of the result is a field here, or raises ``RECIPE_VERSION``. Corrections of how a header is read are
neither: they change films that were read wrongly, and no other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from cxr.errors import IncompatiblePackage

RECIPE_VERSION: Final = 1
"""Version of the procedure in ``cxr.pixels.model_input``; a recipe of any other version is refused."""

Fit = Literal["pad", "stretch"]
Resample = Literal["area", "nearest"]
Scaling = Literal["voi", "percentile", "maximum"]
Colour = Literal["grey_only", "luminance"]
Raster = Literal["full", "robust"]
Borders = Literal["keep", "crop"]
Contrast = Literal["keep", "equalise"]

_CHOICES: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "fit": get_args(Fit),
        "resample": get_args(Resample),
        "scaling": get_args(Scaling),
        "colour": get_args(Colour),
        "raster": get_args(Raster),
        "borders": get_args(Borders),
        "contrast": get_args(Contrast),
    }
)
_FLAGS: Final = ("modality_lut", "inversion", "padding", "quantised")
# Fields of later versions: left out of a recipe's document while they change nothing, so that the
# digests of packages that were made without them stay.
_LATER: Final[Mapping[str, Any]] = MappingProxyType(
    {"quantised": False, "borders": "keep", "margin": 0.0, "detail": None, "contrast": "keep"}
)
_SIZES: Final = (16, 4096)  # as in the package's manifest
_GREY_LEVELS: Final = (2, 65536)
_MOST_MARGIN: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRecipe:
    """Every choice between the stored pixels and the model's input.

    Raises
    ------
    ValueError
        If a field is of another type or outside its range; the message names field and range.
    """

    version: int = RECIPE_VERSION

    size: int = 224
    """Rows and columns of the model's input."""

    fit: Fit = "pad"
    """``pad``: keep the proportions, centre, and fill with the border's value (nothing is cropped:
    costophrenic angles). ``stretch``: distort to a square."""

    resample: Resample = "area"
    """``area``: mean over each area when shrinking, linear when enlarging. ``nearest``: nearest
    neighbour, the same pixels as Pillow takes."""

    scaling: Scaling = "voi"
    """How DICOM values become grey. ``voi``: the header's VOI LUT sequence or window, and robust
    percentiles where there is none or it ruins the picture. ``percentile``: always percentiles.
    ``maximum``: ``max(x, 0) / max(x)``."""

    low_percentile: float = 0.5
    high_percentile: float = 99.5
    """Percentiles, in [0, 100], that become black and white; see ``cxr.pixels.grey_table.robust_range``."""

    max_saturated: float = 0.75
    """A header's window that leaves more than this share of the pixels within one 8-bit level of
    black or of white ruins the picture: percentiles are used instead. In (0, 1]; 1: never. Real films
    with proper windows reach 0.44 (wide collimator borders); a CT's window on a lateral film, 0.86."""

    min_spread: float = 0.15
    """A header's window that puts the low and the high percentile closer together than this share
    of the grey scale ruins the picture too. In [0, 1); 0: never. Proper windows: 0.7 and more."""

    modality_lut: bool = True
    """Apply the Modality LUT Sequence, or Rescale Slope and Intercept."""

    inversion: bool = True
    """Invert MONOCHROME1 and Presentation LUT Shape INVERSE."""

    padding: bool = True
    """Leave Pixel Padding Value (and Range Limit) out of the statistics, and make it black."""

    grey_levels: int | None = None
    """Truncate to this many grey levels before resampling, as systems do that store PNG files;
    None: no truncation."""

    colour: Colour = "grey_only"
    """``grey_only``: DICOM colour is refused, and PNG and JPEG colour unless it is really grey.
    ``luminance``: any colour is reduced to its luminance."""

    raster: Raster = "full"
    """How PNG and JPEG become grey. ``full``: divide by the largest value of the type.
    ``robust``: percentiles."""

    quantised: bool = False
    """Round the result to 65 535 steps (``cxr.pixels.sixteen_bit``), so that a training cache of 16-bit numbers
    holds exactly what is served. True for everything that this project trains."""

    borders: Borders = "keep"
    """``crop``: cut off edges that show nothing, before anything else (``cxr.pixels.normalise``)."""

    margin: float = 0.0
    """Share of each side that is cut off at either end then, in [0, 0.25]: where markers and texts stand."""

    detail: int | None = None
    """Reduce to this many rows and columns before the model's size, so that no source is sharper than
    another; None: no."""

    contrast: Contrast = "keep"
    """``equalise``: give every picture the same histogram, by rank, after ``detail``."""

    def __post_init__(self) -> None:
        if type(self.version) is not int or self.version != RECIPE_VERSION:
            raise ValueError(f"version: {RECIPE_VERSION} is accepted")
        for name, accepted in _CHOICES.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name}: accepted are {', '.join(accepted)}")
        for name in _FLAGS:
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name}: true or false is accepted")
        self._check_numbers()

    def _check_numbers(self) -> None:
        _check_whole("size", self.size, _SIZES)
        if self.grey_levels is not None:
            _check_whole("grey_levels", self.grey_levels, _GREY_LEVELS)
        if self.detail is not None:
            _check_whole("detail", self.detail, _SIZES)
        for name in ("low_percentile", "high_percentile", "max_saturated", "min_spread", "margin"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name}: a finite number is accepted")
            object.__setattr__(self, name, float(value))  # 1 and 1.0 are one recipe, with one digest
        if not 0 <= self.low_percentile < self.high_percentile <= 100:
            raise ValueError("low_percentile, high_percentile: accepted is 0 <= low < high <= 100")
        if not 0 < self.max_saturated <= 1:
            raise ValueError("max_saturated: a number in (0, 1] is accepted")
        if not 0 <= self.min_spread < 1:
            raise ValueError("min_spread: a number in [0, 1) is accepted")
        if not 0 <= self.margin <= _MOST_MARGIN:
            raise ValueError(f"margin: a number in [0, {_MOST_MARGIN}] is accepted")

    def to_dict(self) -> dict[str, Any]:
        """Give every field that matters, for ``package.json``."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PixelRecipe:
        """Read what ``to_dict`` gave, and nothing else.

        Raises
        ------
        IncompatiblePackage
            If a key is unknown or absent, a value is not accepted, or the version is another.
        """
        if not isinstance(values, Mapping):
            raise IncompatiblePackage("The pixel recipe is not a JSON object: rebuild the package.")
        version = values.get("version")
        if type(version) is not int or version != RECIPE_VERSION:
            raise IncompatiblePackage(
                f"The pixel recipe's version is not {RECIPE_VERSION}, the one that this version of cxr-listener "
                "serves: install the version that the package was made with, or rebuild the package."
            )
        known = {field.name for field in fields(cls)}
        absent, extra = sorted(known - set(values) - set(_LATER)), len(set(values) - known)
        if absent or extra:
            raise IncompatiblePackage(
                f"The pixel recipe lacks {', '.join(absent) or 'nothing'} and has {extra} unknown "
                "keys: every field is needed and no other is accepted; rebuild the package."
            )
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise IncompatiblePackage(f"The pixel recipe is not valid: {error}.") from error

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the canonical JSON of every field."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _check_whole(name: str, value: object, accepted: tuple[int, int]) -> None:
    low, high = accepted
    if not (type(value) is int and low <= value <= high):
        raise ValueError(f"{name}: a whole number from {low} to {high} is accepted")


DEFAULT_RECIPE: Final = PixelRecipe()
"""224 x 224, padded to a square: what untrained packages are served with."""

TRAINING_RECIPE: Final = PixelRecipe(quantised=True)
"""The same in 65 535 steps: what this project trains with, and serves what it trained with."""

MIDRC_EMORY_RECIPE: Final = PixelRecipe(
    fit="stretch",
    resample="nearest",
    scaling="maximum",
    modality_lut=False,
    inversion=False,
    padding=False,
    grey_levels=256,
    colour="luminance",
)
"""What the weights of MIDRC CRP-2 (Emory ResNet50, 2021) saw: Niffler's PNGs (``max(x, 0) / max(x)``
truncated to 8 bits; no VOI LUT, no inversion), stretched to 224 x 224 with Pillow's nearest
neighbour, divided by 255. The three equal channels are made in the graph."""

RECIPES: Final[Mapping[str, PixelRecipe]] = MappingProxyType(
    {"default": DEFAULT_RECIPE, "midrc-emory": MIDRC_EMORY_RECIPE}
)
"""The recipes that have a name."""
