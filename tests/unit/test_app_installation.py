"""The extra ``worker`` is checked by modules that can be imported."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

from app.installation import _MODULES, missing_worker_packages, version_line


def test_every_package_of_the_worker_has_a_module_that_is_found(root: Path) -> None:
    """A package whose import name differs from its own would be missed for ever."""
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [re.split(r"[<>=\[ ]", each)[0] for each in extras["worker"]]
    assert {"tensorflow", "opencv-python-headless", "pandas", "openvino"} <= set(names)
    assert [name for name in names if find_spec(_MODULES.get(name, name)) is None] == []
    assert missing_worker_packages() == ()


def test_version_names_release_and_python() -> None:
    assert re.fullmatch(r"cxr-listener \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+\)", version_line())
