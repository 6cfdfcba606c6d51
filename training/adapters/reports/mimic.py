"""MIMIC-CXR-JPG 2.x: films of one hospital, CheXpert's fourteen labels by its labeler or NegBio, one set a study.

Dates are shifted by patient into the future: they are left out. The views are those of the metadata; "AP" says nothing
about lying or standing.

References
----------
Johnson et al. 2019, "MIMIC-CXR-JPG", https://arxiv.org/abs/1901.07042; https://physionet.org/content/mimic-cxr-jpg/
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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

_COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition")
_VIEWS = {"PA": "PA", "AP": "AP", "": "unknown"}
_LATERALS = frozenset({"LATERAL", "LL", "RL", "XTABLE LATERAL"})
_SIDES = {"train": "train", "validate": "val", "test": "test"}
_LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"


def index(
    root: Path,
    *,
    labeler: Annotated[Literal["chexpert", "negbio"], "Whose labels."] = "chexpert",
    uncertain: UncertainOption = "multiclass",
    uncertain_for: UncertainForOption = (),
    blank: Annotated[Blank, "Findings that a report does not speak of become: unlabelled, or negative."] = "not_said",
    ambiguous: AmbiguousOption = "drop",
    official_split: Annotated[bool, "Take the sides of mimic-cxr-2.0.0-split.csv."] = False,
    unknown_views: Annotated[bool, "Take images without a view: some of them are laterals."] = False,
    laterals: Annotated[bool, "Take lateral views too."] = False,
    check_files: Annotated[bool, "Check that every image exists."] = True,
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index MIMIC-CXR-JPG.

    Parameters
    ----------
    root
        The folder with the tables (``.csv`` or ``.csv.gz``) and ``files``.
    labeler, uncertain, uncertain_for, blank, ambiguous, official_split, unknown_views, laterals, check_files
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
        If a table is missing, or lacks a column.
    """
    base = dataset_folder(root)
    rejected: list[Rejection] = []
    file = _table(base, "metadata")
    images = read_table(file, rejected, required=_COLUMNS)
    watch("read", len(images), len(images))
    labels = _labels(base, labeler, rejected)
    joined = images.merge(labels, on=["subject_id", "study_id"], how="left", indicator=True)
    findings, is_bad = read_findings(
        joined[list(LABELS)].fillna(""), uncertain=uncertain, uncertain_for=uncertain_for, blank=blank
    )
    label, contradicts = overall_label(findings)
    view = joined["ViewPosition"].str.upper()
    is_lateral = view.isin(_LATERALS)
    paths = join_paths(base, _relative(joined))
    reason = first_reason(
        joined.index,
        [
            (joined["dicom_id"] == "", "no_path"),
            (joined["dicom_id"].duplicated(), "duplicate"),
            (~is_lateral & ~view.isin(_VIEWS), "bad_view"),
            (is_lateral & (not laterals), "lateral"),
            ((view == "") & (not unknown_views), "view_unknown"),
            (joined["_merge"] == "left_only", "label_missing"),
            (is_bad, "bad_finding"),
            (contradicts, "label_contradictory"),
            ((label == "") & (ambiguous == "drop"), "label_ambiguous"),
        ],
    )
    if check_files:
        reason = reason.mask((reason == "") & ~files_exist(paths.where(reason == "", "")), "no_file")
    rejected += reject_lines(file.name, joined[LINE], reason)
    accepted = reason == ""
    label = label.mask((label == "") & (ambiguous == "abnormal"), "abnormal")
    cases = _cases(joined[accepted], paths[accepted]).assign(label=label[accepted])
    cases["view"] = view[accepted].map(_VIEWS).mask(is_lateral[accepted], "L")
    if official_split:
        cases["split"] = _sides(base, rejected, joined.loc[accepted, "dicom_id"])
    cases = pd.concat([cases, as_columns(findings[accepted])], axis=1)
    watch("checked", len(images), len(images))
    return index_result(cases, rejected, [describe_policies(uncertain, uncertain_for, blank, ambiguous)])


def _table(base: Path, what: str) -> Path:
    versions = [f"mimic-cxr-2.{minor}.0-{what}.csv" for minor in (1, 0)]
    return find_one(base, [name + end for name in versions for end in ("", ".gz")], f"table of {what}")


def _labels(base: Path, labeler: str, rejected: list[Rejection]) -> pd.DataFrame:
    file = _table(base, labeler)
    table = read_table(file, rejected, required=("subject_id", "study_id", *LABELS))
    repeated = table.duplicated(["subject_id", "study_id"])
    rejected += [Rejection(file.name, int(line), "duplicate") for line in table.loc[repeated, LINE]]
    return table.loc[~repeated, ["subject_id", "study_id", *LABELS]]


def _sides(base: Path, rejected: list[Rejection], names: pd.Series) -> pd.Series:
    table = read_table(_table(base, "split"), rejected, required=("dicom_id", "split"))
    sides = table.drop_duplicates("dicom_id").set_index("dicom_id")["split"].map(_SIDES)
    return names.map(sides).fillna("")


def _relative(table: pd.DataFrame) -> pd.Series:
    subject = "p" + table["subject_id"]
    parts = ["files/" + subject.str.slice(0, 3), subject, "s" + table["study_id"], table["dicom_id"] + ".jpg"]
    return parts[0] + "/" + parts[1] + "/" + parts[2] + "/" + parts[3]


def _cases(table: pd.DataFrame, paths: pd.Series) -> pd.DataFrame:
    patient = "mimic:p" + table["subject_id"]
    return pd.DataFrame(
        {
            "image_id": "mimic:" + table["dicom_id"],
            "path": paths,
            "source": "mimic",
            "patient_id": patient,
            "study_id": patient + "/s" + table["study_id"],
            "site": "beth_israel_deaconess",
            "licence": _LICENCE,
        }
    )
