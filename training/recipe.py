"""The training recipe: all settings of a run, as one TOML file.

Validation is strict: unknown keys, values of another type or outside their range, and settings that
contradict each other are errors, all reported at once. ``configs/`` holds the recipes of this project;
a run's folder holds its own.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from cxr.domain import Code
from cxr.errors import RecipeError
from cxr.labels import FINDINGS, private_code
from cxr.pixels.recipe import TRAINING_RECIPE, PixelRecipe, describe_faults
from training.networks import BACKBONES, POOLED, Head

CONFIGS = Path(__file__).resolve().parent / "configs"
SOURCE_CONFIGS = CONFIGS.parent.parent / "configs"
"""Folder of the recipes in a checkout; in the wheel it is ``training/configs``."""

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Trained = Literal["head", "conv5", "conv4", "conv3", "conv2", "all"]

EVERY_OTHER = "*"
"""In ``task.negative``: every label that belongs to no class."""


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
        raise ValueError("quantised: only true is accepted, so that the cache is identical to serving")
    return recipe


def _write_pixels(recipe: PixelRecipe) -> dict[str, Any]:
    return {name: value for name, value in recipe.to_dict().items() if value is not None}  # TOML has no null


class CustomFinding(_Part):
    """A finding that is not in ``cxr.labels``; without a code it is reported under one of this project's."""

    meaning: Annotated[str, Field(min_length=1, max_length=64)]  # displayed; Code Meaning (LO) in the report
    code: Annotated[str, Field(min_length=1, max_length=16)] | None = None  # Code Value (SH)
    scheme: Annotated[str, Field(min_length=1, max_length=16)] | None = None  # its designator, e.g. SCT

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.code is None) != (self.scheme is None):
            raise ValueError("code and scheme: give both, or neither")
        return self


class Task(_Part):
    """Outputs of the network, and the labels that they stand for."""

    classes: tuple[str, ...] = Field(min_length=1)  # findings, in the order of the outputs
    findings: dict[Slug, CustomFinding] | None = None  # those that cxr.labels.FINDINGS lacks, by name
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # class -> labels of the manifest; default: itself
    negative: tuple[str, ...] = (EVERY_OTHER,)  # labels that mean 0 (sigmoid)
    leave_out: tuple[str, ...] | None = None  # labels of the manifest that are not used; None: those without a class
    from_columns: bool = False  # truths from columns label_<class> (sigmoid); empty or -1: unknown
    views: tuple[Literal["PA", "AP", "AP_supine", "L", "unknown"], ...] = ("PA", "AP", "AP_supine", "unknown")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if known := sorted(set(self.findings or ()) & set(FINDINGS)):
            raise ValueError(f"findings: {', '.join(known)} is known already; leave it out, or choose another name")
        if unknown := [name for name in self.classes if name not in FINDINGS and name not in (self.findings or {})]:
            raise ValueError(f"classes: {'; '.join(map(_describe_unknown, unknown))}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: each may occur once")
        if self.activation == "softmax" and (len(self.classes) < 2 or self.from_columns):
            raise ValueError("activation: softmax needs at least two classes, and one label per image")
        if self.activation == "sigmoid" and len(self.classes) > 1 and not self.from_columns:
            raise ValueError(
                "from_columns: several classes with sigmoid need the columns label_<class>: set it to true"
            )
        used = {label for name in self.classes for label in self.labels_of(name)} | set(self.negative)
        if used & set(self.leave_out or ()):
            raise ValueError("leave_out: a label that is left out is neither a class's nor negative")
        if set(self.labels) - set(self.classes):
            raise ValueError("labels: each key is one of the classes")
        return self

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have any number of the classes."""
        return self.activation == "sigmoid" and len(self.classes) > 1

    def labels_of(self, name: str) -> tuple[str, ...]:
        """Return the labels of the manifest that belong to a class."""
        return self.labels.get(name, (name,))

    def code_of(self, name: str) -> Code:
        """Return the code that the scores of a class are reported under."""
        custom = (self.findings or {}).get(name)
        if custom is None:
            return FINDINGS[name].code
        if custom.code is None or custom.scheme is None:
            return private_code(name, custom.meaning)
        return Code(value=custom.code, scheme_designator=custom.scheme, meaning=custom.meaning)


def _describe_unknown(name: str) -> str:
    near = get_close_matches(name, FINDINGS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"{name} is unknown; {hint}Accepted are the findings of docs/conformance.md, and those that the recipe defines "
        f'as [task.findings.{name}] with meaning = "..."'
    )


class Split(_Part):
    """Split of a manifest without sides; a manifest with sides keeps them."""

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
        """Return the head for ``training.networks.network.build``."""
        return Head(self.head, self.pooling, self.hidden, self.dropout)


class Weights(_Part):
    """Initial weights; see ``training.runs.initial_weights``."""

    source: Literal["random", "file", "imagenet", "run"] = "imagenet"
    path: str | None = None
    sha256: Sha256 | None = None
    head: Literal["new", "keep"] = "new"  # with source = run: keep its head, or start with a new one
    other_size: Literal[True] | None = None  # with source = run: its images may have another size

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
    """Augmentation of training images; see ``training.inputs.augment``. The default is none."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0  # largest angle, in both directions
    shift: Share = 0.0  # largest shift, as a share of the side
    zoom: Share = 0.0  # largest change of scale, in both directions
    gamma: tuple[Positive, Positive] = (1.0, 1.0)  # smallest and largest exponent
    noise: Share = 0.0  # largest standard deviation, of grey in [0, 1]
    cut_out: Share = 0.0  # largest black square, as a share of the side
    flip_horizontal: bool = False  # mirrors the heart: only to rebuild a predecessor
    flip_vertical: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gamma[0] > self.gamma[1]:
            raise ValueError("gamma: the first value is not above the second")
        return self


