"""Gates: each refuses with its name and figure; accepted by name, the package becomes a demonstration."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from config.settings import GateSettings
from cxr.domain import Code, PackageStatus
from cxr.errors import PromotionRefused
from cxr.package import ModelPackage, PackageClass, PackageManifest, Provenance, write_package
from cxr.package.golden_images import to_golden_document
from cxr.pixels.recipe import DEFAULT_RECIPE
from inference.registry import Gates, Registry

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WHO: dict[str, Any] = {"now": NOW, "actor": "tester", "reason": "a test"}
NAMES = ("normal", "covid19")
GOOD: dict[str, Any] = {
    "is_image_wise": False,
    "patients_disjoint": True,
    "classes": {
        name: {"auc": 0.75, "auc_low": 0.70, "ece": 0.04, "worst_subgroup": {"attribute": "sex", "auc": 0.68}}
        for name in NAMES
    },
    "blanked_lungs": {name: {"auc": 0.53, "auc_low": 0.46, "auc_high": 0.60} for name in NAMES},
    "comparisons": [],
}
CARD = b"# Model 1\n\nThe first paragraph.\n\nThe second.\n"


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., ModelPackage]:
    """Write a package whose graph nobody loads here; the name makes the weights."""

    def make(name: str, evaluation: dict[str, Any] | None = None, *, golden: bool = True, **changes: Any) -> Any:
        fields: dict[str, Any] = {
            "name": name,
            "version": "1",
            "status": PackageStatus.EVALUATED,
            "classes": tuple(
                PackageClass(finding=each, code=Code(value="1", scheme_designator="99X", meaning="x")) for each in NAMES
            ),
            "activation": "softmax",
            "recipe": DEFAULT_RECIPE,
            "evaluation": GOOD if evaluation is None else evaluation,
            "provenance": Provenance(training_data="x", architecture="tiny", created=NOW),
        }
        contents = {"model.keras": name.encode(), "MODEL_CARD.md": CARD}
        if golden:
            contents |= {"golden.json": to_golden_document([("golden-00.png", (0.5, 0.5))]), "golden-00.png": b"x"}
        return write_package(tmp_path / "exports" / name, PackageManifest(**(fields | changes)), contents)

    return make


@pytest.fixture
def off_by() -> dict[str, float]:
    """How far the golden images of a package are off, by its name."""
    return {}


@pytest.fixture
def registry(tmp_path: Path, off_by: dict[str, float]) -> Registry:
    gates = Gates(GateSettings(), lambda package: off_by.get(package.manifest.name, 0.0))
    return Registry(tmp_path / "models", gates=gates)


def changed(*keys: Any, value: Any) -> dict[str, Any]:
    """The good figures with one of them changed, or (None) taken out."""
    evaluation = deepcopy(GOOD)
    place: Any = evaluation
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return evaluation


def refusal(registry: Registry, package: ModelPackage) -> str:
    fingerprint = registry.add(package.folder).fingerprint
    with pytest.raises(PromotionRefused) as caught:
        registry.promote(fingerprint, **WHO)
    assert registry.active_fingerprint() != fingerprint
    return str(caught.value)


def test_a_package_that_passes_every_gate_goes_into_service_as_it_is(
    registry: Registry, export: Callable[..., ModelPackage]
) -> None:
    fingerprint = registry.add(export("good").folder).fingerprint
    assert [gate.name for gate in registry.check_gates(registry.load(fingerprint)) if gate.is_passed] == [
        "trained",
        "evaluated",
        "patients_disjoint",
        "auc",
        "calibration",
        "subgroups",
        "blanked_lungs",
        "not_worse",
        "golden_images",
    ]
    promotion = registry.promote(fingerprint, **WHO)
    assert promotion.fingerprint == fingerprint
    assert promotion.accepted == {}


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        (changed("patients_disjoint", value=False), "gate patients_disjoint: patients on two sides"),
        (changed("patients_disjoint", value=None), "gate patients_disjoint: patients_disjoint is not in the package"),
        (changed("is_image_wise", value=True), "gate patients_disjoint: image-wise"),
        (changed("classes", "covid19", "auc_low", value=0.599), "gate auc: covid19: 0.599"),
        (changed("classes", "covid19", "auc_low", value=None), "gate auc: covid19: not in the package"),
        (changed("classes", "covid19", value=None), "gate auc: covid19: not in the package"),
        (changed("classes", value=None), "gate auc: normal, covid19: not in the package"),
        (changed("classes", "normal", "auc_low", value="0.9"), "gate auc: normal: not in the package"),
        (changed("classes", "normal", "auc_low", value=True), "gate auc: normal: not in the package"),
        (changed("classes", "normal", "ece", value=0.101), "gate calibration: normal: 0.101"),
        (changed("classes", "normal", "ece", value=None), "gate calibration: normal: not in the package"),
        (changed("classes", "normal", "ece", value=float("nan")), "gate calibration: normal: not in the package"),
        (changed("classes", "normal", "ece", value="0.01"), "gate calibration: normal: not in the package"),
        (changed("classes", "covid19", "ece", value=None), "gate calibration: covid19: not in the package"),
        (
            changed("classes", "normal", "worst_subgroup", "auc", value=None),
            "gate subgroups: normal: not in the package",
        ),
        (changed("classes", "normal", "worst_subgroup", "auc", value=0.5), "gate subgroups: normal: 0.500"),
        (changed("classes", "normal", "worst_subgroup", value=None), "gate subgroups: normal: not in the package"),
        (
            changed("blanked_lungs", "covid19", value={"auc": 0.7, "auc_low": 0.62, "auc_high": 0.8}),
            "gate blanked_lungs: covid19: 0.700",
        ),
        (changed("blanked_lungs", value=None), "gate blanked_lungs: normal: not in the package; covid19"),
    ],
)
def test_each_gate_refuses_with_its_name_and_figure(
    registry: Registry, export: Callable[..., ModelPackage], evaluation: dict[str, Any], said: str
) -> None:
    assert said in refusal(registry, export("bad", evaluation))


@pytest.mark.parametrize(
    "figures",
    [
        {"auc": 0.62, "auc_low": 0.49, "auc_high": 0.75},  # the interval holds chance
        {"auc": 0.57, "auc_low": 0.52, "auc_high": 0.62},  # below the bar
    ],
)
def test_blanked_lungs_pass_by_either_rule(
    registry: Registry, export: Callable[..., ModelPackage], figures: dict[str, float]
) -> None:
    package = export("good", changed("blanked_lungs", "covid19", value=figures))
    registry.promote(registry.add(package.folder).fingerprint, **WHO)


def test_the_bars_are_settings(tmp_path: Path, export: Callable[..., ModelPackage]) -> None:
    strict = Registry(tmp_path / "models", gates=Gates(GateSettings(auc_low=0.71), lambda _: 0.0))
    assert "gate auc: normal: 0.700 (required: lower end of the area's interval at least 0.71)" in refusal(
        strict, export("good")
    )


def test_golden_images_have_to_be_reproduced(
    registry: Registry, export: Callable[..., ModelPackage], off_by: dict[str, float]
) -> None:
    off_by["off"] = 0.0002
    assert "gate golden_images: off by 0.0002" in refusal(registry, export("off"))
    assert "golden.json is not in the package" in refusal(registry, export("without", golden=False))


def against(first: ModelPackage, high: float) -> dict[str, Any]:
    figures = {name: {"difference": high - 0.05, "low": high - 0.1, "high": high} for name in NAMES}
    comparison = {"model_sha256": first.manifest.files["model.keras"], "classes": figures}
    return changed("comparisons", value=[comparison])


def test_a_package_is_compared_with_the_one_in_service(registry: Registry, export: Callable[..., ModelPackage]) -> None:
    first = export("first")
    registry.promote(registry.add(first.folder).fingerprint, **WHO)
    assert "gate not_worse: no comparison with it" in refusal(registry, export("stranger"))
    worse = export("worse", against(first, -0.01))
    assert "gate not_worse: normal: worse by at least 0.010; covid19" in refusal(registry, worse)
    registry.promote(registry.add(export("level", against(first, 0.02)).folder).fingerprint, **WHO)


@pytest.mark.parametrize("high", [None, float("nan"), "0.02", True])
def test_a_comparison_without_its_figure_is_refused(
    registry: Registry, export: Callable[..., ModelPackage], high: Any
) -> None:
    """The class that lacks it is named, whatever the other's figure is."""
    first = export("first")
    registry.promote(registry.add(first.folder).fingerprint, **WHO)
    evaluation = against(first, 0.02)
    figures = evaluation["comparisons"][0]["classes"]["covid19"]
    figures["high"] = high
    if high is None:
        del figures["high"]
    package = export("incomplete", evaluation)
    assert "gate not_worse: covid19: not in the package" in refusal(registry, package)


