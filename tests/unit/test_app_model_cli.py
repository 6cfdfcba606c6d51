from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from cxr.domain import PackageStatus
from cxr.errors import CxrError, NoActivePackage, PromotionRefused
from cxr.package import ModelPackage, write_package
from db.engine import open_database
from db.models import list_activations

Cxr = Callable[..., Result]


@pytest.fixture
def cxr(tmp_path: Path) -> Cxr:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--set", f"data_dir={tmp_path / 'var'}", "model", *arguments])

    return run


def in_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def activations(tmp_path: Path) -> list[tuple[str, tuple[str, ...], str]]:
    database = open_database(tmp_path / "var" / "audit.sqlite", tmp_path / "var.keys" / "audit.key", create=False)
    with database.read() as session:
        found = [(each.fingerprint, each.accepted_gates, each.reason) for each in list_activations(session)]
    database.dispose()
    return found


def test_a_package_is_made_promoted_shown_and_rolled_back(
    cxr: Cxr, tmp_path: Path, tiny_package: Callable[..., ModelPackage]
) -> None:
    built = in_json(cxr("build-untrained", "--architecture", "tiny", "--seed", "7", "--json"))["fingerprint"]
    with pytest.raises(PromotionRefused, match="gate trained"):
        raise cxr("promote", built[:10], "--reason", "try").exception or AssertionError("promoted")
    in_json(cxr("promote", built[:10], "--accept-gate", "trained", "--reason", "try", "--json"))

    other = tiny_package().folder
    promoted = cxr("promote", str(other), "--accept-gate", "trained", "--reason", "another")
    assert "UNTRAINED" in promoted.stdout
    listed = [json.loads(line) for line in cxr("list", "--json").stdout.splitlines()]
    assert [(each["fingerprint"], each["is_active"]) for each in listed] == [
        (tiny_package().fingerprint, True),
        (built, False),
    ]
    assert listed[0]["status"] == "untrained"
    assert listed[0]["findings"] == ["covid19"]

    back = in_json(cxr("rollback", "--reason", "not that one", "--json"))
    assert back == {"fingerprint": built, "status": "untrained"}
    assert in_json(cxr("show", "--json"))["fingerprint"] == built
    assert "UNTRAINED MODEL" in cxr("show").stdout
    assert activations(tmp_path) == [
        (built, (), "not that one"),
        (tiny_package().fingerprint, ("trained",), "another"),
        (built, ("trained",), "try"),
    ]