class Balance(_Part):
    """Balancing of rare classes and sources in training; validation and test keep their prevalence."""

    method: Literal["none", "weights", "undersample", "oversample"] = "none"
    by_source: bool = False  # equal weight of the sources within each class
    seed: int = 0  # of the images that are excluded or repeated


class Stage(_Part):
    """One stage of training: layers, optimiser, schedule, early stopping."""

    name: Slug
    train: Trained
    batch_norm: Literal["auto", "frozen", "trained"] = "auto"  # auto: frozen if the trunk has trained weights
    batch_norm_momentum: Annotated[float, Field(ge=0, lt=1)] | None = (
        None  # of the moving statistics; None: as built, 0.99
    )
    optimizer: Literal["adam", "adamw", "regression"] = (
        "adam"  # regression: logistic regression of the head (training.runs.head_regression)
    )
    learning_rate: Positive = 1e-3
    strength: Positive | None = None  # regression: inverse weight of the L2 penalty
    weight_decay: Share = 0.0  # adamw
    clip_norm: Positive | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    epochs: Annotated[int, Field(ge=1, le=10000)]
    schedule: Literal["constant", "cosine", "plateau", "inverse_time"] = "constant"
    decay: Share = 0.0  # inverse_time: rate / (1 + decay * steps)
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.3
    plateau_patience: Annotated[int, Field(ge=1)] = 2
    monitor: Literal["val_auc", "val_loss", "val_accuracy"] = "val_auc"
    patience: Annotated[int, Field(ge=0)] = 5  # epochs without improvement; 0: no early stopping
    keep: Literal["best", "last"] = "best"
    images_per_epoch: Annotated[int, Field(ge=1)] | None = None  # most images; None: every image once
    # None leaves no trace in the recipe's document: recipes from before these keys keep their digest.
    warmup_epochs: Annotated[int, Field(ge=1)] | None = None  # the rate rises evenly from 0 (constant, cosine)
    accumulate: Annotated[int, Field(ge=2, le=1024)] | None = None  # batches whose mean gradient makes one step
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None  # a batch's; the averaged weights are kept

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
        steps = {name: getattr(self, name) for name in ("warmup_epochs", "accumulate", "ema_momentum")}
        if self.optimizer == "regression" and (given := [name for name, value in steps.items() if value is not None]):
            raise ValueError(f"{', '.join(given)}: a regression has no steps; leave it out, or use adam or adamw")
        if self.warmup_epochs is not None and self.schedule not in ("constant", "cosine"):
            raise ValueError(f"warmup_epochs: accepted with schedule = constant or cosine, not {self.schedule}")
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: accepted are fewer than the stage's {self.epochs} epochs")
        return self


class MaskModelName(_Part):
    """Reference to the mask model of a run; see ``training.runs.lung_mask_model``."""

    path: str
    fingerprint: Sha256


class Loss(_Part):
    """Cross-entropy, plain or focal."""

    name: Literal["crossentropy", "focal"] = "crossentropy"
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0


class Finish(_Part):
    """Calibration and thresholds, chosen on the validation images alone."""

    calibration: Literal["none", "temperature_bias"] = "temperature_bias"
    rule: Literal["sensitivity", "specificity", "youden", "fixed"] = "sensitivity"
    target: Annotated[float, Field(gt=0, lt=1)] = 0.9  # lowest accepted value of the rule; with fixed: the threshold


