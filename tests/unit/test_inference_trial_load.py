"""Loading a package before it is put into service: what the worker can't load never replaces what it serves."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from cxr.errors import DamagedPackage, IncompatiblePackage, PackageError
from cxr.package import ModelPackage, write_package
from cxr.package.input_gate import ARRAYS, COMPONENT, FILE
from db.engine import Database
from inference.registry import Registry
from inference.registry.activation import promote, rollback, set_shadow
from inference.worker.trial_load import TrialLoad

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRIAL = TrialLoad("tensorflow")


@pytest.fixture
def broken(tmp_path: Path, tiny_package: Callable[..., ModelPackage]) -> ModelPackage:
    """A package whose digests are right and whose input gate is another program's arrays."""
    source = tiny_package(seed=1)
    content = io.BytesIO()
    np.savez(content, **{name: np.ones(3, np.float32) for name in ARRAYS[:-1]}, other=np.ones(1))
    gate = tmp_path / FILE
    gate.write_bytes(content.getvalue())
    component = {"layer": "features", "distance": 3.0, "quantile": 0.99, "images": 100}
    manifest = source.manifest.model_copy(update={"components": {COMPONENT: component}})
    files = {name: source.folder / name for name in manifest.files} | {FILE: gate}
    return write_package(tmp_path / "broken", manifest, files)


def test_what_the_worker_can_not_load_is_not_put_into_service(
    audit_database: Database, tmp_path: Path, tiny_package: Callable[..., ModelPackage], broken: ModelPackage
) -> None:
    registry = Registry(tmp_path / "models")
    good = registry.add(tiny_package(seed=0).folder).fingerprint
    promote(
        registry,
        audit_database,
        good,
        now=NOW,
        actor="a",
        reason="r",
        accept={"trained": "tests"},
        trial=TRIAL,
    )
    bad = registry.add(broken.folder).fingerprint
    with pytest.raises(DamagedPackage, match=r"can't load .* the package in service stays\. .*input-gate.npz"):
        promote(registry, audit_database, bad, now=NOW, actor="a", reason="r", accept={"trained": "tests"}, trial=TRIAL)
    with pytest.raises(PackageError, match="can't load"):
        set_shadow(registry, audit_database, bad, now=NOW, actor="a", reason="r", trial=TRIAL)
    assert registry.active_fingerprint() == good
    assert [promotion.fingerprint for promotion in registry.promotions()] == [good]

    # An older version of the program, which tried nothing, put it into service; then something else took its place.
    for fingerprint in (bad, good):
        promote(registry, audit_database, fingerprint, now=NOW, actor="a", reason="r", accept={"trained": "tests"})
    with pytest.raises(PackageError, match="can't load"):
        rollback(registry, audit_database, now=NOW, actor="a", reason="r", trial=TRIAL)
    assert registry.active_fingerprint() == good


@pytest.mark.parametrize(
    ("after_s", "message"), [(0.0, "took longer than 0 s"), (600.0, "The process that loaded the package crashed")]
)
def test_loading_that_hangs_or_crashes_is_refused(
    tiny_package: Callable[..., ModelPackage], monkeypatch: pytest.MonkeyPatch, after_s: float, message: str
) -> None:
    monkeypatch.setattr("inference.worker.trial_load._load", _crash)
    with pytest.raises(IncompatiblePackage, match=message):
        TrialLoad("tensorflow", longest_s=after_s)(tiny_package())


def _crash(*_: object) -> None:
    os._exit(139)
