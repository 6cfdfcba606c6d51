"""Computed tables of ``docs/scaling.md``, from its table of measured figures; ``make docs`` writes them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

BEGIN, END = "<!-- computed -->", "<!-- end -->"
DAY_S = 86_400
KEPT_DAYS = 30
_ROW = re.compile(r"^\| (?P<what>[^|]+?) \| (?P<value>[\d.]+) \|", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Site:
    """One line of the tables: studies per second in the busiest hour, and per day."""

    name: str
    studies_s: float
    studies_day: float


@dataclass(frozen=True, slots=True)
class Need:
    """Resources that a site needs, and their shares of the measured machine (1.0: all of it)."""

    cores: float
    stream: float  # MB/s, over the network and onto the disk
    commits: float  # per second
    reports: float  # per second
    kept: float  # TB
    shares: dict[str, float]


def figures(text: str) -> dict[str, float]:
    """Read the table of figures of the page: name and value."""
    return {row["what"]: float(row["value"]) for row in _ROW.finditer(text.partition(BEGIN)[0])}


def sites(measured: dict[str, float]) -> list[Site]:
    """Return the sites of the page."""
    peak = measured["busiest hour ÷ average"]
    of_a_day = [Site(f"{studies:,} a day", studies / DAY_S * peak, studies) for studies in (500, 5_000, 500_000)]
    world = measured["the world's examinations a year, in thousands of millions"] * 1e9 / 365
    return [*of_a_day, Site("the world, evenly", world / DAY_S, world)]


def need(site: Site, measured: dict[str, float]) -> Need:
    """Return the resources of a site."""
    objects = site.studies_s * measured["objects of a study"]
    scored = site.studies_s * measured["of them, scored"]
    per_image = sum(measured[f"{part}, core-seconds per image"] for part in ("decode", "view", "score", "report",
                                                                         "database", "deliver"))  # fmt: skip
    cores = objects * measured["receive, core-seconds per object"] + scored * per_image
    stream = objects * measured["one object, MB"]
    commits = objects + scored * measured["commits of a scored image"]
    return Need(
        cores=cores,
        stream=stream,
        commits=commits,
        reports=scored,
        kept=site.studies_day * measured["of them, scored"] * measured["one object, MB"] * KEPT_DAYS / 1e6,
        shares={
            "cores": cores / measured["cores of the machine"],
            "disk": stream / measured["durable receive, MB/s"],
            "commits": commits * measured["one commit, s"],
            "network": stream / measured["network, MB/s"],
            "destination": scored / measured["reports that the destination takes, 1/s"],
        },
    )


def computed(text: str) -> str:
    """Write both tables."""
    measured = figures(text)
    needs = {site: need(site, measured) for site in sites(measured)}
    lines = [
        "| studies | busiest hour, 1/s | cores | network and disk, MB/s | commits/s | reports/s | kept 30 days, TB |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {site.name} | {_short(site.studies_s)} | {_short(it.cores)} | {_short(it.stream)} | "
            f"{_short(it.commits)} | {_short(it.reports)} | {_short(it.kept)} |"
            for site, it in needs.items()
        ),
        "",
        "As multiples of the measured machine; the resource that runs out first is bold:",
        "",
        "| studies | " + " | ".join(next(iter(needs.values())).shares) + " | machines |",
        "|---|" + "---|" * 6,
        *(_shares(site, it) for site, it in needs.items()),
    ]
    return "\n".join(lines)


def _shares(site: Site, it: Need) -> str:
    largest = max(it.shares.values())
    cells = [f"**{_short(share)}**" if share == largest else _short(share) for share in it.shares.values()]
    return f"| {site.name} | {' | '.join(cells)} | {math.ceil(largest):,} |"


def _short(value: float) -> str:
    """Format with two significant digits, the accuracy of the figures."""
    if value >= 100:
        digits = int(math.log10(value)) - 1
        return f"{round(value, -digits):,.0f}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


def filled(text: str) -> str:
    """Return the page with its computed part written anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{computed(text)}\n{END}{rest.split(END)[1]}"
