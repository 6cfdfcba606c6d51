"""Findings that a model can be trained on: names, codes, and the labels of public datasets.

A package's classes are names of ``FINDINGS``, or findings that a recipe defines, in the order of the model's
outputs. The report encodes a score under the finding's code: of DICOM or SNOMED CT where there is one, else of
UMLS, else one of this project's.

References
----------
DICOM PS3.16 CIDs 222, 645, 3700, 4031, 6101, 6102, 6138; SNOMED CT Global Patient Set (COVID-19); PS3.16
Section 8.1 (SCT, UMLS). The UMLS concepts are those of PadChest's tree of labels (Bustos et al. 2020,
https://doi.org/10.1016/j.media.2020.101797).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cxr.domain import Code
from cxr.product import CODING_SCHEME_DESIGNATOR

LUNG = Code(value="39607008", scheme_designator="SCT", meaning="Lung")
"""Finding site of pulmonary findings."""

_PLEURA = Code(value="3120008", scheme_designator="SCT", meaning="Pleural structure")
_HEART = Code(value="80891009", scheme_designator="SCT", meaning="Heart")
_AORTA = Code(value="15825003", scheme_designator="SCT", meaning="Aorta")
_MEDIASTINUM = Code(value="72410000", scheme_designator="SCT", meaning="Mediastinum")
_HILUM = Code(value="46750007", scheme_designator="SCT", meaning="Hilum of lung")
_DIAPHRAGM = Code(value="5798000", scheme_designator="SCT", meaning="Diaphragm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding: name, report codes, and the labels of datasets that mean it."""

    name: str  # in packages, settings, database rows and commands
    meaning: str  # displayed
    code: Code  # concept of the score in the report
    finding_site: Code | None = None  # None: not localised
    dataset_terms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # dataset -> its labels, as written


def private_code(name: str, meaning: str) -> Code:
    """Return this project's code of a finding that no public scheme has.

    Parameters
    ----------
    name
        Of the finding; the code's value is its first 16 characters, as SH allows (PS3.5 Section 6.2).
    meaning
        At most 64 characters.
    """
    return Code(value=name.upper()[:16], scheme_designator=CODING_SCHEME_DESIGNATOR, meaning=meaning)


def _dcm(value: str, meaning: str) -> Code:
    return Code(value=value, scheme_designator="DCM", meaning=meaning)


def _sct(value: str, meaning: str) -> Code:
    return Code(value=value, scheme_designator="SCT", meaning=meaning)


def _umls(value: str, meaning: str) -> Code:
    return Code(value=value, scheme_designator="UMLS", meaning=meaning)


def _finding(name: str, meaning: str, code: Code, site: Code | None = None, **terms: str) -> Finding:
    """Return a finding; each dataset's labels are separated by ``|``."""
    labels = {dataset: tuple(text.split("|")) for dataset, text in terms.items()}
    return Finding(name=name, meaning=meaning, code=code, finding_site=site, dataset_terms=labels)


