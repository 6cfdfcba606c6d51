"""OpenVINO, kept from telling its makers of its use.

``import openvino`` sends them an event, with an identifier that it writes into the home folder, wherever its package
``openvino_telemetry`` is there: it depends on that, and asks nobody. Without it OpenVINO uses a stub of its own, which
says nothing. No package of a service behind a PACS calls the world outside by itself.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

TELEMETRY: Final = "openvino_telemetry"


def load_openvino() -> Any:  # noqa: ANN401 (a module)
    """Import OpenVINO, for which ``openvino_telemetry`` is not installed in this process, now or later.

    Raises
    ------
    ImportError
        If OpenVINO is not installed.
    """
    sys.modules.update({TELEMETRY: None})  # type: ignore[dict-item]  # an import of it fails then
    return importlib.import_module("openvino")
