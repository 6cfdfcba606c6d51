from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.default_model import DEFAULT_CHANGED, FIRST_START, ensure_active_package
from app.score.scorer import FileScore, Scorer
from config.settings import Settings, ViewSettings, WorkerSettings
from cxr.domain import PackageStatus, PixelView
from cxr.errors import DamagedPackage, SettingsError
from cxr.package import AcceptedGate, ModelPackage, write_package
from cxr.package.shipped import shipped_folder
from db.engine import Database, open_database
from db.models import list_activations
from inference.registry import Registry
from inference.registry.activation import account_name, promote, record_active_package
from training.shipped.pack import ship

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path / "var" / "audit.sqlite", tmp_path / "audit.key", create=True, now=NOW)
    yield database
    database.dispose()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "var" / "models")


def recorded(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        return [(each.fingerprint, each.reason) for each in list_activations(session)]


def test_a_promotion_that_the_database_missed_is_noted_at_the_next_start(
    database: Database, registry: Registry, tiny_package: Callable[..., ModelPackage]
) -> None:
    package = registry.add(tiny_package().folder)
    # What a kill between link and database leaves.
    registry.promote(package.fingerprint, now=NOW, actor="x", reason="killed", accept={"trained": "x"})
    assert record_active_package(package, database, now=NOW)
    assert not record_active_package(package, database, now=NOW + timedelta(hours=1))
    assert recorded(database) == [(package.fingerprint, "found in service at start")]


def test_a_start_with_a_package_in_service_builds_nothing(
    database: Database, registry: Registry, tiny_package: Callable[..., ModelPackage]
) -> None:
    fingerprint = registry.add(tiny_package().folder).fingerprint
    promoted = promote(
        registry, database, fingerprint, now=NOW, actor=account_name(), reason="try", accept={"trained": "try"}
    )
    ensure_active_package(registry, database, NOW, selected="covid19")
    assert registry.active() == promoted
    assert recorded(database) == [(fingerprint, "try")]
    assert len(registry.list()) == 1


@pytest.fixture
def shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_package: Callable[..., ModelPackage]
) -> Callable[..., dict[str, str]]:
    """Ship two demonstration packages; a version gives them other fingerprints."""

    def make(version: str = "1.0.0") -> dict[str, str]:
        folder = tmp_path / "installed" / version / "models"
        packages = {}
        for name, findings in (("covid19", ("covid19",)), ("four-class", ("covid19", "normal"))):
            tiny = tiny_package(*findings, activation="sigmoid" if len(findings) == 1 else "softmax")
            gate = AcceptedGate(name="auc", figure="0.5", reason="a default", accepted_at=NOW)
            changes = {
                "status": PackageStatus.DEMONSTRATION,
                "accepted_gates": (gate,),
                "version": version,
                "files": {},
            }
            contents: dict[str, bytes | Path] = {"model.keras": tiny.model_path, "MODEL_CARD.md": b"# card\n"}
            made = write_package(tmp_path / f"{name}-{version}", tiny.manifest.model_copy(update=changes), contents)
            packages[name] = made.folder
        fingerprints = ship(packages, folder)
        monkeypatch.setattr("cxr.package.shipped.INSTALLED", folder)
        return fingerprints

    return make


@pytest.mark.parametrize("wanted", ["covid19", "four-class"])
def test_the_first_start_serves_the_default_that_the_setting_names(
    database: Database, registry: Registry, shipped: Callable[..., dict[str, str]], wanted: str
) -> None:
    fingerprints = shipped()
    ensure_active_package(registry, database, NOW, selected=wanted)
    package = registry.active()
    assert package.fingerprint == fingerprints[wanted]
    assert package.manifest.status is PackageStatus.DEMONSTRATION
    assert recorded(database) == [(package.fingerprint, FIRST_START)]
    ensure_active_package(registry, database, NOW, selected=wanted)
    assert len(recorded(database)) == len(registry.promotions()) == 1


def test_another_default_takes_over_where_nobody_has_chosen(
    database: Database, registry: Registry, shipped: Callable[..., dict[str, str]]
) -> None:
    first = shipped()
    ensure_active_package(registry, database, NOW, selected="covid19")
    ensure_active_package(registry, database, NOW, selected="four-class")
    assert registry.active_fingerprint() == first["four-class"]
    second = shipped("2.0.0")  # an upgrade
    ensure_active_package(registry, database, NOW, selected="four-class")
    assert registry.active_fingerprint() == second["four-class"]
    assert [reason for _, reason in recorded(database)] == [DEFAULT_CHANGED, DEFAULT_CHANGED, FIRST_START]