# fmt: off
_INFECTIONS = (
    _finding("covid19", "COVID-19", _sct("840539006", "COVID-19"), LUNG,
             # of ieee8023, a token of the finding path "Pneumonia/Viral/COVID-19"
             ieee8023="COVID-19", radiography="COVID", darwin="COVID-19", covidx="COVID-19|positive"),
    _finding("viral_pneumonia", "Viral pneumonia", _sct("75570004", "Viral pneumonia"), LUNG,
             ieee8023="Viral", radiography="Viral Pneumonia", darwin="Viral Pneumonia"),
    _finding("bacterial_pneumonia", "Bacterial pneumonia", _sct("53084003", "Bacterial pneumonia"), LUNG,
             ieee8023="Bacterial", darwin="Bacterial Pneumonia"),
    _finding("other_pneumonia", "Pneumonia of another or unknown cause", _sct("233604007", "Pneumonia"), LUNG,
             chexpert="Pneumonia", ieee8023="Pneumonia", nih="Pneumonia", padchest="pneumonia", vindr="Pneumonia",
             openi="Pneumonia", covidx="pneumonia"),
    _finding("atypical_pneumonia", "Atypical pneumonia", _umls("C1412002", "Atypical pneumonia"), LUNG,
             padchest="atypical pneumonia"),
    _finding("tuberculosis", "Tuberculosis", _sct("56717001", "Tuberculosis"), LUNG,
             padchest="tuberculosis", vindr="Tuberculosis", openi="Tuberculosis|Tuberculosis, Pulmonary"),
    _finding("tuberculosis_active", "Active tuberculosis", private_code("TB_ACTIVE", "Active tuberculosis"), LUNG,
             tbx11k="ActiveTuberculosis"),
    _finding("tuberculosis_sequelae", "Sequelae of tuberculosis", _umls("C0494132", "Sequelae of tuberculosis"), LUNG,
             padchest="tuberculosis sequelae", tbx11k="ObsoletePulmonaryTuberculosis"),
    _finding("covid19_typical", "Typical appearance of COVID-19",
             private_code("COVID19_TYPICAL", "Typical appearance of COVID-19"), LUNG, siim_covid="Typical Appearance"),
    _finding("covid19_indeterminate", "Indeterminate appearance of COVID-19",
             private_code("COVID19_INDETERM", "Indeterminate appearance of COVID-19"), LUNG,
             siim_covid="Indeterminate Appearance"),
    _finding("covid19_atypical", "Atypical appearance of COVID-19",
             private_code("COVID19_ATYPICAL", "Atypical appearance of COVID-19"), LUNG,
             siim_covid="Atypical Appearance"),
)

_OVERALL = (
    _finding("lung_opacity", "Lung opacity", _dcm("112001", "Opacity"), LUNG,
             chexpert="Lung Opacity", rsna="Lung Opacity", radiography="Lung_Opacity", vindr="Lung Opacity",
             openi="Opacity"),
    _finding("normal", "Normal", _sct("17621005", "Normal"),
             chexpert="No Finding", ieee8023="No Finding", rsna="Normal", radiography="Normal",
             darwin="No Pneumonia (healthy)", nih="No Finding", padchest="normal", vindr="No finding", openi="normal",
             covidx="normal"),
    _finding("abnormal", "Abnormal", _sct("263654008", "Abnormal"), rsna="No Lung Opacity / Not Normal"),
)

