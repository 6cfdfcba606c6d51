"""Initial weights of a trunk: random, a verified file, published ImageNet weights, or an earlier run."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import h5py
from keras.src.backend.config import keras_home  # Keras has no public name for it

from cxr.errors import RunError
from training.files import whole_file
from training.networks import build
from training.networks.backbones import Scaling
from training.networks.keras_types import KerasModel

_HEADS: Final = frozenset({"predictions", "probs", "fc1", "fc2", "fc1000"})
"""Names of layers of classification heads in published files."""

_OTHER_PROGRAMS: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".safetensors"), ", of PyTorch")
    | {".onnx": ", of ONNX", ".keras": ", a whole model of Keras"}
)
"""Suffix of other files to words."""

_BASE: Final = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """A published file of ImageNet weights: its URL, and the MD5 that Keras verifies."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The file's name, in the URL and in Keras's cache."""
        return self.url.rpartition("/")[2]


IMAGENET: Final[Mapping[str, PublishedWeights]] = MappingProxyType(
    {
        "resnet50": PublishedWeights(
            f"{_BASE}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"
        ),
        "vgg16": PublishedWeights(
            f"{_BASE}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc"
        ),
        "densenet169": PublishedWeights(
            f"{_BASE}/densenet/densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "b8c4d4c20dd625c148057b9ff1c1176b",
        ),
    }
)
"""Architectures whose ImageNet weights Keras publishes."""


def weights_overrides(weights: str) -> list[str]:
    """Return the recipe overrides for ``--weights``: ``random``, ``imagenet``, or a file.

    Raises
    ------
    RunError
        If it is neither of the two words nor a readable file.
    """
    if weights in ("random", "imagenet"):
        return [f'weights={{source = "{weights}"}}']
    try:
        with Path(weights).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(
            f"--weights takes random, imagenet or a file; the file can't be read ({error.strerror})."
        ) from error
    path = json.dumps(str(Path(weights).absolute()), ensure_ascii=False)
    return [f'weights={{source = "file", path = {path}, sha256 = "{digest}"}}']


def verify_weights_file(path: Path, sha256: str) -> Path:
    """Check a weights file against the SHA-256 in the recipe; return its path.

    Raises
    ------
    RunError
        If it can't be read, or its SHA-256 differs.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"The file of weights can't be read ({error.strerror}): correct weights.path.") from error
    if digest != sha256:
        raise RunError(
            f"The file of weights has the SHA-256 {digest}; the recipe names {sha256}: give the right file, or "
            "correct weights.sha256 if you trust this one."
        )
    return path


def imagenet_file(architecture: str, cache: Path | None = None) -> Path:
    """Return the file of a trunk's ImageNet weights; download it where the cache lacks it.

    Parameters
    ----------
    architecture
        A name of ``training.networks.backbones.BACKBONES``.
    cache
        Folder of downloaded files; None: Keras's own (``$KERAS_HOME/models``).

    Raises
    ------
    RunError
        If none are published, the download fails, or the file's MD5 differs from the published one.
    """
    if architecture not in IMAGENET:
        raise RunError(
            f"Keras publishes no ImageNet weights of {architecture}; it publishes {', '.join(IMAGENET)}. Use "
            '`--weights random`, or a file of your own (weights.source = "file").'
        )
    published = IMAGENET[architecture]
    folder = cache or Path(keras_home()) / "models"
    path = folder / published.name
    if not path.is_file():
        _download(published.url, path)
    with path.open("rb") as file:
        # Keras publishes MD5: it detects a truncated download, not an attack.
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != published.md5:
        raise RunError(f"{published.name} in Keras's cache is not the published file (MD5 {digest}): delete it there.")
    return path


def _download(url: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as response, whole_file(path) as file:
            shutil.copyfileobj(response, file)
    except OSError as error:
        raise RunError(
            f"The ImageNet weights can't be downloaded ({type(error).__name__}): this machine may have no access to "
            f"{url.split('/')[2]}. Download {path.name} elsewhere (its URL is {url}) and give it with "
            "`--weights FILE`, or train from scratch with `--weights random`."
        ) from error


def check_trunk_weights(path: Path, architecture: str, size: int, scaling: Scaling) -> None:
    """Load a file of weights into a trunk, and drop the trunk: a wrong file is found before the run has a folder.

    Parameters
    ----------
    path
        The file.
    architecture, size, scaling
        As for ``training.networks.network.build``.

    Raises
    ------
    RunError
        If the file is not of this trunk; the message has what was expected and what was found.
    """
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that it does not find in a file, and leaves them random.
            warnings.filterwarnings("error", message="Skipping nested container|A total of .* could not be loaded")
            build(architecture, size=size, scaling=scaling, weights=path)
    # Whatever Keras and h5py raise.
    except (ValueError, OSError, KeyError, AttributeError, TypeError, UserWarning) as error:
        trunk = build(architecture, size=size, scaling=scaling)
        expected = [layer.name for layer in trunk.layers if layer.weights and layer.name != "evidence"]
        raise RunError(
            f"{path.name} does not hold the weights of {architecture} without its head. Expected: HDF5 (.h5 or "
            f".weights.h5), written by Keras, {len(expected)} layers with weights, {expected[0]} to {expected[-1]}. "
            f"Found: {_describe_file(path)}. Give the file without head (its name has `notop`), or set "
            "network.architecture to that of the file."
        ) from error


def _describe_file(path: Path) -> str:
    """Return the content of a file of weights in words."""
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            names = root.attrs.get("layer_names")
            if names is None:
                names = list(root["layers"]) if "layers" in root else list(root)
                return f"HDF5 with {len(names)} layers"
            texts = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
            used = [name for name in texts if root[name].attrs.get("weight_names", ())]
            head = [name for name in used if name in _HEADS]
            words = f"HDF5 with {len(used)} layers with weights"
            words += f", {used[0]} to {used[-1]}" if used else ""
            return words + (f"; {', '.join(head)} are a classification head" if head else "")
    except (OSError, KeyError, ValueError, TypeError, AttributeError):
        return f"a file that is no HDF5{_OTHER_PROGRAMS.get(path.suffix.casefold(), '')}"


def copy_weights(source: KerasModel, target: KerasModel, *, with_head: bool) -> None:
    """Copy weights between two networks of one architecture, layer by layer, by name.

    Parameters
    ----------
    source, target
        Networks from ``training.networks.network.build``.
    with_head
        Whether the head's weights are copied too, beside the trunk's.

    Raises
    ------
    RunError
        If a layer of the target is absent from the source, or has another shape.
    """
    from training.runs.freezing import head_layers  # noqa: PLC0415 (its caller loads both)

    heads = head_layers(target)
    for layer in target.layers:
        if not layer.weights or (layer.name in heads and not with_head):
            continue
        try:
            layer.set_weights(source.get_layer(layer.name).get_weights())
        except ValueError as error:
            raise RunError(
                f"Layer {layer.name} of this recipe's network is not in the run that it starts from, or has another "
                "shape: use the same architecture and, to keep the head, the same head and number of classes."
            ) from error