def test_past_a_gate_a_demonstration_goes_into_service_and_the_audit_database_knows(
    cxr: Cxr, tmp_path: Path, tiny_package: Callable[..., ModelPackage]
) -> None:
    source = tiny_package()
    figures = {"classes": {"covid19": {"auc_low": 0.7, "ece": 0.05, "worst_subgroup": {"auc": 0.5}}}}
    figures |= {"patients_disjoint": True, "blanked_lungs": {"covid19": {"auc": 0.5}}}  # type: ignore[dict-item]
    manifest = source.manifest.model_copy(update={"status": PackageStatus.EVALUATED, "evaluation": figures})
    contents: dict[str, bytes | Path] = {name: source.folder / name for name in manifest.files}
    contents["MODEL_CARD.md"] = b"# Name\n\nFirst paragraph.\n\n|  |  |\n| --- | --- |\n| status | evaluated |\n"
    given = write_package(tmp_path / "package", manifest.model_copy(update={"files": {}}), contents)

    refused = cxr("promote", str(given.folder), "--reason", "try", "--accept-gate", "golden_images").exception
    assert isinstance(refused, PromotionRefused)
    assert "gate subgroups: covid19: 0.500" in str(refused)
    assert "golden_images" not in str(refused)
    both = ["--accept-gate", "golden_images", "--accept-gate", "subgroups"]
    promoted = cxr("promote", str(given.folder), "--reason", "for a course", *both)
    assert "DEMONSTRATION MODEL" in promoted.stdout
    shown = in_json(cxr("show", "--json"))
    assert shown["fingerprint"] != given.fingerprint
    assert [gate["name"] for gate in shown["accepted_gates"]] == ["subgroups", "golden_images"]
    assert "for a course" in " ".join(cxr("show").stdout.split())
    card = (tmp_path / "var" / "models" / shown["fingerprint"] / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| status | demonstration |" in card
    assert activations(tmp_path) == [(shown["fingerprint"], ("golden_images", "subgroups"), "for a course")]


def test_verify_names_what_is_damaged(cxr: Cxr, tmp_path: Path, tiny_package: Callable[..., ModelPackage]) -> None:
    cxr("promote", str(tiny_package().folder), "--accept-gate", "trained", "--reason", "try")
    assert cxr("verify").exit_code == 0
    (tmp_path / "var" / "models" / tiny_package().fingerprint / "MODEL_CARD.md").write_text("approved")
    result = cxr("verify")
    assert result.exit_code == 1
    assert "damaged_package" in result.stdout
    assert "Checked 1 package: 0 intact, 1 with faults." in result.stdout
    sound = cxr("verify", str(tiny_package().folder))
    assert sound.exit_code == 0
    assert re.search(r"intact: .* \d+ files\nChecked 1 package: 1 intact, 0 with faults\.", sound.stdout)


@pytest.mark.parametrize("verb", ["list", "verify"])
def test_an_empty_registry_is_named(cxr: Cxr, tmp_path: Path, verb: str) -> None:
    result = cxr(verb)
    assert result.exit_code == 0
    assert f"{tmp_path / 'var' / 'models'} holds no model packages" in result.stdout


def test_the_list_has_whole_words_at_80_columns(
    cxr: Cxr, tmp_path: Path, tiny_package: Callable[..., ModelPackage]
) -> None:
    source = tiny_package("covid19", "viral_pneumonia", "lung_opacity", "normal", activation="softmax")
    changes = {"name": "default-model-covid-resnet50", "version": "1.0.0+0537289899ba", "files": {}}
    contents: dict[str, bytes | Path] = {name: source.folder / name for name in source.manifest.files}
    package = write_package(tmp_path / "package", source.manifest.model_copy(update=changes), contents)
    cxr("promote", str(package.folder), "--accept-gate", "trained", "--reason", "try")
    shown = cxr("list").stdout
    assert max(map(len, shown.splitlines())) <= 80
    words = {package.fingerprint[:12], "in service", changes["name"], changes["version"], "UNTRAINED"}
    words |= {f"{package.manifest.provenance.created:%Y-%m-%d}", *package.manifest.findings}
    assert {word for word in words if str(word) not in shown} == set()


def test_the_table_says_research_use_only(cxr: Cxr, tiny_package: Callable[..., ModelPackage]) -> None:
    cxr("promote", str(tiny_package().folder), "--accept-gate", "trained", "--reason", "try")
    shown = cxr("list").stdout
    assert "RESEARCH USE ONLY" in shown
    assert "UNTRAINED" in shown


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["show"], NoActivePackage),
        (["show", "abc"], CxrError),
        (["rollback", "--reason", "x"], CxrError),
    ],
)
def test_what_is_not_there_is_said(cxr: Cxr, tmp_path: Path, arguments: list[str], error: type[CxrError]) -> None:
    assert isinstance(cxr(*arguments).exception, error)
    assert list(tmp_path.iterdir()) == []  # a database least of all


@pytest.mark.parametrize(
    "arguments",
    [
        ["build-untrained", "--class", "covid20"],
        ["build-untrained", "--architecture", "resnet51"],
        ["build-untrained", "--softmax", "--architecture", "tiny"],
        ["promote", "abc"],
        ["rollback"],
        ["surprise"],
    ],
)
def test_a_wrong_command_ends_with_2_and_does_nothing(cxr: Cxr, tmp_path: Path, arguments: list[str]) -> None:
    assert cxr(*arguments).exit_code == 2
    assert cxr("list", "--json").stdout == ""
    assert not (tmp_path / "var" / "audit.sqlite").exists()


@pytest.mark.parametrize(
    "verb", ["list", "show", "verify", "promote", "rollback", "build-untrained", "import-legacy", "export"]
)
def test_every_verb_has_help_with_an_example(cxr: Cxr, verb: str) -> None:
    result = cxr(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: cxr model {verb}" in result.stdout