_LUNGS = (
    _finding("atelectasis", "Atelectasis", _sct("46621007", "Atelectasis"), LUNG,
             chexpert="Atelectasis", nih="Atelectasis", padchest="atelectasis", vindr="Atelectasis",
             openi="Atelectasis|Atelectases|Pulmonary Atelectasis"),
    _finding("consolidation", "Consolidation", _sct("95436008", "Lung consolidation"), LUNG,
             chexpert="Consolidation", nih="Consolidation", padchest="consolidation", vindr="Consolidation",
             openi="Consolidation"),
    _finding("infiltration", "Infiltrate", _dcm("112121", "Infiltrate"), LUNG,
             nih="Infiltration|Infiltrate", padchest="infiltrates", vindr="Infiltration", openi="Infiltrate"),
    _finding("alveolar_pattern", "Alveolar pattern", _umls("C1332240", "Abnormal alveolar pattern"), LUNG,
             padchest="alveolar pattern"),
    _finding("interstitial_pattern", "Interstitial pattern", _dcm("112004", "Abnormal interstitial pattern"), LUNG,
             padchest="interstitial pattern"),
    _finding("interstitial_lung_disease", "Interstitial lung disease",
             _sct("233703007", "Interstitial lung disease"), LUNG, vindr="ILD"),
    _finding("ground_glass", "Ground glass opacity", _dcm("112120", "Ground glass opacity"), LUNG,
             padchest="ground glass pattern"),
    _finding("miliary_pattern", "Miliary pattern", _dcm("112129", "Miliary pattern"), LUNG,
             padchest="miliary opacities"),
    _finding("edema", "Pulmonary edema", _sct("19242006", "Pulmonary edema"), LUNG,
             chexpert="Edema", nih="Edema", padchest="pulmonary edema", vindr="Edema", openi="Pulmonary Edema"),
    _finding("emphysema", "Pulmonary emphysema", _sct("87433001", "Pulmonary emphysema"), LUNG,
             nih="Emphysema", padchest="emphysema", vindr="Emphysema", openi="Emphysema|Pulmonary Emphysema"),
    _finding("copd", "Chronic obstructive lung disease", _sct("13645005", "Chronic obstructive lung disease"), LUNG,
             padchest="COPD signs", vindr="COPD", openi="Pulmonary Disease, Chronic Obstructive"),
    _finding("fibrosis", "Pulmonary fibrosis", _sct("51615001", "Fibrosis of lung"), LUNG,
             nih="Fibrosis", padchest="pulmonary fibrosis", vindr="Pulmonary fibrosis", openi="Pulmonary Fibrosis"),
    _finding("fibrotic_band", "Fibrotic band", _umls("C0865843", "Atrophic fibrosis of lung"), LUNG,
             padchest="fibrotic band"),
    _finding("mass", "Lung mass", _sct("309529002", "Lung mass"), LUNG,
             nih="Mass", padchest="pulmonary mass", openi="Mass"),
    _finding("nodule", "Lung nodule", _sct("27925004", "Nodule"), LUNG,
             nih="Nodule", padchest="nodule", openi="Nodule|Nodules"),
    _finding("nodule_or_mass", "Nodule or mass", private_code("NODULE_OR_MASS", "Nodule or mass"), LUNG,
             vindr="Nodule/Mass"),
    _finding("lung_lesion", "Lung lesion", private_code("LUNG_LESION", "Lung lesion"), LUNG,
             chexpert="Lung Lesion"),
    _finding("lung_tumor", "Lung tumour", private_code("LUNG_TUMOR", "Lung tumour"), LUNG, vindr="Lung tumor"),
    _finding("lung_metastasis", "Pulmonary metastasis", _sct("94391008", "Pulmonary metastasis"), LUNG,
             padchest="lung metastasis"),
    _finding("lung_cavity", "Cavitation of lung", _umls("C0578537", "Cavitation of lung"), LUNG,
             padchest="cavitation", vindr="Lung cavity"),
    _finding("lung_cyst", "Cyst of lung", _umls("C2073485", "Cyst of lung"), LUNG, padchest="cyst", vindr="Lung cyst"),
    _finding("bulla", "Bulla of lung", _umls("C0241982", "Bulla of lung"), LUNG, padchest="bullas"),
    _finding("granuloma", "Pulmonary granuloma", _umls("C0235557", "Pulmonary granuloma"), LUNG,
             padchest="granuloma", openi="Granuloma|Calcified Granuloma"),
    _finding("calcification", "Calcification", _dcm("112063", "Abnormal calcifications"),
             padchest="calcified densities", vindr="Calcification"),
    _finding("bronchiectasis", "Bronchiectasis", _sct("12295008", "Bronchiectasis"), LUNG,
             padchest="bronchiectasis", openi="Bronchiectasis"),
    _finding("bronchovascular_markings", "Increased bronchovascular markings",
             _umls("C2073518", "Increased bronchovascular markings"), LUNG, padchest="bronchovascular markings"),
    _finding("air_trapping", "Air trapping", _sct("76171001", "Air-trapping"), LUNG, padchest="air trapping"),
    _finding("hyperinflation", "Hyperinflated lung", _umls("C0546312", "Hyperexpansion of lung"), LUNG,
             padchest="hyperinflated lung"),
    _finding("volume_loss", "Volume loss", _umls("C3203358", "Volume loss"), LUNG, padchest="volume loss"),
    _finding("increased_density", "Increased density of lung",
             _umls("C1443940", "Radiologic increased density of lung"), LUNG, padchest="increased density"),
    _finding("vascular_redistribution", "Pulmonary vascular redistribution",
             _umls("C0239041", "Pulmonary vascular redistribution"), LUNG, padchest="vascular redistribution"),
    _finding("pulmonary_hypertension", "Pulmonary hypertension", _sct("70995007", "Pulmonary hypertension"), LUNG,
             padchest="pulmonary hypertension"),
    _finding("chronic_changes", "Chronic changes", _umls("C0742362", "Chronic changes"), LUNG,
             padchest="chronic changes"),
)

