"""Counts with their noun."""

import pytest

from cxr.counts import counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (223414, "223,414 images")]
)
def test_one_is_singular(count: int, words: str) -> None:
    assert counted(count, "image") == words


def test_an_irregular_plural() -> None:
    assert [counted(count, "study", "studies") for count in (1, 2)] == ["1 study", "2 studies"]
