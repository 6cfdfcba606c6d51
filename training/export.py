"""Write model packages: what training ends in, and the untrained package that comes before it."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import keras

from cxr.domain import PackageStatus
from cxr.labels import FINDINGS
from cxr.manifest import Outputs, PackageClass, PackageManifest, Provenance
from cxr.package import MODEL_CARD_FILE, MODEL_FILE, ModelPackage, write_package
from cxr.recipe import DEFAULT_RECIPE, PixelRecipe
from training.card import untrained_card
from training.model_file import save_network
from training.network import Activation, build

DEFAULT_CLASSES = ("covid19",)


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
    """Make a package with random weights: it exercises the service, and its scores mean nothing.

    Parameters
    ----------
    folder
        The folder to make; it must not exist.
    now
        The time that is recorded in it.
    seed
        Of the random weights: the same arguments, software and processor give the same package.
    architecture
        A name of ``training.network.BACKBONES``.
    classes
        Names of ``cxr.labels.FINDINGS``, in the order of the outputs.
    activation
        ``sigmoid`` or ``softmax`` (exactly one class is true).
    recipe
        How pixels become the input; its size is the graph's.

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


def software_versions() -> dict[str, str]:
    """Return the versions of what made a model: name to version."""
    distributions = ("cxr-listener", "keras", keras.backend.backend(), "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in distributions}
