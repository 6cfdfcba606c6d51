"""A package of masked lungs: what serving shows its graph is what training showed it, or nothing is scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from cxr.domain import PackageStatus
from cxr.errors import DamagedPackage, IncompatiblePackage, LungsNotFound, PromotionRefused
from cxr.package import MODEL_CARD_FILE, MODEL_FILE, ModelPackage, load_package, write_package
from cxr.package.lung_mask import (
    COMPONENT,
    FILE,
    GraphInput,
    LungFinder,
    LungMaskComponent,
    MaskSettings,
    component_of,
    masked,
)
from cxr.pixels.model_input import to_model_input
from cxr.pixels.quality_checks import ONE_LUNG
from inference.model.lung_finder import load_lung_finder
from inference.model.model import Model
from inference.registry import Registry
from inference.registry.gates import LUNG_MASK, check_status_gates
from inference.registry.golden_check import golden_difference
from inference.worker.image_warnings import InputGate
from training.networks import build_unet
from training.packaging.golden_images import choose_golden, golden_contents
from training.runs.lung_mask_model import load_segment

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SIDE = 64

Packages = Callable[..., ModelPackage]


def film(*lungs: tuple[int, int, int, int], grey: float = 0.8, dark: float = 0.2) -> np.ndarray:
    """A bright square with dark boxes: top, bottom, left, right."""
    picture = np.full((SIDE, SIDE, 1), grey, np.float32)
    for top, bottom, left, right in lungs:
        picture[top:bottom, left:right] = dark
    return picture


PAIR = ((12, 52, 6, 26), (12, 52, 38, 58))


@pytest.fixture
def masking(tiny_package: Packages, mask_lungs: Packages, tmp_path: Path) -> ModelPackage:
    return mask_lungs(tiny_package(), tmp_path / "masking")


@pytest.fixture
def drawn_only(tiny_package: Packages, tmp_path: Path) -> ModelPackage:
    """What a run that masked with drawn masks ends in."""
    base = tiny_package()
    manifest = base.manifest.model_copy(
        update={"components": {COMPONENT: {"source": "manifest"}}, "status": PackageStatus.EVALUATED, "files": {}}
    )
    contents: dict[str, bytes | Path] = {name: base.folder / name for name in (MODEL_FILE, MODEL_CARD_FILE)}
    return write_package(tmp_path / "drawn", manifest, contents)


def test_a_model_sees_the_lungs_alone(masking: ModelPackage) -> None:
    model = Model.load(masking, device="cpu")
    seen = model.mask_lungs(film(*PAIR))
    assert seen.lungs is not None
    np.testing.assert_array_equal(seen.lungs, film(*PAIR)[:, :, 0] < 0.5)
    assert set(np.unique(seen.pixels)) == {np.float32(0), np.float32(0.2)}
    np.testing.assert_array_equal(seen.plain, film(*PAIR))
    whole = model.score(film(*PAIR)[None]).probabilities
    assert model.score(seen.pixels[None]).probabilities != whole


def test_a_model_of_whole_films_sees_them_whole(tiny_package: Packages) -> None:
    model = Model.load(tiny_package(), device="cpu")
    seen = model.mask_lungs(film(*PAIR))
    assert seen.pixels is seen.plain
    assert seen.lungs is None
    assert not seen.is_one_sided


@pytest.mark.parametrize(
    ("lungs", "settings", "kept"),
    [
        ((*PAIR, (0, 8, 0, 6)), {}, PAIR),  # the third largest part goes
        ((*PAIR, (0, 8, 0, 6)), {"parts": 3}, (*PAIR, (0, 8, 0, 6))),
        ((PAIR[0], (60, 63, 60, 63)), {}, (PAIR[0],)),  # a part below 1 % goes
        ((PAIR[0], (60, 63, 60, 63)), {"smallest": 0.001}, (PAIR[0], (60, 63, 60, 63))),
    ],
)
def test_the_largest_parts_are_kept(lungs: Any, settings: dict[str, Any], kept: Any) -> None:
    finder = LungFinder(MaskSettings(size=SIDE, **settings), lambda picture: 1 - picture)
    np.testing.assert_array_equal(finder.find(film(*lungs)), film(*kept)[:, :, 0] < 0.5)


def test_threshold_and_sizes() -> None:
    asked: list[tuple[int, ...]] = []

    def segment(picture: np.ndarray) -> np.ndarray:
        asked.append(picture.shape)
        return np.asarray(1 - picture, np.float32)

    finder = LungFinder(MaskSettings(size=32, threshold=0.75), segment)
    assert finder.find(film(*PAIR)).shape == (SIDE, SIDE)
    assert asked == [(32, 32)]
    with pytest.raises(LungsNotFound):
        LungFinder(MaskSettings(size=32, threshold=0.85), segment).find(film(*PAIR))


def test_no_lungs_are_an_error_with_a_code(masking: ModelPackage) -> None:
    model = Model.load(masking, device="cpu")
    with pytest.raises(LungsNotFound) as caught:
        model.mask_lungs(film())
    assert (caught.value.code, caught.value.retryable) == ("no_lungs", False)


def test_one_lung_is_a_warning(masking: ModelPackage) -> None:
    gate, model = InputGate.of(masking), Model.load(masking, device="cpu")
    for lungs, is_warned in ((PAIR, False), (PAIR[:1], True), (PAIR[1:], True)):
        seen = model.mask_lungs(film(*lungs))
        warnings = gate.warnings(seen, model.score(seen.pixels[None]), 0, shape=None)
        assert (ONE_LUNG in warnings) is is_warned
        # Quality is the whole film's: the black around the lungs is ours.
        assert "clipped" not in warnings


def test_masking_keeps_the_steps_of_a_cache() -> None:
    from cxr.pixels.sixteen_bit import from_steps, to_steps

    plain = from_steps(np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE, 1)).astype(np.uint16))
    lungs = np.random.default_rng(1).random((SIDE, SIDE)) < 0.5
    shown = masked(plain, lungs)
    assert shown.dtype == np.float32
    np.testing.assert_array_equal(from_steps(to_steps(shown)), shown)
    np.testing.assert_array_equal(shown[lungs], plain[lungs])
    assert not shown[~lungs].any()


def test_training_and_serving_ask_the_same_question(
    tiny_package: Packages, mask_lungs: Packages, shared_data: Path, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(3)
    package = mask_lungs(
        tiny_package(), tmp_path, build_unet(32, width=4), settings=MaskSettings(size=32).model_dump(mode="json")
    )
    served = load_lung_finder(package)
    assert served is not None
    trained = load_segment(package.folder / FILE)
    for path in sorted((shared_data / "images" / "normal").iterdir())[::200]:
        picture = to_model_input(path, package.manifest.recipe)[::2, ::2, 0]
        assert served.segment(picture).tobytes() == trained(picture).tobytes()


def test_golden_images_are_masked_too(masking: ModelPackage, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "film.png"
    Image.fromarray((film(*PAIR)[:, :, 0] * 255).astype(np.uint8)).save(path)
    model = Model.load(masking, device="cpu")
    probabilities = model.score(
        model.mask_lungs(to_model_input(path, masking.manifest.recipe)).pixels[None]
    ).probabilities[0]
    golden = golden_contents(choose_golden([(path, [float(each) for each in probabilities])], masking.manifest.recipe))
    contents: dict[str, bytes | Path] = {name: masking.folder / name for name in masking.manifest.files}
    manifest = masking.manifest.model_copy(update={"files": {}})
    package = write_package(tmp_path / "golden", manifest, contents | dict(golden))
    assert golden_difference(package) < 1e-6


def test_the_fingerprint_covers_the_mask(
    masking: ModelPackage, tiny_package: Packages, mask_lungs: Packages, tmp_path: Path
) -> None:
    other = mask_lungs(tiny_package(), tmp_path / "o", settings=MaskSettings(size=32, threshold=0.4).model_dump())
    assert other.fingerprint != masking.fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(masking.folder, copy)
    with (copy / FILE).open("ab") as file:
        file.write(b"more")
    with pytest.raises(DamagedPackage, match=r"lung-mask\.keras"):
        load_package(copy)


def test_a_graph_that_is_not_plain_is_refused(tiny_package: Packages, mask_lungs: Packages, tmp_path: Path) -> None:
    image = keras.Input((32, 32, 1))
    graph = keras.Model(image, keras.layers.Lambda(lambda values: values, name="trick")(image))
    with pytest.raises(IncompatiblePackage, match="trick"):
        Model.load(mask_lungs(tiny_package(), tmp_path, graph), device="cpu")


def test_a_graph_of_another_size_is_refused(tiny_package: Packages, mask_lungs: Packages, tmp_path: Path) -> None:
    graph = keras.Sequential([keras.Input((40, 40, 1)), keras.layers.ReLU()])
    with pytest.raises(IncompatiblePackage, match="lung mask"):
        Model.load(mask_lungs(tiny_package(), tmp_path, graph), device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 64},
        {"file": "absent.keras"},
        {"settings": None},
        {"source": "somewhere"},
        {"more": 1},
        {"settings": {"size": 32, "threshold": 2.0}},
    ],
)
def test_a_component_that_does_not_fit_is_refused(
    tiny_package: Packages, mask_lungs: Packages, tmp_path: Path, changes: dict[str, Any]
) -> None:
    package = mask_lungs(tiny_package(), tmp_path, **changes)
    with pytest.raises(IncompatiblePackage, match=COMPONENT):
        component_of(package.manifest)
    with pytest.raises(IncompatiblePackage, match=COMPONENT):
        Model.load(package, device="cpu")


def test_a_component_is_whole() -> None:
    assert LungMaskComponent(source="manifest").file is None
    with pytest.raises(ValueError, match="required with source"):
        LungMaskComponent(source="manifest", file=FILE)


def test_without_its_mask_model_a_package_is_not_promoted(drawn_only: ModelPackage, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    registry.add(drawn_only.folder)
    for accept in (None, {LUNG_MASK: "because"}, dict.fromkeys(("evaluated", LUNG_MASK), "because")):
        with pytest.raises(
            PromotionRefused, match=r"gate lung_mask: trained on hand-drawn masks.*lung_mask can't be accepted"
        ):
            registry.promote(drawn_only.fingerprint, now=NOW, actor="somebody", reason="to see", accept=accept)
    assert registry.active_fingerprint() is None
    with pytest.raises(IncompatiblePackage, match="hand-drawn lung masks"):
        Model.load(drawn_only, device="cpu")


def test_with_it_the_gate_is_passed(masking: ModelPackage, tmp_path: Path) -> None:
    gates = {gate.name: gate for gate in check_status_gates(masking, None)}
    assert gates[LUNG_MASK].is_passed
    assert not gates[LUNG_MASK].is_acceptable
    registry = Registry(tmp_path / "models")
    registry.add(masking.folder)
    made = registry.promote(masking.fingerprint, now=NOW, actor="a", reason="b", accept={"evaluated": "to see"})
    demonstration = registry.load(made.fingerprint)
    assert component_of(demonstration.manifest) == component_of(masking.manifest)
    assert Model.load(demonstration, device="cpu").mask_lungs(film(*PAIR)).lungs is not None


def test_cxr_score_masks_or_says_why_not(masking: ModelPackage, tmp_path: Path) -> None:
    from PIL import Image

    files = []
    for name, lungs in (("chest", PAIR), ("bright", ())):
        files.append(tmp_path / f"{name}.png")
        picture = film(*lungs)[:, :, 0] + np.linspace(0, 0.1, SIDE, dtype=np.float32)
        Image.fromarray((picture * 255).astype(np.uint8)).save(files[-1])
    result = CliRunner().invoke(
        app, ["score", "--json", "--any-view", "--package", str(masking.folder), *map(str, files)]
    )
    assert result.exit_code == 1
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    model = Model.load(masking, device="cpu")
    seen = model.mask_lungs(to_model_input(files[0], masking.manifest.recipe))
    assert first["score"] == pytest.approx(float(model.score(seen.pixels[None]).probabilities[0, 0]), abs=1e-6)
    assert (second["score"], second["error_code"]) == (None, "no_lungs")


def test_what_was_seen_is_one_sided_or_not() -> None:
    picture = film()
    lungs = np.zeros((SIDE, SIDE), bool)
    lungs[:, :10] = True
    assert GraphInput(picture, picture, lungs).is_one_sided
    lungs[:, -2:] = True
    assert not GraphInput(picture, picture, lungs).is_one_sided
