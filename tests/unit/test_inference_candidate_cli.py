"""`cxr model gates` and `cxr model shadow`: before a package goes into service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from cxr.domain import PackageStatus
from cxr.errors import DamagedPackage, PackageError, PromotionRefused
from cxr.package import ModelPackage, write_package
from cxr.package.lung_mask import COMPONENT
from db.engine import open_database
from db.upkeep.replay import differing_rows

Cxr = Callable[..., Result]


@pytest.fixture
def cxr(tmp_path: Path) -> Cxr:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--set", f"data_dir={tmp_path / 'var'}", *arguments])

    return run


def in_json(result: Result, code: int = 0) -> list[Any]:
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def events(tmp_path: Path) -> list[str]:
    database = open_database(tmp_path / "var" / "audit.sqlite", tmp_path / "var.keys" / "audit.key", create=False)
    with database.read() as session:
        assert differing_rows(session) == []
        found = session.connection().exec_driver_sql("SELECT kind FROM events ORDER BY event_id").scalars().all()
    database.dispose()
    return list(found)


def _make_database(tmp_path: Path) -> None:
    open_database(tmp_path / "var" / "audit.sqlite", tmp_path / "var.keys" / "audit.key", create=True).dispose()


def test_a_shadow_is_named_shown_and_taken_away(
    cxr: Cxr, tmp_path: Path, tiny_package: Callable[..., ModelPackage]
) -> None:
    first, second = tiny_package(seed=1), tiny_package(seed=2)
    nothing = {"fingerprint": None, "name": None, "version": None, "status": None}
    assert "no audit database" in str(cxr("model", "shadow", "--json").exception)
    assert not (tmp_path / "var").exists()
    _make_database(tmp_path)
    assert in_json(cxr("model", "shadow", "--json")) == [nothing]
    (named,) = in_json(cxr("model", "shadow", str(first.folder), "--reason", "a trial", "--json"))
    assert named["fingerprint"] == first.fingerprint
    assert cxr("model", "show", first.fingerprint[:12]).exit_code == 0  # it was copied into the registry
    assert first.fingerprint[:12] in cxr("model", "shadow").stdout
    (named,) = in_json(cxr("model", "shadow", str(second.folder), "--reason", "another", "--json"))
    assert named["fingerprint"] == second.fingerprint
    assert in_json(cxr("model", "shadow", "--off", "--reason", "enough", "--json")) == [nothing]
    assert "no shadow" in cxr("model", "shadow").stdout
    recorded = ["package_recorded", "shadow_changed"]  # each package is recorded once
    assert events(tmp_path) == ["database_created", *recorded, *recorded, "shadow_changed"]
    assert not (tmp_path / "var" / "models" / "current").exists()  # nothing went into service


def test_what_is_in_service_or_damaged_is_no_shadow(
    cxr: Cxr, tmp_path: Path, tiny_package: Callable[..., ModelPackage]
) -> None:
    package = tiny_package(seed=1)
    cxr("model", "promote", str(package.folder), "--accept-gate", "trained", "--reason", "try")
    refused = cxr("model", "shadow", "current", "--reason", "a trial").exception
    assert isinstance(refused, PackageError)
    assert "in service" in str(refused)
    other = tiny_package(seed=2)
    cxr("model", "shadow", str(other.folder), "--reason", "a trial")
    (tmp_path / "var" / "models" / other.fingerprint / "MODEL_CARD.md").write_text("approved")
    assert isinstance(cxr("model", "shadow", other.fingerprint, "--reason", "again").exception, DamagedPackage)
    assert events(tmp_path).count("shadow_changed") == 1


def test_a_package_that_serving_can_not_show_what_it_knows_is_no_shadow(
    cxr: Cxr, tmp_path: Path, tiny_package: Callable[..., ModelPackage]
) -> None:
    _make_database(tmp_path)
    source = tiny_package(seed=1)
    manifest = source.manifest.model_copy(update={"components": {COMPONENT: {"source": "manifest"}}})
    masked = write_package(tmp_path / "masked", manifest, {name: source.folder / name for name in manifest.files})
    refused = cxr("model", "shadow", str(masked.folder), "--reason", "a trial").exception
    assert isinstance(refused, PromotionRefused)
    assert "gate lung_mask" in str(refused)


@pytest.mark.parametrize(
    "arguments", [("x", "--off", "--reason", "both"), ("x",), ("--off",)], ids=["both", "why", "why off"]
)
def test_a_wrong_command_ends_with_2(cxr: Cxr, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert cxr("model", "shadow", *arguments).exit_code == 2
    assert not (tmp_path / "var" / "audit.sqlite").exists()


def test_gates_are_asked_and_nothing_is_promoted(
    cxr: Cxr, tmp_path: Path, tiny_package: Callable[..., ModelPackage]
) -> None:
    source = tiny_package(seed=1)
    assert [row["gate"] for row in in_json(cxr("model", "gates", str(source.folder), "--json"), 1)] == ["trained"]
    figures: dict[str, Any] = {
        "classes": {"covid19": {"auc_low": 0.7, "ece": 0.05, "worst_subgroup": {"auc": 0.5}}},
        "patients_disjoint": True,
        "blanked_lungs": {"covid19": {"auc": 0.5}},
    }
    manifest = source.manifest.model_copy(update={"status": PackageStatus.EVALUATED, "evaluation": figures})
    given = write_package(tmp_path / "given", manifest, {name: source.folder / name for name in manifest.files})
    rows = {row["gate"]: row for row in in_json(cxr("model", "gates", str(given.folder), "--json"), 1)}
    assert {name for name, row in rows.items() if not row["is_passed"]} == {"subgroups", "golden_images"}
    assert rows["subgroups"]["figure"] == "covid19: 0.500"
    assert "FAILED" in cxr("model", "gates", str(given.folder)).stdout
    assert not (tmp_path / "var" / "models").exists()
    assert not (tmp_path / "var" / "audit.sqlite").exists()


@pytest.mark.parametrize("verb", ["gates", "shadow"])
def test_every_verb_has_help_with_an_example(cxr: Cxr, verb: str) -> None:
    assert f"Example: cxr model {verb}" in cxr("model", verb, "--help").stdout
