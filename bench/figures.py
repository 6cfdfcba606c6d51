"""What a measurement gives: its own table, and its lines of the table of targets."""

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
    is_met: bool | None  # None: this run can't tell

    def line(self) -> str:
        met = {True: "met", False: "**not met**", None: "not measured"}[self.is_met]
        return f"| {self.what} | {self.target} | {self.measured} | {met} |"


@dataclass(frozen=True)
class Part:
    """What one measurement prints."""

    text: str  # Markdown, with the command that makes it
    figures: list[Figure] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Hand it from the process that measured to the one that prints."""
        path.write_text(json.dumps(asdict(self), default=bool))  # NumPy's own truth values

    @classmethod
    def read(cls, path: Path) -> Part:
        stored = json.loads(path.read_text())
        return cls(stored["text"], [Figure(**each) for each in stored["figures"]])


def summary(figures: list[Figure]) -> str:
    """The table of targets."""
    lines = [
        "## Targets",
        "",
        "| what | target | measured | |",
        "|---|---|---|---|",
        *(each.line() for each in figures),
    ]
    return "\n".join(lines) + "\n"
