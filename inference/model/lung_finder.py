"""Load the lung segmentation of a package."""

from __future__ import annotations

from cxr.errors import IncompatiblePackage
from cxr.package import ModelPackage
from cxr.package.lung_mask import LungFinder, component_of
from inference.model.graph_file import check_graph_file

NO_MASK_MODEL = (
    "The model was trained on hand-drawn lung masks and its package holds no mask model, so received images can't be "
    'masked as in training. Train it with lung_masks = "model" and a mask model of `cxr train masks`.'
)


def load_lung_finder(package: ModelPackage) -> LungFinder | None:
    """Load the mask model of a package.

    Parameters
    ----------
    package
        Verified package.

    Returns
    -------
    LungFinder | None
        None: the package takes whole films.

    Raises
    ------
    IncompatiblePackage
        If the package was trained on masked lungs and holds no mask model, or one with layers that are not served.
    DamagedPackage
        If the mask model's file is not a Keras archive.
    """
    component = component_of(package.manifest)
    if component is None:
        return None
    if component.file is None or component.settings is None:
        raise IncompatiblePackage(NO_MASK_MODEL)
    path = package.folder / component.file
    check_graph_file(path)
    # TensorFlow takes seconds to import, and its native log level has to be set before.
    from inference.model import tensorflow_runtime  # noqa: PLC0415

    return LungFinder(component.settings, tensorflow_runtime.load_segment(path, component.settings.size))
