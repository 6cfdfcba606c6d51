"""Speed of the image cache and the input pipeline, against the training speed of the default network."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
from figures import Figure, Part
from PIL import Image

BATCH = 32
STAGES = {"head": "frozen", "conv5": "frozen", "conv4": "frozen", "all": "trained"}  # trained layers -> BatchNorm
MIN_RATIO = 3.0


def measure(folder: Path, *, quick: bool) -> Part:
    """Measure building the cache by number of processes, and the input pipeline against the network."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    fed = _feeding(folder, quick=quick)
    return Part(_caching(folder, quick=quick) + "\n" + fed.text, fed.figures)


def _caching(folder: Path, *, quick: bool) -> str:
    cores = len(os.sched_getaffinity(0))
    lines = []
    for side, count in ((512, 100 if quick else 1500), (2500, 20 if quick else 200)):
        frame, alone = _write(folder / f"{side}", count, side), 0.0
        for processes in sorted({1, 2, cores}):
            # The start of the processes is measured with one image.
            rows_of_cache = [folder / f"{what}{side}-{processes}" for what in ("one", "all")]
            start, _, before = _timed(partial(_build, frame.head(1), rows_of_cache[0], processes))
            seconds, here, there = _timed(partial(_build, frame, rows_of_cache[1], processes))
            rate = count / max(seconds - start, 1e-9)
            alone = alone or rate
            lines.append(
                f"| JPEG, {side} × {side} | {processes} | {rate:.0f} | {rate / alone:.2f} | {start:.1f} | "
                f"{(there - before) / count * 1e3:.1f} | {here / count * 1e3:.1f} |"
            )
    return (
        "## Building the cache\n\n`python bench/run.py train` · to 224 pixels; ms of processor time per image, in "
        "the processes that prepare and in the one that writes\n\n| images | processes | images/s | ÷ one process | "
        "start, s | preparing, ms | writing, ms |\n|---|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def _feeding(folder: Path, *, quick: bool) -> Part:
    from training.inputs.batches import training_batches  # noqa: PLC0415
    from training.inputs.cache import build_cache  # noqa: PLC0415
    from training.networks import build  # noqa: PLC0415
    from training.recipe import load_recipe  # noqa: PLC0415

    recipe = load_recipe("default-pretrain", ("weights.source=random",))
    count = 64 if quick else 512
    frame = _write(folder / "fed", count, 512)
    cache = build_cache(frame, recipe.pixels, folder / "feeding")
    rows_of_cache, order = cache.rows(frame["image_id"]), np.arange(count)
    truths, weights = (np.arange(count) % 2).astype(np.float32)[:, None], np.ones(count, np.float32)

    def batches(epoch: int) -> Any:
        return training_batches(
            cache, rows_of_cache, truths, weights, order, recipe.augment, seed=0, epoch=epoch, batch_size=BATCH
        )

    list(batches(0))  # traces the graph and reads the file into memory
    feeding = _timed(lambda: list(batches(1)))[1] / count * 1e3
    network = build("resnet50", size=recipe.pixels.size)
    lines, ratios = [], []
    for trained, norm in list(STAGES.items())[: 1 if quick else None]:  # the first stage is the fastest
        training_ms = _training(network, recipe.stages[-1].model_copy(update={"train": trained, "batch_norm": norm}),
                         list(batches(2).take(2 if quick else 3)))  # fmt: skip
        ratios.append(training_ms / feeding)
        lines.append(f"| {trained} | {training_ms:.0f} | {feeding:.1f} | {ratios[-1]:.1f} |")
    text = (
        "## Feeding the network\n\n`python bench/run.py train` · ResNet50 at 224, batches of 32, augmentation of the "
        "default recipe; ms of processor time for each image: both use every core, so that their ratio is that of "
        "their speeds\n\n"
        "| trained layers | network | input pipeline | ratio |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )
    worst = min(ratios)
    return Part(text, [Figure("input pipeline ÷ the network's training speed, CPU", f"> {MIN_RATIO:g}", f"{worst:.1f}",
                              worst > MIN_RATIO)])  # fmt: skip


def _training(network: Any, stage: Any, batches: list[Any]) -> float:
    """Return the processor time of a training step per image, ms; the first step compiles and is not counted."""
    import keras  # noqa: PLC0415

    from training.runs.freezing import set_trainable  # noqa: PLC0415

    set_trainable(network, "resnet50", stage)
    network.compile(keras.optimizers.AdamW(1e-4), loss=["binary_crossentropy", None])
    network.train_on_batch(*batches[0][:2])
    processor_s = _timed(lambda: [network.train_on_batch(*each[:2]) for each in batches[1:]])[1]
    return processor_s / sum(len(each[0]) for each in batches[1:]) * 1e3


def _build(frame: pd.DataFrame, folder: Path, processes: int) -> None:
    from training.inputs.cache import build_cache  # noqa: PLC0415
    from training.recipe import load_recipe  # noqa: PLC0415

    build_cache(frame, load_recipe("default-pretrain").pixels, folder, processes=processes)


def _timed(work: Callable[[], object]) -> tuple[float, float, float]:
    """Return wall-clock seconds, processor seconds of this process, and of its children."""
    wall, here, there = time.monotonic(), time.process_time(), _child_seconds()
    work()
    return time.monotonic() - wall, time.process_time() - here, _child_seconds() - there


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write(folder: Path, count: int, side: int) -> pd.DataFrame:
    """Write pictures with the noise of radiographs: ten contents, made distinct by bytes after their end."""
    folder.mkdir()
    random, ramp = np.random.default_rng(0), np.linspace(40, 200, side)[:, None]
    contents = []
    for number in range(10):
        grey = np.clip(ramp + random.normal(0, 8, (side, side)), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"made{number}.jpg", quality=90)
        contents.append((folder / f"made{number}.jpg").read_bytes())
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(contents[number % 10] + number.to_bytes(4, "big"))
    return pd.DataFrame({"image_id": [path.stem for path in paths], "path": [str(path) for path in paths]})
