"""Audit of a data set before training: leaks, copies, shortcuts.

Except for copies, the form of files and blanked lungs, the manifest alone is read.

References
----------
Roberts et al., Nature Machine Intelligence 2021;3:199 (what went wrong in 62 models for COVID-19).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.audit.blanked_lungs import BlankedAudit
from training.audit.file_forms import FORM
from training.audit.near_duplicates import Copies, Hashed, find_copies
from training.audit.report import AuditReport, CopySummary, LabelAudit, cautions_of
from training.cases import groups
from training.evaluation import Baseline, metadata_only, source_only
from training.evaluation.baselines import baseline
from training.metrics.subgroups import UNKNOWN, age_band

ATTRIBUTES = ("source", "view", "sex", "age", "site", "manufacturer")


def audit(
    frame: pd.DataFrame,
    *,
    hashed: Hashed | None = None,
    forms: pd.DataFrame | None = None,
    blanked: Sequence[BlankedAudit] = (),
    seed: int = 0,
) -> AuditReport:
    """Find leaks, copies and shortcuts.

    Parameters
    ----------
    frame
        A manifest, with or without sides.
    hashed
        Hashes of its files, row by row (``training.audit.near_duplicates.hash_files``); None: skip copies.
    forms
        Form of its files, row by row (``training.audit.file_forms.read_forms``); None: skip this shortcut.
    blanked
        Results of a model on images without lungs.
    seed
        Seed of the baselines' folds.
    """
    cases = frame.reset_index(drop=True)
    report = AuditReport(
        images=len(cases),
        patients=int(cases.loc[cases["patient_id"] != "", "patient_id"].nunique()),
        images_without_patient=int((cases["patient_id"] == "").sum()),
        labels=_count(cases["label"]),
        splits=_count(cases["split"]),
        attributes={name: _by_label(cases, name) for name in ATTRIBUTES},
        shared_patients=_shared(cases, cases["patient_id"]),
        shared_studies=_shared(cases, cases["study_id"]),
        label_audits=_label_audits(cases, forms, seed),
        copies=None if hashed is None else _copies(cases, hashed),
        blanked=tuple(blanked),
        cautions=(),
    )
    return replace(report, cautions=cautions_of(report))


def label_tables(report: AuditReport) -> dict[str, pd.DataFrame]:
    """Return tables for bar charts: one for each attribute with at least two values, labels as columns."""
    tables = {"label": pd.DataFrame({"images": pd.Series(report.labels, dtype="int64")})}
    for name, values in report.attributes.items():
        if len(values) > 1:
            table = pd.DataFrame(values).T.fillna(0).astype("int64")
            tables[name] = table.loc[table.sum(axis=1).sort_values(ascending=False).index[:12]]
    return tables


def _label_audits(cases: pd.DataFrame, forms: pd.DataFrame | None, seed: int) -> tuple[LabelAudit, ...]:
    is_labelled = cases["label"] != ""
    labelled = cases[is_labelled].reset_index(drop=True)
    labelled_forms = None if forms is None else forms.reset_index(drop=True)[is_labelled].reset_index(drop=True)
    patients = groups(labelled)
    audits = []
    for label in sorted(set(labelled["label"])):
        truth = (labelled["label"] == label).to_numpy()
        baselines = tuple(find(labelled, truth, patients, seed=seed) for find in (source_only, metadata_only))
        if labelled_forms is not None:
            baselines += (_form_only(labelled_forms, truth, patients, seed),)
        audits.append(LabelAudit(label, int(truth.sum()), baselines))
    return tuple(audits)


def _form_only(forms: pd.DataFrame, truth: NDArray[np.bool_], patients: pd.Series, seed: int) -> Baseline:
    """Predict a label from the form of the files that can be read: others are in no training."""
    is_read = (forms[FORM[0]] != "").to_numpy()
    return baseline("form_only", forms[is_read], FORM, truth[is_read], patients[is_read], seed=seed)


def _shared(cases: pd.DataFrame, keys: pd.Series) -> dict[str, int]:
    members = {side: set(keys[(cases["split"] == side) & (keys != "")]) for side in ("train", "val", "test")}
    return {f"{one} and {other}": len(members[one] & members[other]) for one, other in combinations(members, 2)}


def _copies(cases: pd.DataFrame, hashed: Hashed) -> CopySummary:
    pairs = find_copies(hashed.hashes, hashed.digests)
    patients = groups(cases).to_numpy()
    differences = {
        name: [pair for pair in pairs if values[pair.first] != values[pair.second]]
        for name, values in (
            ("split", cases["split"].to_numpy()),
            ("patient", patients),
            ("label", cases["label"].to_numpy()),
        )
    }
    worst_first = differences["split"] + differences["label"] + list(pairs)
    return CopySummary(
        files=len(hashed.digests),
        unreadable=sum(each is None for each in hashed.hashes),
        exact_pairs=sum(pair.is_exact for pair in pairs),
        near_pairs=sum(not pair.is_exact for pair in pairs),
        across_splits=len(differences["split"]),
        across_patients=len(differences["patient"]),
        across_labels=len(differences["label"]),
        examples=_names(cases, worst_first[:20]),
    )


def _names(cases: pd.DataFrame, pairs: Sequence[Copies]) -> tuple[tuple[str, str], ...]:
    ids = cases["image_id"]
    return tuple(dict.fromkeys((str(ids[pair.first]), str(ids[pair.second])) for pair in pairs))


def _count(values: pd.Series) -> dict[str, int]:
    return {str(name) or UNKNOWN: int(count) for name, count in values.value_counts().sort_index().items()}


def _by_label(cases: pd.DataFrame, name: str) -> dict[str, dict[str, int]]:
    values = cases[name]
    if name == "age":
        values = values.map(lambda age: age_band(None if np.isnan(age) else age))
    table = pd.crosstab(values.replace("", UNKNOWN), cases["label"].replace("", UNKNOWN))
    return {str(value): {str(label): int(count) for label, count in row.items()} for value, row in table.iterrows()}
