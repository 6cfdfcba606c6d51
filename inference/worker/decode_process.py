"""What runs in a process that decodes: one image in, its pixels or the reason why not out.

Light on purpose: a process that is started imports this module, and never TensorFlow.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import threading
import warnings
from collections.abc import Sequence
from ctypes import c_bool
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr.errors import CxrError, DecoderError, MissingObject
from cxr.pixels.decoders import register_decoders
from cxr.pixels.model_input import to_model_inputs
from cxr.pixels.recipe import PixelRecipe


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error on its way to the parent: class and message, without the cause.

    What lies underneath, an exception of pydicom's say, quotes the value that it stumbled over.
    """

    error: type[CxrError]
    message: str


_SPARE_BYTES = 512 * 1024 * 1024  # the header, a deflated dataset, the other code
_BYTES_PER_PIXEL = 16  # some 9 were seen, over all transfer syntaxes


def start(is_stopping: c_bool, max_megapixels: int) -> None:
    """Set up a new process.

    Parameters
    ----------
    is_stopping
        Shared with the parent, which sets it before it ends its processes in order. Until then a
        SIGTERM or SIGINT was meant for the whole group (a service manager, Ctrl-C): it is the
        parent's to stop, after the image in hand.
    max_megapixels
        The largest image that is decoded: what it may need is all the memory that the process gets.
        A decoder that asks for more fails its image.
    """

    def on_terminate(_signal: int, _frame: FrameType | None) -> None:
        if is_stopping.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's image
    logging.disable(logging.CRITICAL)  # pydicom logs and warns with values of the dataset
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)  # there is a process for every core that may be used
    register_decoders()
    _bound_memory(_SPARE_BYTES + max_megapixels * 1_000_000 * _BYTES_PER_PIXEL)


def _bound_memory(more_bytes: int) -> None:
    """Allow so much more than what there is now: code and stacks of threads are more where there are more cores."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + more_bytes
    bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def prepare(
    path: str, recipes: Sequence[PixelRecipe], max_megapixels: int
) -> tuple[NDArray[np.float32], ...] | Refusal:
    """Prepare one image, once for each recipe; no exception leaves the process."""
    try:
        return to_model_inputs(Path(path), recipes, max_megapixels=max_megapixels)
    except CxrError as error:
        return Refusal(type(error), str(error))
    except FileNotFoundError:
        return Refusal(MissingObject, "The image's file is not in the spool: have the image sent again.")
    except Exception as error:  # noqa: BLE001 (this is the process's loop)
        return Refusal(
            DecoderError, f"Preparing the image failed unexpectedly ({type(error).__name__}); it is retried."
        )


def _end_with_parent() -> None:
    """Die with a parent that was killed, even in the middle of a decoder that hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
