"""Put finished packages into the compact folder that the project ships (``cxr.package.shipped``)."""

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
"""What a clone of the project carries for its models, at most."""

_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)
_WEIGHTS_MEMBER: Final = "model.weights.h5"


def ship(packages: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Write the compact form of packages, and prove that they come back byte for byte.

    Parameters
    ----------
    packages
        Name (``covid19``, ``four-class``) to a package's folder.
    folder
        Where to; what is there under other names, as the view model, stays.

    Returns
    -------
    dict[str, str]
        Name to fingerprint.

    Raises
    ------
    PackageError
        If a package can't be read, or all together are too large.
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
            f"The shipped models have {size / 1e6:.1f} MB, accepted are {MOST_BYTES / 1e6:.0f}: round their weights "
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
            layout, skeleton, contents = shrink(package.model_path.read_bytes())
            _add(archive, f"{name}.json", layout.model_dump_json().encode())
            _add(archive, f"{name}.skeleton", skeleton)
            for key in sorted(set(contents) - written):
                _add(archive, key, contents[key])
            written |= set(contents)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, _NO_DATE)
    member.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(member, content)


def shrink(content: bytes) -> tuple[Layout, bytes, dict[str, bytes]]:
    """Take a ``.keras`` file apart.

    Parameters
    ----------
    content
        The file, its members not compressed, as ``training.networks.keras_file`` writes it.

    Returns
    -------
    tuple
        Layout, skeleton and tensors, as ``cxr.package.compact_weights.expand`` takes them.

    Raises
    ------
    PackageError
        If its weights can't be found in it.
    """
    start, weights = _find_weights(content)
    tensors: list[Tensor] = []
    contents: dict[str, bytes] = {}
    skeleton: list[bytes] = []
    done = 0
    for offset, values in sorted(_datasets(weights), key=lambda found: found[0]):
        form, channels, encoded = encode(values)
        place = start + offset
        key = key_of(encoded)
        contents[key] = encoded
        tensors.append(Tensor(offset=place, form=form, values=values.size, channels=channels, key=key))
        skeleton.append(content[done:place])
        done = place + values.nbytes
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
    """Find the tensors of an HDF5 file: offset of the first byte, and the values."""
    found: list[tuple[int, Any]] = []

    def visit(_: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset) and entry.dtype == np.dtype("<f4") and entry.size:
            offset = entry.id.get_offset()
            if offset is not None:
                found.append((int(offset), entry[...]))

    with h5py.File(io.BytesIO(weights), "r") as file:
        file.visititems(visit)
    yield from found
