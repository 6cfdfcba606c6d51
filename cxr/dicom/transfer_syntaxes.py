"""Transfer syntaxes whose pixels can be decoded. Importing this module loads no decoder."""

from __future__ import annotations

from typing import Final

from pydicom.uid import (
    HTJ2K,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pydicom.uid import JPEG2000 as JPEG2000_LOSSY

NATIVE_SYNTAXES: Final[tuple[UID, ...]] = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
"""Native pixels (PS3.5 Annex A.1 to A.3, A.5)."""

COMPRESSED_SYNTAXES: Final[tuple[UID, ...]] = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000_LOSSY,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    RLELossless,
)
"""Encapsulated pixels (PS3.5 Annex A.4) that ``cxr.pixels.decoders`` can decode."""

DECODABLE_SYNTAXES: Final[tuple[UID, ...]] = NATIVE_SYNTAXES + COMPRESSED_SYNTAXES
"""All transfer syntaxes whose pixels can be decoded; the conformance statement lists them."""
