"""The findings of an audit: the content of ``audit.json``, and the cautions that follow from it."""

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
"""A baseline's area above which metadata predict a label well enough to hide behind (views of RSNA: 0.70)."""


@dataclass(frozen=True, slots=True)
class CopiesFound:
    """Copies of films in the data set."""

    files: int  # that were looked at
    unreadable: int
    exact_pairs: int
    near_pairs: int
    across_splits: int  # pairs on two sides
    across_patients: int  # pairs under two patients' names
    across_labels: int  # pairs with two labels
    examples: tuple[tuple[str, str], ...]  # image_ids of the gravest pairs


@dataclass(frozen=True, slots=True)
class LabelAudit:
    """What predicts one label without its images."""

    label: str
    images: int
    baselines: tuple[Baseline, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The content of ``audit.json``."""

    images: int
    patients: int  # known ones
    images_without_patient: int
    labels: Mapping[str, int]
    splits: Mapping[str, int]
    attributes: Mapping[str, Mapping[str, Mapping[str, int]]]  # attribute -> value -> label -> images
    shared_patients: Mapping[str, int]  # "train and test" -> patients on both sides
    shared_studies: Mapping[str, int]
    label_audits: tuple[LabelAudit, ...]
    copies: CopiesFound | None  # None: files were not looked at
    blanked: tuple[BlankedAudit, ...]
    cautions: tuple[Caution, ...]
    notice: str = NOTICE

    def to_json(self, path: Path) -> None:
        """Write the report."""
        write_document({**to_document(self), "summary": self.summary()}, path)

    def summary(self) -> dict[str, str]:
        """Return check and finding, in words, for the model card."""
        found = {
            "patients on two sides": _counts(self.shared_patients),
            "studies on two sides": _counts(self.shared_studies),
            "images without a patient": str(self.images_without_patient),
            "copies of a film": "not looked for",
        }
        if self.copies is not None:
            found["copies of a film"] = (
                f"{self.copies.exact_pairs} exact and {self.copies.near_pairs} near pairs; {self.copies.across_splits} "
                f"on two sides, {self.copies.across_labels} with two labels"
            )
        for each in self.label_audits:
            for base in each.baselines:
                found[f"{each.label} from {', '.join(base.columns) or 'nothing'}"] = f"ROC AUC {base.auc}"
        return found | lung_words(self.blanked)


def read_audit(path: Path) -> dict[str, Any]:
    """Read an ``audit.json``.

    Raises
    ------
    ManifestError
        If it can't be read or is not one of ours.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_ours = set(document) >= {"summary", "cautions", "label_audits"}
    except (OSError, ValueError, TypeError) as error:
        raise ManifestError(
            f"The audit {path.name} can't be read ({type(error).__name__}); `cxr train audit` writes it."
        ) from error
    if not is_ours:
        raise ManifestError(f"The audit {path.name} is of another program or version; `cxr train audit` writes it.")
    return document


def read_summary(path: Path, classes: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Read the words of an ``audit.json`` for the card of a model; see ``read_audit``.

    Parameters
    ----------
    path
        The file.
    classes
        Those labels that are classes of the model, each by itself. What predicts another label says
        nothing of the model's figures: such a caution is left out.

    Returns
    -------
    tuple
        Check and finding; the cautions' sentences.
    """
    audit = read_audit(path)
    words = {str(name): str(found) for name, found in audit["summary"].items()}
    others = tuple(_told(str(each["label"])) for each in audit["label_audits"] if each["label"] not in classes)
    sentences = (str(each["sentence"]) for each in audit["cautions"])
    return words, tuple(each for each in sentences if not each.startswith(others))


def lung_words(blanked: Iterable[BlankedAudit]) -> dict[str, str]:
    """Say what is recognised without lungs, for the model card."""
    return {
        f"{each.name} without lungs": f"ROC AUC {each.blanked}; border alone {each.border_only}; whole image "
        f"{each.whole} ({each.images} images, the lungs of {each.masks} by a mask, else by a box)"
        for each in blanked
    }


def lung_cautions(blanked: Iterable[BlankedAudit]) -> Iterator[Caution]:
    """Warn of every class that the model recognises without lungs."""
    for each in blanked:
        if each.is_shortcut:
            yield Caution(
                "shortcut_blanked_lungs",
                f"{each.name}: the model tells the classes apart without lungs (ROC AUC {each.blanked}, border alone "
                f"{each.border_only}): it reads something else.",
            )


def cautions_of(report: AuditReport) -> tuple[Caution, ...]:
    """Return what is wrong with the data: leaks first, then shortcuts."""
    return (*_leaks(report), *_copies(report), *_shortcuts(report))


def _leaks(report: AuditReport) -> Iterator[Caution]:
    for what, shared in (("patients", report.shared_patients), ("studies", report.shared_studies)):
        if any(shared.values()):
            yield Caution(f"shared_{what}", f"{what.capitalize()} are on two sides ({_counts(shared)}): split anew.")
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


def _told(label: str) -> str:
    """How the sentence begins that warns of one label's shortcut."""
    return f"{label} can be told from"


def _shortcuts(report: AuditReport) -> Iterator[Caution]:
    for each in report.label_audits:
        for base in each.baselines:
            if base.auc is not None and base.auc.value > EXPLAINED:
                yield Caution(
                    f"shortcut_{base.name}",
                    f"{_told(each.label)} {', '.join(base.columns)} alone, with a ROC AUC of {base.auc}: a "
                    "model may learn that instead. Compare every figure with this one.",
                )
    yield from lung_cautions(report.blanked)


def _counts(shared: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in shared.items() if count) or "none"
