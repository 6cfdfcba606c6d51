"""The documentation as tests read it: headings, tables, code blocks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_CELL = re.compile(r"(?<!\\)\|")


@dataclass
class Page:
    """One page: its text, and its tables by the heading that they stand under."""

    text: str
    tables: dict[str, list[list[str]]] = field(default_factory=dict)

    def column(self, heading: str, number: int = 0) -> list[str]:
        """The cells of one column, code marks removed; all tables under a heading count as one."""
        return [row[number].strip("`") for row in self.tables[heading]]

    def codes(self, heading: str, number: int = 0) -> list[str]:
        """Every code word of one column, where a cell may hold several."""
        return [code for row in self.tables[heading] for code in re.findall(r"`([^`]+)`", row[number])]


def read_page(path: Path) -> Page:
    """Read a page; the heads of its tables are left out."""
    page = Page(path.read_text(encoding="utf-8"))
    heading, is_code, is_body = "", False, False
    for line in page.text.splitlines():
        if line.startswith("```"):
            is_code = not is_code
        elif is_code:
            continue
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif line.startswith("|---"):
            page.tables.setdefault(heading, [])
            is_body = True
            continue
        elif line.startswith("| ") and is_body:
            page.tables[heading].append([cell.strip() for cell in _CELL.split(line)[1:-1]])
            continue
        is_body = False
    return page


@pytest.fixture
def page(root: Path) -> Callable[[str], Page]:
    return lambda name: read_page(root / "docs" / name)
