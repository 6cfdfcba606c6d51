"""The words of the frontal filter: what codes and terms of a header mean for a chest radiograph.

Pairs of code and scheme are listed one by one. pydicom's own tables don't know (R-10214, SRT), the
code that most equipment sends for a PA chest, nor the older designators of SNOMED RT.

References
----------
DICOM PS3.16 CID 4010 "DX View", CID 4031 "Common Anatomic Regions", Annex L; PS3.3 Sections
C.8.1.1.1 and C.8.11.5 (View Position), C.7.6.1.1.1 (Patient Orientation); PS3.16 Section 8.1 (SRT,
SNM3 and 99SDM are designators of SNOMED RT)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from cxr.domain import Code

_SNOMED_RT = ("SRT", "SNM3", "99SDM")

_FRONTAL_VIEWS = (
    ("399033003", "R-10202", "frontal"),
    ("399348003", "R-10206", "antero-posterior"),
    ("272479007", "R-10214", "postero-anterior"),
    ("272479007", "R-40888", "postero-anterior"),
)
_OTHER_VIEWS = (
    ("399160007", "R-10204", "frontal oblique"),
    ("399312000", "R-10208", "antero-posterior oblique"),
    ("399038007", "R-10210", "right posterior oblique"),
    ("399006002", "R-10212", "left posterior oblique"),
    ("399059000", "R-10216", "postero-anterior oblique"),
    ("399356000", "R-40985", "right anterior oblique"),
    ("399356000", "R-10218", "right anterior oblique"),
    ("399135007", "R-10220", "left anterior oblique"),
    ("30730003", "G-A145", "sagittal"),
    ("30730003", "R-10222", "sagittal"),
    ("399260004", "R-10224", "medial-lateral"),
    ("260427002", "R-40783", "lateral oblique"),
    ("399368009", "R-10226", "medio-lateral oblique"),
    ("399352003", "R-10228", "lateral-medial"),
    ("260426006", "R-40782", "medial oblique"),
    ("399099002", "R-10230", "latero-medial oblique"),
    ("399198007", "R-10232", "right lateral"),
    ("399236003", "R-10234", "right oblique"),
    ("399173006", "R-10236", "left lateral"),
    ("399184004", "R-10238", "left oblique"),
    ("399061009", "R-10241", "axial"),
    ("399162004", "R-10242", "cranio-caudal"),
    ("399196006", "R-10244", "caudo-cranial"),
    ("399004004", "R-10246", "oblique axial"),
    ("399288005", "R-10248", "oblique cranio-caudal"),
    ("399225005", "R-10250", "oblique caudo-cranial"),
    ("399132005", "R-10252", "frontal-oblique axial"),
    ("399325008", "R-10254", "sagittal-oblique axial"),
    ("399182000", "R-102C1", "oblique"),
    ("399067008", "R-102CD", "lateral"),
    ("260421001", "R-4077D", "left lateral oblique"),
    ("260424009", "R-40780", "right lateral oblique"),
    ("399110001", "R-102C2", "tangential"),
    ("399255003", "R-10256", "submentovertical"),
    ("399360002", "R-10257", "verticosubmental"),
    ("399071006", "R-102C3", "plantodorsal"),
    ("399335002", "R-102C4", "dorsoplantar"),
    ("399272005", "R-102C5", "parietoacanthial"),
    ("399242004", "R-102C6", "acanthioparietal"),
    ("399351005", "R-102C7", "orbitoparietal"),
    ("399316002", "R-102C8", "parieto-orbital"),
    ("119376003", "G-8300", "tissue specimen"),
    ("260499007", "R-40810", "occlusal projection"),
)
_CHEST_REGIONS = (
    ("816094009", "", "chest"),
    ("51185008", "T-D3000", "chest"),
    ("39607008", "T-28000", "lung"),
)


def _pairs(rows: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
    pairs = {}
    for sct, srt, meaning in rows:
        pairs[sct, "SCT"] = meaning
        pairs.update({(srt, scheme): meaning for scheme in _SNOMED_RT if srt})
    return pairs


FRONTAL_VIEW_CODES: Mapping[tuple[str, str], str] = _pairs(_FRONTAL_VIEWS)
"""(code value, scheme designator) of the frontal views -> what it means."""

OTHER_VIEW_CODES: Mapping[tuple[str, str], str] = _pairs(_OTHER_VIEWS)
"""(code value, scheme designator) of every other view of CID 4010 -> what it means."""

CHEST_REGION_CODES: Mapping[tuple[str, str], str] = _pairs(_CHEST_REGIONS)
"""(code value, scheme designator) of the chest and the lungs -> what it means."""

FRONTAL_POSITIONS = frozenset({"PA", "AP", "FRONTAL", "ANTEROPOSTERIOR", "POSTEROANTERIOR"})
"""Words of View Position that say frontal."""

OTHER_POSITIONS = frozenset(
    {
        *("LL", "RL", "RLD", "LLD", "RLO", "LLO"),  # the defined terms of CR besides AP and PA
        *("LAT", "LATERAL", "LLAT", "RLAT", "LLATERAL", "RLATERAL", "ML", "LM", "SAGITTAL"),
        *("LAO", "RAO", "LPO", "RPO", "OBL", "OBLIQUE", "MLO", "LMO"),
        *("DECUBITUS", "DECUB", "LORDOTIC", "AXIAL", "TANGENTIAL", "CC", "XCCL", "VD", "DV"),
    }
)
"""Words of View Position that say another projection, also beside AP or PA ("AP LORDOTIC")."""

CHEST_WORDS = frozenset(
    {
        *("CHEST", "THORAX", "LUNG", "LUNGS", "CXR", "CHESTPA", "CHESTAP"),
        *("TORAX", "TÓRAX", "TORACE", "LUNGE", "LUNGEN", "POUMON", "POUMONS", "PULMON", "PULMONES", "BRUSTKORB"),
    }
)
"""Words of Body Part Examined, and of the descriptions, that say chest."""

OTHER_BODY_PARTS = frozenset(
    {
        *("ABDOMEN", "ABDOMENPELVIS", "ACJOINT", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CHESTABDOMEN"),
        *("CHESTABDPELVIS", "CLAVICLE", "COCCYX", "COLON", "CSPINE", "CTSPINE", "ELBOW", "EXTREMITY", "EYE"),
        *("FACE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEART", "HIP", "HUMERUS", "JAW", "KNEE"),
        *("KNEES", "LEG", "LSPINE", "LSSPINE", "MANDIBLE", "MAXILLA", "NECK", "NECKCHEST", "NOSE", "ORBIT"),
        *("ORBITS", "PATELLA", "PELVIS", "RADIUS", "RIB", "RIBS", "SACRUM", "SCAPULA", "SCJOINT", "SELLA"),
        *("SHOULDER", "SIJOINT", "SINUS", "SINUSES", "SKULL", "SPINE", "SSPINE", "STERNUM", "STOMACH", "TEETH"),
        *("THIGH", "THUMB", "TIBIA", "TIBIAFIBULA", "TLSPINE", "TMJ", "TOE", "TSPINE", "ULNA", "UTERUS"),
        *("WHOLEBODY", "WRIST", "ZYGOMA", "CERVICAL", "LUMBAR", "BODY"),
    }
)
"""Words that say another part of the body, also beside the chest ("CHEST ABDOMEN")."""

NO_BODY_PART = frozenset(
    {"UNKNOWN", "UNDEFINED", "UNSPECIFIED", "OTHER", "NONE", "NA", "N", "A", "NULL", "ANY", "DEFAULT", "MISC", "XX"}
)
"""What equipment writes where it has to write something."""

LATERAL_WORDS = frozenset({"LAT", "LATERAL", "PROFIL", "PERFIL", "SEITLICH", "SEITL", "DECUBITUS", "DECUB", "OBLIQUE"})
"""Words of a series' descriptions that say another projection, unless a frontal one stands beside them."""

FRONTAL_WORDS = FRONTAL_POSITIONS | {"FRONT", "FACE"}
"""Words of a series' descriptions that take a lateral word's weight: the text is about both."""

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> frozenset[str]:
    """Split a term or a description into upper-case words; "P.A." and "c-spine" are one word each."""
    joined = re.sub(r"(?<=\b\w)\.(?=\w\b)", "", text.upper())
    joined = re.sub(r"\b([CTLS])[ -](?=SPINE\b)", r"\1", joined)
    return frozenset(_WORD.findall(joined))


def meaning_of(code: Code, listed: Mapping[tuple[str, str], str]) -> str | None:
    """Look a code up in one of the tables above; None if it is not in it."""
    return listed.get((code.value, code.scheme_designator))
