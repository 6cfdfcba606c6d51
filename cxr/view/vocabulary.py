"""Codes and terms of view and body part in the header of a chest radiograph.

The tables list every pair of code and scheme explicitly: pydicom's dictionary lacks (R-10214, SRT), the code that most
equipment sends for a PA chest, and the older designators of SNOMED RT.

References
----------
DICOM PS3.16 CID 4010 "DX View", CID 4031 "Common Anatomic Regions", Annex L; PS3.3 Sections
C.8.1.1.1 and C.8.11.5 (View Position), C.7.6.1.1.1 (Patient Orientation); PS3.16 Section 8.1 (SRT,
SNM3 and 99SDM are designators of SNOMED RT)
"""

from __future__ import annotations

# ruff: noqa: RUF001 (terms in the scripts of many languages)
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cxr.domain import Code
from cxr.view.regions import OTHER_REGIONS

_SNOMED_RT = ("SRT", "SNM3", "99SDM")
# Some senders encode the scheme's name or UID (PS3.16 Table 8-1) as its designator.
_SCHEME_OF: Mapping[str, str] = {
    "2.16.840.1.113883.6.96": "SCT",
    "SNOMED": "SCT",
    "SNOMED-CT": "SCT",
    "SNOMEDCT": "SCT",
    "2.16.840.1.113883.6.5": "SRT",
    "SNOMED-RT": "SRT",
}

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
    ("43799004", "", "thoracic cavity"),
    ("302551006", "", "entire thorax"),
    ("181216001", "", "entire lung"),
)


