"""The manifests of the default model: training, validation and test films of each run.

``python -m training.shipped.manifests SHARED FOLDER`` reads ``SHARED/data/images.csv`` and writes one
manifest for each run of ``configs/default-model.sh``. All share one split, so that no later run is
tested on films that its trunk was trained on.

* ``trunk``, ``trunk-nih``, ``trunk-kermany``: normal against abnormal, within each source.
* ``fold-*``: COVID-19 against other; the test is a pair of sources (one with COVID-19, one without).
* ``covid``, ``four``: the films of all sources except Cohen, for the two heads.
* ``cohen``: the external test, used for neither training nor validation.

Only films whose licence allows sharing of the weights are trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd

from training.cases import complete, split, write_manifest

SOURCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "NIH ChestX-ray14": "nih",
        "Kermany et al.": "kermany",
        "COVID-19 Image Repository": "hannover",
        "COVID-CXNet": "cxnet",
        "ieee8023/covid-chestxray-dataset": "cohen",
    }
)
"""Beginning of a source's name in the table to its short name."""

FOLDS: Final = (("hannover", "nih"), ("cxnet", "kermany"), ("hannover", "kermany"), ("cxnet", "nih"))
"""Pairs of held-out sources; the other pair is trained on."""

SHARED: Final = ("CC0", "CC BY ", "CC BY-SA", "NIH Clinical Center")
"""Beginnings of the licences that allow sharing of weights; CC BY-NC does not."""

FRACTIONS: Final[Mapping[str, float]] = MappingProxyType({"train": 0.7, "val": 0.15, "test": 0.15})
SEED: Final = 0

_FINDINGS: Final = ("covid19", "normal", "viral_pneumonia", "bacterial_pneumonia", "other_pneumonia")


def read_films(table: Path) -> pd.DataFrame:
    """Read the frontal films of ``images.csv`` without a label conflict, as a manifest without sides."""
    read = pd.read_csv(table, dtype=str, keep_default_na=False)
    is_used = (read["is_frontal"] == "yes") & (read["label_conflict"] != "yes") & read["finding"].isin(_FINDINGS)
    read = read[is_used].reset_index(drop=True)
    source = read["source_dataset"].map(_short)
    films = pd.DataFrame(
        {
            "image_id": read["file"],
            "path": [str(table.parent.resolve() / file) for file in read["file"]],
            "source": source,
            "site": source,
            "patient_id": read["patient_id"],
            "label": read["finding"],
            "view": read["view"],
            "sex": read["sex"].where(read["sex"].isin(("M", "F")), ""),
            "age": pd.to_numeric(read["age"], errors="coerce"),
            "licence": read["licence"],
            "image_wise": np.where(source == "cxnet", "yes", ""),
        }
    )
    return complete(films)


def manifests(films: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the manifest of every run, by name."""
    cohen = films[films["source"] == "cohen"].assign(split="test")
    is_shared = films["licence"].str.startswith(SHARED) & (films["source"] != "cohen")
    # No patient of the external test is in another manifest.
    trained = films[is_shared & ~films["patient_id"].isin(set(cohen["patient_id"]))].reset_index(drop=True)
    trained["stratum"] = trained["source"] + " " + trained["label"]
    sided = split(trained, fractions=FRACTIONS, seed=SEED, stratify=("stratum",), train_only=("cxnet",))
    sided = sided.drop(columns="stratum")
    sided["weight"] = _even_negatives(sided)
    others = sided[sided["label"] != "covid19"]
    runs = {"trunk": others, "covid": sided, "four": sided, "cohen": cohen}
    runs |= {f"trunk-{source}": others[others["source"] == source] for source in ("nih", "kermany")}
    return runs | {f"fold-{'-'.join(pair)}": _fold(sided, pair) for pair in FOLDS}


def _short(name: str) -> str:
    return next(short for begins, short in SOURCES.items() if name.startswith(begins))


def _even_negatives(films: pd.DataFrame) -> pd.Series:
    """Return weights that balance normal and other films without COVID-19 within each source."""
    kind = films["label"].where(films["label"].isin(("covid19", "normal")), "abnormal")
    counts = films.groupby([films["source"], kind])["label"].transform("size")
    kinds = kind.groupby(films["source"]).transform("nunique")
    size = films.groupby("source")["label"].transform("size")
    weights: pd.Series = (size / (kinds * counts)).round(6)
    return weights


def _fold(films: pd.DataFrame, held: Sequence[str]) -> pd.DataFrame:
    """Make the held-out pair the test; of the others, every tenth patient of COVID-CXNet is in validation."""
    fold = films.copy()
    is_held = fold["source"].isin(held)
    fold.loc[fold["split"] == "test", "split"] = "train"
    is_validation = (fold["source"] == "cxnet") & (pd.factorize(fold["patient_id"])[0] % 10 == 0)
    fold.loc[is_validation, "split"] = "val"
    fold.loc[is_held, "split"] = "test"
    is_shared = ~is_held & fold["patient_id"].isin(set(fold.loc[is_held, "patient_id"]))
    return fold[~is_shared]


def main() -> None:
    """Write the manifests."""
    parser = argparse.ArgumentParser(description="Write the manifests of the default model.")
    parser.add_argument("table", type=Path, help="images.csv of the shared images")
    parser.add_argument("folder", type=Path, help="where the manifests are written")
    arguments = parser.parse_args()
    for name, frame in manifests(read_films(arguments.table)).items():
        write_manifest(frame.reset_index(drop=True), arguments.folder / f"{name}.csv")


if __name__ == "__main__":
    main()
