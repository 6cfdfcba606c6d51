"""Compact encoding of ``.keras`` files that restores each file byte for byte.

A file is split into its tensors and the bytes between them (the skeleton). A kernel whose values are integer
multiples, -127 to 127, of one scale per output channel (see ``training.shipped.quantise``) is stored in 8 bits; other
tensors are stored unchanged. Equal tensors of several files are stored once, so that models share a trunk.

The restored bytes don't depend on the installed Keras or HDF5: a scale has at most 16 significant bits, so that its
product with an 8-bit integer is exact in float32. int8 arrays in an ``.npz`` file would not replace the skeleton:
``model.keras`` saved anew by Keras has other bytes than its SHA-256 in ``package.json``.
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
"""Largest absolute value of an 8-bit weight."""

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Floats = NDArray[np.float32]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tensor(_Part):
    """One tensor of a file: position and encoding."""

    offset: int = Field(ge=0)  # of its first byte in the file
    form: Literal["float32", "int8"]
    values: int = Field(ge=1)
    channels: int = Field(1, ge=1)  # int8: number of scales, one for each index of the last axis
    key: Key  # of its encoded bytes in the archive


class Layout(_Part):
    """Size of a file, and its tensors."""

    size: int = Field(ge=1)
    tensors: tuple[Tensor, ...]  # by offset


def encode(values: Floats) -> tuple[Literal["float32", "int8"], int, bytes]:
    """Encode a tensor losslessly: 8 bits per value if its scales permit, else float32.

    Parameters
    ----------
    values
        Any shape; the last axis is that of the output channels.

    Returns
    -------
    tuple
        Form, number of channels, and encoded bytes; those of ``int8`` are the scales (float32, little
        endian) followed by the integers.
    """
    plain = np.ascontiguousarray(values, "<f4")
    scales = scales_of(plain) if plain.ndim > 1 else None
    if scales is not None:
        levels = to_levels(plain, scales)
        if (levels.astype(np.float32) * scales).astype("<f4").tobytes() == plain.tobytes():
            return "int8", len(scales), scales.astype("<f4").tobytes() + levels.tobytes()
    return "float32", 1, plain.tobytes()


def scales_of(values: Floats) -> Floats:
    """Return the scale of each channel (last axis): its largest absolute value / 127."""
    largest = np.abs(values).max(axis=tuple(range(values.ndim - 1)))
    scales: Floats = (largest / np.float32(LEVELS)).astype(np.float32)
    return scales


def to_levels(values: Floats, scales: Floats) -> NDArray[np.int8]:
    """Round values to integer multiples, -127 to 127, of their channel's scale."""
    steps = np.where(scales > 0, scales, np.float32(1))
    return np.clip(np.rint(values / steps), -LEVELS, LEVELS).astype(np.int8)


def key_of(content: bytes) -> str:
    """Return the archive name of encoded bytes: the first 128 bits of their SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()[:32]


def expand(layout: Layout, skeleton: bytes, contents: Mapping[str, bytes]) -> bytes:
    """Restore a file.

    Parameters
    ----------
    layout
        Size and tensors of the file.
    skeleton
        The bytes between the tensors, in order.
    contents
        Key to encoded bytes of the tensors.

    Returns
    -------
    bytes
        The file's content.

    Raises
    ------
    DamagedPackage
        If layout, skeleton and tensors are inconsistent.
    """
    parts: list[bytes] = []
    written = used = 0  # bytes of the file, bytes of the skeleton
    for tensor in layout.tensors:
        gap = tensor.offset - written
        parts.append(skeleton[used : used + gap])
        used += gap
        parts.append(_decode(tensor, contents.get(tensor.key, b"")))
        written = tensor.offset + 4 * tensor.values
        if gap < 0 or used > len(skeleton):
            break
    parts.append(skeleton[used:])
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
    return DamagedPackage("The parts of a shipped model are inconsistent: install this project again.")
