"""The graph in OpenVINO, which is faster on a CPU than TensorFlow.

OpenVINO's C++ front end reads the frozen TensorFlow graph; its Python converter is not needed.

``import openvino`` sends usage data, with an identifier that it writes into the home folder, where its
dependency ``openvino_telemetry`` is installed. Without that package OpenVINO uses a silent stub. A service
behind a PACS opens no connections of its own, so that the import of ``openvino_telemetry`` is refused.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from cxr.errors import IncompatiblePackage
from cxr.package import PackageManifest
from cxr.package.scratch import scratch_folder
from inference.model.batches import ModelOutput, Scorer
from inference.model.refused_imports import refuse_from_now_on
from inference.model.tensorflow_runtime import ServedGraph, load_served

TOLERANCE = 1e-4
"""Largest accepted absolute difference in probability from TensorFlow."""

TELEMETRY: Final = "openvino_telemetry"


def load_scorer(path: Path, manifest: PackageManifest) -> Scorer:
    """Load a graph into OpenVINO and compare its scores with TensorFlow's.

    Parameters
    ----------
    path
        The ``.keras`` file, checked before by ``inference.model.graph_file``.
    manifest
        Manifest of the package.

    Raises
    ------
    IncompatiblePackage
        If Keras or OpenVINO does not load the graph, or the scores differ by more than ``TOLERANCE``.
    """
    served = load_served(path, manifest, "cpu")
    compiled = _compile(served, manifest.input_size)
    indices = range(len(compiled.outputs))

    def score(batch: NDArray[np.float32]) -> ModelOutput:
        results = compiled(batch)
        # Copies: the next call overwrites this memory.
        return served.output([np.array(results[index], dtype=np.float32) for index in indices])

    _compare(score, served, manifest.input_size)
    return score


def _compile(served: ServedGraph, size: int) -> Any:  # noqa: ANN401 (openvino.CompiledModel)
    openvino = load_openvino()
    frozen = convert_variables_to_constants_v2(served.run.get_concrete_function())
    core = openvino.Core()
    # Not mapped: the file is deleted while the model is still in use.
    core.set_property({"ENABLE_MMAP": False})
    try:
        with scratch_folder() as folder:
            graph = folder / "graph.pb"
            graph.write_bytes(frozen.graph.as_graph_def().SerializeToString())
            model = core.read_model(graph)
        model.reshape([-1, size, size, 1])
        # Without the hint, OpenVINO uses bfloat16 where the processor has it, and scores change by 1e-2.
        return core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise IncompatiblePackage(
            f"OpenVINO {openvino.__version__} does not run this graph: set worker.runtime to tensorflow."
        ) from error


def _compare(score: Scorer, served: ServedGraph, size: int) -> None:
    films = np.random.default_rng(0).random((2, size, size, 1), dtype=np.float32)
    films[0] = np.linspace(0, 1, size, dtype=np.float32)[None, :, None]
    difference = float(np.abs(score(films).probabilities - served.score(films).probabilities).max())
    if not difference <= TOLERANCE:
        raise IncompatiblePackage(
            f"OpenVINO's scores are {difference:.1g} away from TensorFlow's, accepted is {TOLERANCE:g}: set "
            "worker.runtime to tensorflow."
        )


def load_openvino() -> Any:  # noqa: ANN401 (a module)
    """Import OpenVINO, with ``openvino_telemetry`` refused for the rest of the process.

    Raises
    ------
    ImportError
        If OpenVINO is not installed.
    """
    refuse_from_now_on(TELEMETRY)
    return importlib.import_module("openvino")
