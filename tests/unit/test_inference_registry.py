from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cxr.domain import Code, PackageStatus
from cxr.errors import DamagedPackage, NoActivePackage, PackageError, PromotionRefused
from cxr.package import AcceptedGate, ModelPackage, PackageClass, PackageManifest, Provenance, write_package
from cxr.pixels.recipe import DEFAULT_RECIPE
from inference.registry import GateResult, Registry
from inference.registry.promotion_log import Action, Promotion, PromotionLog

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WHO: dict[str, Any] = {"now": NOW, "actor": "tester", "reason": "a test"}
UNTRAINED: dict[str, Any] = {**WHO, "accept": {"trained": "a test"}}


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., ModelPackage]:
    """Write a package whose graph nobody loads here; the name makes the fingerprint."""

    def make(name: str, status: PackageStatus = PackageStatus.EVALUATED, **changes: Any) -> ModelPackage:
        fields: dict[str, Any] = {
            "name": name,
            "version": "1",
            "status": status,
            "classes": (PackageClass(finding="covid19", code=Code(value="1", scheme_designator="99X", meaning="x")),),
            "activation": "sigmoid",
            "recipe": DEFAULT_RECIPE,
            "evaluation": {"auc": 0.8},
            "provenance": Provenance(training_data="x", architecture="tiny", created=NOW),
        }
        contents = {"model.keras": name.encode(), "MODEL_CARD.md": b"# card"}
        return write_package(tmp_path / "exports" / name, PackageManifest(**(fields | changes)), contents)

    return make


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def three(registry: Registry, export: Callable[..., ModelPackage]) -> list[str]:
    return [registry.add(export(name).folder).fingerprint for name in "abc"]


def test_an_empty_registry_has_nothing_in_service(registry: Registry) -> None:
    assert registry.list() == []
    assert registry.active_fingerprint() is None
    assert registry.changed_since(None) is False
    with pytest.raises(NoActivePackage, match="build-untrained"):
        registry.active()
    with pytest.raises(NoActivePackage):
        registry.resolve("current")


def test_all_that_is_in_it_is_its_owner_s_alone(
    registry: Registry, export: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    exported = export("a")
    exported.folder.chmod(0o777)
    for file in exported.folder.iterdir():
        file.chmod(0o666)
    before = os.umask(0)
    try:
        added = registry.add(exported.folder)
        registry.promote(
            registry.add(export("b", evaluation={}).folder).fingerprint, **WHO, accept={"evaluated": "a test"}
        )
        registry.promote(added.fingerprint, **WHO)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "models").rglob("*") if not path.is_symlink()]
    assert {(path.is_dir(), path.stat().st_mode & 0o777) for path in files} == {(True, 0o700), (False, 0o600)}


