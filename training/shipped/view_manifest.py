"""The manifest of the default view model: ``python -m training.shipped.view_manifest DATA MANIFEST``.

It reads ``images.csv`` and ``dicom.csv`` under DATA. The training images are

* every available lateral: eighteen, all of one collection (Cohen), all CC BY-NC-SA; the lateral with a
  permissive licence is the test;
* the frontal films of that collection whose licence allows sharing of weights;
* 150 frontal films of each other source;
* images of other parts of the body, of three origins; those of all other origins are the test.

All other films are the test, without those of training patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from training.cases import complete, write_manifest
from training.shipped.manifests import SHARED, SOURCES
from training.view_model.cases import LABEL

FRONTALS: Final = 150
"""Frontal training films of each source except Cohen."""

TRAINED_ORIGINS: Final = ("fo-dicom/fo-dicom", "pydicom/pydicom", "okieraised/sample-dicom")
"""Repositories of the training images that show no chest; those of all others are the test."""

LEFT_OUT: Final = ("orthanc_ct_chest_70.dcm",)
"""A CT scout view of a chest: neither a chest radiograph nor another body part."""

SEED: Final = 0


def view_manifest(data: Path) -> pd.DataFrame:
    """Return the manifest of the view model.

    Parameters
    ----------
    data
        The folder with ``images.csv`` and ``dicom.csv``.
    """
    return complete(pd.concat([_films(data), _dicom(data)], ignore_index=True))


def _films(data: Path) -> pd.DataFrame:
    read = pd.read_csv(data / "images.csv", dtype=str, keep_default_na=False)
    short = [
        next(name for begins, name in SOURCES.items() if each.startswith(begins)) for each in read["source_dataset"]
    ]
    films = _rows(data, read["file"], short, read["patient_id"], read["licence"])
    films["view"] = read["view"]
    is_lateral, is_cohen = films["view"] == "L", films["source"] == "cohen"
    is_shared = (films["licence"] + " ").str.startswith((*SHARED, "listed as authorized"))
    is_trained = is_lateral | (is_cohen & is_shared)
    random = np.random.default_rng(SEED)
    for source in sorted(set(films["source"]) - {"cohen"}):
        patients = random.permutation(sorted(set(films.loc[films["source"] == source, "patient_id"])))
        films_of = films[films["source"] == source].groupby("patient_id").size()
        selected = patients[: int(np.searchsorted(films_of[patients].cumsum().to_numpy(), FRONTALS)) + 1]
        is_trained |= films["patient_id"].isin(selected) & (films["source"] == source)
    films["split"] = np.where(is_trained, "train", "test")
    return _without_trained_patients(films)


def _dicom(data: Path) -> pd.DataFrame:
    read = pd.read_csv(data / "dicom.csv", dtype=str, keep_default_na=False)
    group = read["file"].str.split("/").str[1]
    is_used = group.isin(("chest_frontal", "chest_lateral", "radiograph_other", "other_modality"))
    read = read[is_used & ~read["file"].str.endswith(LEFT_OUT)].reset_index(drop=True)
    rows = _rows(data, read["file"], list(read["source_repo"]), "dicom " + read["file"], read["licence"])
    is_chest = read["file"].str.contains("dicom/chest_")
    rows["view"] = np.where(read["file"].str.contains("chest_lateral"), "L", "unknown")
    rows["label"] = np.where(is_chest, "", LABEL)
    rows["split"] = np.where(~is_chest & rows["source"].isin(TRAINED_ORIGINS), "train", "test")
    return rows


def _rows(
    data: Path, files: pd.Series, sources: Sequence[str], patients: pd.Series, licences: pd.Series
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": files,
            "path": [str(data.absolute() / file) for file in files],
            "source": list(sources),
            "patient_id": patients,
            "label": "",
            "view": "unknown",
            "licence": licences,
            "split": "",
        }
    )


def _without_trained_patients(films: pd.DataFrame) -> pd.DataFrame:
    trained = set(films.loc[films["split"] == "train", "patient_id"])
    return films[(films["split"] == "train") | ~films["patient_id"].isin(trained)]


def main() -> None:
    """Write the manifest."""
    parser = argparse.ArgumentParser(description="Write the manifest of the default view model.")
    parser.add_argument("data", type=Path, help="folder with images.csv and dicom.csv")
    parser.add_argument("manifest", type=Path, help="where the manifest is written")
    arguments = parser.parse_args()
    write_manifest(view_manifest(arguments.data), arguments.manifest)


if __name__ == "__main__":
    main()
