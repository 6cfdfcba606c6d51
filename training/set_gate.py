"""Set the input gate of a run's model: on its training images, and on those that it was not trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.cache import Cache
from training.cases import UNKNOWN
from training.data import plain_batches
from training.fitting import Side
from training.gate import features_of, fit_conformal, gate_component
from training.predictions import Predictions

BATCH = 32


def set_gate(
    network: Any,  # noqa: ANN401 (a Keras model)
    cache: Cache,
    sides: Mapping[str, Side],
    validation: Predictions,
) -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
    """Make a run's input gate.

    Parameters
    ----------
    network
        The run's graph.
    cache
        The images.
    sides
        ``train``, whose features are described, and ``val``, which the distance is set on.
    validation
        Predictions of the validation images, which the conformal sets are made of. Epoch, temperature
        and threshold were chosen on them too, so that the sets are a little too small.

    Returns
    -------
    tuple[Mapping[str, Any], Mapping[str, bytes]]
        For the manifest's ``components`` and for the package's files; both empty where the images are
        too few, or the network gives the same features for all of them.
    """
    trained, held_out = (_features(network, cache, sides[name]) for name in ("train", "val"))
    if len(trained) < 2 or not len(held_out) or not np.ptp(trained, axis=0).any():
        return {}, {}
    truth, chances = _tables(validation)
    is_softmax = validation.kind == "multiclass"
    conformal = fit_conformal(truth, chances, validation.classes, is_softmax=is_softmax)
    return gate_component(network, trained, held_out, conformal)


def _features(network: Any, cache: Cache, side: Side) -> NDArray[np.float32]:  # noqa: ANN401
    batches = plain_batches(cache, side.places, side.cases.truths, batch_size=BATCH)
    return features_of(network, batches)


def _tables(validation: Predictions) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give truths and probabilities as ``training.gate.fit_conformal`` takes them."""
    chances = np.column_stack([validation.probability(name) for name in validation.classes])
    if validation.kind == "multiclass":
        return validation.frame["y"].to_numpy(dtype=np.int64), chances
    columns = [np.where(validation.known(name), validation.truth(name), UNKNOWN) for name in validation.classes]
    return np.column_stack(columns), chances
