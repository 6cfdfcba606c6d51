"""The table of transfer syntaxes: those whose pixels can be decoded, in order of preference.

Importing this module loads no decoder.

References
----------
DICOM PS3.5 Section 10 and Annex A
"""

from __future__ import annotations

from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
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

LOSSLESS_SYNTAXES: Final[tuple[UID, ...]] = (
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    RLELossless,
)
"""Encapsulated pixels (PS3.5 Section A.4), compressed without loss."""

LOSSY_SYNTAXES: Final[tuple[UID, ...]] = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    JPEG2000,
    HTJ2K,
)
"""Encapsulated pixels (PS3.5 Section A.4), compressed with loss, or possibly so (JPEG 2000, HTJ2K)."""

COMPRESSED_SYNTAXES: Final[tuple[UID, ...]] = LOSSLESS_SYNTAXES + LOSSY_SYNTAXES
"""Encapsulated pixels that ``cxr.pixels.decoders`` can decode."""

DECODABLE_SYNTAXES: Final[tuple[UID, ...]] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    *COMPRESSED_SYNTAXES,
    ExplicitVRBigEndian,
)
"""All transfer syntaxes whose pixels can be decoded, in order of preference: uncompressed, lossless, lossy; the retired
one last."""
