"""The graph in TensorFlow: load, check and score.

Importing TensorFlow takes seconds: the modules that import it (this one, ``grad_cam``, ``openvino_runtime`` and
``export``) are imported when a model is loaded or exported, not at start.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.model.refused_imports import without_optional

with without_optional():
    import keras
    import tensorflow as tf

from cxr.errors import IncompatiblePackage
from cxr.package import PackageManifest
from cxr.package.input_gate import component_of
from cxr.package.lung_mask import Segment
from inference.model.batches import ModelOutput, Scorer
from inference.model.keras_types import KerasModel, Tensor


def prepare_devices() -> int:
    """Configure the GPUs and return their number.

    GPU memory is allocated on demand, so that other processes can use the rest. TensorFloat-32 is
    off: its 10-bit mantissa changes scores between devices more than any other cause.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)
    return len(gpus)


def is_exhausted(error: Exception) -> bool:
    """Return whether an exception of TensorFlow means that the device ran out of memory."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return True
    # cuDNN and cuBLAS report failed allocations as internal or unknown errors.
    return isinstance(error, tf.errors.InternalError | tf.errors.UnknownError) and "memory" in str(error).lower()


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """A package's graph, traced once for every batch size.

    Parameters
    ----------
    run
        A ``tf.function`` from a batch (N, size, size, 1) to the list of outputs: probabilities, evidence, features.
    has_evidence, has_features
        Whether the list holds evidence and features.
    device
        TensorFlow's name of the device.
    """

    run: Any
    has_evidence: bool
    has_features: bool
    device: str

    def output(self, outputs: Sequence[NDArray[np.float32]]) -> ModelOutput:
        """Assign the outputs of ``run``, as TensorFlow or OpenVINO returned them, to their names."""
        return ModelOutput(
            probabilities=outputs[0],
            evidence=outputs[1] if self.has_evidence else None,
            features=outputs[-1] if self.has_features else None,
        )

    def score(self, batch: NDArray[np.float32]) -> ModelOutput:
        """Score a batch with TensorFlow."""
        with tf.device(self.device):
            return self.output([np.asarray(output, dtype=np.float32) for output in self.run(tf.constant(batch))])


def load_scorer(path: Path, manifest: PackageManifest, device: str) -> Scorer:
    """Load a graph onto a device and return its scoring function; arguments and errors as of ``load_served``."""
    return load_served(path, manifest, device).score


def load_served(path: Path, manifest: PackageManifest, device: str) -> ServedGraph:
    """Load a graph onto a device.

    Parameters
    ----------
    path
        The ``.keras`` file, checked before by ``inference.model.graph_file``.
    manifest
        Manifest of the package.
    device
        ``cpu`` or ``gpu:N``.

    Raises
    ------
    IncompatiblePackage
        If Keras does not load the file, or the graph's input or outputs contradict the manifest.
    """
    tf_device = tensorflow_device(device)
    with tf.device(tf_device):
        graph = load_graph(path)
    check_graph(graph, manifest)
    has_evidence = manifest.outputs.evidence is not None
    names = [manifest.outputs.probabilities, *([manifest.outputs.evidence] if has_evidence else [])]
    positions = [graph.output_names.index(name) for name in names]
    gate = component_of(manifest)
    if gate is not None:
        positions.append(len(graph.outputs))
        graph = _with_features(graph, gate.layer)
    size = manifest.input_size

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 1), tf.float32)], autograph=False)  # type: ignore[untyped-decorator]
    def run(batch: Tensor) -> list[Tensor]:
        outputs = tf.nest.flatten(graph(batch, training=False))
        return [outputs[position] for position in positions]

    return ServedGraph(run, has_evidence, gate is not None, tf_device)


def _with_features(graph: KerasModel, layer: str) -> KerasModel:
    """Add an output: the spatial mean of each map of a layer, for the input gate."""
    maps = next((each.output for each in graph.layers if each.name == layer), None)
    if maps is None or len(maps.shape) != 4:
        raise IncompatiblePackage(
            "The graph has no layer with maps that the package's input gate names: export it again."
        )
    return keras.Model(graph.inputs, [*graph.outputs, keras.layers.GlobalAveragePooling2D()(maps)])


def load_segment(path: Path, size: int) -> Segment:
    """Load the U-Net that segments lungs, on the CPU, for one picture at a time, as in training.

    Parameters
    ----------
    path
        The ``.keras`` file, checked before by ``inference.model.graph_file``.
    size
        Rows and columns of its input, in pixels.

    Raises
    ------
    IncompatiblePackage
        If Keras does not load the file, or the graph's input or output has another shape.
    """
    tf_device = tensorflow_device("cpu")
    with tf.device(tf_device):
        graph = load_graph(path)
    shapes = [tuple(each.shape) for each in (*graph.inputs, *graph.outputs)]
    if shapes != [(None, size, size, 1)] * 2:
        raise IncompatiblePackage(
            f"The lung mask's graph takes and gives {_shapes(shapes)}; the package says (images, {size}, {size}, 1): "
            "export the model again."
        )

    def segment(picture: NDArray[np.float32]) -> NDArray[np.float32]:
        with tf.device(tf_device):
            probabilities = graph(tf.constant(picture[None, :, :, None]), training=False)
        return np.asarray(probabilities, np.float32)[0, :, :, 0]

    return segment


def tensorflow_device(device: str) -> str:
    """Return TensorFlow's name of ``cpu`` or ``gpu:N``."""
    return f"/{device.upper()}" if ":" in device else "/CPU:0"


def load_graph(path: Path) -> KerasModel:
    """Load a ``.keras`` file, checked before, without its training configuration.

    Raises
    ------
    IncompatiblePackage
        If Keras does not load the file.
    """
    try:
        with warnings.catch_warnings():
            # Keras only warns when a nested layer has no weights in the file, and leaves them random.
            warnings.simplefilter("error", UserWarning)
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, UserWarning) as error:
        raise IncompatiblePackage(
            f"Keras {keras.__version__} does not load {path.name}: export it with this version, or install the one "
            "that package.json names."
        ) from error


def check_graph(graph: KerasModel, manifest: PackageManifest) -> None:
    """Compare a graph's input and outputs with its manifest.

    Raises
    ------
    IncompatiblePackage
        If they differ; the message names both.
    """
    size, classes = manifest.input_size, len(manifest.classes)
    inputs = [tuple(each.shape) for each in graph.inputs]
    if inputs not in ([(None, size, size, 1)], [(None, None, None, 1)]):
        raise IncompatiblePackage(
            f"The graph takes {_shapes(inputs)}; the package says (images, {size}, {size}, 1): export the model again."
        )
    shapes = {name: tuple(each.shape) for name, each in zip(graph.output_names, graph.outputs, strict=True)}
    probabilities, evidence = manifest.outputs.probabilities, manifest.outputs.evidence
    if shapes.get(probabilities) != (None, classes):
        raise IncompatiblePackage(
            f"The graph has no output {probabilities!r} with {classes} value(s) per image; it has {_shapes(shapes)}."
        )
    shape = shapes.get(evidence) if evidence is not None else None
    if evidence is not None and (shape is None or len(shape) != 4 or shape[-1] != classes):
        raise IncompatiblePackage(
            f"The graph has no output {evidence!r} with {classes} map(s) per image; it has {_shapes(shapes)}."
        )


def _shapes(shapes: object) -> str:
    return str(shapes).replace("None", "*")
