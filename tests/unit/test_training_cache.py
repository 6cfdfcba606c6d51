"""The cache holds what is served, byte for byte; what was killed goes on; nothing is dropped silently."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.errors import ImageError, RunError
from cxr.pixels.model_input import to_model_input
from cxr.pixels.recipe import DEFAULT_RECIPE, MIDRC_EMORY_RECIPE, TRAINING_RECIPE, PixelRecipe
from training.cases import read_manifest, resolve_paths
from training.inputs.cache import IMAGES_FILE, INDEX_FILE, Cache, build_cache
from training.inputs.masking import Masking

SMALL = PixelRecipe(size=32, quantised=True)


def read(manifest: Path) -> pd.DataFrame:
    return resolve_paths(read_manifest(manifest), manifest.parent)


@pytest.fixture
def cases(tmp_path: Path, draw_cases: Callable[..., Path]) -> pd.DataFrame:
    return read(draw_cases(tmp_path / "images", 12))


def place_of(folder: Path, recipe: PixelRecipe = SMALL) -> Path:
    return folder / recipe.digest[:16]


def assert_serves(cache: Cache, frame: pd.DataFrame, recipe: PixelRecipe) -> None:
    for row, path in zip(cache.rows(frame["image_id"]), frame["path"], strict=True):
        served = to_model_input(Path(path), recipe)
        cached = cache.image(int(row))
        assert cached.tobytes() == served.tobytes()
        assert cached.dtype == np.float32
        assert cached.shape == served.shape


ALIKE = dataclasses.replace(
    TRAINING_RECIPE, fit="stretch", borders="crop", margin=0.06, detail=128, contrast="equalise"
)


@pytest.mark.parametrize("recipe", [TRAINING_RECIPE, ALIKE, dataclasses.replace(MIDRC_EMORY_RECIPE, quantised=True)])
def test_cached_is_served_over_the_reference_images(recipe: PixelRecipe, shared_data: Path, tmp_path: Path) -> None:
    table = pd.read_csv(shared_data / "dicom.csv", dtype=str, keep_default_na=False)
    pictures = pd.read_csv(shared_data / "images.csv", dtype=str, keep_default_na=False)["file"][::150]
    files = [name for name in table["file"] if name.split("/")[1] in {"chest_frontal", "chest_lateral"}]
    paths = [str(shared_data / name) for name in [*files, *pictures]]
    frame = pd.DataFrame({"image_id": paths, "path": paths})
    cache = build_cache(frame, recipe, tmp_path, processes=2)
    refused = {each.image_id: each.code for each in cache.refused}
    assert len(cache.rows_by_id) > 20
    assert_serves(cache, frame[~frame["image_id"].isin(list(refused))], recipe)
    for path, code in refused.items():
        with pytest.raises(ImageError) as caught:
            to_model_input(Path(path), recipe)
        assert caught.value.code == code


def test_images_are_synced_before_the_index_names_them(
    cases: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record the order of the real calls: a power failure can't be tried here."""
    order: list[tuple[str, int]] = []
    real_fsync = os.fsync
    folder = place_of(tmp_path / "cache")

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if name in {IMAGES_FILE, INDEX_FILE}:
            order.append((name, (folder / INDEX_FILE).read_bytes().count(b"\n")))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    build_cache(cases, SMALL, tmp_path / "cache", processes=1)

    assert order == [(IMAGES_FILE, 0), (INDEX_FILE, 12)]
    assert (folder / IMAGES_FILE).stat().st_size == 12 * 32 * 32 * 2


