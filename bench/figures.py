"""Result of a measurement: a table in Markdown, and lines of the table of targets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One line of the table of targets."""

    what: str
    target: str
    measured: str
    is_met: bool | None  # None: not measured in this run

    def line(self) -> str:
        met = {True: "met", False: "**not met**", None: "not measured"}[self.is_met]
        return f"| {self.what} | {self.target} | {self.measured} | {met} |"


@dataclass(frozen=True)
class Part:
    """Output of one measurement."""

    text: str  # Markdown, with the command that reproduces it
    figures: list[Figure] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write it for the process that prints the report."""
        path.write_text(json.dumps(asdict(self), default=bool))  # for NumPy's bool

    @classmethod
    def read(cls, path: Path) -> Part:
        stored = json.loads(path.read_text())
        return cls(stored["text"], [Figure(**each) for each in stored["figures"]])


def summary(figures: list[Figure]) -> str:
    """Return the table of targets."""
    lines = [
        "## Targets",
        "",
        "| figure | target | measured | |",
        "|---|---|---|---|",
        *(each.line() for each in figures),
    ]
    return "\n".join(lines) + "\n"
