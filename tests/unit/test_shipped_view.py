"""The gate before the shipped models, as it is by default: films of chests pass, anything else is held for a person."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from config.settings import ViewSettings
from cxr.domain import JobState, View
from cxr.errors import ImageError
from cxr.package import load_package
from cxr.package.shipped import view_folder
from cxr.package.view_model import component_of
from cxr.pixels.model_input import to_model_input
from inference.model.model import Model
from inference.worker.view_check import ViewCheck
from training.inputs.augment import generator
from training.shipped.view_manifest import TRAINED_ORIGINS, view_manifest
from training.view_model.drawn_pictures import KINDS, draw
from training.view_model.network import RECIPE, SIZE
from training.view_model.rearranged_films import LARGE, MAKERS

FILMS = Path(__file__).parent.parent / "data" / "films"
NEVER_DRAWN_IN_TRAINING = range(5000, 5000 + 20 * len(KINDS))
LEAST = 0.95
"""Share of each kind of drawn pictures that is held, at least."""


@pytest.fixture(scope="module")
def check() -> ViewCheck:
    made = ViewCheck.load(ViewSettings(), lambda package: Model.load(package, device="cpu"))
    assert made is not None
    return made


def is_held(check: ViewCheck, picture: NDArray[np.float32]) -> bool:
    """Whether the service, as it is by default, would hold a picture whose header says frontal chest."""
    verdict = check.verdict(picture, view=View.FRONTAL)
    assert (verdict.state is JobState.HELD) == bool(verdict.reason)
    assert verdict.state in (None, JobState.HELD)
    return verdict.state is JobState.HELD


def test_it_is_small_and_says_that_it_may_not_decide() -> None:
    folder = view_folder(None)
    assert folder is not None
    package = load_package(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    component = component_of(package.manifest)
    assert (component.laterals, component.may_decide) == (18, False)
    assert 0.5 <= component.frontal_at_least <= component.confidence
    card = (folder / "MODEL_CARD.md").read_text()
    assert "CC BY-NC-SA" in card
    assert "each patient with laterals is left out in turn" in card
    assert f"less than {component.frontal_at_least:g} for frontal is held for a person" in card


@pytest.mark.parametrize("film", sorted(path.name for path in FILMS.glob("*.jpg")))
def test_reference_films_pass(check: ViewCheck, film: str) -> None:
    verdict = check.verdict(to_model_input(FILMS / film, check.recipe), view=View.FRONTAL)
    assert (verdict.state, verdict.warnings) == (None, ())


def test_the_example_of_the_documentation_passes(check: ViewCheck, root: Path) -> None:
    picture = to_model_input(root / "docs" / "example" / "frontal.dcm", check.recipe)
    assert check.verdict(picture, view=View.FRONTAL).warnings == ()


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_hands_limbs_slices_pages_and_noise_are_held(check: ViewCheck, kind: str) -> None:
    pictures = [draw(SIZE, seed=1, number=number) for number in NEVER_DRAWN_IN_TRAINING]
    held = [is_held(check, picture[:, :, np.newaxis]) for found, picture in pictures if found == kind]
    assert np.mean(held) >= LEAST, f"{sum(held)} of {len(held)}"


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_made_of_the_reference_films_is_held(check: ViewCheck, maker: str) -> None:
    held = []
    for number, film in enumerate(sorted(FILMS.glob("*.jpg"))):
        picture = to_model_input(film, replace(check.recipe, size=LARGE))[:, :, 0]
        made = MAKERS[maker](picture, generator(7, 1, number))
        held.append(is_held(check, shrunk(made)))
    assert sum(held) >= len(held) - 1


def shrunk(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    small = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.clip(small, 0, 1).astype(np.float32)[:, :, np.newaxis]


def others(data: Path) -> Iterator[Path]:
    """Images of other things, of origins that were not trained on."""
    with (data / "dicom.csv").open() as stream:
        for row in csv.DictReader(stream):
            is_other = row["file"].startswith(("dicom/radiograph_other", "dicom/other_modality"))
            if is_other and row["source_repo"] not in TRAINED_ORIGINS and "ct_chest_70" not in row["file"]:
                yield data / row["file"]


def test_each_of_the_other_things_that_it_never_saw_is_held(check: ViewCheck, shared_data: Path) -> None:
    """A hip, legs, a scout of an abdomen, CT slices, a page of a result: real ones."""
    held = {}
    for path in others(shared_data):
        try:
            picture = to_model_input(path, check.recipe)
        except ImageError:
            continue
        held[path.name] = is_held(check, picture)
    assert len(held) >= 8
    assert [name for name, is_so in held.items() if not is_so] == []


def test_the_lateral_that_it_never_saw_is_held(check: ViewCheck, shared_data: Path) -> None:
    picture = to_model_input(shared_data / "dicom" / "chest_lateral" / "lidc_0005_lateral.dcm", check.recipe)
    assert check.verdict(picture, view=View.FRONTAL).reason == "pixels_lateral"


def test_the_frontal_dicom_files_pass(check: ViewCheck, shared_data: Path) -> None:
    paths = sorted((shared_data / "dicom" / "chest_frontal").iterdir())
    assert len(paths) >= 5
    assert [path.name for path in paths if is_held(check, to_model_input(path, check.recipe))] == []


@pytest.mark.parametrize(
    ("every", "most"), [(12, 0.05), pytest.param(1, 0.03, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_few_frontal_films_that_it_never_saw_are_held(
    check: ViewCheck, shared_data: Path, every: int, most: float
) -> None:
    table = view_manifest(shared_data)
    films = table[(table["split"] == "test") & (table["label"] == "") & (table["view"] != "L")]["path"].iloc[::every]
    assert len(films) >= 1700 / every
    held = [is_held(check, to_model_input(Path(path), RECIPE)) for path in films]
    assert np.mean(held) <= most, f"{sum(held)} of {len(held)}"