def _pairs(rows: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
    """Pair each code with every designator of SNOMED, because senders mix those of SNOMED CT and RT."""
    return {
        (code, scheme): meaning
        for sct, srt, meaning in rows
        for code in (sct, srt)
        for scheme in ("SCT", *_SNOMED_RT)
        if code
    }


FRONTAL_VIEW_CODES: Mapping[tuple[str, str], str] = _pairs(_FRONTAL_VIEWS)
"""Frontal views: (code value, scheme designator) -> meaning."""

OTHER_VIEW_CODES: Mapping[tuple[str, str], str] = _pairs(_OTHER_VIEWS)
"""All other views of CID 4010: (code value, scheme designator) -> meaning."""

CHEST_REGION_CODES: Mapping[tuple[str, str], str] = _pairs(_CHEST_REGIONS)
"""Chest and lungs: (code value, scheme designator) -> meaning."""

OTHER_REGION_CODES: Mapping[tuple[str, str], str] = _pairs(OTHER_REGIONS)
"""Other anatomic regions: (code value, scheme designator) -> meaning."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Terms of one meaning, in the form that ``fold`` returns.

    Parameters
    ----------
    words
        Whole words.
    stems
        Prefixes of words, for languages with inflection and for compounds.
    parts
        Substrings of the text, for scripts without spaces between words and for compounds.
    """

    words: frozenset[str]
    stems: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def terms_in(self, text: str) -> frozenset[str]:
        """Return the terms of this vocabulary that occur in a text; no other word of the text."""
        if not text:
            return frozenset()
        folded, words = fold(text), words_of(text)
        inflected = (word for word in words if word.startswith(self.stems))
        stems = (stem for word in inflected for stem in self.stems if word.startswith(stem))
        return frozenset({*(words & self.words), *stems, *(part for part in self.parts if part in folded)})


FRONTAL = Vocabulary(
    words=frozenset(
        {
            *("PA", "AP", "PAAP", "APPA", "FRONT", "FRONTAL", "FRONTALE", "FACE", "FRENTE", "EDESTA"),
            *("ANTEROPOSTERIOR", "POSTEROANTERIOR", "ANTEROPOSTERIORE", "POSTEROANTERIORE"),
        }
    ),
    stems=("ПРЯМ", "ПЕРЕДНЕЗАД", "ЗАДНЕПЕРЕД"),
    parts=("正位", "正面", "後前", "后前", "前後", "前后", "정면", "후전", "전후"),
)
"""Terms of frontal projections."""

LATERAL = Vocabulary(
    words=frozenset(
        {
            *("LL", "RL", "RLD", "LLD", "RLO", "LLO", "LAO", "RAO", "LPO", "RPO"),  # defined terms of CR and DX
            *("LAT", "LLAT", "RLAT", "LATL", "LATR", "XLAT", "XTABLE", "LLATERAL", "RLATERAL", "LAT1", "LAT2"),
            *("OBL", "LORDOTIC", "SCOUT", "LOCALIZER", "LOCALISER", "TOPOGRAM", "SURVIEW"),
            *("DWARS", "SIDE", "SIDA", "BOK", "BOKU", "YAN", "YANDAN", "SAMPING", "БОК"),
        }
    ),
    stems=(
        *("LATERAL", "LATERO", "LATLAT", "DECUB", "OBLIQU", "OBLICU", "OBLIK", "PROFIL", "PERFIL"),
        *("SEITL", "SEITENAUF", "SEITENBILD", "LINKSSEIT", "RECHTSSEIT", "ZIJDEL", "SIDOBILD", "SIDOPROJ"),
        *("SIDEBIL", "SIDEOPT", "SIVU", "KULG", "SANSKAT", "SANU", "SONIN", "BOCZN", "BOCN", "STRANSK"),
        *("OLDAL", "ANESOR", "NGHIENG", "ΠΛΑΓΙ", "ΠΡΟΦΙΛ", "БОКОВ", "БІЧН", "ПРОФИЛ", "СТРАНИЧН", "БОЧН"),
    ),
    parts=(
        "側面",
        "側位",
        "侧位",
        "侧面",
        "ソクメン",
        "측면",
        "측위",
        "ดานขาง",
        "ด้านข้าง",
        "جانب",
        "نیمرخ",
        "לטרל",
        "צידי",
        "צדדי",
    ),
)
"""Terms of lateral, oblique, decubitus and other projections, and of localizers."""

OTHER_POSITIONS = LATERAL.words | {
    *("LATERAL", "ML", "LM", "SAGITTAL", "OBLIQUE", "MLO", "LMO", "DECUBITUS", "DECUB"),
    *("AXIAL", "TANGENTIAL", "CC", "XCCL", "VD", "DV"),
}
"""Terms of View Position for other projections, also in combination with AP or PA ("AP LORDOTIC")."""

CHEST = Vocabulary(
    words=frozenset(
        {
            *("CXR", "THX", "ОГК", "KOPS", "KOPSU", "KOPSUD", "RINTA", "RINTAKEHA", "PEITO", "PECHO", "PETTO"),
            *("LONGEN", "BRUSTKORB", "BORSTKAS", "DADA", "PARU", "SIDER", "NGUC", "PHOI", "PIEPT", "GOGUS", "TUDO"),
        }
    ),
    stems=(
        *("CHEST", "THORA", "TORA", "PULM", "LUNG", "POUMON", "POITRIN", "POLMON", "BRUSTRAUM", "BRYSTKAS"),
        *("BRYSTKORG", "BROSTKORG", "BRJOSTK", "KEUHKO", "RINDKERE", "KRUSKURV", "PLAUS", "KRUTIN", "PLAUC"),
        *("PIERSIOW", "PLUC", "PLJUC", "HRUDNI", "MELLKAS", "PLAMAN", "PRSNI", "GRUDNI", "KRAHAROR"),
        *(
            "MUSHKERI",
            "PLIC",
            "AKCIGER",
            "ΘΩΡΑΚ",
            "ΠΝΕΥΜΟΝ",
            "ГРУД",
            "ЛЕГК",
            "ЛЕГЕН",
            "ТОРАК",
            "ГРЪД",
            "ГРАДЕН",
            "ПЛУЋ",
        ),
    ),
    parts=(
        *(
            "CHEST",
            "THORAX",
            "TORAX",
            "胸",
            "肺",
            "キョウフ",
            "キョウブ",
            "ムネ",
            "흉부",
            "가슴",
            "폐",
            "ทรวงอก",
            "ปอด",
        ),
        *("صدر", "سینه", "سينه", "חזה", "ריאות", "छाती", "वक्ष"),
    ),
)
"""Terms for chest in Body Part Examined and descriptions, in the languages of DICOM's character sets."""

OTHER_BODY_PARTS = Vocabulary(
    words=frozenset(
        {
            *("ABDOMEN", "ABDOMENPELVIS", "ABD", "ACJOINT", "ANKLE", "ARM", "BREAST", "CALCANEUS"),
            *("CLAVICLE", "COCCYX", "COLON", "CTSPINE", "ELBOW", "EXTREMITY", "EYE"),
            *("FACE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE"),
            *("KNEES", "KUB", "LEG", "MANDIBLE", "MAXILLA", "NECK", "NECKCHEST", "NOSE", "ORBIT"),
            *("ORBITS", "PATELLA", "RADIUS", "RIB", "RIBS", "SACRUM", "SCAPULA", "SCJOINT", "SELLA"),
            *("SHOULDER", "SIJOINT", "SINUS", "SINUSES", "SKULL", "SPINE", "STERNUM", "STOMACH", "TEETH"),
            *("THIGH", "THUMB", "TIBIA", "TIBIAFIBULA", "TMJ", "TOE", "ULNA", "UTERUS"),
            *("WHOLEBODY", "WRIST", "ZYGOMA", "CERVICAL", "LUMBAR", "BWS", "HWS", "LWS"),
            *("KNIE", "HUFTE", "BECKEN", "SCHULTER", "GENOU", "BASSIN", "EPAULE", "RODILLA", "HOMBRO", "CADERA"),
            *("GINOCCHIO", "SPALLA", "BACINO", "JOELHO", "OMBRO"),
        }
    ),
    stems=(
        *("COLUMNA", "COLONNA", "COLUNA", "RACHIS", "WERVEL", "RYGGRAD", "SELKARANK", "RINTARANK"),
        *("LULISAMM", "KREGOSLUP", "PATER", "CHRBTIC", "GERINC", "KICM", "HRBTEN", "OMURGA", "ΣΠΟΝΔ", "ПОЗВОН"),
        *("ГРУДИН", "КОЛЕН", "ПЛЕЧ", "БРЮШ"),
    ),
    parts=(
        *(
            "CHESTABD",
            "SPINE",
            "VERTEBR",
            "PELVI",
            "WIRBEL",
            "LUMBA",
            "LOMBA",
            "ABDOMEN",
            "胸椎",
            "腰椎",
            "頸椎",
            "颈椎",
            "脊柱",
            "脊椎",
        ),
        *("胸骨", "胸鎖", "胸锁", "흉추", "척추", "腹部", "骨盤", "骨盆", "膝"),
    ),
)
"""Terms of other body parts, also in combination with the chest ("CHEST ABDOMEN")."""

BESIDE_CHEST = frozenset({"ABDOMEN", "ABDOMENPELVIS", "ABD", "CHESTABD", "NECK", "NECKCHEST", "PELVI", "腹部", "БРЮШ"})
"""Terms of other body parts that a film shows together with the chest, as those of newborns do."""

WITH_CHEST = frozenset({"CHESTABD", "NECKCHEST"})
"""Terms of other body parts that name the chest too."""

AMBIGUOUS_PARTS = frozenset({"FACE", "HEAD", "EYE", "STOMACH", "ARM", "RADIUS", "NECK"})
"""Terms of other body parts that occur in descriptions of chest images with another meaning ("thorax face")."""

_WORD = re.compile(r"[^\W_]+")
_MARKS = re.compile("[\u0300-\u036f]")
_UNDECOMPOSED = str.maketrans({"Ł": "L", "Ø": "O", "Đ": "D", "Æ": "AE", "Œ": "OE", "Þ": "TH"})
_INITIALS = re.compile(r"\b(?:(A)[\s./_-]{1,3}P|(P)[\s./_-]{1,3}A)\b")
_NUMBERED = re.compile(r"\b(PA|AP)\d+\b")
_BETWEEN = re.compile(r"\b(ANTERO|POSTERO|ANTERIOR|POSTERIOR)[\s./_-]+(POSTERIOR|ANTERIOR)(E?)\b")


def fold(text: str) -> str:
    """Return a text in upper case, without accents and width variants (NFKC), so that spellings compare equal."""
    if text.isascii():
        return text.upper()
    wide = unicodedata.normalize("NFKC", text).upper()
    plain = _MARKS.sub("", unicodedata.normalize("NFKD", wide))
    return unicodedata.normalize("NFC", plain).translate(_UNDECOMPOSED)


def words_of(text: str) -> frozenset[str]:
    """Split a term or a description into folded words.

    "P.A.", "A-P", "antero-posterior" and "c-spine" are one word each.
    """
    joined = fold(text).replace("_", " ")
    joined = _BETWEEN.sub(lambda match: f"{'ANTERO' if match[1].startswith('A') else 'POSTERO'}{match[2]}", joined)
    joined = re.sub(r"(?<=\b\w)\.(?=\w\b)", "", joined)
    joined = _INITIALS.sub(lambda match: "AP" if match[1] else "PA", joined)
    joined = _NUMBERED.sub(r"\1", joined)
    joined = re.sub(r"\b([CTLS])[ -](?=SPINE\b)", r"\1", joined)
    return frozenset(_WORD.findall(joined))


def meaning_of(code: Code, table: Mapping[tuple[str, str], str]) -> str | None:
    """Return the meaning of a code in one of the tables above; None if it is not listed."""
    scheme = _SCHEME_OF.get(code.scheme_designator, code.scheme_designator)
    return table.get((code.value, scheme))
