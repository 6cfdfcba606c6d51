"""Our flat package names belong to our distribution alone (``db`` and ``config`` exist on PyPI as well)."""

from __future__ import annotations

import importlib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PACKAGES = ["app", "config", "cxr", "db", "inference", "listener", "training"]


@pytest.mark.parametrize("name", PACKAGES)
def test_package_is_regular_and_lies_in_one_folder_with_the_others(name: str, root: Path) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None, f"{name} is a namespace package: another distribution removed its __init__"
    assert Path(module.__file__).parent.parent == root


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_claims_the_name(name: str) -> None:
    claimed = set(packages_distributions().get(name, [])) - {"cxr-listener"}
    assert not claimed, f"also installed by {claimed}: uninstall it, it shadows or overwrites ours"


def test_no_test_folder_is_named_like_a_package_or_is_one(root: Path) -> None:
    tests = root / "tests"
    assert not list(tests.rglob("__init__.py"))
    assert not [path for path in tests.rglob("*") if path.is_dir() and path.name in PACKAGES]
