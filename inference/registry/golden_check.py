"""Score a package's golden images as the service would."""

from __future__ import annotations

import numpy as np

from cxr.errors import DamagedPackage, ImageError
from cxr.package import ModelPackage
from cxr.package.golden_images import read_golden
from cxr.pixels.model_input import to_model_input
from inference.model.devices import CPU
from inference.model.model import Model


def golden_difference(package: ModelPackage) -> float:
    """Return how far this service is from the probabilities that a package holds for its golden images.

    Parameters
    ----------
    package
        Verified; loaded onto the CPU, whose rounding is the same everywhere, near enough.

    Returns
    -------
    float
        The largest absolute difference over images and classes, in probability.

    Raises
    ------
    DamagedPackage
        If the list of golden images or one of the images can't be read.
    IncompatiblePackage
        If the graph is not one that is served.
    """
    images = read_golden(package)
    model = Model.load(package, device=CPU)
    try:
        batch = np.stack([model.see(to_model_input(image.path, package.manifest.recipe)).pixels for image in images])
    except (ImageError, OSError) as error:
        raise DamagedPackage("A golden image can't be read: export the model again.") from error
    given = model.score(batch).probabilities
    expected = np.array([image.probabilities for image in images])
    return float(np.abs(given - expected).max())
