"""Choice of the device, from the settings and the visible GPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from cxr.errors import SettingsError

CPU = "cpu"
Runtime = Literal["tensorflow", "openvino"]
"""Library that executes the graph: the setting ``worker.runtime``."""

_GPU = re.compile(r"gpu:(\d+)")


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """The chosen device.

    Parameters
    ----------
    device
        ``cpu`` or ``gpu:N``.
    may_fall_back
        Whether to fall back to the CPU when the GPU's memory does not hold one image.
    warning
        Event name of a warning to log; None: no warning.
    """

    device: str
    may_fall_back: bool = False
    warning: str | None = None


def choose_device(requested: str, visible_gpus: int, *, runtime: Runtime = "tensorflow") -> DeviceChoice:
    """Choose the device.

    Parameters
    ----------
    requested
        The setting ``worker.device``: ``auto``, ``cpu`` or ``gpu:N``.
    visible_gpus
        Number of GPUs that TensorFlow lists.
    runtime
        Library that will execute the graph.

    Raises
    ------
    SettingsError
        If the setting has another form or names a GPU that is absent (only ``auto`` falls back), or if the runtime
        is not installed or does not support the device.
    """
    if runtime == "openvino":
        return _choose_for_openvino(requested)
    if requested == CPU:
        return DeviceChoice(CPU)
    if requested == "auto":
        if visible_gpus:
            return DeviceChoice("gpu:0", may_fall_back=True)
        return DeviceChoice(CPU, warning="no_gpu_scoring_on_cpu")
    match = _GPU.fullmatch(requested)
    if match is None:
        raise SettingsError(f"worker.device is auto, cpu or gpu:N; got {requested!r}.")
    if int(match[1]) >= visible_gpus:
        raise SettingsError(
            f"worker.device is {requested}, and TensorFlow sees {visible_gpus} GPU(s), numbered from 0: choose another "
            "one, or auto, or install the gpu extra (cxr-listener[gpu]) and check the driver with nvidia-smi."
        )
    return DeviceChoice(f"gpu:{int(match[1])}")


def _choose_for_openvino(requested: str) -> DeviceChoice:
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
    return DeviceChoice(CPU)
