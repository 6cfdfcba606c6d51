"""PadChest's tree of labels: what a label also says.

References
----------
Bustos et al. 2020, "PadChest", https://doi.org/10.1016/j.media.2020.101797, Figures 5 and 6
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

PARENTS: Mapping[str, tuple[str, ...]] = {
    child: tuple(parents.split("|"))
    for child, parents in {
        "calcified granuloma": "calcified densities|granuloma",
        "calcified adenopathy": "calcified densities|adenopathy",
        "calcified mediastinal adenopathy": "calcified adenopathy",
        "calcified pleural thickening": "calcified densities|pleural thickening",
        "calcified pleural plaques": "calcified densities|pleural plaques",
        "heart valve calcified": "calcified densities",
        "calcified fibroadenoma": "calcified densities",
        "multiple nodules": "nodule",
        "hydropneumothorax": "pneumothorax|pleural effusion",
        "interstitial pattern": "infiltrates",
        "ground glass pattern": "interstitial pattern",
        "reticular interstitial pattern": "interstitial pattern",
        "reticulonodular interstitial pattern": "interstitial pattern",
        "miliary opacities": "interstitial pattern",
        "alveolar pattern": "infiltrates",
        "consolidation": "alveolar pattern",
        "air bronchogram": "consolidation",
        "total atelectasis": "atelectasis",
        "lobar atelectasis": "atelectasis",
        "segmental atelectasis": "atelectasis",
        "laminar atelectasis": "atelectasis",
        "round atelectasis": "atelectasis",
        "atelectasis basal": "atelectasis",
        "minor fissure thickening": "fissure thickening",
        "major fissure thickening": "fissure thickening",
        "loculated fissural effusion": "fissure thickening|pleural effusion",
        "apical pleural thickening": "pleural thickening",
        "loculated pleural effusion": "pleural effusion",
        "empyema": "pleural effusion",
        "hemothorax": "pleural effusion",
        "central vascular redistribution": "vascular redistribution",
        "adenopathy": "hilar enlargement",
        "vascular hilar enlargement": "hilar enlargement",
        "pulmonary artery enlargement": "vascular hilar enlargement",
        "descendent aortic elongation": "aortic elongation|mediastinal enlargement",
        "ascendent aortic elongation": "aortic elongation|mediastinal enlargement",
        "aortic button enlargement": "aortic elongation",
        "supra aortic elongation": "aortic elongation|superior mediastinal enlargement",
        "superior mediastinal enlargement": "mediastinal enlargement",
        "goiter": "superior mediastinal enlargement",
        "aortic aneurysm": "mediastinal enlargement",
        "mediastinal mass": "mediastinal enlargement",
        "hiatal hernia": "mediastinal enlargement",
        "scoliosis": "thoracic cage deformation",
        "kyphosis": "thoracic cage deformation",
        "pectum excavatum": "thoracic cage deformation",
        "pectum carinatum": "thoracic cage deformation",
        "cervical rib": "thoracic cage deformation",
        "vertebral compression": "vertebral degenerative changes",
        "vertebral anterior compression": "vertebral compression",
        "blastic bone lesion": "sclerotic bone lesion",
        "clavicle fracture": "fracture",
        "humeral fracture": "fracture",
        "vertebral fracture": "fracture",
        "rib fracture": "fracture",
        "callus rib fracture": "rib fracture",
        "central venous catheter": "catheter",
        "central venous catheter via subclavian vein": "central venous catheter",
        "central venous catheter via jugular vein": "central venous catheter",
        "central venous catheter via umbilical vein": "central venous catheter",
        "reservoir central venous catheter": "central venous catheter",
        "dual chamber device": "electrical device",
        "single chamber device": "electrical device",
        "pacemaker": "electrical device",
        "dai": "electrical device",
        "artificial mitral heart valve": "artificial heart valve",
        "artificial aortic heart valve": "artificial heart valve",
        "metal": "surgery",
        "osteosynthesis material": "metal",
        "sternotomy": "metal",
        "suture material": "metal",
        "bone cement": "surgery",
        "prosthesis": "surgery",
        "humeral prosthesis": "prosthesis",
        "mammary prosthesis": "prosthesis",
        "endoprosthesis": "prosthesis",
        "aortic endoprosthesis": "endoprosthesis",
        "surgery breast": "surgery",
        "mastectomy": "surgery breast",
        "surgery neck": "surgery",
        "surgery lung": "surgery",
        "surgery heart": "surgery",
        "surgery humeral": "surgery",
        "atypical pneumonia": "pneumonia",
        "tuberculosis sequelae": "tuberculosis",
        "post radiotherapy changes": "pulmonary fibrosis",
        "asbestosis signs": "pulmonary fibrosis",
        "pulmonary artery hypertension": "pulmonary hypertension",
        "pulmonary venous hypertension": "pulmonary hypertension",
    }.items()
}
"""Label to the labels above it."""


def with_parents(terms: Iterable[str]) -> frozenset[str]:
    """Return labels with all that are above them.

    Examples
    --------
    >>> sorted(with_parents(["callus rib fracture"]))
    ['callus rib fracture', 'fracture', 'rib fracture']
    """
    found: set[str] = set()
    open_terms = list(terms)
    while open_terms:
        term = open_terms.pop()
        if term not in found:
            found.add(term)
            open_terms += PARENTS.get(term, ())
    return frozenset(found)
