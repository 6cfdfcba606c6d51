"""Score a package's golden images with the service's own preprocessing."""

from __future__ import annotations

import numpy as np

from cxr.errors import DamagedPackage, ImageError
from cxr.package import ModelPackage
from cxr.package.golden_images import read_golden
from cxr.pixels.model_input import to_model_input
from inference.model.devices import CPU
from inference.model.model import Model


def golden_difference(package: ModelPackage) -> float:
    """Return the difference between this service's probabilities and those in the package, on its golden images.

    Parameters
    ----------
    package
        Verified package; scored on the CPU, where rounding differs least between machines.

    Returns
    -------
    float
        Largest absolute difference in probability over images and classes.

    Raises
    ------
    DamagedPackage
        If the list of golden images or one of the images can't be read.
    IncompatiblePackage
        If the graph holds layers that are not served.
    """
    images = read_golden(package)
    model = Model.load(package, device=CPU)
    try:
        batch = np.stack(
            [model.mask_lungs(to_model_input(image.path, package.manifest.recipe)).pixels for image in images]
        )
    except (ImageError, OSError) as error:
        raise DamagedPackage("A golden image can't be read: export the model again.") from error
    probabilities = model.score(batch).probabilities
    expected = np.array([image.probabilities for image in images])
    return float(np.abs(probabilities - expected).max())
