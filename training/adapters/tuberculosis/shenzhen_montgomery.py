"""Shenzhen and Montgomery: NLM's films of two screening programmes, with masks of the lungs.

The last digit of a film's name says tuberculosis or not; each film is of another person. The reading's first lines have
sex and age; the rest is free text and not read. Montgomery has a mask for each lung, which are joined; Shenzhen's were
drawn later, and published on Kaggle.

References
----------
Jaeger et al. 2014, "Two public chest X-ray datasets for computer-aided screening of pulmonary diseases",
https://doi.org/10.3978/j.issn.2223-4292.2014.11.20; Stirenko et al. 2018 (masks of Shenzhen),
https://arxiv.org/abs/1803.01199
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import cv2

from training.adapters.reading.dataset_folder import IMAGE_SUFFIXES, all_files, dataset_folder
from training.adapters.reading.lung_mask_files import write_mask
from training.adapters.reading.result import IndexResult, Rejection, ReportProgress, ignore_progress, index_result
from training.adapters.reading.values import age_of, sex_of

_NAME = re.compile(r"(CHNCXR|MCUCXR)_(\d{4})_([01])")
_SOURCES = {"CHNCXR": "shenzhen", "MCUCXR": "montgomery"}
_SEX = re.compile(r"\b(female|male)\b|sex:\s*([MF])", re.I)
_AGE = re.compile(r"(\d+)\s*-?\s*(y|m|w|d)", re.I)
_EVERY = 50
_LICENCE = "NLM: public, with attribution"


def index(
    root: Path,
    *,
    masks: Annotated[str, "Folder of the joined masks of Montgomery, in the data set's."] = "lung_masks",
    watch: ReportProgress = ignore_progress,
) -> IndexResult:
    """Index the films of either set, or of both.

    Parameters
    ----------
    root
        The folder with ``CXR_png`` and ``ClinicalReadings`` (``ChinaSet_AllFiles``, ``MontgomerySet``), or one above.
        Masks of Shenzhen are files ``CHNCXR_..._mask.png`` anywhere in it.
    masks
        See its help.
    watch
        Called with a step's name, how many are done, and of how many.

    Returns
    -------
    IndexResult
        ``label`` is tuberculosis or normal. Other films of Shenzhen than these two don't exist.

    Raises
    ------
    ManifestError
        If there is no film, or a mask can't be written.
    """
    base = dataset_folder(root)
    mask_folder = base / masks
    files = [path for path in all_files(base) if mask_folder not in path.parents]
    readings = {path.stem: path for path in files if path.suffix.casefold() == ".txt"}
    drawn: dict[str, list[Path]] = {}
    films: list[Path] = []
    for path in files:
        if path.suffix.casefold() in IMAGE_SUFFIXES:
            is_mask = path.stem.endswith("_mask") or "mask" in path.parent.name.casefold()
            if is_mask:
                drawn.setdefault(path.stem.removesuffix("_mask"), []).append(path)
            else:
                films.append(path)
    rejected: list[Rejection] = []
    rows: dict[str, dict[str, Any]] = {}
    for number, film in enumerate(films, start=1):
        name = film.relative_to(base).as_posix()
        matched = _NAME.fullmatch(film.stem)
        if matched is None or film.stem in rows:
            rejected.append(Rejection(name, 0, "not_listed" if matched is None else "duplicate"))
        else:
            row = _row(film, matched, readings.get(film.stem))
            rows[film.stem] = row | {"mask_path": _mask(film, drawn.get(film.stem, []), mask_folder, base, rejected)}
        if number % _EVERY == 0 or number == len(films):
            watch("films", number, len(films))
    with_mask = sum(1 for row in rows.values() if row["mask_path"])
    return index_result(rows.values(), rejected, [f"{with_mask} of {len(rows)} films have a lung mask."])


def _row(film: Path, matched: re.Match[str], reading: Path | None) -> dict[str, Any]:
    source = _SOURCES[matched[1]]
    has_tuberculosis = matched[3] == "1"
    return {
        "image_id": f"{source}:{film.stem}",
        "path": str(film),
        "source": source,
        "patient_id": f"{source}:{matched[2]}",
        "label": "tuberculosis" if has_tuberculosis else "normal",
        "label_tuberculosis": float(has_tuberculosis),
        "label_normal": float(not has_tuberculosis),
        "site": source,
        "licence": _LICENCE,
        **_person(reading),
    }


def _person(reading: Path | None) -> Mapping[str, Any]:
    """Return sex and age; empty where the reading does not begin with them."""
    try:
        text = "" if reading is None else reading.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        text = ""
    head = "\n".join(text.splitlines()[:2])
    sex, age = _SEX.search(head), _AGE.search(head)
    return {
        "sex": sex_of(sex[1] or sex[2]) if sex else "",
        "age": age_of(f"{age[1]}{age[2].upper()}") if age else None,
    }


def _mask(film: Path, drawn: list[Path], folder: Path, base: Path, rejected: list[Rejection]) -> str:
    """Return the path of a film's mask: the one that was drawn, or Montgomery's two lungs joined; or nothing."""
    if len(drawn) < 2:
        return str(drawn[0]) if drawn else ""
    read = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in drawn]
    lungs = [mask for mask in read if mask is not None]
    if len(lungs) < len(drawn) or len({mask.shape for mask in lungs}) > 1:
        rejected.append(Rejection(drawn[0].relative_to(base).as_posix(), 0, "damaged"))
        return ""
    joined = lungs[0]
    for mask in lungs[1:]:
        joined = cv2.bitwise_or(joined, mask)
    return str(write_mask(joined, folder / f"{film.stem}.png"))
