"""The training recipe: everything that a run depends on beside its images, as one TOML file.

Strict: an unknown key, a value of another type or outside its range, and parts that don't fit
together are faults, and all faults are reported at once. ``configs/`` holds the recipes that come
with this project; a run folder holds the one it was made with.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from cxr.errors import RecipeError
from cxr.labels import FINDINGS
from cxr.pixels.recipe import TRAINING_RECIPE, PixelRecipe, describe_faults
from training.networks import BACKBONES, Head

CONFIGS = Path(__file__).resolve().parent / "configs"
SOURCE_CONFIGS = CONFIGS.parent.parent / "configs"
"""Where the recipes lie in a checkout; in the wheel they are ``training/configs``."""

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Trained = Literal["head", "conv5", "conv4", "conv3", "conv2", "all"]

EVERY_OTHER = "*"
"""As a label of ``task.negative``: every label that belongs to no class."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _read_pixels(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    unknown = sorted(set(value) - set(PixelRecipe.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; accepted are {', '.join(PixelRecipe.__dataclass_fields__)}")
    try:
        recipe = PixelRecipe(**({"quantised": True} | dict(value)))
    except ValidationError as error:
        raise ValueError(describe_faults(error)) from None
    if not recipe.quantised:
        raise ValueError("quantised: only true is accepted, so that the cache holds what is served")
    return recipe


def _write_pixels(recipe: PixelRecipe) -> dict[str, Any]:
    return {name: value for name, value in recipe.to_dict().items() if value is not None}  # TOML has no null


class Task(_Part):
    """Which labels become which outputs."""

    classes: tuple[str, ...] = Field(min_length=1)  # names of cxr.labels.FINDINGS, in the order of the outputs
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # class -> labels of the manifest; default: itself
    negative: tuple[str, ...] = (EVERY_OTHER,)  # labels that are none of the classes (sigmoid)
    from_columns: bool = False  # truths from label_<class> columns (sigmoid); nothing or -1 there: not counted
    views: tuple[Literal["PA", "AP", "AP_supine", "L", "unknown"], ...] = ("PA", "AP", "AP_supine", "unknown")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if unknown := [name for name in self.classes if name not in FINDINGS]:
            raise ValueError(f"classes: {', '.join(unknown)} unknown; accepted are {', '.join(FINDINGS)}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: each may occur once")
        if self.activation == "softmax" and (len(self.classes) < 2 or self.from_columns):
            raise ValueError("activation: softmax needs two classes or more, and one label per image")
        if self.activation == "sigmoid" and len(self.classes) > 1 and not self.from_columns:
            raise ValueError("from_columns: several classes with sigmoid need the columns label_<class>; say true")
        if set(self.labels) - set(self.classes):
            raise ValueError("labels: each key is one of the classes")
        return self

    def labels_of(self, name: str) -> tuple[str, ...]:
        """The manifest's labels that mean a class."""
        return self.labels.get(name, (name,))


class Split(_Part):
    """How a manifest without sides is divided; one that has sides keeps them."""

    strategy: Literal["patient", "temporal", "site", "image"] = "patient"
    fractions: tuple[Share, Share, Share] = (0.8, 0.1, 0.1)  # train, val, test
    seed: int = 0
    train_only: tuple[str, ...] = ()  # sources

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions[:2]) <= 0:
            raise ValueError("fractions: train, val and test add up to 1, train and val above 0")
        return self


class Network(_Part):
    """Architecture and head; see ``training.networks.network``."""

    architecture: str = "resnet50"
    head: Literal["evidence", "dense"] = "evidence"
    pooling: Literal["average", "maximum", "average4", "flatten"] = "average"
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = ()
    dropout: Share = 0.0
    scaling: Literal["imagenet", "unit"] = "imagenet"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.architecture not in BACKBONES:
            raise ValueError(f"architecture: accepted are {', '.join(BACKBONES)}")
        if self.head == "evidence" and (self.pooling != "average" or self.hidden or self.dropout):
            raise ValueError("head: evidence has no pooling, hidden layers or dropout of its own")
        return self

    def make_head(self) -> Head:
        """The head, as ``training.networks.network.build`` takes it."""
        return Head(self.head, self.pooling, self.hidden, self.dropout)


