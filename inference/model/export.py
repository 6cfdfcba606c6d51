"""Write a package's graph for another program: ONNX, SavedModel or OpenVINO.

What is written is loaded with that format's own runtime and has to give what the service gives,
or nothing is kept. The card, the manifest and the notice go along: the scores are for research in
any program.
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
from cxr.package import MANIFEST_FILE, MODEL_CARD_FILE, ModelPackage, sync_folder
from cxr.product import NOTICE_SENTENCE
from inference.model.graph_file import check_graph_file
from inference.model.openvino_runtime import load_openvino
from inference.model.tensorflow_runtime import check_graph, load_graph

Outputs = Sequence[NDArray[np.float32]]
Batch = NDArray[np.float32]

TOLERANCE: Final = 1e-4
"""How far an exported graph's probabilities may be from the service's, absolute."""

EXPORT_FILE: Final = "export.json"


def _run_onnx(path: Path, batch: Batch) -> Outputs:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: Outputs = session.run(None, {session.get_inputs()[0].name: batch})
    return found


def _run_saved_model(path: Path, batch: Batch) -> Outputs:
    loaded = tf.saved_model.load(str(path))  # its variables live as long as this name
    return [np.asarray(output) for output in tf.nest.flatten(loaded.serve(tf.constant(batch)))]


def _run_openvino(path: Path, batch: Batch) -> Outputs:
    compiled = load_openvino().Core().compile_model(str(path), "CPU")
    result = compiled(batch)
    return [np.asarray(result[place]) for place in range(len(compiled.outputs))]


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Parameters
    ----------
    keras_name
        What Keras calls it.
    file
        Name of what is written.
    needs
        Modules beyond those of a worker.
    run
        Scores a batch with the format's own runtime: outputs in the graph's order.
    """

    keras_name: str
    file: str
    needs: tuple[str, ...]
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
    """Write a package's graph in another format.

    Parameters
    ----------
    package
        Verified.
    target
        The folder to make; it must not exist. It appears complete or not at all.
    name
        A name of ``FORMATS``.

    Returns
    -------
    float
        The largest difference between probabilities of the exported graph and of the package's.

    Raises
    ------
    PackageError
        If the folder exists or can't be written, what the format needs is not installed, or the
        exported graph does not give what the package's gives.
    IncompatiblePackage
        If the package's graph is not one that is served.
    """
    form = FORMATS[name]
    _check_installed(name, form)
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


def _check_installed(name: str, form: Format) -> None:
    if missing := [each for each in form.needs if find_spec(each) is None]:
        raise PackageError(
            f"Export to {name} needs {', '.join(missing)}, which is not installed: "
            'pip install "cxr-listener[export]", or export to saved_model.'
        )


def _write(package: ModelPackage, folder: Path, name: str) -> float:
    form = FORMATS[name]
    if "openvino" in form.needs:
        load_openvino()  # before Keras does, so that its converter tells nobody of it
    folder.mkdir()
    with tf.device("/CPU:0"):
        graph = load_graph(package.model_path)
        check_graph(graph, package.manifest)
        batch = _probe(package.manifest.input_size)
        expected = [np.asarray(output) for output in tf.nest.flatten(graph(batch, training=False))]
        with warnings.catch_warnings():
            # The converters' own, about NumPy and themselves; what they made is tested right below.
            warnings.simplefilter("ignore")
            graph.export(str(folder / form.file), format=form.keras_name, verbose=False)
            # One image, too: a format that fixed the batch's size would show.
            given = [form.run(folder / form.file, part) for part in (batch, batch[:1])]
    place = graph.output_names.index(package.manifest.outputs.probabilities)
    difference = max(_difference(found[place], expected[place][: len(found[place])]) for found in given)
    if not difference <= TOLERANCE:
        raise PackageError(
            f"The exported graph is off by {difference:.2g} in probability; accepted is {TOLERANCE:g}. Nothing was "
            f"written: use another format than {name}."
        )
    _write_papers(package, folder, name, list(graph.output_names), difference)
    return difference


def _probe(size: int) -> Batch:
    """Make images that reach every part of a graph: noise, black, white, and a ramp."""
    noise = np.random.default_rng(0).random((size, size), dtype=np.float32)
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None].repeat(size, axis=1)
    return np.stack([noise, np.zeros_like(noise), np.ones_like(noise), ramp])[..., None]


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def _write_papers(package: ModelPackage, folder: Path, name: str, outputs: list[str], difference: float) -> None:
    for paper in (MANIFEST_FILE, MODEL_CARD_FILE):
        shutil.copyfile(package.folder / paper, folder / paper)
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
