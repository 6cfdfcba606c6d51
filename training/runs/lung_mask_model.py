"""The folder of a mask model: a U-Net that segments lungs, its settings, and its figures.

::

    model.keras       the U-Net              mask-model.json   settings, pixel recipe, digest, figures
    manifest.csv      the cases, with sides  history.csv       one line per epoch

A run that masks with it holds a copy, and so does its package: training and serving mask with the same file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import keras
import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, PlainSerializer, ValidationError

from cxr.errors import RunError
from cxr.package import ModelPackage
from cxr.package.lung_mask import FILE as PACKAGED_FILE
from cxr.package.lung_mask import Grey, LungFinder, LungMaskComponent, MaskSettings, Segment, component_of
from cxr.package.manifest import Sha256
from cxr.pixels.recipe import PixelRecipe
from training.files import write_whole
from training.inputs.masking import Lungs, Masking
from training.networks.keras_types import KerasModel
from training.recipe import TrainingRecipe
from training.runs.folder import MODEL_FILE, Run

DESCRIPTION_FILE: Final = "mask-model.json"
MASK_MODEL_FOLDER: Final = "lung-mask"
"""Folder of the mask model's copy in a run's folder."""

PixelDocument = Annotated[
    PixelRecipe,
    BeforeValidator(lambda value: PixelRecipe.from_dict(value) if isinstance(value, dict) else value),
    PlainSerializer(PixelRecipe.to_dict),
]


class Description(BaseModel):
    """The content of ``mask-model.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    settings: MaskSettings
    pixels: PixelDocument  # pixel recipe of its images; that of a run may differ in size
    sha256: Sha256  # digest of the U-Net's file
    figures: dict[str, JsonValue]  # on validation and test images
    provenance: dict[str, JsonValue]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that changes a mask."""
        content = {"settings": self.settings.model_dump(), "pixels": self.pixels.to_dict(), "sha256": self.sha256}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MaskModel:
    """A verified mask model; ``open_mask_model`` reads one."""

    folder: Path
    description: Description

    @property
    def path(self) -> Path:
        """The U-Net's file."""
        return self.folder / MODEL_FILE

    @property
    def component(self) -> LungMaskComponent:
        """Its entry in the manifest of a model package."""
        return LungMaskComponent(
            source="model",
            file=PACKAGED_FILE,
            sha256=self.description.sha256,
            settings=self.description.settings,
        )


def open_mask_model(folder: Path) -> MaskModel:
    """Read and verify a mask model.

    Raises
    ------
    RunError
        If the folder is no mask model's, or its file differs from the recorded digest.
    """
    try:
        description = Description.model_validate_json((folder / DESCRIPTION_FILE).read_bytes())
        with (folder / MODEL_FILE).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValidationError) as error:
        raise RunError(
            "The folder is not a finished mask model's: it has no readable mask-model.json and model.keras; make one "
            "with `cxr train masks`."
        ) from error
    if digest != description.sha256:
        raise RunError("The mask model's file differs from its digest: restore the folder, or train it again.")
    return MaskModel(folder, description)


def mask_overrides(folder: Path) -> list[str]:
    """Return the recipe overrides for ``--mask-model FOLDER``."""
    path = json.dumps(str(folder.absolute()), ensure_ascii=False)
    return [f'mask_model={{path = {path}, fingerprint = "{open_mask_model(folder).description.fingerprint}"}}']


def load_segment(path: Path) -> Segment:
    """Load a U-Net; it runs on the CPU, one image at a time, as in serving."""
    with keras.device("cpu:0"):
        graph = keras.saving.load_model(path, compile=False, safe_mode=True)
    return segment_with(graph)


def segment_with(graph: KerasModel) -> Segment:
    """Wrap a U-Net as a function from an image (size, size) to probabilities of lung (size, size)."""

    def segment(image: Grey) -> Grey:
        with keras.device("cpu:0"):
            probabilities = graph(image[None, :, :, None], training=False)
        return np.asarray(keras.ops.convert_to_numpy(probabilities), np.float32)[0, :, :, 0]

    return segment


def lungs_with(model: MaskModel) -> Lungs:
    """Load a mask model's U-Net."""
    description = model.description
    return Lungs(description.fingerprint, LungFinder(description.settings, load_segment(model.path)))


def mask_model_of_recipe(recipe: TrainingRecipe) -> MaskModel | None:
    """Open the mask model that a recipe names; None: the recipe masks with drawn masks, or not at all.

    Raises
    ------
    RunError
        If the recipe needs a mask model and names none, or the folder's fingerprint or pixel recipe differs.
    """
    if recipe.lung_masks != "model":
        return None
    reference = recipe.mask_model
    if reference is None:
        raise RunError(
            "This recipe masks lungs with a mask model: set its folder with --mask-model (`cxr train masks` trains "
            'one), or use the masks of the manifest with --set lung_masks="manifest" (such a model can be '
            "evaluated, but not served)."
        )
    return _verify(open_mask_model(Path(reference.path)), recipe)


def check_mask_model(recipe: TrainingRecipe, folder: Path) -> None:
    """Check that a run's mask model exists, before any file is written; errors as in ``mask_model_of_recipe``."""
    if not (folder / MASK_MODEL_FOLDER / DESCRIPTION_FILE).exists():
        mask_model_of_recipe(recipe)


def mask_model_of_run(run: Run) -> MaskModel | None:
    """Return a run's mask model from the copy in its folder; make the copy if it is absent."""
    reference = run.recipe.mask_model
    if run.recipe.lung_masks != "model" or reference is None:
        return None
    copy = run.folder / MASK_MODEL_FOLDER
    if not (copy / DESCRIPTION_FILE).exists():
        original = open_mask_model(Path(reference.path))
        copy.mkdir(exist_ok=True)
        write_whole(copy / MODEL_FILE, original.path.read_bytes())
        write_whole(copy / DESCRIPTION_FILE, (original.folder / DESCRIPTION_FILE).read_bytes())
    return _verify(open_mask_model(copy), run.recipe)


def masking_of_run(run: Run) -> Masking:
    """Load the masking of a run."""
    return _masking(run.recipe, mask_model_of_run(run))


def masking_of_recipe(recipe: TrainingRecipe) -> Masking:
    """Load the masking of a recipe, without a run."""
    return _masking(recipe, mask_model_of_recipe(recipe))


def masking_of_package(package: ModelPackage) -> Masking:
    """Load the masking of a verified package.

    Raises
    ------
    IncompatiblePackage
        If this version can't read its lung mask component.
    """
    component = component_of(package.manifest)
    if component is None or component.file is None or component.settings is None or component.sha256 is None:
        return Masking(is_drawn=component is not None)
    segment = load_segment(package.folder / component.file)
    return Masking(lungs=Lungs(component.sha256, LungFinder(component.settings, segment)))


def _masking(recipe: TrainingRecipe, model: MaskModel | None) -> Masking:
    return Masking(recipe.lung_masks == "manifest", None if model is None else lungs_with(model))


def _verify(model: MaskModel, recipe: TrainingRecipe) -> MaskModel:
    description = model.description
    if recipe.mask_model is None or description.fingerprint != recipe.mask_model.fingerprint:
        raise RunError("The mask model's fingerprint differs from the recipe's: name the right folder.")
    if dataclasses.replace(description.pixels, size=recipe.pixels.size) != recipe.pixels:
        raise RunError(
            "The mask model was trained on images of another pixel recipe; only the size may differ: train it with "
            "`cxr train masks --recipe` and this recipe's [pixels]."
        )
    return model
