"""The model of a package, ready to score."""

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
from inference.model.devices import CPU, Choice, Engine, choose_device
from inference.model.graph_file import check_graph_file
from inference.model.lung_finder import load_finder

__all__ = ["Model", "ModelOutput"]

log = get_logger(__name__)


class Model:
    """A graph on a device; ``Model.load`` makes it from a package.

    Parameters
    ----------
    manifest
        What the graph fits.
    load_on
        Puts the graph onto ``cpu`` or ``gpu:N``.
    choice
        The device, and whether the CPU may take over.
    is_exhausted
        Whether an error says that the device's memory did not suffice.
    explain_on
        Puts a graph that gives Grad-CAM maps onto a device; None: there are none.
    finder
        Finds the lungs, of which alone the graph knows; None: it knows whole films.
    engine
        What runs the graph there; for the record.

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
        choice: Choice,
        is_exhausted: Callable[[Exception], bool],
        explain_on: Callable[[str], Explainer | None] | None = None,
        finder: LungFinder | None = None,
        engine: Engine = "tensorflow",
    ) -> None:
        self._engine = engine
        self._manifest = manifest
        self._finder = finder
        self._load_on = load_on
        self._choice = choice
        self._is_exhausted = is_exhausted
        self._explain_on = explain_on
        self._explainer: Explainer | None = None
        self._device = choice.device
        self._scorer = self._place()

    @classmethod
    def load(cls, package: ModelPackage, *, device: str = "auto", engine: Engine = "tensorflow") -> Model:
        """Load a verified package onto a device and score a grey image with it once.

        Parameters
        ----------
        package
            From ``cxr.package.folder.load_package``, which verified it.
        device
            The setting ``worker.device``: ``auto``, ``cpu`` or ``gpu:N``. Only ``auto`` goes to the
            CPU where there is no GPU, or none whose memory holds the model and one image.
        engine
            The setting ``worker.runtime``. OpenVINO runs on the CPU alone.

        Raises
        ------
        SettingsError
            If the device is not there, or not one of the engine's, or the engine is not installed.
        IncompatiblePackage
            If the graph is not one that is served, or not what its manifest says.
        DeviceExhausted
            If the device's memory does not hold the model.
        """
        check_graph_file(package.model_path)
        quiet_tensorflow(device)
        finder = load_finder(package)
        # TensorFlow takes seconds to import, and its native log level has to be set before.
        from inference.model import tensorflow_runtime  # noqa: PLC0415

        choice = choose_device(device, tensorflow_runtime.prepare_devices(), engine=engine)
        if choice.warning is not None:
            log.warning(choice.warning)

        def load_on(place: str) -> Scorer:
            if engine == "openvino":
                from inference.model import openvino_runtime  # noqa: PLC0415 (an extra that need not be installed)

                return openvino_runtime.load_scorer(package.model_path, package.manifest)
            return tensorflow_runtime.load_scorer(package.model_path, package.manifest, place)

        def explain_on(place: str) -> Explainer | None:
            from inference.model.grad_cam import load_explainer  # noqa: PLC0415 (as above)

            return load_explainer(package.model_path, package.manifest, place)

        model = cls(
            package.manifest,
            load_on=load_on,
            choice=choice,
            is_exhausted=tensorflow_runtime.is_exhausted,
            explain_on=explain_on,
            finder=finder,
            engine=engine,
        )
        size = package.manifest.input_size
        # The first batch would otherwise pay for the compilation, and find out that the graph gives NaN.
        model.score(np.full((1, size, size, 1), 0.5, dtype=np.float32))
        return model

    @property
    def device(self) -> str:
        """Where it scores now: ``cpu``, ``gpu:N``, or ``cpu (openvino)``."""
        return self._device if self._engine == "tensorflow" else f"{self._device} ({self._engine})"

    def see(self, plain: NDArray[np.float32]) -> GraphInput:
        """Make of a prepared picture what the graph knows: the lungs alone, where its package masks.

        Parameters
        ----------
        plain
            Shape (size, size, 1), in [0, 1], from ``cxr.pixels.model_input.to_model_input``.

        Raises
        ------
        LungsNotFound
            If there are none.
        """
        return GraphInput(plain, plain) if self._finder is None else self._finder.mask_lungs(plain)

    def score(self, batch: NDArray[np.float32]) -> ModelOutput:
        """Score images; a batch that does not fit the device is halved until it does.

        Parameters
        ----------
        batch
            Shape (N, size, size, 1), in [0, 1]: the ``pixels`` that ``see`` gives of each image.

        Raises
        ------
        ValueError
            If the batch has another shape.
        DeviceExhausted
            If not even one image fits; retryable.
        IncompatiblePackage
            If the graph gives something that is no probability.
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
        """Approximate where the evidence lies, for a graph that has no evidence map.

        The graph that this needs is loaded when it is first asked for.

        Parameters
        ----------
        image
            Shape (size, size, 1), in [0, 1].

        Returns
        -------
        NDArray[np.float32] | None
            Shape (height, width, classes), at least 0, comparable within one class's map only; None:
            this model can't.

        Raises
        ------
        DeviceExhausted
            If the device's memory does not suffice; retryable.
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

    def _place(self) -> HalvingScorer:
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
