"""Read the weights, and nothing else, of a Keras 2 model's HDF5 file.

Such a file also holds a description of the graph, from which Keras would construct objects, and it
may link to other files. Neither is read: the caller names the layers, their arrays and shapes, and a
file with other ones is refused before an array is read.

References
----------
Attacks by HDF5 files on Keras: CVE-2025-9905 (code in a legacy file), CVE-2025-12058 (reading files).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from cxr.errors import IncompatiblePackage

Weights = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""Layer, then short name (``kernel``, ``bias``, ``gamma``...), to array."""

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Layer, then short name, to expected shape; a layer without weights has no names."""

HDF5Object: TypeAlias = Any
"""An ``h5py.Group`` or ``h5py.Dataset``: h5py has no type hints."""

_MODEL_WEIGHTS: Final = "model_weights"
_LFS_POINTER: Final = b"version https://git-lfs"
_MOST_NAMES: Final = 4096
_PRINTABLE: Final = re.compile(r"[^ -~]")


class LegacyFile:
    """An open HDF5 file of Keras 2: ``model.save`` or ``model.save_weights``.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    IncompatiblePackage
        If it is of another form.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise IncompatiblePackage("The file is a Git LFS pointer, not the weights: run `git lfs pull` there.")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise IncompatiblePackage("The file is not HDF5: give the .h5 or .hdf5 file that Keras 2 wrote.") from error
        try:
            self._group = _step(self._file, _MODEL_WEIGHTS) if _MODEL_WEIGHTS in self._file else self._file
            self.layers = _names(self._group, "layer_names")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> LegacyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, shapes: Shapes) -> Weights:
        """Read the arrays of layers.

        Parameters
        ----------
        shapes
            For each layer to read, exactly the arrays that it must have.

        Raises
        ------
        IncompatiblePackage
            If a layer has other arrays, shapes or types, or is a link or a reference to another
            file; the message names the layer.
        """
        return {layer: self._read_layer(layer, expected) for layer, expected in shapes.items()}

    def _read_layer(self, layer: str, expected: Mapping[str, tuple[int, ...]]) -> Mapping[str, NDArray[np.float32]]:
        group = _step(self._group, layer)
        paths = {_short(path): path for path in _names(group, "weight_names")}
        if set(paths) != set(expected):
            raise IncompatiblePackage(
                f"Layer {quoted(layer)} of the file holds {_list(paths)}; the graph that is rebuilt has "
                f"{_list(expected)}."
            )
        return {name: _read_array(_walk(group, paths[name]), layer, shape) for name, shape in expected.items()}


def quoted(name: str) -> str:
    """Return a name of the file for a message: printable, at most 64 characters, quoted."""
    return repr(_PRINTABLE.sub("?", name)[:64])


def _read_array(dataset: HDF5Object, layer: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not isinstance(dataset, h5py.Dataset):
        raise IncompatiblePackage(
            f"Layer {quoted(layer)} of the file holds something else where its weights should be."
        )
    if dataset.is_virtual or dataset.external or dataset.chunks is not None:
        # Keras writes contiguous arrays; filters of chunks may be plug-ins that HDF5 loads.
        raise IncompatiblePackage(
            f"The weights of layer {quoted(layer)} lie in other files or in packed pieces: give the file as Keras "
            "wrote it."
        )
    if dataset.shape != shape or dataset.dtype != np.dtype("<f4"):
        raise IncompatiblePackage(
            f"Layer {quoted(layer)} of the file has weights of shape {dataset.shape} and type {dataset.dtype}; "
            f"the graph that is rebuilt has {shape}, float32."
        )
    array: NDArray[np.float32] = dataset[()]
    if not np.isfinite(array).all():
        raise IncompatiblePackage(f"Layer {quoted(layer)} of the file has weights that are not finite: it is damaged.")
    return array


def _walk(group: HDF5Object, path: str) -> HDF5Object:
    for name in path.split("/"):
        group = _step(group, name)
    return group


def _step(group: HDF5Object, name: str) -> HDF5Object:
    """Return a child that is a hard link; refuse soft and external links."""
    if not isinstance(group, h5py.Group) or not name or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise IncompatiblePackage(
            f"{quoted(name)} is missing in the file, or is a link to somewhere else: give the file as Keras wrote it."
        )
    return group[name]


def _names(group: HDF5Object, attribute: str) -> Sequence[str]:
    attribute_value = group.attrs.get(attribute) if isinstance(group, h5py.Group) else None
    values = np.atleast_1d(attribute_value) if attribute_value is not None else None
    if values is None or values.ndim != 1 or len(values) > _MOST_NAMES or values.dtype.kind not in "SOUf":
        raise IncompatiblePackage(f"The file has no list {attribute}: give the .h5 or .hdf5 file that Keras 2 wrote.")
    # Keras writes an empty list as an empty array of numbers.
    names = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in values]
    if len(set(names)) != len(names):
        raise IncompatiblePackage(f"The file's list {attribute} names something twice: it is damaged.")
    return names


def _short(path: str) -> str:
    """Return ``kernel`` of ``dense/kernel:0``."""
    return path.rsplit("/", 1)[-1].split(":", 1)[0]


def _list(names: object) -> str:
    return ", ".join(sorted(map(quoted, names))) or "nothing"  # type: ignore[call-overload]
