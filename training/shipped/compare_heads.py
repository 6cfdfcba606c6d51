"""Comparison of heads on the default model's frozen trunks, on held-out sources.

``python -m training.shipped.compare_heads RUNS`` computes, for each fold's pair of held-out sources, the
ROC AUC for COVID-19 of

* ``abnormal``: the trunk's own score, trained on normal against abnormal without COVID-19;
* ``head-C``: a logistic regression on its features, trained on the other pair, with penalty 1 / C.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.cases import read_manifest
from training.files import write_whole
from training.inputs.batches import plain_batches
from training.inputs.cache import build_cache
from training.inputs.targets import Cases, sample_weights, select
from training.metrics.auc import roc_auc_with_interval
from training.networks import features_of
from training.recipe import Balance, Task
from training.runs.folder import MODEL_FILE, open_run
from training.shipped.manifests import FOLDS

STRENGTHS: Final = (1e-4, 1e-2, 1.0)
FIGURES_FILE: Final = "default-heads.json"

_TASK: Final = Task(classes=("covid19",))
_BALANCE: Final = Balance(method="weights", by_source=True)


def compare_heads(runs: Path) -> list[dict[str, Any]]:
    """Evaluate every head on every fold: pair, setting, ROC AUC with its 95% interval."""
    rows = []
    for trained, held in (("nih", "kermany"), ("kermany", "nih")):
        pairs = [pair for pair in FOLDS if pair[1] == held]
        cases = {
            pair: select(read_manifest(runs / "manifests" / f"fold-{'-'.join(pair)}.csv"), _TASK) for pair in pairs
        }
        films = pd.concat([each.frame for each in cases.values()]).drop_duplicates("image_id")
        features = _features(runs / f"trunk-{trained}", films, runs / "cache-b")
        for pair, selected in cases.items():
            rows += [{"pair": "-".join(pair), **row} for row in _evaluate_pair(selected, features)]
    return rows


def _features(folder: Path, films: pd.DataFrame, cache_folder: Path) -> pd.DataFrame:
    """Return the features of each film, and the trunk's own logit as the last column."""
    run = open_run(folder)
    network = keras.saving.load_model(folder / MODEL_FILE, compile=False, safe_mode=True)
    cache = build_cache(films, run.recipe.pixels, cache_folder, processes=1)
    batches = plain_batches(
        cache, cache.rows(films["image_id"]), np.zeros((len(films), 1), np.float32), batch_size=32
    )  # fmt: skip
    features = features_of(network, batches)
    kernel, bias = network.get_layer("evidence").get_weights()
    own = features @ kernel[0, 0] + bias  # the mean of the evidence map is linear in the features
    return pd.DataFrame(np.hstack([features, own]), index=films["image_id"])


def _evaluate_pair(cases: Cases, features: pd.DataFrame) -> Iterator[dict[str, Any]]:
    train, test = cases.side("train"), cases.side("test")
    train_features, test_features = (features.loc[each.frame["image_id"]].to_numpy() for each in (train, test))
    yield _row("abnormal", test, test_features[:, -1])
    weights = sample_weights(train, _BALANCE)
    for strength in STRENGTHS:
        head = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        head.fit(train_features[:, :-1], train.truths[:, 0] > 0.5, logisticregression__sample_weight=weights)
        yield _row(f"head-{strength:g}", test, head.decision_function(test_features[:, :-1]))


def _row(setting: str, test: Cases, score: NDArray[Any]) -> dict[str, Any]:
    area = roc_auc_with_interval(test.truths[:, 0] > 0.5, score, test.frame["patient_id"])
    if area is None or area.interval is None:
        return {"setting": setting, "auc": None}
    low, high = area.interval.low, area.interval.high
    return {"setting": setting, "auc": round(area.value, 4), "low": round(low, 4), "high": round(high, 4)}


def main() -> None:
    """Write the figures beside the runs."""
    parser = argparse.ArgumentParser(description="Evaluate heads on the default model's trunks on held-out sources.")
    parser.add_argument("runs", type=Path, help="the folder of the runs")
    arguments = parser.parse_args()
    write_whole(arguments.runs / FIGURES_FILE, json.dumps(compare_heads(arguments.runs), indent=1))


if __name__ == "__main__":
    main()
