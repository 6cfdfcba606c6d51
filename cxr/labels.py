"""Findings that a model can be trained on: names, codes, and the labels of public datasets.

A package's classes are names of ``FINDINGS``, in the order of the model's outputs. The report encodes a
score under the finding's code.

References
----------
DICOM PS3.16 CIDs 222, 4031, 6101, 6102; SNOMED CT Global Patient Set (COVID-19); PS3.16 Section
8.1 (SCT)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cxr.domain import Code

LUNG = Code(value="39607008", scheme_designator="SCT", meaning="Lung")
"""Finding site of pulmonary findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding: name, report codes, and the labels of datasets that mean it."""

    name: str  # in packages, settings, database rows and commands
    meaning: str  # displayed
    code: Code  # concept of the score in the report
    finding_site: Code | None = None  # None: not localised
    dataset_terms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # dataset -> its labels, as written


def _sct(value: str, meaning: str) -> Code:
    return Code(value=value, scheme_designator="SCT", meaning=meaning)


_ALL = (
    Finding(
        name="covid19",
        meaning="COVID-19",
        code=_sct("840539006", "COVID-19"),
        finding_site=LUNG,
        dataset_terms={
            "ieee8023": ("COVID-19",),  # a token of the finding path "Pneumonia/Viral/COVID-19"
            "radiography": ("COVID",),
            "darwin": ("COVID-19",),
        },
    ),
    Finding(
        name="viral_pneumonia",
        meaning="Viral pneumonia",
        code=_sct("75570004", "Viral pneumonia"),
        finding_site=LUNG,
        dataset_terms={
            "ieee8023": ("Viral",),
            "radiography": ("Viral Pneumonia",),
            "darwin": ("Viral Pneumonia",),
        },
    ),
    Finding(
        name="bacterial_pneumonia",
        meaning="Bacterial pneumonia",
        code=_sct("53084003", "Bacterial pneumonia"),
        finding_site=LUNG,
        dataset_terms={"ieee8023": ("Bacterial",), "darwin": ("Bacterial Pneumonia",)},
    ),
    Finding(
        name="other_pneumonia",
        meaning="Pneumonia of another or unknown cause",
        code=_sct("233604007", "Pneumonia"),
        finding_site=LUNG,
        dataset_terms={"chexpert": ("Pneumonia",), "ieee8023": ("Pneumonia",)},
    ),
    Finding(
        name="lung_opacity",
        meaning="Lung opacity",
        code=Code(value="112001", scheme_designator="DCM", meaning="Opacity"),
        finding_site=LUNG,
        dataset_terms={
            "chexpert": ("Lung Opacity",),
            "rsna": ("Lung Opacity",),
            "radiography": ("Lung_Opacity",),
        },
    ),
    Finding(
        name="normal",
        meaning="Normal",
        code=_sct("17621005", "Normal"),
        dataset_terms={
            "chexpert": ("No Finding",),
            "ieee8023": ("No Finding",),
            "rsna": ("Normal",),
            "radiography": ("Normal",),
            "darwin": ("No Pneumonia (healthy)",),
        },
    ),
    Finding(
        name="abnormal",
        meaning="Abnormal",
        code=_sct("263654008", "Abnormal"),
        dataset_terms={"rsna": ("No Lung Opacity / Not Normal",)},
    ),
)

FINDINGS: Mapping[str, Finding] = MappingProxyType({finding.name: finding for finding in _ALL})
"""Every finding by its name."""


def finding_of(dataset: str, term: str) -> Finding | None:
    """Return the finding of a dataset's label.

    Parameters
    ----------
    dataset
        ``chexpert``, ``ieee8023``, ``rsna``, ``radiography`` or ``darwin``.
    term
        The label as written in the dataset; case and surrounding space are ignored.

    Returns
    -------
    Finding or None
        None if no finding has this label.

    Examples
    --------
    >>> finding_of("radiography", "COVID").name
    'covid19'
    """
    folded = term.strip().casefold()
    matches = (
        finding
        for finding in FINDINGS.values()
        if any(folded == label.casefold() for label in finding.dataset_terms.get(dataset, ()))
    )
    return next(matches, None)