def test_the_second_build_prepares_nothing_and_finds_everything(cases: pd.DataFrame, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    first = build_cache(cases, SMALL, tmp_path / "cache", processes=2, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("Preparing images", 12, 12)
    before = {path.name: path.read_bytes() for path in place_of(tmp_path / "cache").iterdir()}
    second = build_cache(cases, SMALL, tmp_path / "cache", processes=2)
    assert second.rows_by_id == first.rows_by_id
    assert {path.name: path.read_bytes() for path in place_of(tmp_path / "cache").iterdir()} == before
    assert_serves(second, cases, SMALL)


def test_a_file_that_changed_is_prepared_anew_and_a_copy_is_not(cases: pd.DataFrame, tmp_path: Path) -> None:
    build_cache(cases, SMALL, tmp_path / "cache", processes=1)
    first, second = Path(cases["path"][0]), Path(cases["path"][1])
    first.write_bytes(second.read_bytes())
    cache = build_cache(cases, SMALL, tmp_path / "cache", processes=1)
    rows = cache.rows(cases["image_id"])
    assert rows[0] == rows[1]  # one content, one row
    assert len(cache.images) == 12
    cv2.imwrite(str(first), np.random.default_rng(9).integers(0, 256, (50, 50)).astype(np.uint8))
    cache = build_cache(cases, SMALL, tmp_path / "cache", processes=1)
    assert len(cache.images) == 13
    assert_serves(cache, cases, SMALL)


def test_each_recipe_has_a_folder_of_its_own(cases: pd.DataFrame, tmp_path: Path) -> None:
    other = dataclasses.replace(SMALL, fit="stretch")
    for recipe in (SMALL, other):
        assert_serves(build_cache(cases, recipe, tmp_path / "cache", processes=1), cases, recipe)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {SMALL.digest[:16], other.digest[:16]}


@pytest.mark.parametrize("cut", [1, 700, 32 * 32 * 2 * 3 + 5])
def test_what_a_kill_leaves_behind_is_repaired(cases: pd.DataFrame, tmp_path: Path, cut: int) -> None:
    build_cache(cases, SMALL, tmp_path / "cache", processes=1)
    place = place_of(tmp_path / "cache")
    images, index = place / IMAGES_FILE, place / INDEX_FILE
    os.truncate(images, images.stat().st_size - cut)  # the index knows more than there is
    with index.open("ab") as file:
        file.write(b'{"row": 12, "key": "ab')  # a line that was cut
    cache = build_cache(cases, SMALL, tmp_path / "cache", processes=1)
    assert_serves(cache, cases, SMALL)
    assert [json.loads(line)["row"] for line in index.read_text().splitlines()] == list(range(12))
    with images.open("ab") as file:
        file.write(b"images that no line tells of")
    assert_serves(build_cache(cases, SMALL, tmp_path / "cache", processes=1), cases, SMALL)


def test_of_images_that_are_prepared_together_only_the_one_at_fault_is_refused(
    cases: pd.DataFrame, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "never.png")  # reading it never ends
    rows = cases.head(4).copy()
    rows.loc[rows.index[1], "path"] = str(tmp_path / "never.png")
    cache = build_cache(rows, SMALL, tmp_path / "cache", processes=1, timeout_s=2)
    assert [each.image_id for each in cache.refused] == [rows["image_id"].iloc[1]]
    assert "ran out of time" in cache.refused[0].reason
    assert len(cache.rows_by_id) == 3


def test_killed_in_the_middle_the_next_build_goes_on(tmp_path: Path, draw_cases: Callable[..., Path]) -> None:
    manifest = draw_cases(tmp_path / "images", 600, side=40)
    code = (
        "import sys; from pathlib import Path; from training.inputs.cache import build_cache;"
        "from training.cases.manifest import read_manifest, resolve_paths; from cxr.pixels.recipe import PixelRecipe;"
        "m = Path(sys.argv[1]); build_cache(resolve_paths(read_manifest(m), m.parent),"
        "PixelRecipe(size=32, quantised=True), Path(sys.argv[2]), processes=1,"
        "progress=lambda s, d, t: print(d, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, manifest, tmp_path / "cache"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 300:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    index = place_of(tmp_path / "cache") / INDEX_FILE
    kept = len(index.read_bytes().splitlines())
    assert 256 <= kept < 600
    frame = read(manifest)
    cache = build_cache(frame, SMALL, tmp_path / "cache", processes=1)
    assert_serves(cache, frame, SMALL)
    assert sorted(cache.rows_by_id.values()) == list(range(600))


def test_what_cannot_be_prepared_is_told_and_the_rest_is_there(cases: pd.DataFrame, tmp_path: Path) -> None:
    Path(cases["path"][3]).write_bytes(b"no picture")
    Path(cases["path"][4]).unlink()
    cache = build_cache(cases, SMALL, tmp_path / "cache", processes=2)
    assert [(each.image_id, each.code) for each in cache.refused] == [
        ("drawn:3", "damaged_pixels"),
        ("drawn:4", "absent_file"),
    ]
    assert len(cache.rows_by_id) == 10
    assert all(str(tmp_path) not in each.reason for each in cache.refused)
    with pytest.raises(RunError, match="not in the cache"):
        cache.rows(["drawn:3"])


def test_a_recipe_that_does_not_fit_sixteen_bits_is_told(cases: pd.DataFrame, tmp_path: Path) -> None:
    cache = build_cache(cases, dataclasses.replace(DEFAULT_RECIPE, size=32), tmp_path / "cache", processes=1)
    assert {each.code for each in cache.refused} == {"not_quantised"}


def test_lungs_are_masked_and_another_mask_is_another_image(cases: pd.DataFrame, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    inside = np.zeros((80, 70), np.uint8)
    inside[20:60, 20:50] = 255
    cv2.imwrite(str(mask), inside)
    masked = cases.assign(mask_path=str(mask))
    cache = build_cache(masked, SMALL, tmp_path / "cache", processes=1, masking=Masking(is_drawn=True))
    image = cache.image(int(cache.rows(["drawn:0"])[0]))[:, :, 0]
    plain = to_model_input(Path(cases["path"][0]), SMALL)[:, :, 0]
    assert image[:7].max() == 0
    np.testing.assert_array_equal(image[10:22, 12:20], plain[10:22, 12:20])
    both = build_cache(masked, SMALL, tmp_path / "cache", processes=1)
    assert both.rows_by_id["drawn:0"] != cache.rows_by_id["drawn:0"]
    without = build_cache(cases, SMALL, tmp_path / "cache", processes=1, masking=Masking(is_drawn=True))
    assert {each.code for each in without.refused} == {"absent_file"}


def test_two_builds_at_once_are_refused(cases: pd.DataFrame, tmp_path: Path) -> None:
    def again(step: str, done: int, total: int) -> None:
        with pytest.raises(RunError, match="Another process"):
            build_cache(cases, SMALL, tmp_path / "cache", processes=1)
        times.append(done)

    times: list[int] = []
    build_cache(cases[:1], SMALL, tmp_path / "cache", processes=1, progress=again)
    assert times == [1]
