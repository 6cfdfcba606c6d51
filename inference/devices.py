"""Which device scores: a decision on what was asked for and what is there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cxr.errors import SettingsError

CPU = "cpu"
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


def choose_device(requested: str, visible_gpus: int) -> Choice:
    """Choose the device.

    Parameters
    ----------
    requested
        The setting ``worker.device``: ``auto``, ``cpu`` or ``gpu:N``.
    visible_gpus
        How many GPUs TensorFlow sees.

    Raises
    ------
    SettingsError
        If the request has another form, or names a GPU that is not there: only ``auto`` falls back.
    """
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
