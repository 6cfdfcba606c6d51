"""How the default model's first phase alone does on sources that it has not seen.

``python -m training.shipped.compare_heads RUNS`` takes the trunks of the folds as they are and judges, on each
fold's pair of held-out sources,

* ``abnormal``: the trunk's own score, which has never been told what COVID-19 is;
* ``head-C``: a logistic regression on its features, trained on the other pair, of strength 1 / C.

A head on frozen features is a regression, so that it is fitted in seconds and exactly.
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


def judge(runs: Path) -> list[dict[str, Any]]:
    """Judge every way on every fold: setting, pair, area under the ROC curve with its interval."""
    found = []
    for known, held in (("nih", "kermany"), ("kermany", "nih")):
        pairs = [pair for pair in FOLDS if pair[1] == held]
        cases = {
            pair: select(read_manifest(runs / "manifests" / f"fold-{'-'.join(pair)}.csv"), _TASK) for pair in pairs
        }
        films = pd.concat([each.frame for each in cases.values()]).drop_duplicates("image_id")
        looked = _look(runs / f"trunk-{known}", films, runs / "cache-b")
        for pair, chosen in cases.items():
            found += [{"pair": "-".join(pair), **each} for each in _judge_pair(chosen, looked)]
    return found


def _look(folder: Path, films: pd.DataFrame, cache_folder: Path) -> pd.DataFrame:
    """Give each film its features, and as the last column the trunk's own logit."""
    run = open_run(folder)
    network = keras.saving.load_model(folder / MODEL_FILE, compile=False, safe_mode=True)
    cache = build_cache(films, run.recipe.pixels, cache_folder, processes=1)
    batches = plain_batches(
        cache, cache.rows(films["image_id"]), np.zeros((len(films), 1), np.float32), batch_size=32
    )  # fmt: skip
    features = features_of(network, batches)
    kernel, bias = network.get_layer("evidence").get_weights()
    own = features @ kernel[0, 0] + bias  # the mean of the map is the map's kernel on the mean of the features
    return pd.DataFrame(np.hstack([features, own]), index=films["image_id"])


def _judge_pair(cases: Cases, looked: pd.DataFrame) -> Iterator[dict[str, Any]]:
    train, test = cases.side("train"), cases.side("test")
    seen, asked = (looked.loc[each.frame["image_id"]].to_numpy() for each in (train, test))
    yield _row("abnormal", test, asked[:, -1])
    weights = sample_weights(train, _BALANCE)
    for strength in STRENGTHS:
        head = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        head.fit(seen[:, :-1], train.truths[:, 0] > 0.5, logisticregression__sample_weight=weights)
        yield _row(f"head-{strength:g}", test, head.decision_function(asked[:, :-1]))


def _row(setting: str, test: Cases, score: NDArray[Any]) -> dict[str, Any]:
    area = roc_auc_with_interval(test.truths[:, 0] > 0.5, score, test.frame["patient_id"])
    if area is None or area.interval is None:
        return {"setting": setting, "auc": None}
    low, high = area.interval.low, area.interval.high
    return {"setting": setting, "auc": round(area.value, 4), "low": round(low, 4), "high": round(high, 4)}


def main() -> None:
    """Judge, and write the figures beside the runs."""
    parser = argparse.ArgumentParser(description="Judge the default model's first phase on the held-out sources.")
    parser.add_argument("runs", type=Path, help="the folder of the runs")
    given = parser.parse_args()
    write_whole(given.runs / FIGURES_FILE, json.dumps(judge(given.runs), indent=1))


if __name__ == "__main__":
    main()