def test_the_same_weights_and_random_ones_need_no_comparison(
    registry: Registry, export: Callable[..., ModelPackage], tiny_package: Callable[..., ModelPackage]
) -> None:
    registry.promote(registry.add(tiny_package().folder).fingerprint, **WHO, accept={"trained": "to try"})
    first = export("first")
    registry.promote(registry.add(first.folder).fingerprint, **WHO)
    copy = {"model.keras": first.model_path, "MODEL_CARD.md": b"# other"}
    golden = {name: first.folder / name for name in ("golden.json", "golden-00.png")}
    again = write_package(first.folder.parent / "again", first.manifest, copy | golden)
    registry.promote(registry.add(again.folder).fingerprint, **WHO)
    assert registry.active_fingerprint() == again.fingerprint


def test_accepted_by_name_it_becomes_a_demonstration_with_a_fingerprint_of_its_own(
    registry: Registry, export: Callable[..., ModelPackage]
) -> None:
    package = export("bad", changed("classes", "covid19", "auc_low", value=0.55))
    fingerprint = registry.add(package.folder).fingerprint
    with pytest.raises(PromotionRefused, match="gate auc"):
        registry.promote(fingerprint, **WHO, accept={"subgroups": "not the one that fails"})
    promotion = registry.promote(fingerprint, **WHO, accept={"auc": "shown\n at a course", "subgroups": "unneeded"})
    active = registry.active()
    assert promotion.fingerprint == active.fingerprint != fingerprint
    assert promotion.accepted == {"auc": "shown\n at a course"}
    assert active.manifest.status is PackageStatus.DEMONSTRATION
    (gate,) = active.manifest.accepted_gates
    assert (gate.name, gate.reason, gate.accepted_at) == ("auc", "shown at a course", NOW)
    assert gate.figure == "covid19: 0.550 (wanted: lower end of the area's interval at least 0.6)"
    assert active.manifest.provenance.parents == (fingerprint,)
    files = package.manifest.files
    assert {name: active.manifest.files[name] for name in files if name != "MODEL_CARD.md"} == {
        name: digest for name, digest in files.items() if name != "MODEL_CARD.md"
    }
    title, first, second = (active.folder / "MODEL_CARD.md").read_text().strip().split("\n\n")
    assert (title, second) == ("# Model 1", "The second.")
    assert first.startswith("**DEMONSTRATION MODEL - DID NOT PASS ITS EVALUATION.** Promoted on 2026-01-02 although")
    assert "gate `auc`: covid19: 0.550" in first
    assert "shown at a course. The first paragraph." in first
    # What it was made of stays, unchanged.
    assert registry.load(fingerprint).manifest.status is PackageStatus.EVALUATED


