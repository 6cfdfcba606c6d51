"""Devices, precision and determinism of training, and the versions of the software.

It uses TensorFlow: Keras has no portable interface to devices.
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
def device_scope(compute: Compute, seed: int) -> Iterator[Strategy]:
    """Set devices, seed, determinism and precision for a run; restore Keras's precision afterwards.

    Parameters
    ----------
    compute
        The recipe's settings.
    seed
        Seed of Python, NumPy and Keras: initial weights of a head, dropout.

    Yields
    ------
    A ``tf.distribute`` strategy, in whose scope networks are built and compiled.

    Raises
    ------
    RunError
        If ``compute.precision`` is float16 on a machine without a GPU.
    """
    check_precision(compute)
    strategy = choose_strategy(compute)
    # TensorFlow warns of repeated tracing: each stage compiles the network anew.
    tf.get_logger().setLevel(logging.ERROR)
    keras.utils.set_random_seed(seed)
    if compute.deterministic:
        # Slower on GPUs, where sums over threads have no fixed order otherwise; can't be disabled again in a process.
        tf.config.experimental.enable_op_determinism()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(compute.precision)
    try:
        yield strategy
    finally:
        keras.config.set_dtype_policy(before)


def check_precision(compute: Compute) -> None:
    """Refuse float16 without a GPU: on a CPU it is correct, but many times slower than float32.

    Raises
    ------
    RunError
        If ``compute.precision`` is ``mixed_float16`` and there is no GPU.
    """
    if compute.precision == "mixed_float16" and not tf.config.list_physical_devices("GPU"):
        raise RunError("mixed_float16 needs a GPU; on a CPU use compute.precision = float32 (or mixed_bfloat16).")


def choose_strategy(compute: Compute) -> Strategy:
    """Choose the devices of a network.

    Parameters
    ----------
    compute
        ``devices``: ``cpu``; ``auto``: the first GPU, or the CPU; ``all``: every GPU, mirrored (without
        GPUs every logical CPU: one, unless TensorFlow is configured otherwise).

    Returns
    -------
    A ``tf.distribute`` strategy.
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
    """Return operating system, processor, cores and GPUs, for ``environment.json``."""
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus],
    }


def software_versions() -> dict[str, str]:
    """Return name to version of Python, this project, Keras, its backend and NumPy."""
    distributions = ("cxr-listener", "keras", keras.backend.backend(), "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in distributions}
