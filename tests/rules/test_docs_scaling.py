"""The arithmetic of docs/scaling.md, on figures that can be multiplied in the head."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FIGURES = {
    "cores of the machine": 2, "one object, MB": 10, "receive, core-seconds per object": 0.1,
    "decode, core-seconds per image": 0.2, "view, core-seconds per image": 0.1, "score, core-seconds per image": 0.3,
    "report, core-seconds per image": 0.1, "database, core-seconds per image": 0.05,
    "deliver, core-seconds per image": 0.05, "commits of a scored image": 4, "one commit, s": 0.01,
    "durable receive, MB/s": 100, "network, MB/s": 50, "reports that the destination takes, 1/s": 4,
    "objects of a study": 2, "of them, scored": 1, "busiest hour ÷ average": 3,
    "the world's examinations a year, in thousands of millions": 3.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def scaling(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("scaling", root / "docs" / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module  # dataclasses ask for it
    spec.loader.exec_module(module)
    return module


def test_one_study_a_second(scaling: Any) -> None:
    needed = scaling.need(scaling.Site("one", 1.0, 86_400), FIGURES)
    assert needed.cores == pytest.approx(2 * 0.1 + 0.8)
    assert (needed.stream, needed.commits, needed.reports) == (20, 2 + 4, 1)
    assert needed.kept == pytest.approx(86_400 * 10 * 30 / 1e6)
    expected = {"cores": 0.5, "disk": 0.2, "commits": 0.06, "network": 0.4, "destination": 0.25}
    assert needed.shares == pytest.approx(expected)


def test_sites_of_the_page(scaling: Any) -> None:
    found = {site.name: site.studies_s for site in scaling.sites(FIGURES)}
    assert found["5,000 a day"] == pytest.approx(0.1736, abs=1e-4)
    assert found["the world, evenly"] == pytest.approx(114.2, abs=0.1)


def test_what_runs_out_first_is_bold_and_the_page_is_read(scaling: Any) -> None:
    table = "".join(f"| {what} | {value} | |\n" for what, value in FIGURES.items())
    page = f"{table}{scaling.BEGIN}\nold | 1 |\n{scaling.END}\nafter\n"
    assert scaling.figures(page) == FIGURES
    filled = scaling.filled(page)
    assert "| 500,000 a day | **8.7** |" in filled
    assert filled.endswith(f"{scaling.END}\nafter\n")
    assert scaling.filled(filled) == filled
