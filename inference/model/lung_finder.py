"""The lung mask of a package, ready to use."""

from __future__ import annotations

from cxr.errors import IncompatiblePackage
from cxr.package import ModelPackage
from cxr.package.lung_mask import LungFinder, component_of
from inference.model.graph_file import check_graph_file

NO_MASK_MODEL = (
    "The model was trained on lung masks that people drew and carries no mask model: what is received has no masks, "
    'and whole films are not what it knows. Train it with lung_masks = "model" and a mask model of `cxr train masks`.'
)


def load_finder(package: ModelPackage) -> LungFinder | None:
    """Load what finds a package's lungs.

    Parameters
    ----------
    package
        Verified.

    Returns
    -------
    LungFinder | None
        None: the package sees whole films.

    Raises
    ------
    IncompatiblePackage
        If the package masks lungs and carries nothing to find them with, or what it carries is not served.
    DamagedPackage
        If its file is not a Keras archive.
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