_PLEURAL = (
    _finding("pleural_effusion", "Pleural effusion", _sct("60046008", "Pleural effusion"), _PLEURA,
             chexpert="Pleural Effusion", nih="Effusion", padchest="pleural effusion", vindr="Pleural effusion",
             openi="Pleural Effusion"),
    _finding("pneumothorax", "Pneumothorax", _sct("36118008", "Pneumothorax"), _PLEURA,
             chexpert="Pneumothorax", nih="Pneumothorax", padchest="pneumothorax", vindr="Pneumothorax",
             openi="Pneumothorax", siim_pneumothorax="Pneumothorax"),
    _finding("pleural_thickening", "Pleural thickening", _umls("C0264545", "Thickening of pleura"), _PLEURA,
             nih="Pleural_Thickening", padchest="pleural thickening", vindr="Pleural thickening",
             openi="Pleural Thickening|Thickening, pleura"),
    _finding("pleural_plaque", "Pleural plaque", _umls("C0340030", "Pleural plaque"), _PLEURA,
             padchest="pleural plaques"),
    _finding("pleural_other", "Other finding of the pleura", private_code("PLEURAL_OTHER", "Other pleural finding"),
             _PLEURA, chexpert="Pleural Other"),
    _finding("fissure_thickening", "Fissure thickening", private_code("FISSURE_THICKEN", "Fissure thickening"), _PLEURA,
             padchest="fissure thickening"),
    _finding("costophrenic_angle_blunting", "Costophrenic angle blunting",
             _umls("C0742855", "Costophrenic angle obliterated"), _PLEURA, padchest="costophrenic angle blunting"),
)

_HEART_AND_MEDIASTINUM = (
    _finding("cardiomegaly", "Cardiomegaly", _sct("8186001", "Cardiomegaly"), _HEART,
             chexpert="Cardiomegaly", nih="Cardiomegaly", padchest="cardiomegaly", vindr="Cardiomegaly",
             openi="Cardiomegaly"),
    _finding("heart_failure", "Heart failure", _sct("84114007", "Heart failure"), _HEART,
             padchest="heart insufficiency"),
    _finding("pericardial_effusion", "Pericardial effusion", _sct("373945007", "Pericardial effusion"), _HEART,
             padchest="pericardial effusion"),
    _finding("enlarged_cardiomediastinum", "Enlarged cardiomediastinum",
             private_code("ENLARGED_CARDIOM", "Enlarged cardiomediastinum"), _MEDIASTINUM,
             chexpert="Enlarged Cardiomediastinum"),
    _finding("mediastinal_enlargement", "Mediastinal widening", _umls("C2021206", "Mediastinal widening"), _MEDIASTINUM,
             padchest="mediastinal enlargement"),
    _finding("mediastinal_shift", "Mediastinal shift", _umls("C0264576", "Mediastinal shift"), _MEDIASTINUM,
             padchest="mediastinal shift", vindr="Mediastinal shift"),
    _finding("mediastinal_mass", "Mediastinal mass", _umls("C0240318", "Mediastinal mass"), _MEDIASTINUM,
             padchest="mediastinal mass"),
    _finding("tracheal_shift", "Tracheal shift", private_code("TRACHEAL_SHIFT", "Tracheal shift"), _MEDIASTINUM,
             padchest="tracheal shift"),
    _finding("goiter", "Goitre", _sct("3716002", "Goiter"), padchest="goiter"),
    _finding("pneumomediastinum", "Pneumomediastinum", _sct("16838000", "Pneumomediastinum"), _MEDIASTINUM,
             padchest="pneumomediastinum"),
    _finding("hilar_enlargement", "Hilar enlargement", _umls("C1698506", "Pulmonary hilar enlargement"), _HILUM,
             padchest="hilar enlargement"),
    _finding("hilar_congestion", "Hilar congestion", _umls("C0582411", "Pulmonary venous congestion"), _HILUM,
             padchest="hilar congestion"),
    _finding("pulmonary_artery_enlargement", "Enlarged pulmonary artery",
             _umls("C2072932", "Dilated pulmonary arteries"), _HILUM,
             padchest="pulmonary artery enlargement", vindr="Enlarged PA"),
    _finding("adenopathy", "Adenopathy", _umls("C0478664", "Localized enlarged lymph nodes"), padchest="adenopathy"),
    _finding("aortic_enlargement", "Aortic enlargement", private_code("AORTIC_ENLARGED", "Aortic enlargement"), _AORTA,
             vindr="Aortic enlargement"),
    _finding("aortic_elongation", "Aortic elongation", private_code("AORTIC_ELONGATED", "Aortic elongation"), _AORTA,
             padchest="aortic elongation"),
    _finding("aortic_atheromatosis", "Aortic atheromatosis", _umls("C1096249", "Calcification of the aorta"), _AORTA,
             padchest="aortic atheromatosis"),
    _finding("aortic_aneurysm", "Aortic aneurysm", _sct("67362008", "Aortic aneurysm"), _AORTA,
             padchest="aortic aneurysm"),
)