def test_a_demonstration_is_promoted_again_without_being_asked_again(
    registry: Registry, export: Callable[..., ModelPackage], off_by: dict[str, float]
) -> None:
    package = export("bad", changed("classes", "covid19", "auc_low", value=0.55))
    fingerprint = registry.add(package.folder).fingerprint
    registry.promote(fingerprint, **WHO, accept={"auc": "shown at a course"})
    demonstration = registry.active()
    again = registry.promote(demonstration.fingerprint, **WHO)
    assert again.fingerprint == demonstration.fingerprint
    assert again.accepted == {"auc": "shown at a course"}
    # Another gate that fails meanwhile is another matter.
    off_by["bad"] = 1.0
    with pytest.raises(PromotionRefused, match="golden_images"):
        registry.promote(demonstration.fingerprint, **WHO)
    registry.promote(demonstration.fingerprint, **WHO, accept={"golden_images": "another machine"})
    assert [gate.name for gate in registry.active().manifest.accepted_gates] == ["auc", "golden_images"]


def test_a_package_without_figures_is_asked_for_them_and_for_nothing_else(
    registry: Registry, export: Callable[..., ModelPackage]
) -> None:
    package = export("bare", {}, golden=False)
    assert refusal(registry, package).count("gate ") == 2  # evaluated, and the word in the advice
    registry.promote(package.fingerprint, **WHO, accept={"evaluated": "legacy"})
    assert registry.active().manifest.status is PackageStatus.DEMONSTRATION


def test_random_weights_stay_untrained(registry: Registry, tiny_package: Callable[..., ModelPackage]) -> None:
    fingerprint = registry.add(tiny_package().folder).fingerprint
    registry.promote(fingerprint, **WHO, accept={"trained": "to try"})
    assert registry.active().fingerprint == fingerprint
    assert json.loads((registry.active().folder / "package.json").read_text())["status"] == "untrained"