def test_a_package_is_copied_under_its_fingerprint(
    registry: Registry, export: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    exported = export("a")
    added = registry.add(exported.folder)
    assert added.folder == tmp_path / "models" / exported.fingerprint
    assert (added.manifest, added.fingerprint) == (exported.manifest, exported.fingerprint)
    shutil.rmtree(exported.folder)
    assert registry.load(exported.fingerprint) == added
    assert registry.add(added.folder) == added
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == [exported.fingerprint]


def test_the_files_of_a_package_are_synced_before_it_has_its_name(
    registry: Registry, export: Callable[..., ModelPackage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export("a")
    synced: list[Path] = []
    synced_before_rename: list[Path] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        if Path(target).name == exported.fingerprint:
            synced_before_rename.extend(path for path in synced if Path(source) in (path, path.parent))
            synced.clear()
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    added = registry.add(exported.folder)

    files = {path.name for path in added.folder.iterdir()}
    assert len(files) >= 3
    assert {path.name for path in synced_before_rename[:-1]} == files
    assert synced_before_rename[-1].name == exported.fingerprint, "the folder of the draft, after its files"
    assert tmp_path / "models" in synced, "the registry's folder, after the rename"


def test_a_damaged_package_does_not_come_in(
    registry: Registry, export: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    exported = export("a")
    exported.model_path.write_bytes(b"b")
    with pytest.raises(DamagedPackage):
        registry.add(exported.folder)
    assert registry.list() == []


def test_promotion_puts_into_service_and_is_logged(registry: Registry, three: list[str], tmp_path: Path) -> None:
    registry.promote(three[0], **WHO)
    promotion = registry.promote(three[1], **WHO)
    assert registry.active().fingerprint == registry.active_fingerprint() == registry.resolve("current") == three[1]
    assert (tmp_path / "models" / "current").readlink() == Path(three[1])
    assert (promotion.previous, promotion.fingerprint) == (three[0], three[1])
    lines = [json.loads(line) for line in (tmp_path / "models" / "log.jsonl").read_text().splitlines()]
    assert [(line["action"], line["fingerprint"], line["previous"]) for line in lines] == [
        ("promote", three[0], None),
        ("promote", three[1], three[0]),
    ]
    assert lines[0] | {"at": None} == {
        "at": None,
        "action": "promote",
        "fingerprint": three[0],
        "previous": None,
        "actor": "tester",
        "reason": "a test",
        "accepted": {},
    }


def test_a_worker_sees_the_change_between_two_batches(registry: Registry, three: list[str], tmp_path: Path) -> None:
    registry.promote(three[0], **WHO)
    worker = Registry(tmp_path / "models")
    scoring_with = worker.active().fingerprint
    assert not worker.changed_since(scoring_with)
    registry.promote(three[2], **WHO)
    assert worker.changed_since(scoring_with)
    assert worker.active().fingerprint == three[2]


def test_rollback_goes_back_step_by_step(registry: Registry, three: list[str]) -> None:
    for fingerprint in three:
        registry.promote(fingerprint, **WHO)
    back = registry.rollback(**WHO)
    assert (back.action, back.fingerprint, back.previous) == (Action.ROLLBACK, three[1], three[2])
    assert registry.rollback(**WHO).fingerprint == three[0]
    with pytest.raises(PackageError, match="no earlier package"):
        registry.rollback(**WHO)
    assert registry.active_fingerprint() == three[0]
    # A promotion after a rollback is undone to where the rollback led.
    registry.promote(three[2], **WHO)
    assert registry.rollback(**WHO).fingerprint == three[0]


def test_promoting_what_is_in_service_is_no_step_to_go_back_to(registry: Registry, three: list[str]) -> None:
    for fingerprint in (three[0], three[1], three[1]):
        registry.promote(fingerprint, **WHO)
    assert registry.rollback(**WHO).fingerprint == three[0]


def test_rollback_to_a_damaged_package_changes_nothing(registry: Registry, three: list[str], tmp_path: Path) -> None:
    registry.promote(three[0], **WHO)
    registry.promote(three[1], **WHO)
    (tmp_path / "models" / three[0] / "model.keras").write_bytes(b"?")
    with pytest.raises(DamagedPackage):
        registry.rollback(**WHO)
    assert registry.active_fingerprint() == three[1]


def test_random_weights_are_promoted_only_by_name(registry: Registry, export: Callable[..., ModelPackage]) -> None:
    fingerprint = registry.add(export("a", PackageStatus.UNTRAINED).folder).fingerprint
    with pytest.raises(PromotionRefused, match="gate trained: random weights"):
        registry.promote(fingerprint, **WHO)
    with pytest.raises(PromotionRefused):
        registry.promote(fingerprint, **WHO, accept={"trained": ""})
    assert registry.active_fingerprint() is None
    promotion = registry.promote(fingerprint, **WHO, accept={"trained": "to try", "unneeded": "x"})
    assert promotion.accepted == {"trained": "to try"}
    assert registry.active().manifest.status is PackageStatus.UNTRAINED


def test_an_evaluation_without_figures_is_refused(registry: Registry, export: Callable[..., ModelPackage]) -> None:
    fingerprint = registry.add(export("a", evaluation={}).folder).fingerprint
    with pytest.raises(PromotionRefused, match="gate evaluated: 0 figures"):
        registry.promote(fingerprint, **WHO)


def test_a_demonstration_package_was_judged_when_it_was_made(
    registry: Registry, export: Callable[..., ModelPackage]
) -> None:
    gate = AcceptedGate(name="auc", figure="0.61 < 0.70", reason="demo", accepted_at=NOW)
    fingerprint = registry.add(export("a", PackageStatus.DEMONSTRATION, accepted_gates=(gate,)).folder).fingerprint
    registry.promote(fingerprint, **WHO)
    assert registry.active_fingerprint() == fingerprint


def test_the_judge_sees_what_is_in_service(tmp_path: Path, three: list[str]) -> None:
    seen: list[tuple[str, str | None]] = []

    def judge(package: ModelPackage, active: ModelPackage | None) -> Sequence[GateResult]:
        seen.append((package.fingerprint, active and active.fingerprint))
        return [GateResult("better", is_passed=active is None, figure="0.70", requirement="0.75")]

    registry = Registry(tmp_path / "models", gates=judge)
    registry.promote(three[0], **WHO)
    with pytest.raises(PromotionRefused, match=r"gate better: 0\.70 \(required: 0\.75\)"):
        registry.promote(three[1], **WHO)
    assert seen == [(three[0], None), (three[1], three[0])]


def test_a_damaged_package_in_service_can_be_replaced(registry: Registry, three: list[str], tmp_path: Path) -> None:
    registry.promote(three[0], **WHO)
    (tmp_path / "models" / three[0] / "model.keras").unlink()
    with pytest.raises(DamagedPackage):
        registry.active()
    registry.promote(three[1], **WHO)
    assert registry.active().fingerprint == three[1]


def test_an_edited_manifest_is_found_out(registry: Registry, three: list[str], tmp_path: Path) -> None:
    path = tmp_path / "models" / three[0] / "package.json"
    path.write_text(path.read_text().replace('"version": "1"', '"version": "2"'))
    with pytest.raises(DamagedPackage, match="changed after"):
        registry.load(three[0])
    assert [entry.fault is None for entry in registry.list()] == [each != three[0] for each in sorted(three)]


def test_the_list_goes_on_past_an_unreadable_package(registry: Registry, three: list[str], tmp_path: Path) -> None:
    registry.promote(three[1], **WHO)
    (tmp_path / "models" / three[0] / "package.json").write_text("{")
    entries = registry.list()
    assert entries[0].fingerprint == three[1]
    assert entries[0].is_active
    faulty = next(entry for entry in entries if entry.fingerprint == three[0])
    assert faulty.manifest is None
    assert faulty.fault is not None
    assert "JSON" in faulty.fault


def test_the_start_of_a_fingerprint_will_do(registry: Registry, three: list[str]) -> None:
    assert registry.resolve(three[0][:12]) == three[0]
    for wrong in ("", "../x", "zz", "f" * 64):
        with pytest.raises(PackageError, match="No fingerprint"):
            registry.resolve(wrong)


@pytest.mark.parametrize("fingerprint", ["..", "", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_a_fingerprint_is_never_a_path(registry: Registry, fingerprint: str) -> None:
    with pytest.raises(PackageError, match="64 hexadecimal"):
        registry.load(fingerprint)


def test_a_link_to_anywhere_else_is_nothing_in_service(registry: Registry, three: list[str], tmp_path: Path) -> None:
    (tmp_path / "models" / "current").symlink_to(tmp_path / "exports" / "a")
    assert registry.active_fingerprint() is None


def test_killed_between_log_and_link_the_promotion_did_not_take_place(
    registry: Registry, three: list[str], tmp_path: Path
) -> None:
    registry.promote(three[0], **WHO)
    registry.promote(three[1], **WHO)
    # What such a kill leaves: the line, and the old link.
    promotion = Promotion(
        at=NOW, action=Action.PROMOTE, fingerprint=three[2], previous=three[1], actor="x", reason="killed"
    )
    PromotionLog(tmp_path / "models" / "log.jsonl").append(promotion)
    assert registry.active_fingerprint() == three[1]
    assert registry.rollback(**WHO).fingerprint == three[0]


def test_half_a_line_at_the_end_of_the_log_is_dropped(registry: Registry, three: list[str], tmp_path: Path) -> None:
    registry.promote(three[0], **WHO)
    log = tmp_path / "models" / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:40])
    registry.promote(three[1], **WHO)
    assert [promotion.fingerprint for promotion in registry.promotions()] == three[:2]
    assert log.read_bytes().startswith(whole + b"{")


def test_a_log_that_somebody_edited_is_named_by_its_line(registry: Registry, three: list[str], tmp_path: Path) -> None:
    registry.promote(three[0], **WHO)
    with (tmp_path / "models" / "log.jsonl").open("a") as log:
        log.write("nonsense\n")
    with pytest.raises(DamagedPackage, match="Line 2"):
        registry.rollback(**WHO)


def test_registries_promoting_at_once_leave_one_in_service_and_both_logged(three: list[str], tmp_path: Path) -> None:
    start = threading.Barrier(3)

    def promote(fingerprint: str) -> None:
        start.wait()
        for _ in range(5):
            # A registry of its own: the lock is the file's, not the object's.
            Registry(tmp_path / "models").promote(fingerprint, **WHO)

    threads = [threading.Thread(target=promote, args=(fingerprint,)) for fingerprint in three]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    promotions = Registry(tmp_path / "models").promotions()
    assert len(promotions) == 15
    assert Registry(tmp_path / "models").active_fingerprint() == promotions[-1].fingerprint
    # Each saw what the one before it had put into service.
    assert [each.previous for each in promotions[1:]] == [each.fingerprint for each in promotions[:-1]]


def test_readers_find_a_package_at_every_moment_of_a_promotion(
    registry: Registry, three: list[str], tmp_path: Path
) -> None:
    registry.promote(three[0], **WHO)
    is_done = threading.Event()
    missed: list[int] = []

    def read() -> None:
        reader = Registry(tmp_path / "models")
        count = 0
        while not is_done.is_set():
            count += reader.active_fingerprint() is None
        missed.append(count)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(30):
        for fingerprint in three[:2]:
            registry.promote(fingerprint, **WHO)
    is_done.set()
    thread.join()
    assert missed == [0]