class Weights(_Part):
    """Where the weights come from; see ``training.runs.initial_weights``."""

    source: Literal["random", "file", "imagenet", "run"] = "imagenet"
    path: str | None = None
    sha256: Sha256 | None = None
    head: Literal["new", "keep"] = "new"  # of a run's model: whether its head goes on being trained
    other_size: Literal[True] | None = None  # of a run's model: it may have seen images of another size

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.source == "file") != (self.path is not None) or (self.source == "file") != (self.sha256 is not None):
            raise ValueError("path and sha256: needed with source = file, and only there")
        if self.head == "keep" and self.source != "run":
            raise ValueError("head: keep is accepted with source = run only")
        if self.other_size and self.source != "run":
            raise ValueError("other_size: accepted with source = run only")
        return self


class Augment(_Part):
    """Random changes of training images; see ``training.inputs.augment``. The default is none."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0  # up to, either way
    shift: Share = 0.0  # up to, as a share of the side
    zoom: Share = 0.0  # up to, either way
    gamma: tuple[Positive, Positive] = (1.0, 1.0)  # from, to
    noise: Share = 0.0  # standard deviation, up to, of grey in [0, 1]
    cut_out: Share = 0.0  # side of a black square, up to, as a share of the side
    flip_horizontal: bool = False  # mirrors the heart: off unless a predecessor is rebuilt
    flip_vertical: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gamma[0] > self.gamma[1]:
            raise ValueError("gamma: from is not above to")
        return self


class Balance(_Part):
    """What is done about rare classes and sources; validation and test keep their prevalence."""

    method: Literal["none", "weights", "undersample", "oversample"] = "none"
    by_source: bool = False  # every source counts the same within its class
    seed: int = 0  # of which images are left out or repeated


class Stage(_Part):
    """One part of the fitting: what is trained, how, for how long."""

    name: Slug
    train: Trained
    batch_norm: Literal["auto", "frozen", "trained"] = (
        "auto"  # auto: frozen where the trunk starts from trained weights
    )
    batch_norm_momentum: Annotated[float, Field(ge=0, lt=1)] | None = None  # of its statistics; None: as built, 0.99
    optimizer: Literal["adam", "adamw", "regression"] = (
        "adam"  # regression: a head, at once (training.runs.head_regression)
    )
    learning_rate: Positive = 1e-3
    strength: Positive | None = None  # regression: inverse of the penalty on squares
    weight_decay: Share = 0.0  # adamw
    clip_norm: Positive | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    epochs: Annotated[int, Field(ge=1, le=10000)]
    schedule: Literal["constant", "cosine", "plateau", "inverse_time"] = "constant"
    decay: Share = 0.0  # inverse_time: rate / (1 + decay * steps)
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.3
    plateau_patience: Annotated[int, Field(ge=1)] = 2
    monitor: Literal["val_auc", "val_loss", "val_accuracy"] = "val_auc"
    patience: Annotated[int, Field(ge=0)] = 5  # epochs without a better figure; 0: never stop early
    keep: Literal["best", "last"] = "best"
    images_per_epoch: Annotated[int, Field(ge=1)] | None = None  # None: each image once

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError("weight_decay: needs optimizer = adamw")
        if bool(self.decay) != (self.schedule == "inverse_time"):
            raise ValueError("decay: needed with schedule = inverse_time, and only there")
        if (self.strength is not None) != (self.optimizer == "regression"):
            raise ValueError("strength: needed with optimizer = regression, and only there")
        if self.optimizer == "regression" and (self.train, self.epochs) != ("head", 1):
            raise ValueError("optimizer: a regression trains the head alone, in one epoch")
        return self


class MaskModelName(_Part):
    """The mask model whose masks a run sees; see ``training.runs.lung_mask_model``."""

    path: str
    fingerprint: Sha256


class Loss(_Part):
    """Cross-entropy of the activation, plain or focal."""

    name: Literal["crossentropy", "focal"] = "crossentropy"
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0


class Finish(_Part):
    """What is done after fitting, on the validation set only."""

    calibration: Literal["none", "temperature_bias"] = "temperature_bias"
    rule: Literal["sensitivity", "specificity", "youden", "fixed"] = "sensitivity"
    target: Annotated[float, Field(gt=0, lt=1)] = 0.9  # at least; with fixed: the threshold


class Compute(_Part):
    """How the machine is used; none of it is meant to change the result beyond rounding."""

    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    devices: Literal["auto", "cpu", "all"] = "auto"  # auto: the first GPU or the CPU; all: every GPU
    deterministic: bool = True


class TrainingRecipe(_Part):
    """Everything that a run depends on, beside its images."""

    name: Slug
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    task: Task
    split: Split = Split()
    pixels: Annotated[PixelRecipe, BeforeValidator(_read_pixels), PlainSerializer(_write_pixels)] = TRAINING_RECIPE
    lung_masks: Literal[False, "model", "manifest"] = (
        False  # outside the lungs all is black; see training.runs.lung_mask_model
    )
    mask_model: MaskModelName | None = None  # with lung_masks = model; --mask-model fills it in
    brisque_below: Positive | None = None  # pictures of this BRISQUE or more take no part; see training.inputs.brisque
    network: Network = Network()
    weights: Weights = Weights()
    augment: Augment = Augment()
    balance: Balance = Balance()
    loss: Loss = Loss()
    stages: tuple[Stage, ...]
    finish: Finish = Finish()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.stages:
            raise ValueError("stages: at least one is needed")
        if len({stage.name for stage in self.stages}) != len(self.stages):
            raise ValueError("stages: each has a name of its own")
        if self.network.architecture == "tiny" and self.weights.source in ("file", "imagenet"):
            raise ValueError("weights: nobody publishes any for tiny; accepted are random and run")
        if self.pixels.size < 32:
            raise ValueError("pixels: size is at least 32")
        is_regression = any(stage.optimizer == "regression" for stage in self.stages)
        if is_regression and (self.network.head != "evidence" or self.task.from_columns):
            raise ValueError("optimizer: a regression needs network.head = evidence, and one label per image")
        if self.lung_masks == "manifest" and (self.pixels.borders, self.pixels.contrast) != ("keep", "keep"):
            raise ValueError("lung_masks: a drawn mask knows nothing of pixels.borders or contrast; both are keep")
        if self.mask_model is not None and self.lung_masks != "model":
            raise ValueError('mask_model: accepted with lung_masks = "model" only')
        return self

    def to_document(self) -> dict[str, Any]:
        """Everything, as JSON and TOML can hold it."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the canonical JSON of every field."""
        canonical = json.dumps(self.to_document(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with this project."""
    return tuple(sorted(path.stem for path in _configs().glob("*.toml")))


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> TrainingRecipe:
    """Read a recipe.

    Parameters
    ----------
    name_or_path
        A name of ``recipe_names``, or a TOML file.
    overrides
        ``KEY=VALUE``, the key with dots and the value as TOML writes it, e.g. ``seed=3``,
        ``network.architecture="tiny"`` (quotes may be left out), ``stages.0.epochs=1``.

    Raises
    ------
    RecipeError
        If it can't be read or is not valid; every fault is named.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _configs() / f"{name_or_path}.toml"
        if name_or_path not in recipe_names():
            raise RecipeError(f"There is no such recipe; accepted are {', '.join(recipe_names())}, or a .toml file.")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise RecipeError("The recipe's file can't be read; give a TOML file in UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe is not TOML: {error}.") from error
    for override in overrides:
        _override(document, override)
    return parse_recipe(document)


def parse_recipe(document: Mapping[str, Any]) -> TrainingRecipe:
    """Check a recipe's document; see ``load_recipe``."""
    try:
        return TrainingRecipe.model_validate_json(json.dumps(document))
    except TypeError as error:
        raise RecipeError("The recipe holds a date or a time; no key takes one.") from error
    except ValidationError as error:
        faults = [_say(fault["loc"], fault["msg"]) for fault in error.errors(include_url=False)]
        raise RecipeError(f"The recipe has {len(faults)} fault(s):\n" + "\n".join(faults)) from error


def _say(location: tuple[int | str, ...], message: str) -> str:
    return f"  {'.'.join(str(part) for part in location) or 'recipe'}: {message.removeprefix('Value error, ')}"


def _configs() -> Path:
    return CONFIGS if CONFIGS.is_dir() else SOURCE_CONFIGS


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError("An override is KEY=VALUE, e.g. stages.0.epochs=1.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a word without its quotes
    node: Any = document
    for part in parts[:-1]:
        node = _child(node, part, key)
    if isinstance(node, list):
        _child(node, parts[-1], key)
        node[int(parts[-1])] = value
    else:
        node[parts[-1]] = value


def _child(node: Any, part: str, key: str) -> Any:  # noqa: ANN401 (any TOML)
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return node[int(part)]
    if isinstance(node, dict) and isinstance(child := node.setdefault(part, {}), dict | list):
        return child
    raise RecipeError(f"The override's key {key} leads nowhere: see `configs/` for the keys there are.")
