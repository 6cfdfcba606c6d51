"""The findings that a model may be trained on: one list of names, codes and dataset terms.

A package's classes are names of ``FINDINGS``, in the order of the model's output. A score is
reported under the finding's code; the datasets' own terms say which of their labels mean it.

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
"""Finding site of everything that is seen in the lungs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One label, and how the world calls it."""

    name: str  # ours: in packages, settings, rows and the command
    meaning: str  # for people
    code: Code  # in the report: the concept that a score is about
    finding_site: Code | None = None  # None where there is nothing to localise
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
    """Find what a dataset's own label means.

    Parameters
    ----------
    dataset
        ``chexpert``, ``ieee8023``, ``rsna``, ``radiography`` or ``darwin``.
    term
        The label as the dataset writes it; case and surrounding space don't matter.

    Returns
    -------
    Finding or None
        None if none of ours has that label.

    Examples
    --------
    >>> finding_of("radiography", "COVID").name
    'covid19'
    """
    wanted = term.strip().casefold()
    found = (
        finding
        for finding in FINDINGS.values()
        if any(wanted == known.casefold() for known in finding.dataset_terms.get(dataset, ()))
    )
    return next(found, None)
