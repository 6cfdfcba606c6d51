"""How many images are scored at once and how many processes decode: from cores and device, unless settings say."""

from __future__ import annotations

from typing import Final

MOST_PROCESSES: Final = 8
"""That are started without being asked for: each takes about 150 MiB."""

CPU_BATCH: Final = range(8, 33)
"""Images at once on a CPU: fewer leave cores unused, more only wait for each other."""

GPU_BATCH: Final = 32


def batch_size(wanted: int, *, device: str, cores: int) -> int:
    """Say how many images are scored at once, at most; where fewer wait, it is those.

    Parameters
    ----------
    wanted
        The setting ``worker.batch_size``; 0: choose.
    device
        As ``inference.model.model.Model.device`` gives it.
    cores
        That this process may use.
    """
    if wanted:
        return wanted
    return GPU_BATCH if device.startswith("gpu") else min(max(cores, CPU_BATCH[0]), CPU_BATCH[-1])


def decode_processes(wanted: int, *, cores: int) -> int:
    """Say how many processes decode.

    Parameters
    ----------
    wanted
        The setting ``worker.decode_processes``; 0: choose.
    cores
        That this process may use.
    """
    return wanted or min(MOST_PROCESSES, cores)
