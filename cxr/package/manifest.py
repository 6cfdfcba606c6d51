"""The manifest of a model package: the content of ``package.json``.

The format is strict: an unknown format version, field or component is refused. Additions of later versions go into
``components`` (parts that change a score; a version that does not support one refuses the package) or ``evaluation``
(figures that are shown and checked, and change no score), so that the format version can stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from cxr.domain import Code, PackageStatus
from cxr.errors import DamagedPackage, IncompatiblePackage
from cxr.pixels.recipe import PixelRecipe

FORMAT_VERSION: Final = 1
"""Format version that is written, and the only one that is read."""

KNOWN_COMPONENTS: frozenset[str] = frozenset({"input-gate", "lung-mask", "view"})
"""Components that this version supports, beside graph and recipe."""

DEVICE_TOLERANCE = 1e-3
"""Default of ``score_tolerance``: devices sum float32 convolutions in different orders."""

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
# Values of the report: Algorithm Name and Version, LO, PS3.5 Table 6.2-1.
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}$")]
ModelVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,31}$")]


def _read_recipe(value: object) -> object:
    return PixelRecipe.from_dict(value) if isinstance(value, Mapping) else value


Recipe = Annotated[PixelRecipe, BeforeValidator(_read_recipe), PlainSerializer(PixelRecipe.to_dict)]


class _Part(BaseModel):
    """One JSON object of the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PackageClass(_Part):
    """One output of the model, in the order of the graph's units."""

    finding: Slug  # a name of cxr.labels.FINDINGS, or of a recipe's own finding
    code: Code  # of the finding in the report
    threshold: Probability | None = None  # operating point; None: not chosen

    @field_validator("code", mode="before")
    @classmethod
    def _code_is_complete(cls, value: object) -> object:
        # pydantic ignores unknown keys of a standard dataclass.
        if isinstance(value, Mapping) and not set(value) <= {"value", "scheme_designator", "meaning"}:
            raise ValueError("a code has value, scheme_designator and meaning")
        return value


class OperatingPoint(_Part):
    """Choice of the classes' thresholds."""

    rule: str = Field(min_length=1)  # e.g. "sensitivity of at least 0.90"
    chosen_on: str = Field(min_length=1)  # a side of the split, never the test set
    prevalence: Probability | None = None  # in that data


class AcceptedGate(_Part):
    """A promotion gate that the package failed and an operator accepted."""

    name: Slug
    figure: str  # measured value and limit
    reason: str = Field(min_length=1)
    accepted_at: AwareDatetime


class Provenance(_Part):
    """Origin of the weights."""

    training_data: str = Field(min_length=1)  # "none" for random weights
    architecture: str = Field(min_length=1)
    created: AwareDatetime
    seed: int | None = None
    software: dict[str, str] = Field(default_factory=dict)  # name -> version
    parents: tuple[str, ...] = ()  # fingerprints or digests of the initial weights and inputs of training


class Outputs(_Part):
    """Names of the graph's outputs."""

    probabilities: str = "prob"
    evidence: str | None = None  # logits (images, rows, columns, classes), their mean is the class's; None: no output


class PackageManifest(_Part):
    """Content of ``package.json``.

    ``cxr.package.folder.write_package`` fills ``files``. ``score_tolerance`` is the largest absolute difference
    of a probability between devices.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: ModelName
    version: ModelVersion
    status: PackageStatus
    accepted_gates: tuple[AcceptedGate, ...] = ()
    classes: tuple[PackageClass, ...] = Field(min_length=1)
    activation: Literal["sigmoid", "softmax"]
    calibrated: bool = False
    operating_point: OperatingPoint | None = None
    recipe: Recipe
    outputs: Outputs = Outputs()
    score_tolerance: float = Field(DEVICE_TOLERANCE, gt=0, le=1, allow_inf_nan=False)
    components: dict[Slug, dict[str, JsonValue]] = Field(default_factory=dict)
    evaluation: dict[str, JsonValue] = Field(default_factory=dict)
    provenance: Provenance
    files: dict[FileName, Sha256] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _classes_fit_the_activation(self) -> PackageManifest:
        findings = [each.finding for each in self.classes]
        if len(set(findings)) != len(findings):
            raise ValueError("two classes have the same finding")
        if self.activation == "softmax" and len(findings) < 2:
            raise ValueError("softmax needs two classes or more")
        return self

    @model_validator(mode="after")
    def _status_is_honest(self) -> PackageManifest:
        if (self.status is PackageStatus.DEMONSTRATION) != bool(self.accepted_gates):
            raise ValueError("status demonstration and accepted_gates go together")
        if self.status is PackageStatus.UNTRAINED and self.calibrated:
            raise ValueError("an untrained model is not calibrated")
        return self

    @property
    def input_size(self) -> int:
        """Rows and columns of the graph's input."""
        return self.recipe.size

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the graph's units."""
        return tuple(each.finding for each in self.classes)


def to_document(manifest: PackageManifest) -> dict[str, Any]:
    """Return the manifest as JSON types."""
    document: dict[str, Any] = manifest.model_dump(mode="json")
    return document


def fingerprint_of(document: Mapping[str, Any]) -> str:
    """Return the fingerprint that identifies the package in every result.

    It is the SHA-256, in hex, of the whole manifest in canonical JSON (sorted keys, no spaces, ASCII). The
    manifest holds the digest of every other file, so that any change of weights, thresholds, recipe, status
    or model card changes the fingerprint. The document is that of the file, without defaults of this
    version: fields that later versions add don't change old fingerprints.
    """
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def parse_manifest(content: bytes) -> tuple[PackageManifest, str]:
    """Read the content of ``package.json``.

    Returns
    -------
    tuple[PackageManifest, str]
        The manifest and the package's fingerprint.

    Raises
    ------
    DamagedPackage
        If the content is not a JSON object.
    IncompatiblePackage
        If this version does not support it.
    """
    document = _parse_json(content)
    version = document.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        received = version if isinstance(version, int) else "none"
        raise IncompatiblePackage(
            f"package.json has format version {received}; this version of cxr-listener reads {FORMAT_VERSION}: "
            "use the version that wrote the package, or export the model again."
        )
    try:
        manifest = PackageManifest.model_validate_json(content)
    except ValidationError as error:
        raise IncompatiblePackage(_describe(error)) from None
    unknown = sorted(set(manifest.components) - KNOWN_COMPONENTS)
    if unknown:
        raise IncompatiblePackage(
            f"The package needs components that this version of cxr-listener does not serve: {', '.join(unknown)}."
        )
    return manifest, fingerprint_of(document)


def _parse_json(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise DamagedPackage("package.json is not a JSON object: restore the package from where it was exported.")
    return document


def _refuse_constant(constant: str) -> NoReturn:
    # NaN and Infinity are an extension of Python's parser, not JSON.
    raise ValueError(constant)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Parsers differ in which value of a duplicate key they return.
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("duplicate key")
    return document


def _describe(error: ValidationError) -> str:
    faults = [f"{'.'.join(map(str, each['loc'])) or 'manifest'}: {each['msg']}" for each in error.errors()]
    return f"package.json does not fit format version {FORMAT_VERSION}: {'; '.join(faults[:10])}."
