"""Which device scores: a decision on what was asked for and what is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from cxr.errors import SettingsError

CPU = "cpu"
Engine = Literal["tensorflow", "openvino"]
"""What runs a graph."""

_GPU = re.compile(r"gpu:(\d+)")


@dataclass(frozen=True, slots=True)
class Choice:
    """The device that scores.

    Parameters
    ----------
    device
        ``cpu`` or ``gpu:N``.
    may_fall_back
        Whether the CPU may take over when the GPU can't score even one image.
    warning
        Event name of the warning that is due; None: there is none.
    """

    device: str
    may_fall_back: bool = False
    warning: str | None = None


def choose_device(requested: str, visible_gpus: int, *, engine: Engine = "tensorflow") -> Choice:
    """Choose the device.

    Parameters
    ----------
    requested
        The setting ``worker.device``: ``auto``, ``cpu`` or ``gpu:N``.
    visible_gpus
        How many GPUs TensorFlow sees.
    engine
        What is to run there.

    Raises
    ------
    SettingsError
        If the request has another form, or names a GPU that is not there: only ``auto`` falls back. If
        the engine is not installed, or has no such device.
    """
    if engine == "openvino":
        return _choose_for_openvino(requested)
    if requested == CPU:
        return Choice(CPU)
    if requested == "auto":
        if visible_gpus:
            return Choice("gpu:0", may_fall_back=True)
        return Choice(CPU, warning="no_gpu_scoring_on_cpu")
    match = _GPU.fullmatch(requested)
    if match is None:
        raise SettingsError(f"worker.device is auto, cpu or gpu:N; got {requested!r}.")
    if int(match[1]) >= visible_gpus:
        raise SettingsError(
            f"worker.device is {requested}, and TensorFlow sees {visible_gpus} GPU(s), numbered from 0: choose another "
            "one, or auto, or install the gpu extra (cxr-listener[gpu]) and check the driver with nvidia-smi."
        )
    return Choice(f"gpu:{int(match[1])}")


def _choose_for_openvino(requested: str) -> Choice:
    if requested not in (CPU, "auto"):
        raise SettingsError(
            f"worker.runtime is openvino, which scores on the CPU, and worker.device is {requested}: set it to cpu, or "
            "worker.runtime to tensorflow."
        )
    if find_spec("openvino") is None:
        raise SettingsError(
            "worker.runtime is openvino, which is not installed: install it (pip install openvino), "
            "or set worker.runtime to tensorflow."
        )
    return Choice(CPU)
