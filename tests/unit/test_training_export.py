from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cxr.domain import PackageStatus
from cxr.errors import PackageError
from cxr.labels import FINDINGS
from cxr.package import ModelPackage, load_package
from cxr.pixels.recipe import PixelRecipe
from cxr.product import NOTICE_SENTENCE, UNTRAINED
from training.packaging.untrained import build_untrained

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SMALL = PixelRecipe(size=64)


def build(folder: Path, **changes: object) -> ModelPackage:
    return build_untrained(folder, **({"now": NOW, "architecture": "tiny", "recipe": SMALL} | changes))  # type: ignore[arg-type]


def test_an_untrained_package_says_so_everywhere(tiny_package: Callable[..., ModelPackage]) -> None:
    package = load_package(tiny_package().folder)
    manifest = package.manifest
    assert manifest.status is PackageStatus.UNTRAINED
    assert not manifest.calibrated
    assert manifest.operating_point is None
    assert [each.threshold for each in manifest.classes] == [None]
    assert "untrained" in manifest.name
    assert manifest.provenance.training_data.startswith("none")
    first_paragraph = (package.folder / "MODEL_CARD.md").read_text().split("\n\n")[1]
    assert UNTRAINED in first_paragraph
    assert NOTICE_SENTENCE in first_paragraph


def test_its_classes_are_findings_with_their_codes(tiny_package: Callable[..., ModelPackage]) -> None:
    manifest = tiny_package("normal", "covid19", activation="softmax").manifest
    assert manifest.findings == ("normal", "covid19")
    assert manifest.activation == "softmax"
    assert [each.code for each in manifest.classes] == [FINDINGS["normal"].code, FINDINGS["covid19"].code]


def test_the_same_seed_gives_the_same_package_byte_for_byte(tmp_path: Path) -> None:
    first, second = build(tmp_path / "first"), build(tmp_path / "second")
    assert first.fingerprint == second.fingerprint
    for file in first.folder.iterdir():
        assert file.read_bytes() == (second.folder / file.name).read_bytes()


@pytest.mark.parametrize("change", [{"seed": 1}, {"now": NOW + timedelta(days=1)}, {"classes": ("normal",)}])
def test_another_argument_gives_another_fingerprint(
    tmp_path: Path, tiny_package: Callable[..., ModelPackage], change: dict[str, object]
) -> None:
    assert build(tmp_path / "package", **change).fingerprint != tiny_package().fingerprint


def test_the_archive_holds_no_trace_of_when_and_where(tiny_package: Callable[..., ModelPackage]) -> None:
    with zipfile.ZipFile(tiny_package().model_path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        metadata = json.loads(archive.read("metadata.json"))
        config = archive.read("config.json").decode()
    assert metadata["date_saved"] == "2026-01-02@03:04:05"
    numbers = {int(each.split(",")[0].split("}")[0]) for each in config.split('"shared_object_id": ')[1:]}
    assert numbers <= set(range(1, 1000))


def test_unknown_classes_are_named_with_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"covid19.*got covid20"):
        build(tmp_path / "package", classes=("covid20",))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    with pytest.raises(PackageError, match="exists"):
        build(tmp_path / "package")
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
