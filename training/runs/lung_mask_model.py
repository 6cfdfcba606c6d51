"""The folder of a mask model: a U-Net that finds lungs, what it takes, and how good it was.

::

    model.keras       the U-Net              mask-model.json   settings, pixel recipe, digest, figures
    manifest.csv      the cases, with sides  history.csv       one line per epoch

A run that masks with it keeps a copy, and so does its package: what training saw, serving sees.
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
KEPT: Final = "lung-mask"
"""Where a run keeps its mask model."""

PixelDocument = Annotated[
    PixelRecipe,
    BeforeValidator(lambda value: PixelRecipe.from_dict(value) if isinstance(value, dict) else value),
    PlainSerializer(PixelRecipe.to_dict),
]


class Description(BaseModel):
    """The content of ``mask-model.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    settings: MaskSettings
    pixels: PixelDocument  # what its pictures were prepared with; a model's may differ in size
    sha256: Sha256  # of the U-Net's file
    figures: dict[str, JsonValue]  # of validation and test images
    provenance: dict[str, JsonValue]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that changes a mask."""
        says = {"settings": self.settings.model_dump(), "pixels": self.pixels.to_dict(), "sha256": self.sha256}
        return hashlib.sha256(json.dumps(says, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MaskModel:
    """A mask model whose file was verified; ``open_mask_model`` reads one."""

    folder: Path
    description: Description

    @property
    def path(self) -> Path:
        """The U-Net."""
        return self.folder / MODEL_FILE

    @property
    def component(self) -> LungMaskComponent:
        """What a package that carries it says."""
        said = self.description
        return LungMaskComponent(source="model", file=PACKAGED_FILE, sha256=said.sha256, settings=said.settings)


def open_mask_model(folder: Path) -> MaskModel:
    """Read and verify a mask model.

    Raises
    ------
    RunError
        If the folder is none, or its file is not the one that was written.
    """
    try:
        description = Description.model_validate_json((folder / DESCRIPTION_FILE).read_bytes())
        with (folder / MODEL_FILE).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValidationError) as error:
        raise RunError(
            "The folder is not a finished mask model's: it has no readable mask-model.json and model.keras; make one "
            "with `cxr train masks`."
        ) from error
    if found != description.sha256:
        raise RunError("The mask model's file differs from its digest: restore the folder, or train it again.")
    return MaskModel(folder, description)


def mask_overrides(folder: Path) -> list[str]:
    """Say in a recipe's keys what ``--mask-model`` says in a word."""
    path = json.dumps(str(folder.absolute()), ensure_ascii=False)
    return [f'mask_model={{path = {path}, fingerprint = "{open_mask_model(folder).description.fingerprint}"}}']


def load_segment(path: Path) -> Segment:
    """Load a U-Net; it runs on the CPU, one picture at a time, as in serving."""
    with keras.device("cpu:0"):
        graph = keras.saving.load_model(path, compile=False, safe_mode=True)
    return segment_with(graph)


def segment_with(graph: KerasModel) -> Segment:
    """Ask a U-Net about one picture."""

    def segment(picture: Grey) -> Grey:
        with keras.device("cpu:0"):
            chances = graph(picture[None, :, :, None], training=False)
        return np.asarray(keras.ops.convert_to_numpy(chances), np.float32)[0, :, :, 0]

    return segment


def lungs_with(model: MaskModel) -> Lungs:
    """Load a mask model's U-Net."""
    said = model.description
    return Lungs(said.fingerprint, LungFinder(said.settings, load_segment(model.path)))


def find_mask_model(recipe: TrainingRecipe) -> MaskModel | None:
    """Find the mask model that a recipe names; None: it masks with drawn ones, or not at all.

    Raises
    ------
    RunError
        If it names none where it needs one, another lies there, or it knows other pixels.
    """
    if recipe.lung_masks != "model":
        return None
    named = recipe.mask_model
    if named is None:
        raise RunError(
            "This recipe masks lungs with a mask model: name its folder with --mask-model (`cxr train masks` makes "
            'one), or take the masks that the manifest names with --set lung_masks="manifest" (such a model can be '
            "judged, and not be put into service)."
        )
    return _checked(open_mask_model(Path(named.path)), recipe)


def check_mask_model(recipe: TrainingRecipe, folder: Path) -> None:
    """Make sure that a run will find its mask model, before anything is written; errors as of ``find_mask_model``."""
    if not (folder / KEPT / DESCRIPTION_FILE).exists():
        find_mask_model(recipe)


def keep_mask_model(run: Run) -> MaskModel | None:
    """Give a run's mask model, from the copy in its folder, which is made if it is not there."""
    named = run.recipe.mask_model
    if run.recipe.lung_masks != "model" or named is None:
        return None
    kept = run.folder / KEPT
    if not (kept / DESCRIPTION_FILE).exists():
        found = open_mask_model(Path(named.path))
        kept.mkdir(exist_ok=True)
        write_whole(kept / MODEL_FILE, found.path.read_bytes())
        write_whole(kept / DESCRIPTION_FILE, (found.folder / DESCRIPTION_FILE).read_bytes())
    return _checked(open_mask_model(kept), run.recipe)


def masking_of(run: Run) -> Masking:
    """Load what masks a run's images."""
    return _masking(run.recipe, keep_mask_model(run))


def masking_with(recipe: TrainingRecipe) -> Masking:
    """Load what masks images as a recipe says, where there is no run."""
    return _masking(recipe, find_mask_model(recipe))


def masking_in(package: ModelPackage) -> Masking:
    """Load what masks the images of a package, verified.

    Raises
    ------
    IncompatiblePackage
        If its component is not one that this version reads.
    """
    component = component_of(package.manifest)
    if component is None or component.file is None or component.settings is None or component.sha256 is None:
        return Masking(is_drawn=component is not None)
    segment = load_segment(package.folder / component.file)
    return Masking(lungs=Lungs(component.sha256, LungFinder(component.settings, segment)))


def _masking(recipe: TrainingRecipe, model: MaskModel | None) -> Masking:
    return Masking(recipe.lung_masks == "manifest", None if model is None else lungs_with(model))


def _checked(model: MaskModel, recipe: TrainingRecipe) -> MaskModel:
    said = model.description
    if recipe.mask_model is None or said.fingerprint != recipe.mask_model.fingerprint:
        raise RunError("The mask model is another than the recipe names: give the folder that was meant.")
    if dataclasses.replace(said.pixels, size=recipe.pixels.size) != recipe.pixels:
        raise RunError(
            "The mask model was trained on pictures of another pixel recipe; only the size may differ: train it with "
            "`cxr train masks --recipe` and this recipe's [pixels]."
        )
    return model