_CHEST_WALL = (
    _finding("hernia", "Diaphragmatic hernia", _sct("39839004", "Diaphragmatic hernia"), _DIAPHRAGM,
             nih="Hernia", padchest="hiatal hernia", openi="Hernia, Hiatal|Hernia, Diaphragmatic"),
    _finding("flattened_diaphragm", "Flattened diaphragm", _umls("C2073504", "Flattened diaphragm"), _DIAPHRAGM,
             padchest="flattened diaphragm"),
    _finding("hemidiaphragm_elevation", "Hemidiaphragm elevation",
             _umls("C2073707", "Unilateral elevation of diaphragm"), _DIAPHRAGM, padchest="hemidiaphragm elevation"),
    _finding("diaphragmatic_eventration", "Diaphragmatic eventration",
             _umls("C0011981", "Diaphragmatic eventration"), _DIAPHRAGM, padchest="diaphragmatic eventration"),
    _finding("fracture", "Fracture", _sct("125605004", "Fracture of bone"),
             chexpert="Fracture", padchest="fracture", openi="Fractures, Bone"),
    _finding("rib_fracture", "Rib fracture", _sct("33737001", "Fracture of rib"),
             padchest="rib fracture", vindr="Rib fracture", openi="Rib Fractures"),
    _finding("clavicle_fracture", "Clavicle fracture", _umls("C0159658", "Fracture of clavicle"),
             padchest="clavicle fracture", vindr="Clavicle fracture"),
    _finding("vertebral_fracture", "Vertebral fracture", _umls("C0080179", "Spinal fractures"),
             padchest="vertebral fracture"),
    _finding("vertebral_degeneration", "Vertebral degenerative changes",
             _umls("C4290224", "Arthrosis or osteoarthritis of spine"), padchest="vertebral degenerative changes"),
    _finding("scoliosis", "Scoliosis", _sct("298382003", "Scoliosis deformity of spine"),
             padchest="scoliosis", openi="Scoliosis"),
    _finding("kyphosis", "Kyphosis", _sct("414564002", "Kyphosis deformity of spine"),
             padchest="kyphosis", openi="Kyphosis"),
    _finding("thoracic_cage_deformation", "Thoracic cage deformation", _umls("C4538889", "Thoracic deformation"),
             padchest="thoracic cage deformation"),
    _finding("osteopenia", "Osteopenia", _umls("C0029453", "Osteopenia"), padchest="osteopenia"),
    _finding("osteoporosis", "Osteoporosis", _sct("64859006", "Osteoporosis"), padchest="osteoporosis"),
    _finding("sclerotic_bone_lesion", "Sclerotic bone lesion", _umls("C4315325", "Sclerotic bones"),
             padchest="sclerotic bone lesion"),
    _finding("bone_metastasis", "Bone metastasis", _umls("C0153690", "Secondary malignant neoplasm of bone"),
             padchest="bone metastasis"),
    _finding("subcutaneous_emphysema", "Subcutaneous emphysema", _umls("C0038536", "Subcutaneous emphysema"),
             padchest="subcutaneous emphysema"),
    _finding("pneumoperitoneum", "Pneumoperitoneum", _umls("C0032320", "Pneumoperitoneum"), padchest="pneumoperitoneo"),
    _finding("other_lesion", "Other lesion", private_code("OTHER_LESION", "Other lesion"), vindr="Other lesion"),
    _finding("other_disease", "Other disease", private_code("OTHER_DISEASE", "Other disease"),
             vindr="Other disease|Other diseases"),
)

