"""Model of a package, loaded onto a device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from config.logs import get_logger
from config.native_logs import quiet_tensorflow
from cxr.errors import DeviceExhausted, IncompatiblePackage
from cxr.package import ModelPackage, PackageManifest
from cxr.package.lung_mask import GraphInput, LungFinder
from inference.model.batches import Explainer, HalvingScorer, ModelOutput, Scorer
from inference.model.devices import CPU, DeviceChoice, Runtime, choose_device
from inference.model.graph_file import check_graph_file
from inference.model.lung_finder import load_lung_finder

__all__ = ["Model", "ModelOutput"]

log = get_logger(__name__)


class Model:
    """A graph on a device; ``Model.load`` makes it from a package.

    Parameters
    ----------
    manifest
        Manifest of the package.
    load_on
        Loads the graph onto ``cpu`` or ``gpu:N``.
    choice
        Device, and whether scoring may fall back to the CPU.
    is_exhausted
        Returns whether an exception means that the device ran out of memory.
    explain_on
        Loads the Grad-CAM graph onto a device; None: no Grad-CAM.
    finder
        Lung segmentation, for a graph that was trained on masked lungs; None: the graph takes whole films.
    runtime
        Runtime that executes the graph, for the ``device`` property.

    Raises
    ------
    DeviceExhausted
        If the device's memory does not hold the graph.
    """

    def __init__(
        self,
        manifest: PackageManifest,
        *,
        load_on: Callable[[str], Scorer],
        choice: DeviceChoice,
        is_exhausted: Callable[[Exception], bool],
        explain_on: Callable[[str], Explainer | None] | None = None,
        finder: LungFinder | None = None,
        runtime: Runtime = "tensorflow",
    ) -> None:
        self._runtime = runtime
        self._manifest = manifest
        self._finder = finder
        self._load_on = load_on
        self._choice = choice
        self._is_exhausted = is_exhausted
        self._explain_on = explain_on
        self._explainer: Explainer | None = None
        self._device = choice.device
        self._scorer = self._load_scorer()

    @classmethod
    def load(cls, package: ModelPackage, *, device: str = "auto", runtime: Runtime = "tensorflow") -> Model:
        """Load a verified package onto a device and score one grey image as a warm-up.

        Parameters
        ----------
        package
            From ``cxr.package.folder.load_package``, which verified it.
        device
            The setting ``worker.device``: ``auto``, ``cpu`` or ``gpu:N``. Only ``auto`` falls back to the CPU:
            when there is no GPU, or when its memory does not hold the model and one image.
        runtime
            The setting ``worker.runtime``. OpenVINO runs on the CPU only.

        Raises
        ------
        SettingsError
            If the device is absent or not supported by the runtime, or the runtime is not installed.
        IncompatiblePackage
            If the graph holds layers that are not served, or contradicts its manifest.
        DeviceExhausted
            If the device's memory does not hold the model.
        """
        check_graph_file(package.model_path)
        quiet_tensorflow(device)
        finder = load_lung_finder(package)
        # TensorFlow takes seconds to import, and its native log level has to be set before.
        from inference.model import tensorflow_runtime  # noqa: PLC0415

        choice = choose_device(device, tensorflow_runtime.prepare_devices(), runtime=runtime)
        if choice.warning is not None:
            log.warning(choice.warning)

        def load_on(target: str) -> Scorer:
            if runtime == "openvino":
                from inference.model import openvino_runtime  # noqa: PLC0415 (an extra that need not be installed)

                return openvino_runtime.load_scorer(package.model_path, package.manifest)
            return tensorflow_runtime.load_scorer(package.model_path, package.manifest, target)

        def explain_on(target: str) -> Explainer | None:
            from inference.model.grad_cam import load_explainer  # noqa: PLC0415 (as above)

            return load_explainer(package.model_path, package.manifest, target)

        model = cls(
            package.manifest,
            load_on=load_on,
            choice=choice,
            is_exhausted=tensorflow_runtime.is_exhausted,
            explain_on=explain_on,
            finder=finder,
            runtime=runtime,
        )
        size = package.manifest.input_size
        # Compile now, and fail now if the graph returns NaN, instead of at the first received image.
        model.score(np.full((1, size, size, 1), 0.5, dtype=np.float32))
        return model

    @property
    def device(self) -> str:
        """Current device: ``cpu``, ``gpu:N``, or ``cpu (openvino)``."""
        return self._device if self._runtime == "tensorflow" else f"{self._device} ({self._runtime})"

    def mask_lungs(self, plain: NDArray[np.float32]) -> GraphInput:
        """Mask everything but the lungs, where the package was trained so; else return the picture unchanged.

        Parameters
        ----------
        plain
            Shape (size, size, 1), in [0, 1], from ``cxr.pixels.model_input.to_model_input``.

        Raises
        ------
        LungsNotFound
            If the segmentation finds no lungs.
        """
        return GraphInput(plain, plain) if self._finder is None else self._finder.mask_lungs(plain)

    def score(self, batch: NDArray[np.float32]) -> ModelOutput:
        """Score images; halve a batch that does not fit the device's memory until it fits.

        Parameters
        ----------
        batch
            Shape (N, size, size, 1), in [0, 1]: ``mask_lungs(...).pixels`` of each image.

        Raises
        ------
        ValueError
            If the batch has another shape.
        DeviceExhausted
            If a single image does not fit; retryable.
        IncompatiblePackage
            If the graph returns NaN or a value outside [0, 1].
        """
        size = self._manifest.input_size
        if batch.ndim != 4 or not len(batch) or batch.shape[1:] != (size, size, 1):
            raise ValueError(f"a batch has shape (N, {size}, {size}, 1), N at least 1; got {batch.shape}")
        output = self._scorer(np.ascontiguousarray(batch, dtype=np.float32))
        # The comparison is False for NaN.
        if not np.all((output.probabilities >= 0) & (output.probabilities <= 1)):
            raise IncompatiblePackage("The graph gave a value outside [0, 1]: its weights are broken; promote another.")
        return output

    def grad_cam(self, image: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Compute Grad-CAM maps, for a graph without an evidence map of its own.

        The gradient graph is loaded at the first call.

        Parameters
        ----------
        image
            Shape (size, size, 1), in [0, 1].

        Returns
        -------
        NDArray[np.float32] | None
            Shape (height, width, classes), at least 0, comparable within one class's map only; None: the graph
            has no feature map.

        Raises
        ------
        DeviceExhausted
            If the device runs out of memory; retryable.
        """
        try:
            if self._explain_on is not None:
                self._explainer, self._explain_on = self._explain_on(self._device), None
                if self._explainer is None:
                    log.warning("no_features_for_grad_cam")
            if self._explainer is None:
                return None
            maps: NDArray[np.float32] = self._explainer(np.ascontiguousarray(image[None], dtype=np.float32))[0]
        except Exception as error:
            if not self._is_exhausted(error):
                raise
            raise DeviceExhausted("The device's memory does not hold Grad-CAM: switch report.saliency off.") from error
        return maps

    def _load_scorer(self) -> HalvingScorer:
        try:
            scorer = self._load_on(self._device)
        except Exception as error:
            if not self._is_exhausted(error):
                raise
            if not self._choice.may_fall_back:
                raise DeviceExhausted(
                    "The device's memory does not hold the model: free it, or choose another."
                ) from error
            scorer = self._on_cpu()
        may_fall_back = self._choice.may_fall_back and self._device != CPU
        return HalvingScorer(scorer, is_exhausted=self._is_exhausted, fall_back=self._on_cpu if may_fall_back else None)

    def _on_cpu(self) -> Scorer:
        log.warning("gpu_memory_exhausted_scoring_on_cpu")
        self._device = CPU
        return self._load_on(CPU)
