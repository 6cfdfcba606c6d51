"""Make a model package from weights that Keras 2 wrote: the predecessors' published models.

The graph is not read from the file. It is built from a profile, and only the arrays of this graph are
read from the file, by name and shape.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cxr.domain import PackageStatus
from cxr.errors import IncompatiblePackage
from cxr.labels import FINDINGS
from cxr.package import (
    MODEL_CARD_FILE,
    MODEL_FILE,
    AcceptedGate,
    ModelPackage,
    Outputs,
    PackageClass,
    PackageManifest,
    Provenance,
    write_package,
)
from cxr.pixels.recipe import MIDRC_EMORY_RECIPE, PixelRecipe
from cxr.product import DEMONSTRATION, NOTICE_SENTENCE
from training.networks import Activation, Head, Scaling, build, save_network
from training.networks.keras_types import KerasModel
from training.packaging.keras2_weights import LegacyFile, Weights, quoted
from training.runs.devices import software_versions

IMPORTED: Final = "imported"
"""The gate that no imported package passes: its training and evaluation are not on record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Graph, recipe and classes of one predecessor's published weights.

    Parameters
    ----------
    name, version, title, origin
        Of the package, and for its card.
    architecture, head, scaling, activation
        As for ``training.networks.network.build``.
    classes
        Findings, in the order of the file's last layer.
    recipe
        Preparation of pixels for the weights.
    renamed
        Layers with another name in the file, or a name with a session's counter: name in the graph to
        pattern in the file; in the order of the file.
    weightless
        Layers of the file without weights that the graph lacks or names otherwise: patterns that must
        each match once.
    published
        SHA-256 of published files: digest to file name.
    """

    name: str
    version: str
    title: str
    origin: str
    architecture: str
    head: Head
    scaling: Scaling
    activation: Activation
    classes: tuple[str, ...]
    recipe: PixelRecipe
    renamed: Mapping[str, str]
    weightless: tuple[str, ...]
    published: Mapping[str, str]


MIDRC_EMORY: Final = Profile(
    name="midrc-emory-resnet50",
    version="2021.03",
    title="ResNet50 of MIDRC CRP-2 (Emory)",
    origin="CheXpert (normal or abnormal), then chest radiographs of Emory with RT-PCR results; published by MIDRC",
    architecture="resnet50",
    head=Head("dense", pooling="maximum", hidden=(512,)),
    scaling="unit",
    activation="sigmoid",
    classes=("covid19",),
    recipe=MIDRC_EMORY_RECIPE,
    renamed=MappingProxyType({"hidden1": r"dense(_\d+)?", "logit": r"dense_\d+"}),
    weightless=(r"input_\d+", r"(global_)?max_pool(ing2d)?(_\d+)?"),
    published=MappingProxyType(
        {
            "6132fbdc9c322efc52866d17b46c6be84faac7c2e693246a7b5478323bb3120e": "resnet_covid.hdf5",
            "3d51264bcb75c4998a3d0e307892ec80690e2be966fb57cd2ebd0b8f531adf04": "ResNet50_Undersampling.h5",
        }
    ),
)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({"midrc-emory": MIDRC_EMORY})
"""Profiles by name."""

# Layers of the graph around backbone and head, which the file's graph lacks.
_FRAME: Final = frozenset({"image", "grey_to_colour", "unit_scale", "pool", "calibrate", "prob"})


def import_legacy(file: Path, folder: Path, *, now: datetime, profile: Profile = MIDRC_EMORY) -> ModelPackage:
    """Convert a file of weights to a package.

    The package is a demonstration: marked as such wherever its results appear, uncalibrated,
    without operating point and without figures, so that its promotion has to be accepted by name.

    Parameters
    ----------
    file
        HDF5, from ``model.save`` or ``model.save_weights`` of Keras 2.
    folder
        The folder to make; it must not exist.
    now
        Recorded as the time of the import.
    profile
        Of the weights.

    Raises
    ------
    IncompatiblePackage
        If the file's graph is not the profile's; the message names the layer.
    PackageError
        If the folder exists or can't be written.
    """
    network = build(
        profile.architecture,
        classes=len(profile.classes),
        activation=profile.activation,
        size=profile.recipe.size,
        head=profile.head,
        scaling=profile.scaling,
    )
    with LegacyFile(file) as source:
        file_layers = _match(network, profile, list(source.layers))
        weights = source.read({theirs: _shapes(network.get_layer(ours)) for ours, theirs in file_layers.items()})
    _set_weights(network, file_layers, weights)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    manifest = _manifest(profile, digest, now)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=folder.parent) as temporary:
        model_file = Path(temporary) / MODEL_FILE
        save_network(network, model_file, now=now)
        card = _card(profile, manifest, digest)
        return write_package(folder, manifest, {MODEL_FILE: model_file, MODEL_CARD_FILE: card.encode()})


def _match(network: KerasModel, profile: Profile, layers: list[str]) -> Mapping[str, str]:
    """Return the file's layer of each layer of the graph; every layer of the file must have one."""
    trunk = [layer.name for layer in network.layers if layer.name not in _FRAME | set(profile.renamed)]
    missing = [name for name in trunk if name not in layers]
    if missing:
        raise _wrong_graph(profile, f"lacks the layer {missing[0]!r}")
    others = [name for name in layers if name not in trunk]
    file_layers = {name: name for name in trunk}
    for ours, pattern in [*profile.renamed.items(), *((None, each) for each in profile.weightless)]:
        theirs = next((name for name in others if re.fullmatch(pattern, name)), None)
        if theirs is None:
            raise _wrong_graph(profile, f"has no layer {pattern!r} (a pattern)")
        others.remove(theirs)
        if ours is not None:
            file_layers[ours] = theirs
    if others:
        raise _wrong_graph(profile, f"has the layer {quoted(others[0])}, which is not in that graph")
    return file_layers


