"""What ``cxr train index`` writes and prints beside the manifest: counts, rejections by reason, bounding boxes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from cxr.errors import ManifestError
from training.adapters.reading.result import REASONS, IndexResult, Rejection
from training.cases import label_columns
from training.files import write_whole

_COUNTED = ("label", "view", "source")
_SHOWN = 12  # values of a column in a terminal's table
_MOST_FINDINGS = 30  # in a terminal's table, the most frequent ones


def rejections_path(manifest: Path) -> Path:
    """Return the path of a manifest's list of rejections, in its folder."""
    return manifest.with_name(f"{manifest.stem}.rejected.csv")


def write_rejections(rejected: Iterable[Rejection], path: Path) -> None:
    """Write one line for each rejection: file, line (0: the whole file), reason and meaning.

    Raises
    ------
    ManifestError
        If it can't be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source_file", "line", "reason", "meaning"))
    for each in rejected:
        writer.writerow((each.source_file, each.line, each.reason, REASONS[each.reason]))
    try:
        write_whole(path, text.getvalue(), private=True)
    except OSError as error:
        raise ManifestError(f"The list of rejections can't be written ({type(error).__name__}).") from error


def boxes_path(manifest: Path) -> Path:
    """Return the path of a manifest's bounding boxes, in its folder."""
    return manifest.with_name(f"{manifest.stem}.boxes.csv")


def write_boxes(boxes: pd.DataFrame, path: Path) -> None:
    """Write one line for each bounding box, where the data set has any.

    Raises
    ------
    ManifestError
        If it can't be written.
    """
    if boxes.empty:
        return
    try:
        write_whole(path, boxes.to_csv(index=False, lineterminator="\n"), private=True)
    except OSError as error:
        raise ManifestError(f"The bounding boxes can't be written ({type(error).__name__}).") from error


def summarise(indexed: IndexResult, manifest: Path) -> dict[str, Any]:
    """Return the counts of cases and rejections, as JSON values."""
    cases = indexed.cases
    return {
        "manifest": str(manifest),
        "rejections": str(rejections_path(manifest)),
        "images": len(cases),
        "patients": int(cases.loc[cases["patient_id"] != "", "patient_id"].nunique()),
        "image_wise": int((cases["image_wise"] == "yes").sum()),
        "by": {name: _counts(cases[name].value_counts().to_dict()) for name in _COUNTED},
        "findings": {name: _values(cases[name]) for name in label_columns(cases)},
        "rejected": len(indexed.rejected),
        "rejected_by": indexed.count_rejected(),
        "notes": list(indexed.notes),
        "boxes": len(indexed.boxes),
        "boxes_file": str(boxes_path(manifest)) if len(indexed.boxes) else None,
    }


def _values(column: pd.Series) -> dict[str, int]:
    values = {"positive": 1, "negative": 0, "uncertain": -1}
    return {word: int((column == value).sum()) for word, value in values.items()} | {
        "not_said": int(column.isna().sum())
    }


def _counts(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(name): int(count) for name, count in counts.items()}


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the counts as tables."""
    console = Console()
    console.print(f"{summary['images']} images of {summary['patients']} known patients", highlight=False)
    for name, counts in summary["by"].items():
        _print_counts(console, name, counts)
    _print_findings(console, summary["findings"])
    if summary["rejected_by"]:
        console.print(f"{summary['rejected']} left out; each one: {summary['rejections']}", highlight=False)
        _print_counts(console, "reason", summary["rejected_by"], meanings=REASONS)
    if summary["image_wise"]:
        console.print(
            f"{summary['image_wise']} images have no certain patient: figures from them are not for claims.",
            highlight=False,
        )
    if summary["boxes"]:
        console.print(f"{summary['boxes']} bounding boxes: {summary['boxes_file']}", highlight=False)
    for note in summary["notes"]:
        console.print(note, highlight=False)


def _print_findings(console: Console, findings: Mapping[str, Mapping[str, int]]) -> None:
    if not findings:
        return
    table = Table("finding", "positive", "negative", "uncertain", "not said")
    common = sorted(findings.items(), key=lambda item: -item[1]["positive"])
    for name, values in common[:_MOST_FINDINGS]:
        table.add_row(name.removeprefix("label_"), *map(str, values.values()))
    if (more := len(common) - _MOST_FINDINGS) > 0:
        table.add_row(f"({more} more)", "", "", "", "")
    console.print(table)


def _print_counts(
    console: Console, name: str, counts: Mapping[str, int], meanings: Mapping[str, str] | None = None
) -> None:
    table = Table(name, "images" if meanings is None else "lines or files", *(["meaning"] if meanings else []))
    for value, count in list(counts.items())[:_SHOWN]:
        table.add_row(value or "(none)", str(count), *([meanings[value]] if meanings else []))
    if (more := len(counts) - _SHOWN) > 0:
        table.add_row(f"({more} more)", str(sum(list(counts.values())[_SHOWN:])))
    console.print(table)
