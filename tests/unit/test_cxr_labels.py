from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts

from cxr.labels import FINDINGS, LUNG, finding_of, findings_of

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
NIH = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "No Finding",
)  # fmt: skip
VINDR = (
    "Aortic enlargement", "Atelectasis", "Cardiomegaly", "Calcification", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung cavity", "Lung cyst", "Lung Opacity", "Mediastinal shift",
    "Nodule/Mass", "Pulmonary fibrosis", "Pneumothorax", "Pleural thickening", "Pleural effusion", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "No finding",
)  # fmt: skip


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


@pytest.mark.parametrize("name", FINDINGS)
def test_codes_fit_their_elements_and_are_those_of_dicom(name: str) -> None:
    code = FINDINGS[name].code
    # A longer value would be written as Long Code Value, which old readers don't know.
    assert len(code.value) <= 16
    assert 0 < len(code.meaning) <= 64
    assert code.scheme_designator in ("DCM", "SCT", "UMLS", "99CXRLISTENER")
    known = [terms[code.value] for terms in concepts.get(code.scheme_designator, {}).values() if code.value in terms]
    # Many SNOMED CT codes are not in DICOM's subset; where it has one, it is meant.
    assert known or code.scheme_designator != "DCM"
    assert not known or code.meaning in {meaning for meaning, _ in known}


def test_names_and_codes_are_unique_and_complete() -> None:
    assert [finding.name for finding in FINDINGS.values()] == list(FINDINGS)
    codes = {(finding.code.scheme_designator, finding.code.value) for finding in FINDINGS.values()}
    assert len(codes) == len(FINDINGS) > 100


@pytest.mark.parametrize(("dataset", "terms"), [("chexpert", CHEXPERT), ("nih", NIH), ("vindr", VINDR)])
def test_every_label_of_a_collection_is_a_finding_of_its_own(dataset: str, terms: tuple[str, ...]) -> None:
    names = [found.name for term in terms if (found := finding_of(dataset, term))]
    assert len(set(names)) == len(terms)
    assert set(names) == {finding.name for finding in findings_of(dataset)}


def test_the_site_is_where_the_finding_is_seen() -> None:
    sites = {name: finding.finding_site for name, finding in FINDINGS.items()}
    assert sites["normal"] is sites["abnormal"] is sites["support_devices"] is None
    assert {sites[name] for name in ("covid19", "lung_opacity", "nodule", "edema")} == {LUNG}
    meanings = {name: site.meaning for name, site in sites.items() if site is not None}
    assert meanings["pleural_effusion"] == "Pleural structure"
    assert meanings["cardiomegaly"] == "Heart"
    assert (LUNG.value, LUNG.scheme_designator) == ("39607008", "SCT")


@pytest.mark.parametrize("name", FINDINGS)
def test_sites_are_those_of_dicom(name: str) -> None:
    site = FINDINGS[name].finding_site
    assert site is None or any(
        site.value in terms and terms[site.value][0] == site.meaning for terms in concepts["SCT"].values()
    )


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