class Compute(_Part):
    """Use of the machine; it changes the result by rounding only."""

    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    devices: Literal["auto", "cpu", "all"] = "auto"  # auto: the first GPU or the CPU; all: every GPU
    deterministic: bool = True


class TrainingRecipe(_Part):
    """All settings that a run's result depends on, beside its images."""

    name: Slug
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    task: Task
    split: Split = Split()
    pixels: Annotated[PixelRecipe, BeforeValidator(_read_pixels), PlainSerializer(_write_pixels)] = TRAINING_RECIPE
    lung_masks: Literal[False, "model", "manifest"] = (
        False  # pixels outside the lungs become black; see training.runs.lung_mask_model
    )
    mask_model: MaskModelName | None = None  # with lung_masks = model; set by --mask-model
    brisque_below: Positive | None = None  # exclude images with this score or more; see training.inputs.brisque
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
            raise ValueError("stages: each needs a name of its own")
        if self.network.architecture == "tiny" and self.weights.source in ("file", "imagenet"):
            raise ValueError("weights: none are published for tiny; accepted are random and run")
        if self.pixels.size < 32:
            raise ValueError("pixels: size is at least 32")
        side = BACKBONES[self.network.architecture].map_side(self.pixels.size)
        if self.network.head == "dense" and self.network.pooling == "average4" and side < POOLED:
            fits = next(
                size for size in range(32, 1024) if BACKBONES[self.network.architecture].map_side(size) >= POOLED
            )
            raise ValueError(
                f"pixels: with size = {self.pixels.size} the maps of {self.network.architecture} have {side} x {side} "
                f"places, and pooling = average4 needs {POOLED} x {POOLED}; accepted is a size of at least {fits}"
            )
        if self.task.is_multi_label and self.balance.method == "undersample":
            raise ValueError(
                "balance: undersample needs one label per image (an image that is left out may have a rare label too); "
                "accepted for several are none, weights and oversample"
            )
        is_regression = any(stage.optimizer == "regression" for stage in self.stages)
        if is_regression and (self.network.head != "evidence" or self.task.from_columns):
            raise ValueError("optimizer: a regression needs network.head = evidence, and one label per image")
        if self.lung_masks == "manifest" and (self.pixels.borders, self.pixels.contrast) != ("keep", "keep"):
            raise ValueError("lung_masks: drawn masks don't fit pixels.borders or contrast; accepted is keep for both")
        if self.mask_model is not None and self.lung_masks != "model":
            raise ValueError('mask_model: accepted with lung_masks = "model" only')
        return self

    def to_document(self) -> dict[str, Any]:
        """Convert to types of JSON and TOML, without null values."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of every field, in hex."""
        canonical = json.dumps(self.to_document(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes of this project."""
    return tuple(sorted(path.stem for path in _configs().glob("*.toml")))


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> TrainingRecipe:
    """Read a recipe.

    Parameters
    ----------
    name_or_path
        A name from ``recipe_names``, or a TOML file.
    overrides
        ``KEY=VALUE``, with dots in the key and the value in TOML, e.g. ``seed=3``,
        ``network.architecture="tiny"`` (quotes may be left out), ``stages.0.epochs=1``.

    Raises
    ------
    RecipeError
        If it can't be read or is not valid; the message lists every error.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _configs() / f"{name_or_path}.toml"
        if name_or_path not in recipe_names():
            raise RecipeError(f"There is no such recipe; accepted are {', '.join(recipe_names())}, or a .toml file.")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise RecipeError("The recipe can't be read; accepted is a TOML file in UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe is not TOML: {error}.") from error
    for override in overrides:
        _override(document, override)
    return parse_recipe(document)


def parse_recipe(document: Mapping[str, Any]) -> TrainingRecipe:
    """Validate a recipe's document; errors as in ``load_recipe``."""
    try:
        return TrainingRecipe.model_validate_json(json.dumps(document))
    except TypeError as error:
        raise RecipeError("The recipe has a date or a time; no key accepts one.") from error
    except ValidationError as error:
        faults = [_describe(fault["loc"], fault["msg"]) for fault in error.errors(include_url=False)]
        raise RecipeError(f"The recipe has {len(faults)} fault(s):\n" + "\n".join(faults)) from error


def _describe(location: tuple[int | str, ...], message: str) -> str:
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
        value = text.strip()  # a text without quotes
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
    raise RecipeError(f"The override's key {key} is unknown: see the recipes in `configs/` for the keys.")
