"""Code of a decoding process: prepare one image, return its pictures or an error.

Kept light: a new process imports this module, and never TensorFlow.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import warnings
from collections.abc import Sequence
from ctypes import c_bool
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
from numpy.typing import NDArray

from config.parent_process import end_with_parent
from cxr.errors import CxrError, DecoderError, MissingObject
from cxr.pixels.decoders import register_decoders
from cxr.pixels.model_input import to_model_inputs
from cxr.pixels.recipe import PixelRecipe


@dataclass(frozen=True, slots=True)
class ChildError:
    """An error that is returned to the parent process: class and message, without the cause.

    The cause is dropped because exceptions of pydicom and other libraries quote values of the dataset.
    """

    error: type[CxrError]
    message: str


_SPARE_BYTES = 512 * 1024 * 1024  # header, a deflated dataset, other code
_BYTES_PER_PIXEL = 16  # about 9 were measured over all transfer syntaxes


def start(is_stopping: c_bool, max_megapixels: int) -> None:
    """Initialise a new process: signals, resource limits, logging and decoders.

    Parameters
    ----------
    is_stopping
        Shared flag, set by the parent before it terminates its processes. Without it, SIGTERM and SIGINT are
        ignored: they were sent to the whole process group (service manager, Ctrl-C), and the parent stops this
        process after the image that it prepares.
    max_megapixels
        Largest accepted image, in millions of pixels; the memory limit of the process is derived from it.
    """

    def on_terminate(_signal: int, _frame: FrameType | None) -> None:
        if is_stopping.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_terminate)
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's image
    logging.disable(logging.CRITICAL)  # pydicom logs and warns with values of the dataset
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)  # one process per core already
    register_decoders()
    _bound_memory(_SPARE_BYTES + max_megapixels * 1_000_000 * _BYTES_PER_PIXEL)


def _bound_memory(more_bytes: int) -> None:
    """Limit the data segment to its present size plus ``more_bytes``; the present size depends on the cores."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + more_bytes
    bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def prepare(
    path: str, recipes: Sequence[PixelRecipe], max_megapixels: int
) -> tuple[NDArray[np.float32], ...] | ChildError:
    """Prepare one image for each recipe; return errors instead of raising them."""
    try:
        return to_model_inputs(Path(path), recipes, max_megapixels=max_megapixels)
    except CxrError as error:
        return ChildError(type(error), str(error))
    except FileNotFoundError:
        return ChildError(MissingObject, "The image's file is not in the spool: have the image sent again.")
    except Exception as error:  # noqa: BLE001 (the process must survive every exception)
        return ChildError(
            DecoderError, f"Preparing the image failed unexpectedly ({type(error).__name__}); it is retried."
        )
