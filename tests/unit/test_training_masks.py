"""A U-Net learns drawn lungs, goes on where it was killed, and masks training's images as serving's."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cxr.errors import ImageError, PromotionRefused, RecipeError, RunError, SplitError
from cxr.package import ModelPackage
from cxr.package.lung_mask import COMPONENT, FILE, LungFinder, MaskSettings, component_of
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import PixelRecipe
from inference.model.graph_file import check_graph_file
from inference.model.model import Model
from inference.registry import Gates, Registry
from inference.registry.golden_check import golden_difference
from training.cases import read_manifest, resolve_paths
from training.cli.main import app
from training.inputs.cache import build_cache
from training.inputs.masking import Lungs, Masking
from training.lung_masks.pairs import prepare_pairs
from training.lung_masks.train import Plan, train_masks
from training.metrics.overlap import dice, iou, mean_with_interval
from training.networks import build_unet
from training.packaging.blanked_lungs_of_package import audit_package
from training.packaging.blanked_lungs_of_run import lungs_at
from training.packaging.build import package_run
from training.recipe import load_recipe
from training.runs.folder import open_run
from training.runs.lung_mask_model import MaskModel, lungs_with, mask_overrides, masking_of_package, open_mask_model
from training.runs.train import Options, finetune, pretrain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PIXELS = PixelRecipe(size=64, fit="stretch", quantised=True)
PLAN = Plan(pixels=PIXELS, size=32, width=4, epochs=14, batch_size=4, learning_rate=5e-3)
TINY = (
    "network={architecture='tiny'}",
    "pixels.size=64",
    "stages.0.batch_size=8",
    "stages.0.epochs=2",
    "stages.0.train=all",
    "stages.0.name=all",
    "stages.0.learning_rate=0.01",
    "weights={source='random'}",
    "task={classes=['covid19']}",
    "split={strategy='patient', fractions=[0.5, 0.25, 0.25]}",
    "augment={}",
)


def draw_chest(random: np.random.Generator, *, side: int = 96, is_ill: bool = False) -> tuple[Any, Any]:
    """A bright chest with two dark lungs, and their mask; an ill one has a bright spot in a lung."""
    rows, columns = side, side - 8
    mask = np.zeros((rows, columns), np.uint8)
    for place in (0.28, 0.72):
        centre = (
            int(columns * (place + random.uniform(-0.05, 0.05))),
            int(rows * (0.48 + random.uniform(-0.06, 0.06))),
        )
        axes = (int(columns * random.uniform(0.13, 0.18)), int(rows * random.uniform(0.24, 0.34)))
        cv2.ellipse(mask, centre, axes, float(random.uniform(-10, 10)), 0, 360, 255, -1)
    film = np.where(mask > 0, random.integers(30, 80), random.integers(140, 190)).astype(np.float32)
    film += 25 * np.linspace(-1, 1, rows, dtype=np.float32)[:, None] + random.normal(0, 12, film.shape)
    film[: random.integers(2, 8)] = 10  # a collimator's edge is dark too
    if is_ill:
        inside = np.argwhere(mask > 0)
        row, column = inside[random.integers(len(inside))]
        cv2.circle(film, (int(column), int(row)), side // 12, 250, -1)
    return np.clip(cv2.GaussianBlur(film, (0, 0), 1), 0, 255).astype(np.uint8), mask


def write_chests(folder: Path, count: int, *, seed: int = 0, **columns: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        film, mask = draw_chest(random, is_ill=number % 2 == 1)
        cv2.imwrite(str(folder / f"film{number}.png"), film)
        cv2.imwrite(str(folder / f"mask{number}.png"), mask)
        row = {"image_id": f"c:{number}", "path": f"film{number}.png", "mask_path": f"mask{number}.png"}
        row |= {"source": "drawn", "patient_id": f"p{number}", "label": "covid19" if number % 2 else "normal"}
        rows.append(row | {name: values[number] for name, values in columns.items()})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def read(manifest: Path) -> pd.DataFrame:
    return resolve_paths(read_manifest(manifest), manifest.parent)


@pytest.fixture(scope="session")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chests(tmp_path_factory.mktemp("chests"), 48)


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(cache=tmp_path_factory.mktemp("cache"), processes=1)


@pytest.fixture(scope="session")
def mask_model(tmp_path_factory: pytest.TempPathFactory, chests: Path, options: Options) -> MaskModel:
    return train_masks(PLAN, chests, tmp_path_factory.mktemp("model") / "masks", now=NOW, options=options)


@pytest.fixture(scope="session")
def masked_run(tmp_path_factory: pytest.TempPathFactory, chests: Path, options: Options, mask_model: MaskModel) -> Path:
    """A run of the masked recipe, small, with the mask model."""
    recipe = load_recipe("masked-4class", [*TINY, *mask_overrides(mask_model.folder)])
    return pretrain(recipe, chests, tmp_path_factory.mktemp("run") / "run", now=NOW, options=options).folder


@pytest.fixture(scope="session")
def masked_package(tmp_path_factory: pytest.TempPathFactory, masked_run: Path, options: Options) -> ModelPackage:
    return package_run(masked_run, tmp_path_factory.mktemp("package") / "p", replicates=100, options=options)


def test_it_learns_lungs_that_it_has_not_seen(mask_model: MaskModel) -> None:
    figures = mask_model.description.figures
    for side in ("val", "test"):
        said: Any = figures[side]
        assert said["dice"] > 0.85
        assert said["dice_low"] <= said["dice"] <= said["dice_high"]
        assert said["iou"] < said["dice"]
        assert said["no_lungs"] == 0
    overlaps = pd.read_csv(mask_model.folder / "overlaps.csv")
    test = overlaps[overlaps["split"] == "test"]
    assert test["dice"].mean() == pytest.approx(figures["test"]["dice"], abs=1e-6)  # type: ignore[index,call-overload]
    check_graph_file(mask_model.path)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_it_learns_lungs_that_were_drawn_on_real_films(shared_data: Path, options: Options, tmp_path: Path) -> None:
    """Two darkened ellipses on films whose own lungs, borders and marks stay: what was drawn is found."""
    random = np.random.default_rng(7)
    manifest = write_chests(tmp_path / "chests", 60)
    for number, path in enumerate(sorted((shared_data / "images" / "normal").iterdir())[::12][:60]):
        film = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        mask = cv2.resize(draw_chest(random)[1], film.shape[::-1], interpolation=cv2.INTER_NEAREST)
        film[mask > 0] = film[mask > 0] // 4
        cv2.imwrite(str(manifest.parent / f"film{number}.png"), film)
        cv2.imwrite(str(manifest.parent / f"mask{number}.png"), mask)
    model = train_masks(replace(PLAN, epochs=25), manifest, tmp_path / "masks", now=NOW, options=options)
    said: Any = model.description.figures["test"]
    assert said["dice"] > 0.8
    assert said["no_lungs"] == 0


def test_figures_are_those_of_what_serving_would_find(mask_model: MaskModel, options: Options, chests: Path) -> None:
    assert options.cache is not None
    pairs = prepare_pairs(read(chests), PIXELS, options.cache, seed=0, processes=1, progress=options.progress)
    finder = lungs_with(mask_model).finder
    (row, *_) = pairs.side("test")
    film, mask = (Path(pairs.frame[name].iloc[row]) for name in ("path", "mask_path"))
    found = finder.find(to_model_input(film, PIXELS))
    drawn = cv2.resize(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE), (64, 64), interpolation=cv2.INTER_AREA) > 127
    said = pd.read_csv(mask_model.folder / "overlaps.csv").set_index("image_id")["dice"]
    assert dice(found, drawn) == pytest.approx(said[pairs.frame["image_id"].iloc[row]], abs=0.03)


def test_what_training_masked_serving_masks_byte_for_byte(
    masked_package: ModelPackage, mask_model: MaskModel, chests: Path, shared_data: Path, tmp_path: Path
) -> None:
    """Over drawn chests, real films and real DICOM files: the cache that training reads, and what a model is shown."""
    real = [*sorted((shared_data / "images" / "covid19").iterdir())[::80]]
    real += [path for path in sorted((shared_data / "dicom" / "chest_frontal").iterdir()) if path.is_file()]
    paths = [*read(chests)["path"][:6], *map(str, real)]
    frame = pd.DataFrame({"image_id": paths, "path": paths, "mask_path": ""})
    pixels = masked_package.manifest.recipe
    cache = build_cache(frame, pixels, tmp_path, processes=1, masking=Masking(lungs=lungs_with(mask_model)))
    model = Model.load(masked_package, device="cpu")
    compared = 0
    refused = {each.image_id: each.code for each in cache.refused}
    for path in paths:
        if path in refused:
            with pytest.raises(ImageError) as caught:
                model.mask_lungs(to_model_input(Path(path), pixels))
            assert caught.value.code == refused[path]
            continue
        seen = model.mask_lungs(to_model_input(Path(path), pixels))
        assert seen.pixels.tobytes() == cache.image(cache.rows_by_id[path]).tobytes()
        assert 0 < (seen.pixels > 0).mean() < 1
        compared += 1
    assert compared >= 10


def test_the_cache_knows_masked_from_whole_and_one_mask_model_from_another(
    mask_model: MaskModel, chests: Path, tmp_path: Path
) -> None:
    cases = read(chests).head(3)
    lungs = lungs_with(mask_model)
    whole = build_cache(cases, PIXELS, tmp_path, processes=1)
    masked = build_cache(cases, PIXELS, tmp_path, processes=1, masking=Masking(lungs=lungs))
    again = build_cache(cases, PIXELS, tmp_path, processes=1, masking=Masking(lungs=lungs))
    assert masked.rows_by_id == again.rows_by_id
    assert set(masked.rows_by_id.values()).isdisjoint(whole.rows_by_id.values())
    drawn = build_cache(cases, PIXELS, tmp_path, processes=1, masking=Masking(is_drawn=True))
    assert len(drawn.images) == 9


def test_a_picture_without_lungs_is_left_out_with_its_code(chests: Path, tmp_path: Path) -> None:
    nothing = Lungs("nothing", LungFinder(MaskSettings(size=32), lambda picture: picture * 0))
    cache = build_cache(read(chests).head(2), PIXELS, tmp_path, processes=1, masking=Masking(lungs=nothing))
    assert [each.code for each in cache.refused] == ["no_lungs"] * 2
    assert not cache.rows_by_id


def test_a_package_carries_its_mask_model_and_comes_into_service(
    masked_package: ModelPackage, mask_model: MaskModel, tmp_path: Path
) -> None:
    component = component_of(masked_package.manifest)
    assert component is not None
    assert component.settings == mask_model.description.settings
    assert (masked_package.folder / FILE).read_bytes() == mask_model.path.read_bytes()
    assert masked_package.manifest.evaluation["lung_mask"] == {
        "fingerprint": mask_model.description.fingerprint, **mask_model.description.figures
    }  # fmt: skip
    assert "golden.json" in masked_package.manifest.files
    assert golden_difference(masked_package) < 1e-4
    from config.settings import GateSettings

    registry = Registry(tmp_path / "models", gates=Gates(GateSettings(), golden_difference))
    registry.add(masked_package.folder)
    gates = {gate.name: gate.is_passed for gate in registry.check_gates(masked_package)}
    assert gates["lung_mask"]
    assert gates["golden_images"]
    accept = dict.fromkeys([name for name, is_passed in gates.items() if not is_passed], "a test")
    registry.promote(masked_package.fingerprint, now=NOW, actor="a", reason="b", accept=accept)
    assert Model.load(registry.active(), device="cpu").mask_lungs(np.full((64, 64, 1), 0.2, np.float32)) is not None


def test_a_run_keeps_its_mask_model(masked_run: Path, mask_model: MaskModel) -> None:
    run = open_run(masked_run)
    assert run.recipe.mask_model is not None
    kept = open_mask_model(masked_run / "lung-mask")
    assert kept.description == mask_model.description
    assert run.recipe.mask_model.fingerprint == kept.description.fingerprint


def test_drawn_masks_train_and_are_judged_and_never_served(chests: Path, options: Options, tmp_path: Path) -> None:
    recipe = load_recipe("masked-4class", [*TINY, "lung_masks=manifest", "stages.0.epochs=1"])
    run = pretrain(recipe, chests, tmp_path / "run", now=NOW, options=options)
    package = package_run(run.folder, tmp_path / "package", replicates=100, options=options)
    assert package.manifest.components[COMPONENT] == {"source": "manifest"}
    assert masking_of_package(package) == Masking(is_drawn=True)
    registry = Registry(tmp_path / "models")
    registry.add(package.folder)
    with pytest.raises(PromotionRefused, match="lung_mask can't be accepted"):
        registry.promote(package.fingerprint, now=NOW, actor="a", reason="b", accept={"lung_mask": "c"})


def test_what_does_not_fit_is_told_before_anything_is_written(
    chests: Path, options: Options, mask_model: MaskModel, masked_run: Path, tmp_path: Path
) -> None:
    for overrides, said in (
        ((), "--mask-model"),
        ((*mask_overrides(mask_model.folder), "pixels.fit=pad"), "another pixel recipe"),
        ((*mask_overrides(mask_model.folder), f"mask_model.fingerprint='{'0' * 64}'"), "differs from the recipe's"),
    ):
        with pytest.raises(RunError, match=said):
            pretrain(
                load_recipe("masked-4class", [*TINY, *overrides]), chests, tmp_path / "run", now=NOW, options=options
            )
        assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="mask_model"):
        load_recipe("masked-4class", [*mask_overrides(mask_model.folder), "lung_masks=manifest"])
    tuned = load_recipe("masked-4class", [*TINY, "weights={source='run'}", "lung_masks=manifest"])
    with pytest.raises(RunError, match="--mask-model"):
        finetune(tuned, chests, tmp_path / "tuned", start=masked_run, now=NOW, options=options)
    with pytest.raises(RunError, match="cxr train masks"):
        open_mask_model(tmp_path)


def test_the_audit_paints_lungs_over_where_a_mask_says(
    tiny_package: Callable[..., ModelPackage], chests: Path, mask_model: MaskModel
) -> None:
    cases, package = read(chests).head(16), tiny_package().folder
    nowhere = cases.assign(mask_path="")
    drawn, found, box = (
        audit_package(package, cases)[0],
        audit_package(package, nowhere, mask_model=mask_model.folder)[0],
        audit_package(package, nowhere)[0],
    )
    assert [each.masks for each in (drawn, found, box)] == [16, 16, 0]
    assert drawn.whole == found.whole == box.whole
    path, mask = cases["path"][0], cases["mask_path"][0]
    by_hand, by_model = (lungs_at(path, mask, PIXELS, lungs) for lungs in (None, lungs_with(mask_model)))
    assert by_hand is not None
    assert by_model is not None
    assert 0.85 < dice(by_model, by_hand) < 1
    assert lungs_at(path, "", PIXELS, None) is None


def test_a_mask_model_of_another_size_will_do(mask_model: MaskModel) -> None:
    from training.runs.lung_mask_model import mask_model_of_recipe

    recipe = load_recipe("masked-4class", [*TINY, "pixels.size=96", *mask_overrides(mask_model.folder)])
    assert mask_model_of_recipe(recipe) == mask_model


def test_patients_are_on_one_side_and_the_same_picture_is_once(tmp_path: Path, options: Options) -> None:
    patients = [f"p{number // 3}" for number in range(30)]
    manifest = write_chests(tmp_path / "chests", 30, patient_id=patients)
    (tmp_path / "chests" / "film4.png").write_bytes((tmp_path / "chests" / "film25.png").read_bytes())
    pairs = prepare_pairs(read(manifest), PIXELS, tmp_path / "c", seed=1, processes=1, progress=options.progress)
    assert len(pairs.frame) == 29
    assert pairs.left_out["same_picture"] == 1
    assert pairs.frame.groupby("patient_id")["split"].nunique().max() == 1
    sides = pairs.frame["split"].tolist()
    again = prepare_pairs(read(manifest), PIXELS, tmp_path / "c", seed=1, processes=1, progress=options.progress)
    assert again.frame["split"].tolist() == sides
    given = write_chests(tmp_path / "given", 30, patient_id=patients, split=["train", "val", "test"] * 10)
    with pytest.raises(SplitError, match="patients"):
        prepare_pairs(read(given), PIXELS, tmp_path / "c", seed=1, processes=1, progress=options.progress)


def test_too_few_pairs_are_told(tmp_path: Path, options: Options) -> None:
    manifest = write_chests(tmp_path / "chests", 12, mask_path=["mask0.png"] * 5 + [""] * 7)
    with pytest.raises(RunError, match="5 of 12 images are a usable pair"):
        train_masks(PLAN, manifest, tmp_path / "m", now=NOW, options=options)


def test_another_plan_needs_another_folder(mask_model: MaskModel, chests: Path, options: Options) -> None:
    assert train_masks(PLAN, chests, mask_model.folder, now=NOW, options=options) == mask_model
    with pytest.raises(RunError, match="another seed"):
        train_masks(replace(PLAN, seed=1), chests, mask_model.folder, now=NOW, options=options)


RESUMED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from test_training_masks import NOW, PLAN
from dataclasses import replace
from training.runs.train import Options
from training.lung_masks.train import train_masks
if __name__ == "__main__":
    manifest, cache, folder = (Path(each) for each in sys.argv[1:4])
    watch = lambda step, done, total: print(step, flush=True)
    options = Options(cache=cache, processes=1, progress=watch)
    train_masks(replace(PLAN, epochs=4), manifest, folder, now=NOW, options=options)
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_in_the_middle_it_comes_to_the_same_result(
    chests: Path, options: Options, tmp_path: Path, root: Path
) -> None:
    script = tmp_path / "resumed.py"
    script.write_text(RESUMED)
    environment = os.environ | {"PYTHONPATH": str(root)}
    for name in ("killed", "whole"):
        command = [sys.executable, *map(str, (script, chests, options.cache, tmp_path / name, Path(__file__).parent))]
        if name == "killed":
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("Epoch 3"):
                    break
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            assert not (tmp_path / name / "mask-model.json").exists()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        assert open_mask_model(tmp_path / name).description.figures
    killed, whole = (
        keras.saving.load_model(tmp_path / name / "model.keras", compile=False) for name in ("killed", "whole")
    )
    for ours, theirs in zip(killed.get_weights(), whole.get_weights(), strict=True):
        # Equal to the bit, unless a loaded machine divides a sum among its threads in another way.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_overlaps_against_plain_counts() -> None:
    one, other = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    one[:4, :5], other[2:6, :5] = True, True  # 20 each, 10 in common
    assert dice(one, other) == pytest.approx(0.5)
    assert iou(one, other) == pytest.approx(1 / 3)
    assert dice(one & False, other & False) == iou(one & False, other & False) == 1
    assert dice(one, one & False) == 0
    estimate = mean_with_interval([0.8, 0.9, 1.0, 0.7], ["a", "a", "b", "c"], seed=1)
    assert estimate.value == pytest.approx(0.85)
    assert estimate.interval is not None
    assert 0.69 < estimate.interval.low < 0.85 < estimate.interval.high < 1.01


def test_the_unet_is_small_and_plain() -> None:
    assert build_unet(128).count_params() == 489121
    for size in (28, 30):
        with pytest.raises(ValueError, match="divisible by 8"):
            build_unet(size)


def test_the_verbs_from_the_shell(masked_package: ModelPackage, options: Options, tmp_path: Path) -> None:
    def call(*arguments: object) -> dict[str, Any]:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    few = write_chests(tmp_path / "few", 20)
    made = call(
        *("masks", few, "-o", tmp_path / "masks", "--cache", options.cache, "--set", "pixels.size=64", "--json"),
        *("--size", 32, "--width", 4, "--epochs", 1, "--batch-size", 8),
    )
    assert made["fingerprint"] == open_mask_model(tmp_path / "masks").description.fingerprint
    found = call("audit", few, "-o", tmp_path / "a", "--no-files", "--package", masked_package.folder, "--json")
    assert {each["masks"] for each in found["blanked"]} == {20}