def _wrong_graph(profile: Profile, fault: str) -> IncompatiblePackage:
    return IncompatiblePackage(
        f"The file {fault}. Accepted are weights of {profile.title} and nothing else: they are copied into a graph of "
        "this project. Another graph can't be imported: train it here (configs/)."
    )


def _shapes(layer: Any) -> Mapping[str, tuple[int, ...]]:  # noqa: ANN401 (a Keras layer)
    return {variable.name: tuple(variable.shape) for variable in layer.weights}


def _set_weights(network: KerasModel, file_layers: Mapping[str, str], weights: Weights) -> None:
    for ours, theirs in file_layers.items():
        layer = network.get_layer(ours)
        layer.set_weights([weights[theirs][variable.name] for variable in layer.weights])


def _manifest(profile: Profile, digest: str, now: datetime) -> PackageManifest:
    gate = AcceptedGate(
        name=IMPORTED,
        figure="weights of a legacy file, not evaluated here",
        reason="an imported package is always a demonstration",
        accepted_at=now,
    )
    return PackageManifest(
        name=profile.name,
        version=profile.version,
        status=PackageStatus.DEMONSTRATION,
        accepted_gates=(gate,),
        classes=tuple(PackageClass(finding=name, code=FINDINGS[name].code) for name in profile.classes),
        activation=profile.activation,
        recipe=profile.recipe,
        outputs=Outputs(probabilities="prob", evidence=None),
        provenance=Provenance(
            training_data=profile.origin,
            architecture=profile.architecture,
            created=now,
            software=software_versions(),
            parents=(digest,),
        ),
    )


_CARD = """\
# {name} {version}

**{mark}: there was none.** Legacy weights, uncalibrated: {title}, read from a Keras 2 file into a graph of this \
project. They were not evaluated here. {notice}

| | |
|---|---|
| status | {status} |
| weights | {file}, SHA-256 `{digest}` |
| trained on | {origin} |
| outputs | {findings} ({activation}, not calibrated, no operating point) |
| input | {size} x {size} pixels, one channel in [0, 1]; recipe `{recipe}` |
| imported | {created} |

## What to know

* The weights were trained on pictures divided by their largest value: no window, no inversion, nearest neighbour, \
distorted to a square. The recipe does exactly that; one bright marker darkens the lungs, as in their training.
* No published figure belongs to these weights. Models of this kind reached an AUC of 0.70 to 0.82 where they were \
tested honestly; their data was divided by image, not by patient.
* The maximum over the map feeds two dense layers: there is no exact evidence map. Explanations are Grad-CAM.

## Intended use

Comparison with models that are trained and evaluated here, and nothing else.
"""


def _card(profile: Profile, manifest: PackageManifest, digest: str) -> str:
    published = profile.published.get(digest)
    return _CARD.format(
        name=manifest.name,
        version=manifest.version,
        mark=DEMONSTRATION,
        title=profile.title,
        notice=NOTICE_SENTENCE,
        status=manifest.status.value,
        file=f"the published `{published}`" if published else "a file of the same graph; not one of the published ones",
        digest=digest,
        origin=profile.origin,
        findings=", ".join(manifest.findings),
        activation=manifest.activation,
        size=manifest.input_size,
        recipe=manifest.recipe.digest,
        created=manifest.provenance.created.isoformat(),
    )
