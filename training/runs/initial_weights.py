"""Where a trunk's weights come from: nowhere, a file that is checked, ImageNet, or an earlier run."""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from keras.src.backend.config import keras_home  # Keras has no public name for it

from cxr.errors import RunError
from training.files import whole_file
from training.networks.keras_types import KerasModel

_BASE: Final = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True, slots=True)
class Published:
    """A file of weights on ImageNet, as Keras publishes it; its MD5 is the one that Keras checks."""

    address: str
    md5: str

    @property
    def name(self) -> str:
        """The file's name, also in Keras's own cache."""
        return self.address.rpartition("/")[2]


IMAGENET: Final[Mapping[str, Published]] = MappingProxyType(
    {
        "resnet50": Published(
            f"{_BASE}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"
        ),
        "vgg16": Published(
            f"{_BASE}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc"
        ),
        "densenet169": Published(
            f"{_BASE}/densenet/densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "b8c4d4c20dd625c148057b9ff1c1176b",
        ),
    }
)
"""Architectures whose ImageNet weights Keras publishes."""


def weights_overrides(weights: str) -> list[str]:
    """Say in a recipe's keys what ``--weights`` says in a word: ``random``, ``imagenet``, or a file.

    Raises
    ------
    RunError
        If it is neither a word nor a file that can be read.
    """
    if weights in ("random", "imagenet"):
        return [f'weights={{source = "{weights}"}}']
    try:
        with Path(weights).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"--weights takes random, imagenet or a file; this can't be read ({error.strerror}).") from error
    path = json.dumps(str(Path(weights).absolute()), ensure_ascii=False)
    return [f'weights={{source = "file", path = {path}, sha256 = "{digest}"}}']


def checked_file(path: Path, sha256: str) -> Path:
    """Make sure that a file of weights is the one that the recipe names.

    Raises
    ------
    RunError
        If it can't be read, or its SHA-256 is another.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"The file of weights can't be read ({error.strerror}): correct weights.path.") from error
    if found != sha256:
        raise RunError(
            f"The file of weights has the SHA-256 {found}; the recipe names {sha256}: give the file that was meant, or "
            "correct weights.sha256 if you trust this one."
        )
    return path


def imagenet_file(architecture: str, cache: Path | None = None) -> Path:
    """Find or fetch a trunk's ImageNet weights.

    Parameters
    ----------
    architecture
        A name of ``training.networks.backbones.BACKBONES``.
    cache
        Where they are kept; None: where Keras keeps them (``$KERAS_HOME/models``).

    Raises
    ------
    RunError
        If none are published, the network does not allow it, or the file is another than published.
    """
    if architecture not in IMAGENET:
        raise RunError(
            f"Keras publishes no ImageNet weights of {architecture}; it does of {', '.join(IMAGENET)}. Use "
            '`--weights random`, or a file of your own (weights.source = "file").'
        )
    published = IMAGENET[architecture]
    folder = cache or Path(keras_home()) / "models"
    path = folder / published.name
    if not path.is_file():
        _fetch(published.address, path)
    with path.open("rb") as file:
        # MD5 is what Keras publishes; it tells a cut download, not an attacker.
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != published.md5:
        raise RunError(f"{published.name} in Keras's cache is not the published file (MD5 {found}): delete it there.")
    return path


def _fetch(address: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=30) as answer, whole_file(path) as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise RunError(
            f"The ImageNet weights can't be fetched ({type(error).__name__}): this machine may have no way to "
            f"{address.split('/')[2]}. Fetch {path.name} elsewhere (its address is {address}) and give it with "
            "`--weights FILE`, or train from scratch with `--weights random`."
        ) from error


def copy_weights(source: KerasModel, target: KerasModel, *, with_head: bool) -> None:
    """Copy weights between two networks of one architecture, layer by layer, by name.

    Parameters
    ----------
    source, target
        From ``training.networks.network.build``.
    with_head
        Whether the head's weights are copied, not only the trunk's.

    Raises
    ------
    RunError
        If a layer of the target is not in the source, or is of another shape.
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
                f"Layer {layer.name} of this recipe's network is not in the run that it starts from, or is of another "
                "shape: use the same architecture and, to keep the head, the same head and number of classes."
            ) from error
