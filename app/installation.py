"""Release of this installation, and the check that the packages of the worker are installed.

The wheel's base dependencies receive (`cxr listen`); its extra ``worker`` scores, reports and trains.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Final

from cxr.errors import SettingsError

DISTRIBUTION: Final = "cxr-listener"

_MODULES: Final[Mapping[str, str]] = {
    "dicomweb-client": "dicomweb_client",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
}
"""Import names that differ from the distribution's; other distributions may provide the module as well."""

_OPTIONAL: Final = frozenset({"openvino"})  # worker.runtime = "tensorflow" works without it

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_OF_WORKER: Final = re.compile(r"""extra\s*==\s*['"]worker['"]""")

_SHOWN: Final = 3


def version_line() -> str:
    """Return program, release and Python, as ``cxr --version`` prints them."""
    try:
        release = version(DISTRIBUTION)
    except PackageNotFoundError:
        release = "(not installed: running from a folder of source files)"
    return f"{DISTRIBUTION} {release} (Python {platform.python_version()})"


def missing_worker_packages() -> tuple[str, ...]:
    """List the distributions of the extra ``worker`` whose module is missing, without importing any.

    Returns
    -------
    tuple[str, ...]
        Distribution names; empty if none is missing, or if the project itself is not installed.
    """
    try:
        requirements = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return ()
    names = [_NAME.match(each)[0] for each in requirements if _OF_WORKER.search(each)]  # type: ignore[index]
    return tuple(name for name in names if name not in _OPTIONAL and find_spec(_MODULES.get(name, name)) is None)


def require_worker(verb: str) -> None:
    """Refuse a verb whose packages are not installed.

    Raises
    ------
    SettingsError
        If packages of the extra ``worker`` are missing; the message names them and the command that installs them.
    """
    missing = missing_worker_packages()
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise SettingsError(
            f"`cxr {verb}` needs the worker's packages, and this installation only receives: "
            f"{', '.join(missing[:_SHOWN])}{more} can't be found.\n"
            f"Install {DISTRIBUTION}[worker] into this environment: pip install '{DISTRIBUTION}[worker]'. "
            "`cxr listen` works without them."
        )
