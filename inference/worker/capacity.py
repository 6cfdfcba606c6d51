"""Batch size and number of decoding processes: from the settings, else from cores and device."""

from __future__ import annotations

from typing import Final

MOST_PROCESSES: Final = 8
"""Largest number of decoding processes by default; each takes about 150 MiB."""

CPU_BATCH: Final = range(8, 33)
"""Batch sizes on a CPU: smaller ones leave cores idle, larger ones only add latency."""

GPU_BATCH: Final = 32


def batch_size(setting: int, *, device: str, cores: int) -> int:
    """Return the largest number of images in one batch.

    Parameters
    ----------
    setting
        The setting ``worker.batch_size``; 0: choose by device and cores.
    device
        ``inference.model.model.Model.device``.
    cores
        Number of cores that this process may use.
    """
    if setting:
        return setting
    return GPU_BATCH if device.startswith("gpu") else min(max(cores, CPU_BATCH[0]), CPU_BATCH[-1])


def decode_processes(setting: int, *, cores: int) -> int:
    """Return the number of decoding processes.

    Parameters
    ----------
    setting
        The setting ``worker.decode_processes``; 0: choose by cores.
    cores
        Number of cores that this process may use.
    """
    return setting or min(MOST_PROCESSES, cores)
