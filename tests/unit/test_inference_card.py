"""A model card on a terminal of 80 columns."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cxr.domain import PackageStatus
from cxr.package import MODEL_CARD_FILE, AcceptedGate, ModelPackage, write_package
from inference.cli.card import divide_paragraphs, print_card

SENTENCE = "The area under the curve of this model is 0.731 (0.628 to 0.834) in these images."
DIGEST = "9145a44b851f34ac8ee4d24895abd47d85319eec5f6146414fb9597eb1adfb8e"


@pytest.fixture
def shown(tmp_path: Path, tiny_package: Callable[..., ModelPackage]) -> Callable[..., str]:
    def show(card: str, *, status: PackageStatus = PackageStatus.UNTRAINED, width: int = 80) -> str:
        source = tiny_package()
        contents: dict[str, bytes | Path] = {name: source.folder / name for name in source.manifest.files}
        contents[MODEL_CARD_FILE] = card.encode()
        gate = AcceptedGate(name="auc", figure="0.5", reason="a test", accepted_at=source.manifest.provenance.created)
        gates = (gate,) if status is PackageStatus.DEMONSTRATION else ()
        changes = {"status": status, "accepted_gates": gates, "files": {}}
        manifest = source.manifest.model_copy(update=changes)
        package = write_package(tmp_path / "package", manifest, contents)
        stream = io.StringIO()
        print_card(package, Console(file=stream, width=width))
        return stream.getvalue()

    return show


def test_paragraphs_have_five_lines_at_most_and_lose_no_word(shown: Callable[..., str]) -> None:
    card = "# Name\n\n" + " ".join([SENTENCE] * 20)
    page = shown(card)
    paragraphs = [block.splitlines() for block in re.split(r"\n\s*\n", page) if "curve" in block]
    assert len(paragraphs) >= 4
    assert max(map(len, paragraphs)) <= 5
    assert " ".join(page.split()).count("in these images.") == 20
    assert max(map(len, page.splitlines())) <= 80


def test_lists_tables_and_emphasis_are_not_divided() -> None:
    table = "| a | b |\n| --- | --- |\n| One. Two. | Three. |"
    listed = "* One. Two.\n* Three. Four."
    emphasis = "**One. Two.** Three."
    assert (
        divide_paragraphs(f"{table}\n\n{listed}\n\n{emphasis}", 4) == f"{table}\n\n{listed}\n\n**One. Two.**\n\nThree."
    )


def test_the_status_is_the_manifests_in_every_place(shown: Callable[..., str]) -> None:
    page = shown("# Name\n\n|  |  |\n| --- | --- |\n| status | evaluated |\n", status=PackageStatus.DEMONSTRATION)
    assert re.findall(r"status\s+(\w+)", page) == ["demonstration", "demonstration"]


def test_control_characters_and_markup_of_a_card_have_no_effect(shown: Callable[..., str]) -> None:
    page = shown("# Name\n\nfirst \x1b]0;title\x07\x9b31m[bold]second[/bold] [x](https://example.org)")
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", page) is None
    assert "first [bold]second[/bold] x" in page


def test_a_digest_in_a_table_is_whole(shown: Callable[..., str]) -> None:
    page = shown(f"|  |  |\n| --- | --- |\n| input | 224 x 224, recipe `{DIGEST}` |\n| training data | {SENTENCE} |\n")
    assert DIGEST in re.sub(r"\s", "", page)
