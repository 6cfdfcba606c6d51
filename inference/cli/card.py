"""Render a model card on a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from rich.markdown import Markdown, TableElement
from rich.table import Table

from cxr.package import MODEL_CARD_FILE
from cxr.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderResult

    from cxr.package import ModelPackage

PARAGRAPH_LINES: Final = 5
"""Largest number of lines of a paragraph; longer ones are divided between sentences."""

_SENTENCE_END = re.compile(r"(?<=[.!?;])(?:\*\*)?\s+(?=\S)")
_STATUS_ROW = re.compile(r"^\| status \| \S+ \|$", re.MULTILINE)
_NO_PARAGRAPH = ("#", "|", "- ", "* ", ">", "!", "`" * 3, "    ")


class _Table(TableElement):
    """A table of Markdown whose cells are folded, not cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                part.padding = (0, 1, 0, 0)
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class _Card(Markdown):
    elements: ClassVar = {**Markdown.elements, "table_open": _Table}


def print_card(package: ModelPackage, console: Console) -> None:
    """Print fingerprint, status and model card of a package, rendered for the console's width.

    Control characters are removed. The status in the card's table is the manifest's: a demonstration package has the
    card of the package that it was copied from.
    """
    status = package.manifest.status.value
    text = printable((package.folder / MODEL_CARD_FILE).read_text(encoding="utf-8"), lines=True)
    text = _STATUS_ROW.sub(f"| status | {status} |", text)
    console.print(f"fingerprint {package.fingerprint}\nstatus      {status}\n", markup=False, highlight=False)
    console.print(_Card(divide_paragraphs(text, PARAGRAPH_LINES * console.width), hyperlinks=False))


def divide_paragraphs(markdown: str, limit: int) -> str:
    """Divide paragraphs of more than ``limit`` characters between sentences; leave headings, tables and lists."""
    blocks: list[str] = []
    for block in markdown.split("\n\n"):
        is_paragraph = not block.lstrip("\n").startswith(_NO_PARAGRAPH)
        blocks.extend(_divide(block, limit) if is_paragraph else [block])
    return "\n\n".join(blocks)


def _divide(paragraph: str, limit: int) -> Iterator[str]:
    """Collect sentences up to the limit; emphasis and code that span sentences are not divided."""
    part = ""
    for sentence in _sentences(paragraph):
        is_open = part.count("**") % 2 or part.count("`") % 2
        if part and not is_open and len(part) + len(sentence) > limit:
            yield part
            part = sentence
        else:
            part = f"{part} {sentence}" if part else sentence
    yield part


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        yield paragraph[start : end.start()] + end[0].rstrip()
        start = end.end()
    yield paragraph[start:]