def test_what_a_person_chose_stays(
    database: Database, registry: Registry, shipped: Callable[..., dict[str, str]],
    tiny_package: Callable[..., ModelPackage],
) -> None:  # fmt: skip
    fingerprints = shipped()
    ensure_active_package(registry, database, NOW, selected="covid19")
    own = registry.add(tiny_package().folder).fingerprint
    promote(registry, database, own, now=NOW, actor="x", reason="ours", accept={"trained": "x"})
    ensure_active_package(registry, database, NOW, selected="four-class")
    assert registry.active_fingerprint() == own
    promote(registry, database, fingerprints["covid19"], now=NOW, actor="x", reason="back")
    ensure_active_package(registry, database, NOW, selected="four-class")
    assert registry.active_fingerprint() == fingerprints["covid19"]


def test_an_untrained_default_of_an_earlier_version_makes_room(
    database: Database, registry: Registry, shipped: Callable[..., dict[str, str]],
    tiny_package: Callable[..., ModelPackage],
) -> None:  # fmt: skip
    fingerprints = shipped()
    untrained = registry.add(tiny_package().folder).fingerprint
    promote(registry, database, untrained, now=NOW, actor="x", reason=FIRST_START, accept={"trained": FIRST_START})
    ensure_active_package(registry, database, NOW, selected="covid19")
    assert registry.active_fingerprint() == fingerprints["covid19"]


def test_a_damaged_default_is_said_and_not_replaced_by_random_weights(
    database: Database, registry: Registry, shipped: Callable[..., dict[str, str]]
) -> None:
    shipped()
    folder = shipped_folder()
    assert folder is not None
    (folder / "weights.zip").write_bytes(b"")
    with pytest.raises(DamagedPackage, match="install"):
        ensure_active_package(registry, database, NOW, selected="covid19")
    assert registry.active_fingerprint() is None


def test_without_a_default_the_first_start_serves_an_untrained_resnet50_and_says_why(
    database: Database, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("cxr.package.shipped.INSTALLED", tmp_path / "none" / "models")
    ensure_active_package(registry, database, NOW, selected="covid19")
    package = registry.active()
    assert package.manifest.status is PackageStatus.UNTRAINED
    assert package.manifest.provenance.architecture == "resnet50"
    assert package.manifest.findings == ("covid19",)
    assert recorded(database) == [(package.fingerprint, FIRST_START)]
    assert [each.accepted for each in registry.promotions()] == [{"trained": FIRST_START}]
    ensure_active_package(registry, database, NOW, selected="untrained")  # what is there is what is wanted
    assert len(registry.promotions()) == 1


def test_cxr_score_uses_the_default_where_nothing_is_in_service(
    tmp_path: Path, shipped: Callable[..., dict[str, str]], view_package: Callable[..., ModelPackage]
) -> None:
    fingerprints = shipped()
    film = tmp_path / "film.png"
    cv2.imwrite(str(film), np.random.default_rng(0).integers(0, 255, (80, 80), dtype=np.uint8))

    def scored(settings: Settings, *, any_view: bool) -> list[FileScore]:
        with Scorer(settings, None, any_view=any_view) as scorer:
            return scorer.score(film, None)

    view = ViewSettings(pixels="flag", model=view_package("lateral").folder)  # type: ignore[arg-type]
    settings = Settings(data_dir=tmp_path / "none", worker=WorkerSettings(default_model="four-class"), view=view)
    rows = scored(settings, any_view=False)
    assert {row.finding for row in rows} == {"covid19", "normal"}
    assert {(row.fingerprint, row.model_status) for row in rows} == {(fingerprints["four-class"], "demonstration")}
    assert all("looks_lateral" in row.warnings for row in rows)
    assert not (tmp_path / "none").exists()  # scoring a file changes no installation
    holding = settings.model_copy(update={"view": view.model_copy(update={"pixels": PixelView.HOLD})})
    (row,) = scored(holding, any_view=False)
    assert (row.reason, row.finding) == ("pixels_lateral", None)
    assert scored(holding, any_view=True)[0].finding is not None
    with pytest.raises(SettingsError, match=r"view\.model"):
        Scorer(settings, view_package("lateral").folder, any_view=False)
