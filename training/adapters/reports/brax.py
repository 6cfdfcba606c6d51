"""BRAX: films of a Brazilian hospital, CheXpert's fourteen labels taken from Portuguese reports.

References
----------
Reis et al. 2022, "BRAX, Brazilian labeled chest x-ray dataset", https://doi.org/10.1038/s41597-022-01608-8
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd

from training.adapters.reading.chexpert_labels import (
    LABELS,
    AmbiguousOption,
    Blank,
    UncertainForOption,
    UncertainOption,
    as_columns,
    describe_policies,
    overall_label,
    read_findings,
)
from training.adapters.reading.dataset_folder import dataset_folder, files_exist, find_one, join_paths
from training.adapters.reading.result import (
    IndexResult,
    Rejection,
    ReportProgress,
    first_reason,
    ignore_progress,
    index_result,
    reject_lines,
)
from training.adapters.reading.tables import LINE, read_table
from training.adapters.reading.values import age_of, sex_of, view_of

_TABLES = ("master_spreadsheet_update.csv", "master_spreadsheet.csv")
_COLUMNS = ("PngPath", "PatientID", "AccessionNumber", "PatientSex", "ViewPosition")
_AGES = ("PatientAge", "PatientAgeGroup")
_LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"


def index(
    root: Path,
    *,
    uncertain: UncertainOption = "multiclass",
    uncertain_for: UncertainForOption = (),
    blank: Annotated[Blank, "Findings that a report does not speak of become: unlabelled, or negative."] = "not_said",
    ambiguous: AmbiguousOption = "drop",
    unknown_views: Annotated[bool, "Take images without a view: some of them are laterals."] = False,
    laterals: Annotated[bool, "Take lateral views too."] = False,
    check_files: Annotated[bool, "Check that every image exists."] = True,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index BRAX.

    Parameters
    ----------
    root
        The folder with ``master_spreadsheet_update.csv`` and ``images``.
    uncertain, uncertain_for, blank, ambiguous, unknown_views, laterals, check_files
        See their help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is normal (No Finding) or abnormal (a positive finding that is not a support device).

    Raises
    ------
    ManifestError
        If the table is missing, or lacks a column.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    file = find_one(base, _TABLES, "table of images")
    table = read_table(file, rejected, required=(*_COLUMNS, *LABELS))
    watch("read", len(table), len(table))
    findings, is_bad = read_findings(table, uncertain=uncertain, uncertain_for=uncertain_for, blank=blank)
    label, contradicts = overall_label(findings)
    view = table["ViewPosition"].map({text: view_of(text) or "" for text in table["ViewPosition"].unique()})
    paths = join_paths(base, table["PngPath"])
    reason = first_reason(
        table.index,
        [
            (table["PngPath"] == "", "no_path"),
            (table["PngPath"].duplicated(), "duplicate"),
            (view == "", "bad_view"),
            ((view == "L") & (not laterals), "lateral"),
            ((view == "unknown") & (not unknown_views), "view_unknown"),
            (is_bad, "bad_finding"),
            (contradicts, "label_contradictory"),
            ((label == "") & (ambiguous == "drop"), "label_ambiguous"),
            (table["PatientID"] == "", "no_patient"),
        ],
    )
    if check_files:
        reason = reason.mask((reason == "") & ~files_exist(paths.where(reason == "", "")), "no_file")
    rejected += reject_lines(file.name, table[LINE], reason)
    accepted = reason == ""
    label = label.mask((label == "") & (ambiguous == "abnormal"), "abnormal")
    cases = _cases(table[accepted], paths[accepted]).assign(label=label[accepted], view=view[accepted])
    cases = pd.concat([cases, as_columns(findings[accepted])], axis=1)
    watch("checked", len(table), len(table))
    return index_result(cases, rejected, [describe_policies(uncertain, uncertain_for, blank, ambiguous)])


def _cases(table: pd.DataFrame, paths: pd.Series) -> pd.DataFrame:
    age = next((table[name] for name in _AGES if name in table), pd.Series("", index=table.index))
    patient = "brax:" + table["PatientID"]
    return pd.DataFrame(
        {
            "image_id": "brax:" + table["PngPath"],
            "path": paths,
            "source": "brax",
            "patient_id": patient,
            "study_id": patient + "/" + table["AccessionNumber"],
            "sex": table["PatientSex"].map(sex_of),
            "age": age.map({text: age_of(text) for text in age.unique()}).astype(float),
            "manufacturer": table.get("Manufacturer", ""),
            "site": "albert_einstein",
            "licence": _LICENCE,
        }
    )
