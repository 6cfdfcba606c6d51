"""Exports: the other program's own runtime gives what the service gives, or nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from app.cli import app
from cxr.errors import PackageError
from cxr.package import ModelPackage
from inference.model import export
from inference.model.export import FORMATS, export_package
from inference.model.model import Model


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_exported_graph_gives_the_same_scores(
    name: str, tiny_package: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    for module in FORMATS[name].required_modules:
        pytest.importorskip(module)
    package = tiny_package("normal", "covid19", activation="softmax")
    assert export_package(package, tmp_path / "out", name) <= 1e-5
    batch = np.random.default_rng(1).random((5, 64, 64, 1), dtype=np.float32)
    given = FORMATS[name].run(tmp_path / "out" / FORMATS[name].file, batch)
    np.testing.assert_allclose(given[0], Model.load(package, device="cpu").score(batch).probabilities, atol=1e-5)
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["fingerprint"] == package.fingerprint
    assert facts["outputs"] == ["prob", "evidence"]
    assert "RESEARCH USE ONLY" in facts["notice"]
    assert facts["status"] == "untrained"
    assert (tmp_path / "out" / "MODEL_CARD.md").read_bytes() == (package.folder / "MODEL_CARD.md").read_bytes()


def test_a_difference_leaves_nothing_behind(
    tiny_package: Callable[..., ModelPackage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMATS["saved_model"]

    def run(path: Path, batch: Any) -> Any:
        first, *others = form.run(path, batch)
        return [first + 2e-4, *others]

    wrong = MappingProxyType({"saved_model": replace(form, run=run)})
    monkeypatch.setattr(export, "FORMATS", wrong)
    with pytest.raises(PackageError, match=r"off by 0\.0002"):
        export_package(tiny_package(), tmp_path / "out", "saved_model")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_named(
    tiny_package: Callable[..., ModelPackage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = replace(FORMATS["onnx"], required_modules=("numpy", "surely_not_installed"))
    monkeypatch.setattr(export, "FORMATS", MappingProxyType({"onnx": form}))
    with pytest.raises(PackageError, match=r"needs surely_not_installed, .*cxr-listener\[export\]"):
        export_package(tiny_package(), tmp_path / "out", "onnx")


def test_a_folder_that_is_there_is_kept(tiny_package: Callable[..., ModelPackage], tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="exists already"):
        export_package(tiny_package(), tmp_path, "saved_model")


def test_the_command_exports_a_package_by_its_folder(tiny_package: Callable[..., ModelPackage], tmp_path: Path) -> None:
    data = ["--set", f"data_dir={tmp_path / 'var'}", "model", "export", str(tiny_package().folder)]
    done = CliRunner().invoke(app, [*data, "--format", "saved_model", "--to", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["largest_difference"] <= 1e-6
    assert tf.saved_model.contains_saved_model(str(tmp_path / "out" / "saved_model"))
    wrong = CliRunner().invoke(app, [*data, "--format", "pickle", "--to", str(tmp_path / "other")])
    assert wrong.exit_code == 2
