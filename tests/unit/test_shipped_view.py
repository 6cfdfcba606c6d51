"""The gate before the shipped models: the reference films pass, what is no frontal chest radiograph is stopped."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from config.settings import ViewSettings
from cxr.domain import View
from cxr.errors import ImageError
from cxr.package import load_package
from cxr.pixels import to_model_input
from cxr.shipped import view_folder
from cxr.view_model import component_of
from inference.model import Model
from inference.view_check import ViewCheck
from training.default_view import TRAINED_ORIGINS
from training.view_network import SIZE
from training.view_synthetic import KINDS, draw

FILMS = Path(__file__).parent.parent / "data" / "films"
NEVER_DRAWN_IN_TRAINING = range(5000, 5000 + 12 * len(KINDS))
LEAST = 0.9
"""Share of each kind of drawn pictures that is not taken for frontal, at least."""


@pytest.fixture(scope="module")
def check() -> ViewCheck:
    made = ViewCheck.load(ViewSettings(), lambda package: Model.load(package, device="cpu"))
    assert made is not None
    return made


def flags(check: ViewCheck, picture: np.ndarray) -> tuple[str, ...]:
    return check.judge(picture, view=View.FRONTAL).warnings


def test_it_is_small_and_says_that_it_may_not_decide() -> None:
    folder = view_folder(None)
    assert folder is not None
    package = load_package(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    component = component_of(package.manifest)
    assert (component.laterals, component.may_decide) == (18, False)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "CC BY-NC-SA" in card
    assert "each patient with laterals is left out in turn" in card


@pytest.mark.parametrize("film", sorted(path.name for path in FILMS.glob("*.jpg")))
def test_reference_films_pass(check: ViewCheck, film: str) -> None:
    assert flags(check, to_model_input(FILMS / film, check.recipe)) == ()


def test_the_example_of_the_documentation_passes(check: ViewCheck, root: Path) -> None:
    assert flags(check, to_model_input(root / "docs" / "example" / "frontal.dcm", check.recipe)) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_pictures_are_flagged(check: ViewCheck, kind: str) -> None:
    pictures = [draw(SIZE, seed=1, number=number) for number in NEVER_DRAWN_IN_TRAINING]
    flagged = [bool(flags(check, picture[:, :, np.newaxis])) for found, picture in pictures if found == kind]
    assert np.mean(flagged) >= LEAST, f"{sum(flagged)} of {len(flagged)}"


def others(data: Path) -> Iterator[Path]:
    """Images of other things, of origins that were not trained on."""
    with (data / "dicom.csv").open() as stream:
        for row in csv.DictReader(stream):
            is_other = row["file"].startswith(("dicom/radiograph_other", "dicom/other_modality"))
            if is_other and row["source_repo"] not in TRAINED_ORIGINS and "ct_chest_70" not in row["file"]:
                yield data / row["file"]


def test_each_of_the_other_things_that_it_never_saw_is_flagged(check: ViewCheck, shared_data: Path) -> None:
    seen = {}
    for path in others(shared_data):
        try:
            picture = to_model_input(path, check.recipe)
        except ImageError:
            continue
        seen[path.name] = flags(check, picture)
    assert len(seen) >= 8
    assert [name for name, said in seen.items() if not said] == []


def test_the_lateral_that_it_never_saw_is_flagged(check: ViewCheck, shared_data: Path) -> None:
    picture = to_model_input(shared_data / "dicom" / "chest_lateral" / "lidc_0005_lateral.dcm", check.recipe)
    assert flags(check, picture) == ("looks_lateral",)
