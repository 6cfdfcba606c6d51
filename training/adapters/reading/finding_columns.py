"""The manifest's columns of a data set's findings: named like the finding, so that collections fit together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pandas as pd

from cxr.errors import ManifestError
from cxr.labels import finding_of, findings_of
from training.cases import LABEL_PREFIX


def finding_column(dataset: str, term: str) -> str:
    """Return the manifest's column of a data set's label.

    Raises
    ------
    ManifestError
        If no finding has this label.

    Examples
    --------
    >>> finding_column("chexpert", "Pneumonia")
    'label_other_pneumonia'
    """
    finding = finding_of(dataset, term)
    if finding is None:
        raise ManifestError(
            f"The label {term!r} is none of this data set's; accepted are "
            f"{', '.join(term for each in findings_of(dataset) for term in each.dataset_terms[dataset])}."
        )
    return LABEL_PREFIX + finding.name


def findings_row(dataset: str, terms: Collection[str]) -> dict[str, float]:
    """Return the columns of an image whose labels are complete: 1 for those of `terms`, 0 for the data set's others.

    Labels that belong to no finding have no column.
    """
    present = {finding.name for term in terms if (finding := finding_of(dataset, term)) is not None}
    return {LABEL_PREFIX + each.name: float(each.name in present) for each in findings_of(dataset)}


def expand(texts: pd.Series, row_of: Callable[[str], Mapping[str, float]]) -> pd.DataFrame:
    """Return the columns of findings of a column of texts, which repeat: each is read once."""
    codes, unique = pd.factorize(texts)
    frame = pd.DataFrame([row_of(str(text)) for text in unique], dtype=float)
    return frame.iloc[codes].set_axis(texts.index)