_DEVICES = (
    _finding("support_devices", "Support devices", private_code("SUPPORT_DEVICES", "Support devices"),
             chexpert="Support Devices"),
    _finding("endotracheal_tube", "Endotracheal tube", _sct("26412008", "Endotracheal tube"),
             padchest="endotracheal tube"),
    _finding("tracheostomy_tube", "Tracheostomy tube", _umls("C0184159", "Tracheostomy tube"),
             padchest="tracheostomy tube"),
    _finding("nasogastric_tube", "Nasogastric tube", _sct("25062003", "Feeding tube"), padchest="NSG tube"),
    _finding("chest_tube", "Chest tube", _dcm("112173", "Chest tube"), padchest="chest drain tube"),
    _finding("catheter", "Catheter", _sct("19923001", "Catheter"), padchest="catheter"),
    _finding("central_venous_catheter", "Central venous catheter", _sct("52124006", "Central venous catheter"),
             padchest="central venous catheter"),
    _finding("electrical_device", "Electrical cardiac device",
             private_code("CARDIAC_DEVICE", "Electrical cardiac device"), padchest="electrical device"),
    _finding("pacemaker", "Cardiac pacemaker", _sct("14106009", "Cardiac pacemaker"), padchest="pacemaker"),
    _finding("heart_valve_prosthesis", "Heart valve prosthesis", _sct("25510005", "Heart valve prosthesis"),
             padchest="artificial heart valve"),
    _finding("surgery", "Signs of surgery", private_code("SURGERY", "Signs of surgery"), padchest="surgery"),
    _finding("sternotomy", "Sternotomy", _umls("C0185792", "Sternotomy"), padchest="sternotomy"),
    _finding("prosthesis", "Prosthesis", _sct("53350007", "Prosthesis"), padchest="prosthesis"),
)
# fmt: on

_ALL = (*_INFECTIONS, *_OVERALL, *_LUNGS, *_PLEURAL, *_HEART_AND_MEDIASTINUM, *_CHEST_WALL, *_DEVICES)

FINDINGS: Mapping[str, Finding] = MappingProxyType({finding.name: finding for finding in _ALL})
"""Every finding by its name."""


def finding_of(dataset: str, term: str) -> Finding | None:
    """Return the finding of a dataset's label.

    Parameters
    ----------
    dataset
        A key of ``Finding.dataset_terms``, e.g. ``chexpert``; MIMIC-CXR-JPG and BRAX use CheXpert's labels.
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
    return _BY_TERM.get((dataset, term.strip().casefold()))


def findings_of(dataset: str) -> tuple[Finding, ...]:
    """Return the findings that a dataset has labels of, in the order of ``FINDINGS``."""
    return tuple(finding for finding in FINDINGS.values() if dataset in finding.dataset_terms)


_BY_TERM: Mapping[tuple[str, str], Finding] = MappingProxyType(
    {
        (dataset, term.casefold()): finding
        for finding in FINDINGS.values()
        for dataset, terms in finding.dataset_terms.items()
        for term in terms
    }
)
