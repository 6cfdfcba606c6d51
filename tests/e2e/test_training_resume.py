"""Killed at any moment, a fine-tune goes on to the result of one that was not killed.

Tolerance: on one machine and one version of TensorFlow the two runs do the same operations on the
same numbers in the same order (data and augmentation are functions of seed and epoch, the checkpoint
holds every variable), so weights are expected to be equal to the bit. 1e-6 is accepted, since
threads of a loaded machine may divide a sum otherwise; an optimiser that lost its state, an epoch
done twice or another order of images moves them by 1e-3 and more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

TINY = [
    "network.architecture=tiny", "pixels.size=64", "split.strategy=patient", "split.fractions=[0.6,0.2,0.2]",
    "stages.1.batch_size=8", "stages.1.learning_rate=0.01",
]  # fmt: skip
PRETRAIN = [*TINY, 'task.classes=["covid19"]', "stages.1.epochs=2"]
# Dropout, plateaus, best weights, gradients of part of a step, averaged weights: everything that has
# a state. 12 epochs take about 3 s.
FINETUNE = [
    *TINY, 'network={architecture="tiny", head="dense", hidden=[8], dropout=0.3}', "stages.0.epochs=2",
    "stages.1.epochs=10", "stages.1.plateau_patience=1", "stages.1.patience=0", "stages.1.accumulate=2",
    "stages.1.ema_momentum=0.5",
]  # fmt: skip


def command(verb: str, *arguments: object, overrides: list[str]) -> list[str]:
    sets = [word for override in overrides for word in ("--set", override)]
    program = [str(Path(sys.executable).with_name("cxr")), "train", verb]
    return [*program, *(str(each) for each in arguments), "--processes", "1", *sets]


def epochs_of(run: Path) -> int:
    history = run / "history.csv"
    return len(history.read_text().splitlines()) - 1 if history.exists() else 0


def weights(run: Path) -> list[np.ndarray]:
    return [each.numpy() for each in keras.saving.load_model(run / "model.keras", compile=False).weights]


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory, draw_cases: Callable[..., Path]) -> Callable[[str], list[str]]:
    """Give the command of a fine-tune into a folder, the pretraining done."""
    folder = tmp_path_factory.mktemp("resume")
    manifest = draw_cases(folder / "images", 60)
    cache = ["--cache", folder / "cache"]
    trunk = [*PRETRAIN, 'network={architecture="tiny", head="dense", hidden=[8], dropout=0.3}']
    pretraining = command(
        "pretrain", manifest, "-o", folder / "pretrained", *cache, "--weights", "random", overrides=trunk
    )
    subprocess.run(pretraining, check=True, capture_output=True)

    def make(name: str) -> list[str]:
        run = folder / name
        start = ["--from", folder / "pretrained"]
        return command("finetune", manifest, "-o", run, *start, *cache, overrides=FINETUNE)

    return make


@pytest.fixture(scope="module")
def uninterrupted(finetune: Callable[[str], list[str]]) -> Path:
    words = finetune("uninterrupted")
    subprocess.run(words, check=True, capture_output=True)
    return run_of(words)


def run_of(words: list[str]) -> Path:
    return Path(words[words.index("-o") + 1])


def kill_after(words: list[str], epochs: int, delay_s: float) -> int:
    """Start a run, kill it some time after it has done some epochs, and return how many it had done."""
    run = run_of(words)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while epochs_of(run) < epochs and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return epochs_of(run)


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(((1, 0.0),), id="in step 1"),
        pytest.param(((3, 0.05), (5, 0.1), (8, 0.02)), id="thrice", marks=pytest.mark.long),
    ],
)
def test_the_same_weights_as_without_a_kill(
    moments: tuple[tuple[int, float], ...], finetune: Callable[[str], list[str]], uninterrupted: Path
) -> None:
    words = finetune(f"killed{len(moments)}")
    run = run_of(words)
    done = [kill_after(words, *moment) for moment in moments]
    assert not (run / "fingerprint.json").exists(), "killed too late to show anything"
    assert 1 <= done[0] < 12
    assert done == sorted(done)
    subprocess.run(words, check=True, capture_output=True)
    pd.testing.assert_frame_equal(
        pd.read_csv(run / "history.csv"), pd.read_csv(uninterrupted / "history.csv"), rtol=1e-5, check_exact=False
    )
    for ours, theirs in zip(weights(run), weights(uninterrupted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    for name in ("predictions_test.csv", "predictions_val.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(run / name), pd.read_csv(uninterrupted / name), rtol=1e-5)
    assert list((run / "checkpoints").iterdir()) == [run / "checkpoints" / "state.npz"]


@pytest.mark.long
def test_the_test_can_fail(finetune: Callable[[str], list[str]], uninterrupted: Path) -> None:
    words = [*finetune("other-seed"), "--seed", "1"]
    subprocess.run(words, check=True, capture_output=True)
    moved = [
        np.abs(ours - theirs).max() for ours, theirs in zip(weights(run_of(words)), weights(uninterrupted), strict=True)
    ]
    assert max(moved) > 1e-3
