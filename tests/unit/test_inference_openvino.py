"""OpenVINO gives what TensorFlow gives, of every output, and tells nobody that it did."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cxr.errors import IncompatiblePackage, SettingsError
from cxr.package import ModelPackage
from inference.model import openvino_runtime
from inference.model.batches import ModelOutput
from inference.model.devices import choose_device
from inference.model.model import Model


def images(count: int, size: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).random((count, size, size, 1), dtype=np.float32)


WATCHED = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("called", event, file=sys.__stdout__, flush=True)

sys.addaudithook(watch)
from pathlib import Path
from cxr.package.folder import load_package
from inference.model.export import export_package
from inference.model.model import Model
package = load_package(Path(sys.argv[1]))
Model.load(package, device="cpu", runtime="openvino")
export_package(package, Path(sys.argv[2]), "openvino")
import openvino.tools.ovc.telemetry_utils as told
print(told.tm.__name__)
"""


def test_nobody_is_told_that_it_is_used(tiny_package: Callable[..., ModelPackage], tmp_path: Path) -> None:
    assert version("openvino-telemetry")  # installed, so that it would be used
    home = tmp_path / "home"
    home.mkdir()
    # It is silent in CI, which it knows by these.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tiny_package().folder), str(tmp_path / "out")],
        capture_output=True, text=True, check=False, env=environment | {"HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub"]
    assert not (home / "intel").exists()  # where it writes who it is


@pytest.mark.parametrize("findings", [("covid19",), ("normal", "covid19", "lung_opacity")])
def test_outputs_are_those_of_tensorflow(tiny_package: Callable[..., ModelPackage], findings: tuple[str, ...]) -> None:
    package = tiny_package(*findings, activation="sigmoid" if len(findings) == 1 else "softmax")
    plain = Model.load(package, device="cpu")
    fast = Model.load(package, device="auto", runtime="openvino")
    assert (plain.device, fast.device) == ("cpu", "cpu (openvino)")
    for count in (1, 5, 2):
        batch = images(count, package.manifest.input_size)
        expected, given = plain.score(batch), fast.score(batch)
        assert given.probabilities.shape == (count, len(findings))
        np.testing.assert_allclose(given.probabilities, expected.probabilities, rtol=0, atol=1e-4)
        assert (given.evidence is None) == (expected.evidence is None)
        if expected.evidence is not None:
            np.testing.assert_allclose(given.evidence, expected.evidence, rtol=1e-3, atol=1e-3)


@pytest.mark.long
def test_resnet50_too(tmp_path: Path, noon: Any) -> None:
    from training.packaging.untrained import build_untrained

    package = build_untrained(tmp_path / "untrained", now=noon)
    batch = images(2, package.manifest.input_size)
    expected = Model.load(package, device="cpu").score(batch)
    given = Model.load(package, device="cpu", runtime="openvino").score(batch)
    np.testing.assert_allclose(given.probabilities, expected.probabilities, rtol=0, atol=1e-4)
    np.testing.assert_allclose(given.evidence, expected.evidence, rtol=0, atol=1e-3)


def test_an_output_stays_what_it_was_after_the_next_call(tiny_package: Callable[..., ModelPackage]) -> None:
    model = Model.load(tiny_package(), device="cpu", runtime="openvino")
    first = model.score(images(2, 64))
    before = first.probabilities.copy()
    model.score(1 - images(2, 64))
    np.testing.assert_array_equal(first.probabilities, before)


def test_other_scores_are_refused(tiny_package: Callable[..., ModelPackage], monkeypatch: pytest.MonkeyPatch) -> None:
    served = openvino_runtime.load_served

    def shifted(path: Path, manifest: Any, device: str) -> Any:
        graph = served(path, manifest, device)

        def score(batch: NDArray[np.float32]) -> ModelOutput:
            given = graph.score(batch)
            return ModelOutput(given.probabilities + 0.01, given.evidence)

        return SimpleNamespace(run=graph.run, output=graph.output, score=score)

    monkeypatch.setattr(openvino_runtime, "load_served", shifted)
    with pytest.raises(IncompatiblePackage, match=r"away from TensorFlow's.*worker.runtime"):
        Model.load(tiny_package(), device="cpu", runtime="openvino")


def test_gpu_is_refused() -> None:
    with pytest.raises(SettingsError, match="scores on the CPU"):
        choose_device("gpu:0", 1, runtime="openvino")
