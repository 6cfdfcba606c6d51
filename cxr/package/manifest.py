"""What a model package says about itself: the content of ``package.json``.

The format is strict: an unknown format version, field or component is refused, never guessed at.
What only later versions of this project need goes into ``components`` (parts that serving has to
apply; a reader that does not know one refuses the package) or ``evaluation`` (figures that are
shown and judged, and change no score), so that the format itself can stay.
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
"""The format that this version writes, and the only one it reads."""

KNOWN_COMPONENTS: frozenset[str] = frozenset({"input-gate", "lung-mask", "view"})
"""Components that this version can serve, beyond the graph and the recipe."""

DEVICE_TOLERANCE = 1e-3
"""Default of ``score_tolerance``: float32 on two devices, convolutions summed in another order."""

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
# Both go into the report: Algorithm Name and Version, LO, PS3.5 Table 6.2-1.
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

    finding: Slug  # a name of cxr.labels.FINDINGS
    code: Code  # what the report calls it
    threshold: Probability | None = None  # the operating point; None: it has none

    @field_validator("code", mode="before")
    @classmethod
    def _code_is_complete(cls, value: object) -> object:
        # pydantic ignores unknown keys of a plain dataclass; we do not.
        if isinstance(value, Mapping) and not set(value) <= {"value", "scheme_designator", "meaning"}:
            raise ValueError("a code has value, scheme_designator and meaning")
        return value


class OperatingPoint(_Part):
    """How the thresholds of the classes were chosen."""

    rule: str = Field(min_length=1)  # e.g. "sensitivity of at least 0.90"
    chosen_on: str = Field(min_length=1)  # the data; never the test set
    prevalence: Probability | None = None  # in that data


class AcceptedGate(_Part):
    """A gate that the package failed and that somebody promoted it past."""

    name: Slug
    figure: str  # what was measured against what bar
    reason: str = Field(min_length=1)
    accepted_at: AwareDatetime


class Provenance(_Part):
    """Where the weights come from."""

    training_data: str = Field(min_length=1)  # "none" for random weights
    architecture: str = Field(min_length=1)
    created: AwareDatetime
    seed: int | None = None
    software: dict[str, str] = Field(default_factory=dict)  # name -> version
    parents: tuple[str, ...] = ()  # fingerprints or digests of what training started from


class Outputs(_Part):
    """Names of the graph's outputs."""

    probabilities: str = "prob"
    evidence: str | None = None  # (N, h, w, C) logits whose mean is the class's logit; None: the graph has none


class PackageManifest(_Part):
    """The content of ``package.json``.

    ``files`` is empty until ``cxr.package.folder.write_package`` has filled it. ``score_tolerance`` is how
    far a score may differ between devices, absolute, in probability.
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
    """Return the manifest as what JSON can hold."""
    document: dict[str, Any] = manifest.model_dump(mode="json")
    return document


def fingerprint_of(document: Mapping[str, Any]) -> str:
    """Return what names the package in every result.

    SHA-256, in hex, over the whole manifest in canonical JSON (sorted keys, no spaces, ASCII). The
    manifest holds the digest of every other file, so a changed weight, threshold, recipe, status
    or word of the card gives another fingerprint. It is taken over what stands in the file, not
    over what this version makes of it: fields of later versions do not change old fingerprints.
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
        If it is one that this version does not read.
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
    # NaN and Infinity are Python's own addition to JSON.
    raise ValueError(constant)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers would take two different values of a key that stands there twice.
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("duplicate key")
    return document


def _describe(error: ValidationError) -> str:
    faults = [f"{'.'.join(map(str, each['loc'])) or 'manifest'}: {each['msg']}" for each in error.errors()]
    return f"package.json does not fit format version {FORMAT_VERSION}: {'; '.join(faults[:10])}."
