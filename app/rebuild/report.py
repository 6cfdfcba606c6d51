"""Report of a rebuild in Markdown: training data, figures, gates, and the commands that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr.counts import counted
from cxr.product import NOTICE
from training.files import write_whole

if TYPE_CHECKING:
    from app.rebuild.data import Counts
    from cxr.package import ModelPackage
    from inference.registry import GateResult
    from training.runs.folder import Run

REPORT_FILE: Final = "REPORT.md"
_NONE: Final = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Content of a report; without values of patients."""

    due_at: datetime
    ended_at: datetime
    counts: Counts
    run: Run
    start: Path | None
    package: ModelPackage
    active: ModelPackage | None
    gates: tuple[GateResult, ...]


def write_report(report: Report, path: Path) -> None:
    """Write the report as Markdown, atomically."""
    write_whole(path, "\n".join(_lines(report)) + "\n")


def write_failure(path: Path, due_at: datetime, code: str, message: str) -> None:
    """Write the report of a rebuild that made no package.

    Parameters
    ----------
    path
        Path of the report.
    due_at
        Scheduled time of the rebuild.
    code, message
        Error code and sentence.
    """
    write_whole(
        path,
        f"# Rebuild of {due_at:%Y-%m-%d %H:%M} UTC\n\n**{NOTICE}**\n\nNo package was made: `{code}`. {message}\n\n"
        "Nothing else was changed; the next scheduled rebuild starts anew.\n",
    )


def _lines(report: Report) -> Iterator[str]:
    manifest = report.package.manifest
    failed = [gate.name for gate in report.gates if not gate.is_passed]
    yield f"# Rebuild of {report.due_at:%Y-%m-%d %H:%M} UTC"
    yield f"\n**{NOTICE}**\n"
    verdict = f"It fails {counted(len(failed), 'gate')}: {', '.join(failed)}." if failed else "It passes every gate."
    yield f"{manifest.name} {manifest.version}, fingerprint `{report.package.fingerprint}`. {verdict}"
    yield "It is **not** in service: a person decides that.\n"
    yield from _data(report)
    yield from _figures(report)
    yield from _comparison(report)
    yield from _gates(report.gates)
    yield from _next(report, failed)


def _data(report: Report) -> Iterator[str]:
    cases = report.run.manifest()
    yield "## Training data\n"
    images, new_images = counted(report.counts.images, "labelled image"), f"{report.counts.new_images:,}"
    yield f"{images}, {new_images} of them new since the last rebuild.\n"
    table = cases.groupby(["split", "label", "source"]).size()
    rows = ((*map(str, key if isinstance(key, tuple) else (key,)), str(count)) for key, count in table.items())
    yield from _table(("side", "label", "source", "images"), rows)
    start = "none" if report.start is None else report.start.name
    recipe = report.run.recipe
    yield f"\nRecipe `{recipe.name}` (digest `{recipe.digest[:12]}`), seed {recipe.seed}, from run `{start}`."
    yield f"Ended {report.ended_at:%Y-%m-%d %H:%M} UTC.\n"


def _figures(report: Report) -> Iterator[str]:
    evaluation: Mapping[str, Any] = report.package.manifest.evaluation
    yield "## Figures on its test images\n"
    classes: Mapping[str, Mapping[str, Any]] = evaluation.get("classes", {})
    rows = (
        (
            name,
            f"{figures.get('positives')} of {figures.get('images')}",
            f"{_number(figures.get('auc'))} ({_number(figures.get('auc_low'))} to {_number(figures.get('auc_high'))})",
            _number(figures.get("sensitivity")),
            _number(figures.get("specificity")),
            _number(figures.get("ece")),
        )
        for name, figures in classes.items()
    )
    yield from _table(("class", "positive", "ROC AUC (95 %)", "sensitivity", "specificity", "ECE"), rows)
    for caution in evaluation.get("cautions", ()):
        yield f"\n* {caution['sentence']}"
    yield ""


def _comparison(report: Report) -> Iterator[str]:
    yield "## Comparison with the package in service\n"
    evaluation: Mapping[str, Any] = report.package.manifest.evaluation
    compared: Sequence[Mapping[str, Any]] = evaluation.get("comparisons", ())
    if report.active is None or not compared:
        yield (
            "Not compared: no package is in service, it is untrained, it has other findings, or the settings switch it "
            "off.\n"
        )
        return
    latest = compared[-1]
    images = counted(latest["images"], "test image")
    yield f"This minus {latest['name']} (`{latest['fingerprint'][:12]}`), over {images}:\n"
    rows = (
        (name, f"{_number(each['difference'])} ({_number(each['low'])} to {_number(each['high'])})")
        for name, each in latest["classes"].items()
    )
    yield from _table(("class", "difference of the ROC AUC (95 %)"), rows)
    yield "\nIf the package in service was trained on some of these images, the comparison favours it.\n"


def _gates(gates: Sequence[GateResult]) -> Iterator[str]:
    yield "## Gates\n"
    yield from _table(
        ("gate", "", "measured", "required"),
        ((gate.name, "passed" if gate.is_passed else "**failed**", gate.figure, gate.requirement) for gate in gates),
    )
    yield ""


def _next(report: Report, failed: Sequence[str]) -> Iterator[str]:
    folder = report.package.folder.absolute()
    yield "## Next steps\n"
    yield "```sh"
    yield f"cxr model gates {folder}"
    yield f'cxr model shadow {folder} --reason "beside the package in service"'
    yield f'cxr model promote {folder} --reason "TEXT"'
    yield "```"
    if failed:
        yield (
            f"\nIts promotion is refused because of failed gates. `--accept-gate NAME` for each of {', '.join(failed)} "
            "puts it into service as a DEMONSTRATION MODEL; every result is marked so."
        )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) and not isinstance(value, bool) else _NONE
