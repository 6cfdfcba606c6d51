"""Archive of the shipped models: packages with their weights in compact form (``cxr.package.shipped``)."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from cxr.errors import PackageError
from cxr.package import MODEL_FILE, ModelPackage, load_package
from cxr.package.compact_weights import Layout, Tensor, encode, key_of
from cxr.package.shipped import WEIGHTS_FILE, Index, Shipped, write_index

MOST_BYTES: Final = 50 * 1000 * 1000
"""Largest size of the shipped models in the repository, in bytes."""

_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)
_WEIGHTS_MEMBER: Final = "model.weights.h5"


def ship(packages: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Write the compact form of packages, and check that they expand byte for byte.

    Parameters
    ----------
    packages
        Name (``covid19``, ``four-class``) to a package's folder.
    folder
        Target folder; entries under other names, like the view model, are kept.

    Returns
    -------
    dict[str, str]
        Name to fingerprint.

    Raises
    ------
    PackageError
        If a package can't be read, or the total size exceeds ``MOST_BYTES``.
    """
    loaded = {name: load_package(path) for name, path in packages.items()}
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder / WEIGHTS_FILE, loaded)
    for name, package in loaded.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(package.folder, folder / name, ignore=lambda _, __: {MODEL_FILE})
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    fingerprints = {name: package.fingerprint for name, package in loaded.items()}
    write_index(folder, Index(weights=digest, packages=fingerprints))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        raise PackageError(
            f"The shipped models have {size / 1e6:.1f} MB; accepted are {MOST_BYTES / 1e6:.0f} MB: round their weights "
            "first (`cxr train quantise`), and let them share a trunk."
        )
    shipped = Shipped(folder)
    for name in loaded:
        with tempfile.TemporaryDirectory() as temporary:
            shipped.expand(name, Path(temporary) / name)
    return fingerprints


def _write_weights(path: Path, packages: Mapping[str, ModelPackage]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        written: set[str] = set()
        for name, package in packages.items():
            layout, skeleton, contents = split_keras_file(package.model_path.read_bytes())
            _add(archive, f"{name}.json", layout.model_dump_json().encode())
            _add(archive, f"{name}.skeleton", skeleton)
            for key in sorted(set(contents) - written):
                _add(archive, key, contents[key])
            written |= set(contents)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, _NO_DATE)
    member.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(member, content)


def split_keras_file(content: bytes) -> tuple[Layout, bytes, dict[str, bytes]]:
    """Split a ``.keras`` file into layout, skeleton and tensors.

    Parameters
    ----------
    content
        The file with uncompressed members, as ``training.networks.keras_file`` writes it.

    Returns
    -------
    tuple
        Layout, skeleton and key to tensor, for ``cxr.package.compact_weights.expand``.

    Raises
    ------
    PackageError
        If its weights are compressed.
    """
    start, weights = _find_weights(content)
    tensors: list[Tensor] = []
    contents: dict[str, bytes] = {}
    skeleton: list[bytes] = []
    done = 0
    for offset, values in sorted(_datasets(weights), key=lambda tensor: tensor[0]):
        form, channels, encoded = encode(values)
        position = start + offset
        key = key_of(encoded)
        contents[key] = encoded
        tensors.append(Tensor(offset=position, form=form, values=values.size, channels=channels, key=key))
        skeleton.append(content[done:position])
        done = position + values.nbytes
    skeleton.append(content[done:])
    return Layout(size=len(content), tensors=tuple(tensors)), b"".join(skeleton), contents


def _find_weights(content: bytes) -> tuple[int, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = archive.getinfo(_WEIGHTS_MEMBER)
        weights = archive.read(member)
    start = content.find(weights, member.header_offset) if member.compress_type == zipfile.ZIP_STORED else -1
    if start < 0:
        raise PackageError("The weights in model.keras are compressed: export the model with `cxr train package`.")
    return start, weights


def _datasets(weights: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the float32 tensors of an HDF5 file: offset of the first byte, and values."""
    tensors: list[tuple[int, Any]] = []

    def visit(_: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset) and entry.dtype == np.dtype("<f4") and entry.size:
            offset = entry.id.get_offset()
            if offset is not None:
                tensors.append((int(offset), entry[...]))

    with h5py.File(io.BytesIO(weights), "r") as file:
        file.visititems(visit)
    yield from tensors
