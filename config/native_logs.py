"""Keep native libraries from writing to standard error past our logs.

TensorFlow's C++ parts print by themselves, before any logger of Python's is asked, and read how
much from the environment when they are loaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping

TENSORFLOW_LEVEL = "TF_CPP_MIN_LOG_LEVEL"

_WARNINGS = "1"
_NOTHING = "3"


def quiet_tensorflow(device: str, environ: MutableMapping[str, str] | None = None) -> None:
    """Choose what TensorFlow's native code prints; call it before TensorFlow is imported.

    A GPU that is asked for by number and does not work needs the driver's words. Everywhere else
    they are noise: without a GPU, CUDA's failure to find one is printed as an error.

    Parameters
    ----------
    device
        The setting ``worker.device``.
    environ
        The environment; None: the process's own. A level that somebody chose stays.
    """
    environment = os.environ if environ is None else environ  # noqa: TID251 (the only way to say it)
    environment.setdefault(TENSORFLOW_LEVEL, _WARNINGS if device.startswith("gpu") else _NOTHING)
    # Python's part warns of graphs that are compiled anew, which several models in one process are bound to be.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
