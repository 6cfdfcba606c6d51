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
from ctypes import c_bool
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr.decoders import register_decoders
from cxr.errors import CxrError, DecoderError, MissingObject
from cxr.pixels import to_model_input
from cxr.recipe import PixelRecipe


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error on its way to the parent: class and message, without the cause.

    What lies underneath, an exception of pydicom's say, quotes the value that it stumbled over.
    """

    error: type[CxrError]
    message: str


def start(is_stopping: c_bool) -> None:
    """Set up a new process.

    Parameters
    ----------
    is_stopping
        Shared with the parent, which sets it before it ends its processes in order. Until then a
        SIGTERM or SIGINT was meant for the whole group (a service manager, Ctrl-C): it is the
        parent's to stop, after the image in hand.
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


def prepare(path: str, recipe: PixelRecipe, max_megapixels: int) -> NDArray[np.float32] | Refusal:
    """Prepare one image; no exception leaves the process."""
    try:
        return to_model_input(Path(path), recipe, max_megapixels=max_megapixels)
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
