"""Check a ``.keras`` file before Keras loads it: only a plain graph of listed layers is accepted.

A digest proves that the file is the exported one, not that it is harmless. Keras's safe mode refuses
pickled functions; layers that read files, call other frameworks or hold custom code are refused here, and
so are links from the weights' HDF5 file to other files.

References
----------
Vulnerabilities of Keras when it loads `.keras` and HDF5 files: CVE-2025-1550, CVE-2025-8747, CVE-2025-9905,
CVE-2025-9906, CVE-2025-12058.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py

from cxr.errors import DamagedPackage, IncompatiblePackage

WEIGHTS = "model.weights.h5"
MEMBERS = frozenset({"metadata.json", "config.json", WEIGHTS})
MAX_CONFIG_BYTES = 16 << 20
# Weights up to this size are checked in memory, as Keras holds them anyway: HDF5 seeks, and each seek backwards in an
# archive member decompresses it again from its start, which takes seconds. Larger ones are read that way.
MAX_WEIGHTS_BYTES = 1 << 30

LAYERS = frozenset(
    {
        *("InputLayer", "Functional", "Sequential"),
        *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense"),
        *("BatchNormalization", "LayerNormalization", "GroupNormalization", "Normalization", "Rescaling"),
        *("Activation", "ReLU", "LeakyReLU", "Softmax", "Dropout", "SpatialDropout2D"),
        *("Add", "Average", "Concatenate", "Multiply", "Maximum"),
        *("MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
        *("Flatten", "Reshape", "Permute", "ZeroPadding2D", "Cropping2D", "UpSampling2D", "Resizing"),
    }
)
"""Accepted layers: those of the reference architectures of radiograph classifiers."""

# Objects that a layer's configuration may hold beside layers; none of them runs code when a graph is loaded.
_PARTS = frozenset(
    {
        *("DTypePolicy", "L1", "L2", "L1L2", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"),
        *("Constant", "Ones", "Zeros", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"),
        *("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal"),
    }
)
_PART_MODULES = frozenset({"keras", "keras.initializers", "keras.regularizers", "keras.constraints"})
_LAYER_MODULES = frozenset({"keras", "keras.layers", "keras.models"}) | {
    f"keras.src.models.{module}" for module in ("functional", "sequential")
}


def check_graph_file(path: Path) -> None:
    """Refuse a model file that holds anything but a plain graph.

    Parameters
    ----------
    path
        The ``.keras`` file.

    Raises
    ------
    DamagedPackage
        If the file is not a Keras 3 archive.
    IncompatiblePackage
        If it holds a layer that is not accepted (the message names it) or a link to another file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path.name)
            config = json.loads(archive.read("config.json"))
            with _weights(archive) as weights, h5py.File(weights, "r") as file:
                _check_links(file)
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError, KeyError) as error:
        raise DamagedPackage(
            f"{path.name} is not a Keras 3 archive: export the model with Keras 3 in the .keras format."
        ) from error
    if not isinstance(config, dict):
        raise DamagedPackage(f"{path.name} describes no graph: export the model with Keras 3 in the .keras format.")
    # The training configuration is not checked, because the model is loaded without it.
    config.pop("compile_config", None)
    for name, entry in _objects(config, "model"):
        _check_object(name, entry)


def _check_members(archive: zipfile.ZipFile, file: str) -> None:
    members = {info.filename: info for info in archive.infolist()}
    if set(members) != MEMBERS or len(members) != len(archive.infolist()):
        raise IncompatiblePackage(
            f"{file} may hold {', '.join(sorted(MEMBERS))} and nothing else: export the model without assets."
        )
    if members["config.json"].file_size > MAX_CONFIG_BYTES:
        raise IncompatiblePackage(f"The graph's description is larger than {MAX_CONFIG_BYTES >> 20} MiB.")


def _weights(archive: zipfile.ZipFile) -> IO[bytes]:
    if archive.getinfo(WEIGHTS).file_size > MAX_WEIGHTS_BYTES:
        return archive.open(WEIGHTS)
    return io.BytesIO(archive.read(WEIGHTS))


def _check_links(group: h5py.Group) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise IncompatiblePackage("The weights hold a link to somewhere else: export the model again.")
        entry = group[name]
        if isinstance(entry, h5py.Group):
            _check_links(entry)
        elif not isinstance(entry, h5py.Dataset) or entry.external or entry.is_virtual:
            raise IncompatiblePackage("The weights refer to other files: export the model again.")


def _objects(node: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 (any JSON)
    """Iterate over every object description in the configuration, with the name of its layer."""
    if isinstance(node, dict):
        if "class_name" in node:
            config = node.get("config")
            name = config["name"] if isinstance(config, dict) and isinstance(config.get("name"), str) else name
            yield name, node
        for value in node.values():
            yield from _objects(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _objects(value, name)


def _check_object(name: str, entry: dict[str, Any]) -> None:
    kind, module, registered = entry["class_name"], entry.get("module"), entry.get("registered_name")
    if kind == "__keras_tensor__":
        return
    is_layer = module in _LAYER_MODULES and kind in LAYERS
    is_part = module in _PART_MODULES and kind in _PARTS
    # Functional and Sequential are registered under their own names; anything else is custom code.
    if not (is_layer or is_part) or registered not in (None, kind):
        raise IncompatiblePackage(
            f"The graph holds {kind!r} (layer {name!r}), which is not served: Lambda layers, custom objects and layers "
            "that read files or call other frameworks are refused. Rebuild the model from plain Keras layers."
        )
