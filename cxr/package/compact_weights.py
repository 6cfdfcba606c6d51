"""Weights in few bytes, and back to the very same file.

A ``.keras`` file is cut into its tensors and what stands between them (the skeleton). A kernel whose
values are whole multiples, -127 to 127, of one number per output channel (``training.shipped.quantise``
makes such) is kept in 8 bits; every other tensor as it is. Equal tensors of several files are kept
once, so that models that share a trunk share its bytes. Expanded, a file has its own bytes again,
whatever Keras or HDF5 is installed: the product of a 7-bit and a 16-bit number is exact in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cxr.errors import DamagedPackage

LEVELS: Final = 127
"""Largest whole number of an 8-bit weight."""

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Floats = NDArray[np.float32]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tensor(_Part):
    """One tensor of a file: where it lies, and how it is kept."""

    offset: int = Field(ge=0)  # of its first byte in the file
    form: Literal["float32", "int8"]
    values: int = Field(ge=1)
    channels: int = Field(1, ge=1)  # int8: scales, one for each place of the last axis
    key: Key  # of its bytes in the archive


class Layout(_Part):
    """How a file is put together again."""

    size: int = Field(ge=1)
    tensors: tuple[Tensor, ...]  # in the order in which they lie in the file


def encode(values: Floats) -> tuple[Literal["float32", "int8"], int, bytes]:
    """Keep a tensor in as few bytes as it can be had back from exactly.

    Parameters
    ----------
    values
        Any shape.

    Returns
    -------
    tuple
        The form, the number of channels, and the bytes: with ``int8``, the scales (float32, little
        endian) and then the whole numbers.
    """
    plain = np.ascontiguousarray(values, "<f4")
    scales = scales_of(plain) if plain.ndim > 1 else None
    if scales is not None:
        levels = to_levels(plain, scales)
        if (levels.astype(np.float32) * scales).astype("<f4").tobytes() == plain.tobytes():
            return "int8", len(scales), scales.astype("<f4").tobytes() + levels.tobytes()
    return "float32", 1, plain.tobytes()


def scales_of(values: Floats) -> Floats:
    """Give each channel (last axis) the number that its largest value is 127 times of."""
    largest = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
    scales: Floats = (largest / np.float32(LEVELS)).astype(np.float32)
    return scales


def to_levels(values: Floats, scales: Floats) -> NDArray[np.int8]:
    """Round values to whole multiples of their channel's scale."""
    steps = np.where(scales > 0, scales, np.float32(1))
    return np.clip(np.rint(values / steps), -LEVELS, LEVELS).astype(np.int8)


def key_of(content: bytes) -> str:
    """Name a tensor's bytes."""
    return hashlib.sha256(content).hexdigest()[:32]


def expand(layout: Layout, skeleton: bytes, contents: Mapping[str, bytes]) -> bytes:
    """Put a file together again.

    Parameters
    ----------
    layout
        Its layout.
    skeleton
        Everything that is not a tensor, in order.
    contents
        Key to bytes of the tensors.

    Returns
    -------
    bytes
        The file.

    Raises
    ------
    DamagedPackage
        If the parts don't fit each other.
    """
    parts: list[bytes] = []
    written = taken = 0
    for tensor in layout.tensors:
        gap = tensor.offset - written
        parts.append(skeleton[taken : taken + gap])
        taken += gap
        parts.append(_decode(tensor, contents.get(tensor.key, b"")))
        written = tensor.offset + 4 * tensor.values
        if gap < 0 or taken > len(skeleton):
            break
    parts.append(skeleton[taken:])
    whole = b"".join(parts)
    if len(whole) != layout.size:
        raise _damaged()
    return whole


def _decode(tensor: Tensor, content: bytes) -> bytes:
    if tensor.form == "float32":
        plain = content
    else:
        if tensor.values % tensor.channels or len(content) != 4 * tensor.channels + tensor.values:
            raise _damaged()
        scales = np.frombuffer(content, "<f4", tensor.channels)
        levels = np.frombuffer(content, np.int8, offset=4 * tensor.channels)
        plain = (levels.reshape(-1, tensor.channels).astype(np.float32) * scales).astype("<f4").tobytes()
    if len(plain) != 4 * tensor.values:
        raise _damaged()
    return plain


def _damaged() -> DamagedPackage:
    return DamagedPackage("The parts of a shipped model don't fit each other: install this project again.")
