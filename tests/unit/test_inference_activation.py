from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.default_model import ensure_active_package
from cxr.domain import PackageStatus
from cxr.package import ModelPackage
from db.engine import Database, open_database
from db.packages import list_activations
from inference.activation import account_name, note_active, promote
from inference.registry import Registry

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
    assert note_active(package, database, now=NOW)
    assert not note_active(package, database, now=NOW + timedelta(hours=1))
    assert recorded(database) == [(package.fingerprint, "found in service at start")]


def test_a_start_with_a_package_in_service_builds_nothing(
    database: Database, registry: Registry, tiny_package: Callable[..., ModelPackage]
) -> None:
    fingerprint = registry.add(tiny_package().folder).fingerprint
    promoted = promote(
        registry, database, fingerprint, now=NOW, actor=account_name(), reason="try", accept={"trained": "try"}
    )
    ensure_active_package(registry, database, NOW)
    assert registry.active() == promoted
    assert recorded(database) == [(fingerprint, "try")]
    assert len(registry.list()) == 1


def test_the_first_start_serves_an_untrained_resnet50_and_says_why(database: Database, registry: Registry) -> None:
    ensure_active_package(registry, database, NOW)
    package = registry.active()
    assert package.manifest.status is PackageStatus.UNTRAINED
    assert package.manifest.provenance.architecture == "resnet50"
    assert package.manifest.findings == ("covid19",)
    assert recorded(database) == [(package.fingerprint, "first start: no model package was in service")]
    assert [each.accepted for each in registry.promotions()] == [
        {"trained": "first start: no model package was in service"}
    ]
