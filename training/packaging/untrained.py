"""The untrained package and its model card: random weights, to try the service with."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import keras

from cxr.domain import PackageStatus
from cxr.labels import FINDINGS
from cxr.package import (
    MODEL_CARD_FILE,
    MODEL_FILE,
    ModelPackage,
    Outputs,
    PackageClass,
    PackageManifest,
    Provenance,
    write_package,
)
from cxr.pixels.recipe import DEFAULT_RECIPE, PixelRecipe
from cxr.product import NOTICE_SENTENCE, UNTRAINED
from training.networks import Activation, build, save_network
from training.runs.devices import software_versions

DEFAULT_CLASSES = ("covid19",)

_UNTRAINED_CARD = """\
# {name} {version}

**{mark}.** The weights of this network are random numbers. It was trained on no image, its scores carry no \
information about any patient, and it exists so that the service can be installed and tried before a model is trained. \
{notice}

| | |
|---|---|
| status | {status} |
| architecture | {architecture}, random weights, seed {seed} |
| outputs | {findings} ({activation}, not calibrated, no operating point) |
| input | {size} x {size} pixels, one channel in [0, 1]; recipe `{recipe}` |
| training data | none |
| evaluation | none: there is nothing to evaluate |
| made | {created} |

## Intended use

Trial of the way of an image from the PACS to a DICOM SR and back, and nothing else. Results of this package carry \
the words above wherever they appear, and are delivered to a PACS only with the setting `report.deliver_untrained`.
"""


def build_untrained(
    folder: Path,
    *,
    now: datetime,
    seed: int = 0,
    architecture: str = "resnet50",
    classes: Sequence[str] = DEFAULT_CLASSES,
    activation: Activation = "sigmoid",
    recipe: PixelRecipe = DEFAULT_RECIPE,
) -> ModelPackage:
    """Make a package with random weights, to exercise the service; its scores carry no information.

    Parameters
    ----------
    folder
        The folder to make; it must not exist.
    now
        Recorded as its time of creation.
    seed
        Of the random weights; arguments, software and processor determine the package.
    architecture
        A name of ``training.networks.network.BACKBONES``.
    classes
        Names of ``cxr.labels.FINDINGS``, in the order of the outputs.
    activation
        ``sigmoid`` or ``softmax`` (exactly one class is true).
    recipe
        Preparation of pixels; its size is the graph's.

    Raises
    ------
    ValueError
        If a class or the architecture is unknown, or the numbers do not fit together.
    PackageError
        If the folder exists or can't be written.
    """
    if unknown := [name for name in classes if name not in FINDINGS]:
        raise ValueError(f"classes are names of {', '.join(FINDINGS)}; got {', '.join(unknown)}")
    # Keras's initialisers draw from this seed; it has no local one that reaches keras.applications.
    keras.utils.set_random_seed(seed)
    network = build(architecture, classes=len(classes), activation=activation, size=recipe.size)
    manifest = PackageManifest(
        name=f"untrained-{architecture}",
        version=f"0.0.{seed}",
        status=PackageStatus.UNTRAINED,
        classes=tuple(PackageClass(finding=name, code=FINDINGS[name].code) for name in classes),
        activation=activation,
        recipe=recipe,
        outputs=Outputs(probabilities="prob", evidence="evidence"),
        provenance=Provenance(
            training_data="none: random weights",
            architecture=architecture,
            created=now,
            seed=seed,
            software=software_versions(),
        ),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as temporary:
        model_file = Path(temporary) / MODEL_FILE
        save_network(network, model_file, now=now)
        return write_package(
            folder, manifest, {MODEL_FILE: model_file, MODEL_CARD_FILE: untrained_card(manifest).encode()}
        )


def untrained_card(manifest: PackageManifest) -> str:
    """Write the card of a package with random weights, in Markdown."""
    return _UNTRAINED_CARD.format(
        name=manifest.name,
        version=manifest.version,
        mark=UNTRAINED,
        notice=NOTICE_SENTENCE,
        status=manifest.status.value,
        architecture=manifest.provenance.architecture,
        seed=manifest.provenance.seed,
        findings=", ".join(manifest.findings),
        activation=manifest.activation,
        size=manifest.input_size,
        recipe=manifest.recipe.digest,
        created=manifest.provenance.created.isoformat(),
    )
