"""Log level of TensorFlow's native code, which bypasses our logs.

The C++ code of TensorFlow writes to standard error itself, and reads its log level from the environment when it
is loaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping

TENSORFLOW_LEVEL = "TF_CPP_MIN_LOG_LEVEL"

_WARNINGS = "1"
_NOTHING = "3"


def quiet_tensorflow(device: str, environ: MutableMapping[str, str] | None = None) -> None:
    """Set the log level of TensorFlow's native code; call it before TensorFlow is imported.

    With a GPU requested by number, messages of the driver are needed if it fails. Otherwise they mislead:
    without a GPU, CUDA prints an error about its absence.

    Parameters
    ----------
    device
        The setting ``worker.device``.
    environ
        The environment; None: that of the process. A level that is already set stays.
    """
    environment = os.environ if environ is None else environ  # noqa: TID251 (the only interface)
    environment.setdefault(TENSORFLOW_LEVEL, _WARNINGS if device.startswith("gpu") else _NOTHING)
    # Its Python code warns of repeated graph compilation, which several models in one process make unavoidable.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
