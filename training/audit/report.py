"""The audit report: content of ``audit.json``, and the cautions derived from it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.errors import ManifestError
from cxr.product import NOTICE
from training.audit.blanked_lungs import BlankedAudit
from training.evaluation import Baseline, Caution
from training.files import to_document, write_document

AUDIT_FILE = "audit.json"
EXPLAINED = 0.70
"""ROC AUC of a baseline above which metadata are a shortcut to a label (view in RSNA: 0.70)."""


@dataclass(frozen=True, slots=True)
class CopySummary:
    """Numbers of copies of films in the data set."""

    files: int  # read
    unreadable: int
    exact_pairs: int
    near_pairs: int
    across_splits: int  # pairs on two sides
    across_patients: int  # pairs of two patients
    across_labels: int  # pairs with two labels
    examples: tuple[tuple[str, str], ...]  # image ids of the worst pairs


@dataclass(frozen=True, slots=True)
class LabelAudit:
    """Baselines that predict one label from metadata, without images."""

    label: str
    images: int
    baselines: tuple[Baseline, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The content of ``audit.json``."""

    images: int
    patients: int  # with a patient ID
    images_without_patient: int
    labels: Mapping[str, int]
    splits: Mapping[str, int]
    attributes: Mapping[str, Mapping[str, Mapping[str, int]]]  # attribute -> value -> label -> images
    shared_patients: Mapping[str, int]  # "train and test" -> patients on both sides
    shared_studies: Mapping[str, int]
    label_audits: tuple[LabelAudit, ...]
    copies: CopySummary | None  # None: files were not read
    blanked: tuple[BlankedAudit, ...]
    cautions: tuple[Caution, ...]
    notice: str = NOTICE

    def to_json(self, path: Path) -> None:
        """Write the report as JSON."""
        write_document({**to_document(self), "summary": self.summary()}, path)

    def summary(self) -> dict[str, str]:
        """Return check to result, as texts for the model card."""
        results = {
            "patients on two sides": _counts(self.shared_patients),
            "studies on two sides": _counts(self.shared_studies),
            "images without a patient": str(self.images_without_patient),
            "copies of a film": "not looked for",
        }
        if self.copies is not None:
            results["copies of a film"] = (
                f"{self.copies.exact_pairs} exact and {self.copies.near_pairs} near pairs; {self.copies.across_splits} "
                f"on two sides, {self.copies.across_labels} with two labels"
            )
        for each in self.label_audits:
            for base in each.baselines:
                results[f"{each.label} from {', '.join(base.columns) or 'nothing'}"] = f"ROC AUC {base.auc}"
        return results | describe_blanked_lungs(self.blanked)


def read_audit(path: Path) -> dict[str, Any]:
    """Read an ``audit.json``.

    Raises
    ------
    ManifestError
        If it can't be read, or is no audit of this version.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_audit = set(document) >= {"summary", "cautions", "label_audits"}
    except (OSError, ValueError, TypeError) as error:
        raise ManifestError(
            f"The audit {path.name} can't be read ({type(error).__name__}); `cxr train audit` writes it."
        ) from error
    if not is_audit:
        raise ManifestError(f"The audit {path.name} is of another program or version; `cxr train audit` writes it.")
    return document


def read_summary(path: Path, classes: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Read summary and cautions of an ``audit.json`` for a model card; errors as in ``read_audit``.

    Parameters
    ----------
    path
        The file.
    classes
        Labels that are classes of the model. Cautions about other labels are excluded: they don't concern
        the model's figures.

    Returns
    -------
    tuple
        Check to result; sentences of the cautions.
    """
    audit = read_audit(path)
    summary = {str(name): str(result) for name, result in audit["summary"].items()}
    others = tuple(
        _shortcut_prefix(str(each["label"])) for each in audit["label_audits"] if each["label"] not in classes
    )
    sentences = (str(each["sentence"]) for each in audit["cautions"])
    return summary, tuple(each for each in sentences if not each.startswith(others))


def describe_blanked_lungs(blanked: Iterable[BlankedAudit]) -> dict[str, str]:
    """Return check to result of the blanked lungs, for the model card."""
    return {
        f"{each.name} without lungs": f"ROC AUC {each.blanked}; border alone {each.border_only}; whole image "
        f"{each.whole} ({each.images} images, the lungs of {each.masks} by a mask, else by a box)"
        for each in blanked
    }


def blanked_lung_cautions(blanked: Iterable[BlankedAudit]) -> Iterator[Caution]:
    """Yield a caution for every class that the model recognises without lungs."""
    for each in blanked:
        if each.is_shortcut:
            yield Caution(
                "shortcut_blanked_lungs",
                f"{each.name}: the model separates the classes without lungs (ROC AUC {each.blanked}, border alone "
                f"{each.border_only}): it uses other features.",
            )


def cautions_of(report: AuditReport) -> tuple[Caution, ...]:
    """Return the cautions of a report: leaks, copies, shortcuts, in this order."""
    return (*_leaks(report), *_copies(report), *_shortcuts(report))


def _leaks(report: AuditReport) -> Iterator[Caution]:
    for kind, shared in (("patients", report.shared_patients), ("studies", report.shared_studies)):
        if any(shared.values()):
            yield Caution(f"shared_{kind}", f"{kind.capitalize()} are on two sides ({_counts(shared)}): split again.")
    if report.images_without_patient:
        yield Caution(
            "image_wise",
            f"{report.images_without_patient} of {report.images} images have no patient: figures from them are "
            "image-wise, not for claims.",
        )


def _copies(report: AuditReport) -> Iterator[Caution]:
    copies = report.copies
    if copies is None:
        return
    if copies.across_splits:
        yield Caution("copies_across_splits", f"{copies.across_splits} copies of films are on two sides.")
    if copies.across_labels:
        yield Caution("copies_across_labels", f"{copies.across_labels} copies of films have two labels.")
    if copies.unreadable:
        yield Caution("unreadable", f"{copies.unreadable} of {copies.files} files can't be read.")


def _shortcut_prefix(label: str) -> str:
    """Return the beginning of the sentence that warns of a label's shortcut."""
    return f"{label} can be told from"


def _shortcuts(report: AuditReport) -> Iterator[Caution]:
    for each in report.label_audits:
        for base in each.baselines:
            if base.auc is not None and base.auc.value > EXPLAINED:
                yield Caution(
                    f"shortcut_{base.name}",
                    f"{_shortcut_prefix(each.label)} {', '.join(base.columns)} alone, with a ROC AUC of {base.auc}: a "
                    "model may learn that instead. Compare every figure with this one.",
                )
    yield from blanked_lung_cautions(report.blanked)


def _counts(shared: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in shared.items() if count) or "none"
