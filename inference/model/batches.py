"""Score a batch of any size within the device's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from config.logs import get_logger
from cxr.errors import DeviceExhausted

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """Outputs of the graph for one batch.

    Parameters
    ----------
    probabilities
        float32, shape (N, classes), in [0, 1], in the order of the package's classes.
    evidence
        float32, shape (N, height, width, classes): logits whose mean over the map is the class's
        logit before calibration; None: the model has no evidence map.
    features
        float32, shape (N, features): input of the package's input gate; None: the package has none.
    """

    probabilities: NDArray[np.float32]
    evidence: NDArray[np.float32] | None
    features: NDArray[np.float32] | None = None


Explainer = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a batch to one Grad-CAM map per image and class, shape (N, height, width, classes)."""


class Scorer(Protocol):
    """A graph that is loaded onto a device."""

    def __call__(self, batch: NDArray[np.float32]) -> ModelOutput:
        """Score a batch; raise the runtime's own error when the device runs out of memory."""
        ...


class HalvingScorer:
    """Scores batches in parts; halves a part that does not fit the device and tries again.

    The size that fitted is the limit for all later batches.

    Parameters
    ----------
    scorer
        The graph on its device.
    is_exhausted
        Returns whether an exception means that the device ran out of memory.
    fall_back
        Loads the graph onto the CPU, for a GPU whose memory does not hold one image; None: no fall-back.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        is_exhausted: Callable[[Exception], bool],
        fall_back: Callable[[], Scorer] | None = None,
    ) -> None:
        self._scorer = scorer
        self._is_exhausted = is_exhausted
        self._fall_back = fall_back
        self._limit: int | None = None

    @property
    def limit(self) -> int | None:
        """Largest number of images in one part; None: every batch fitted so far."""
        return self._limit

    def __call__(self, batch: NDArray[np.float32]) -> ModelOutput:
        """Score a batch.

        Raises
        ------
        DeviceExhausted
            If a single image does not fit and there is no fall-back.
        """
        parts: list[ModelOutput] = []
        start = 0
        while start < len(batch):
            size = min(self._limit or len(batch), len(batch) - start)
            part = self._score_part(batch[start : start + size])
            if part is not None:
                parts.append(part)
                start += size
        return _join(parts)

    def _score_part(self, part: NDArray[np.float32]) -> ModelOutput | None:
        """Score a part; None: it did not fit, and the next attempt uses a smaller part or the CPU."""
        try:
            return self._scorer(part)
        except Exception as error:
            if not self._is_exhausted(error):
                raise
            self._shrink(len(part), error)
            return None

    def _shrink(self, size: int, error: Exception) -> None:
        if size > 1:
            self._limit = size // 2
            log.warning("batch_halved", size=size, limit=self._limit)
        elif self._fall_back is not None:
            self._scorer, self._fall_back, self._limit = self._fall_back(), None, None
        else:
            raise DeviceExhausted(
                "The device's memory does not hold the model and one image: free it, or set worker.device to another "
                "device or to auto."
            ) from error


def _join(parts: list[ModelOutput]) -> ModelOutput:
    if len(parts) == 1:
        return parts[0]
    maps = [part.evidence for part in parts if part.evidence is not None]
    features = [part.features for part in parts if part.features is not None]
    return ModelOutput(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        evidence=np.concatenate(maps) if maps else None,
        features=np.concatenate(features) if features else None,
    )
