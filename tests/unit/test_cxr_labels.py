from __future__ import annotations

import pytest

from cxr.labels import FINDINGS, LUNG, finding_of


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("covid19", ("840539006", "SCT")),
        ("viral_pneumonia", ("75570004", "SCT")),
        ("bacterial_pneumonia", ("53084003", "SCT")),
        ("other_pneumonia", ("233604007", "SCT")),
        ("lung_opacity", ("112001", "DCM")),
        ("normal", ("17621005", "SCT")),
        ("abnormal", ("263654008", "SCT")),
    ],
)
def test_codes(name: str, code: tuple[str, str]) -> None:
    assert (FINDINGS[name].code.value, FINDINGS[name].code.scheme_designator) == code
    # A longer value would be written as Long Code Value, which old readers don't know.
    assert len(FINDINGS[name].code.value) <= 16
    assert 0 < len(FINDINGS[name].code.meaning) <= 64


def test_names_and_codes_are_unique_and_complete() -> None:
    assert [finding.name for finding in FINDINGS.values()] == list(FINDINGS)
    assert len({finding.code for finding in FINDINGS.values()}) == len(FINDINGS) == 7


def test_only_what_is_seen_in_the_lungs_has_a_site() -> None:
    without = {name for name, finding in FINDINGS.items() if finding.finding_site is None}
    assert without == {"normal", "abnormal"}
    assert (LUNG.value, LUNG.scheme_designator) == ("39607008", "SCT")


@pytest.mark.parametrize(
    ("dataset", "term", "name"),
    [
        ("radiography", "COVID", "covid19"),
        ("radiography", "Viral Pneumonia", "viral_pneumonia"),
        ("radiography", "Lung_Opacity", "lung_opacity"),
        ("radiography", "Normal", "normal"),
        ("chexpert", "No Finding", "normal"),
        ("rsna", "No Lung Opacity / Not Normal", "abnormal"),
        ("darwin", " no pneumonia (HEALTHY) ", "normal"),
        ("ieee8023", "COVID-19", "covid19"),
    ],
)
def test_dataset_terms(dataset: str, term: str, name: str) -> None:
    found = finding_of(dataset, term)
    assert found is not None
    assert found.name == name


def test_unknown_terms_have_no_finding() -> None:
    assert finding_of("radiography", "No Finding") is None
    assert finding_of("elsewhere", "COVID") is None


def test_no_dataset_term_means_two_findings() -> None:
    seen = [
        (dataset, term) for it in FINDINGS.values() for dataset, terms in it.dataset_terms.items() for term in terms
    ]
    assert len(seen) == len(set(seen))
