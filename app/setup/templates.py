"""Files that come with the project for a site: systemd units, Orthanc's auto-route, the example radiograph.

In a checkout they lie in ``docs/``; the wheel holds them in ``app/setup/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

UNITS: Final = ("cxr-listen.service", "cxr-work.service")

_PACKAGED: Final = Path(__file__).resolve().parent
_CHECKOUT: Final = _PACKAGED.parent.parent / "docs"


def template(name: str) -> Path:
    """Return the path of a file, ``systemd/...``, ``orthanc/...`` or ``example/...``."""
    checkout = _CHECKOUT / name
    return checkout if checkout.is_file() else _PACKAGED / name
