"""The pixel recipe: a small, frozen, versioned description of how stored pixels become the model's input.

The model package holds its recipe, and the recipe's digest is part of the package's fingerprint. Training and serving
call ``cxr.pixels.model_input.to_model_input`` with the same recipe, so that they produce the same bytes. A choice that
changes a pixel of the result is a field here, or raises ``RECIPE_VERSION``. A corrected reading of the DICOM header is
neither: it changes only films that were read wrongly before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

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

Size = Annotated[int, Field(ge=16, le=4096)]  # rows and columns
GreyLevels = Annotated[int, Field(ge=2, le=65536)]
Percentile = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

# Fields that later versions added: a recipe's document leaves them out at these values, so that the digests of
# packages that were made without them stay.
_LATER: Final[Mapping[str, Any]] = MappingProxyType(
    {"quantised": False, "borders": "keep", "margin": 0.0, "detail": None, "contrast": "keep"}
)


# A dataclass rather than a BaseModel: dataclasses.replace checks the changed fields, model_copy does not.
@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class PixelRecipe:
    """Every choice between the stored pixels and the model's input.

    Raises
    ------
    pydantic.ValidationError
        (a ValueError) If a field is of another type or outside its range; the message names every fault.
    """

    version: Annotated[int, Field(ge=RECIPE_VERSION, le=RECIPE_VERSION)] = RECIPE_VERSION

    size: Size = 224
    """Rows and columns of the model's input, 16 to 4096."""

    fit: Fit = "pad"
    """``pad``: keep the proportions, centre, and fill with the border's value (nothing is cropped:
    costophrenic angles). ``stretch``: distort to a square."""

    resample: Resample = "area"
    """``area``: mean over each area when shrinking, linear when enlarging. ``nearest``: nearest
    neighbour, the pixels that Pillow selects."""

    scaling: Scaling = "voi"
    """How DICOM values become grey. ``voi``: the header's VOI LUT sequence or window, and robust percentiles where
    there is none or it is unusable (``max_saturated``, ``min_spread``). ``percentile``: always percentiles.
    ``maximum``: ``max(x, 0) / max(x)``."""

    low_percentile: Percentile = 0.5
    high_percentile: Percentile = 99.5
    """Percentiles, in [0, 100], that become black and white; see ``cxr.pixels.grey_table.robust_range``."""

    max_saturated: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.75
    """Largest share of pixels that a header's window may leave within one 8-bit level of black or of white, in (0, 1];
    beyond it percentiles replace the window. 1: never. Films with proper windows reach 0.44 (wide collimator borders);
    a CT window on a lateral film, 0.86."""

    min_spread: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.15
    """Smallest distance, as a share of the grey scale, in [0, 1), that a header's window may leave between the low and
    the high percentile; below it percentiles replace the window. 0: never. Proper windows: 0.7 and more."""

    modality_lut: bool = True
    """Apply the Modality LUT Sequence, or Rescale Slope and Intercept."""

    inversion: bool = True
    """Invert MONOCHROME1 and Presentation LUT Shape INVERSE."""

    padding: bool = True
    """Leave Pixel Padding Value (and Range Limit) out of the statistics, and make it black."""

    grey_levels: GreyLevels | None = None
    """Truncate to this many grey levels, 2 to 65536, before resampling, as systems that store PNG files do;
    None: no truncation."""

    colour: Colour = "grey_only"
    """``grey_only``: DICOM colour is refused, and PNG and JPEG colour unless it is really grey.
    ``luminance``: any colour is reduced to its luminance."""

    raster: Raster = "full"
    """How PNG and JPEG become grey. ``full``: divide by the largest value of the type.
    ``robust``: percentiles."""

    quantised: bool = False
    """Round the result to 65 535 steps (``cxr.pixels.sixteen_bit``), so that a training cache of 16-bit numbers
    holds exactly the values that are served. True for every model that this project trains."""

    borders: Borders = "keep"
    """``crop``: cut off uniform edges, before any other step (``cxr.pixels.normalise``)."""

    margin: Annotated[float, Field(ge=0, le=0.25, allow_inf_nan=False)] = 0.0
    """Share of rows and columns that is cut off at each edge after ``borders``, in [0, 0.25]: markers and burned-in
    text lie there."""

    detail: Size | None = None
    """Resample to this many rows and columns before the model's size, so that no source is sharper than
    another; None: no such step."""

    contrast: Contrast = "keep"
    """``equalise``: give every picture the same histogram, by rank, after ``detail``."""

    @model_validator(mode="after")
    def _check_percentiles(self) -> Self:
        if not self.low_percentile < self.high_percentile:
            raise ValueError("low_percentile, high_percentile: accepted is 0 <= low < high <= 100")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for ``package.json``: all but later ones that are at their default."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PixelRecipe:
        """Read the document that ``to_dict`` returns, strictly.

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
        names = {field.name for field in fields(cls)}
        absent, extra = sorted(names - set(values) - set(_LATER)), len(set(values) - names)
        if absent or extra:
            raise IncompatiblePackage(
                f"The pixel recipe lacks {', '.join(absent) or 'nothing'} and has {extra} unknown "
                "keys: every field is needed and no other is accepted; rebuild the package."
            )
        try:
            return cls(**values)
        except ValidationError as error:
            raise IncompatiblePackage(
                f"The pixel recipe is not valid: {describe_faults(error)}; rebuild the package."
            ) from error

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the canonical JSON of every field."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def describe_faults(error: ValidationError) -> str:
    """Return every fault of a recipe as ``field: what is accepted``, without the received values."""
    return "; ".join(
        ": ".join([*map(str, fault["loc"][:1]), fault["msg"].removeprefix("Value error, ")])
        for fault in error.errors(include_url=False, include_input=False)
    )


DEFAULT_RECIPE: Final = PixelRecipe()
"""224 x 224, padded to a square: the recipe of untrained packages."""

TRAINING_RECIPE: Final = PixelRecipe(quantised=True)
"""``DEFAULT_RECIPE`` in 65 535 steps: the default for training."""

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
"""Preprocessing of MIDRC CRP-2 (Emory ResNet50, 2021) in its training: Niffler's PNGs (``max(x, 0) / max(x)``
truncated to 8 bits; no VOI LUT, no inversion), stretched to 224 x 224 with Pillow's nearest
neighbour, divided by 255. The graph repeats the channel."""

RECIPES: Final[Mapping[str, PixelRecipe]] = MappingProxyType(
    {"default": DEFAULT_RECIPE, "midrc-emory": MIDRC_EMORY_RECIPE}
)
"""Recipes by name."""
