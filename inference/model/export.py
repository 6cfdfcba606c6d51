"""Export a package's graph as ONNX, SavedModel or OpenVINO IR.

The exported graph is loaded with the format's own runtime and must reproduce the service's probabilities;
otherwise nothing is kept. Card, manifest and research notice are copied beside it.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cxr.errors import PackageError
from cxr.folder_sync import sync_folder
from cxr.package import MANIFEST_FILE, MODEL_CARD_FILE, ModelPackage
from cxr.product import NOTICE_SENTENCE
from inference.model.graph_file import check_graph_file
from inference.model.openvino_runtime import load_openvino
from inference.model.tensorflow_runtime import check_graph, load_graph

Outputs = Sequence[NDArray[np.float32]]
Batch = NDArray[np.float32]

TOLERANCE: Final = 1e-4
"""Largest accepted absolute difference in probability between the exported graph and the package's."""

EXPORT_FILE: Final = "export.json"


def _run_onnx(path: Path, batch: Batch) -> Outputs:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs: Outputs = session.run(None, {session.get_inputs()[0].name: batch})
    return outputs


def _run_saved_model(path: Path, batch: Batch) -> Outputs:
    loaded = tf.saved_model.load(str(path))  # its variables live as long as this name
    return [np.asarray(output) for output in tf.nest.flatten(loaded.serve(tf.constant(batch)))]


def _run_openvino(path: Path, batch: Batch) -> Outputs:
    compiled = load_openvino().Core().compile_model(str(path), "CPU")
    result = compiled(batch)
    return [np.asarray(result[index]) for index in range(len(compiled.outputs))]


@dataclass(frozen=True, slots=True)
class Format:
    """One export format.

    Parameters
    ----------
    keras_name
        Name of the format in ``keras.Model.export``.
    file
        Name of the exported file or folder.
    required_modules
        Modules that the format needs beyond those of a worker.
    run
        Executes the exported graph on a batch (N, size, size, 1) with the format's own runtime; returns the outputs
        in the graph's order.
    """

    keras_name: str
    file: str
    required_modules: tuple[str, ...]
    run: Callable[[Path, Batch], Outputs]


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "onnx": Format("onnx", "model.onnx", ("tf2onnx", "onnx", "onnxruntime"), _run_onnx),
        "saved_model": Format("tf_saved_model", "saved_model", (), _run_saved_model),
        "openvino": Format("openvino", "model.xml", ("openvino",), _run_openvino),
    }
)
"""Formats by name."""


def export_package(package: ModelPackage, target: Path, name: str) -> float:
    """Export a package's graph in another format.

    Parameters
    ----------
    package
        Verified package.
    target
        Folder to create; it must not exist. It appears complete or not at all.
    name
        A key of ``FORMATS``.

    Returns
    -------
    float
        Largest absolute difference in probability between the exported graph and the package's.

    Raises
    ------
    PackageError
        If the folder exists or can't be written, a module that the format needs is not installed, or the
        difference exceeds ``TOLERANCE``.
    IncompatiblePackage
        If the package's graph holds layers that are not served.
    """
    _check_installed(name, FORMATS[name])
    if target.exists():
        raise PackageError("The folder to export to exists already: give another one, or remove it.")
    check_graph_file(package.model_path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
        try:
            difference = _write(package, temporary / "export", name)
            (temporary / "export").rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise PackageError(f"The export can't be written ({error.strerror}).") from error
    return difference


def _check_installed(name: str, export_format: Format) -> None:
    if missing := [module for module in export_format.required_modules if find_spec(module) is None]:
        raise PackageError(
            f"Export to {name} needs {', '.join(missing)}, which is not installed: "
            'pip install "cxr-listener[export]", or export to saved_model.'
        )


def _write(package: ModelPackage, folder: Path, name: str) -> float:
    export_format = FORMATS[name]
    if "openvino" in export_format.required_modules:
        load_openvino()  # before Keras imports it, so that its telemetry stays off
    folder.mkdir()
    with tf.device("/CPU:0"):
        graph = load_graph(package.model_path)
        check_graph(graph, package.manifest)
        batch = _test_images(package.manifest.input_size)
        expected = [np.asarray(output) for output in tf.nest.flatten(graph(batch, training=False))]
        with warnings.catch_warnings():
            # The converters warn about NumPy and their own deprecations; the exported graph is compared below.
            warnings.simplefilter("ignore")
            graph.export(str(folder / export_format.file), format=export_format.keras_name, verbose=False)
            # A batch of one as well, to detect a format that fixed the batch size.
            results = [export_format.run(folder / export_format.file, part) for part in (batch, batch[:1])]
    index = graph.output_names.index(package.manifest.outputs.probabilities)
    difference = max(_difference(outputs[index], expected[index][: len(outputs[index])]) for outputs in results)
    if not difference <= TOLERANCE:
        raise PackageError(
            f"The exported graph is off by {difference:.2g} in probability; accepted is {TOLERANCE:g}. Nothing was "
            f"written: use another format than {name}."
        )
    _write_documents(package, folder, name, list(graph.output_names), difference)
    return difference


def _test_images(size: int) -> Batch:
    """Return four images that exercise the graph: noise, black, white, and a ramp; shape (4, size, size, 1)."""
    noise = np.random.default_rng(0).random((size, size), dtype=np.float32)
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None].repeat(size, axis=1)
    return np.stack([noise, np.zeros_like(noise), np.ones_like(noise), ramp])[..., None]


def _difference(probabilities: NDArray[Any], expected: NDArray[Any]) -> float:
    if probabilities.shape != expected.shape:
        return float("inf")
    return float(np.abs(probabilities - expected).max())


def _write_documents(package: ModelPackage, folder: Path, name: str, outputs: list[str], difference: float) -> None:
    for document in (MANIFEST_FILE, MODEL_CARD_FILE):
        shutil.copyfile(package.folder / document, folder / document)
    facts = {
        "notice": NOTICE_SENTENCE,
        "status": package.manifest.status.value,
        "fingerprint": package.fingerprint,
        "format": name,
        "file": FORMATS[name].file,
        "input": ["images", package.manifest.input_size, package.manifest.input_size, 1],
        "outputs": outputs,
        "largest_difference": difference,
        "keras": keras.__version__,
    }
    (folder / EXPORT_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
