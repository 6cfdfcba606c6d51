"""Devices, precision and determinism of a computation, and the versions of the software.

One of two modules that know TensorFlow.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import keras
import tensorflow as tf

from cxr.errors import RunError
from training.networks.keras_types import Strategy
from training.recipe import Compute


@contextmanager
def computing(compute: Compute, seed: int) -> Iterator[Strategy]:
    """Ready the machine for a run, and leave Keras's precision as it was.

    Parameters
    ----------
    compute
        The recipe's settings.
    seed
        Of Python, NumPy and Keras: a head's first weights, dropout.

    Yields
    ------
    A strategy of ``tf.distribute``: networks are built and compiled in its scope.

    Raises
    ------
    RunError
        If mixed precision is asked for on a device where it is of no use.
    """
    check_precision(compute)
    strategy = choose_strategy(compute)
    # It warns of the graphs that a network of every stage is compiled into anew.
    tf.get_logger().setLevel(logging.ERROR)
    keras.utils.set_random_seed(seed)
    if compute.deterministic:
        # Slower on GPUs, where sums over threads have no order otherwise; can't be taken back in a process.
        tf.config.experimental.enable_op_determinism()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(compute.precision)
    try:
        yield strategy
    finally:
        keras.config.set_dtype_policy(before)


def check_precision(compute: Compute) -> None:
    """Refuse float16 where there is no GPU: a CPU computes it right, and many times slower than float32.

    Raises
    ------
    RunError
        If it is asked for without a GPU.
    """
    if compute.precision == "mixed_float16" and not tf.config.list_physical_devices("GPU"):
        raise RunError("mixed_float16 needs a GPU; on a CPU use compute.precision = float32 (or mixed_bfloat16).")


def choose_strategy(compute: Compute) -> Strategy:
    """Choose where a network lies.

    Parameters
    ----------
    compute
        ``devices``: ``cpu``; ``auto``: the first GPU, or the CPU; ``all``: every GPU, mirrored (without
        GPUs every logical CPU, of which there is one unless somebody divided it).

    Returns
    -------
    A strategy of ``tf.distribute``.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if compute.devices == "all":
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.OneDeviceStrategy("/GPU:0" if compute.devices != "cpu" and gpus else "/CPU:0")


def describe_machine() -> dict[str, Any]:
    """Say what computes, for ``environment.json``."""
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus],
    }


def software_versions() -> dict[str, str]:
    """Return the versions of what made a model: name to version."""
    distributions = ("cxr-listener", "keras", keras.backend.backend(), "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in distributions}
