"""From the stored pixels of an image to the input of a model.

The functions are imported on first use (PEP 562): they load OpenCV and the decoders, which the listener must not load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cxr.pixels.model_input import read_image, to_model_input, to_model_inputs
    from cxr.pixels.recipe import DEFAULT_RECIPE, PixelRecipe

__all__ = ["DEFAULT_RECIPE", "PixelRecipe", "read_image", "to_model_input", "to_model_inputs"]

_HOMES: Final = {
    "DEFAULT_RECIPE": "recipe",
    "PixelRecipe": "recipe",
    "read_image": "model_input",
    "to_model_input": "model_input",
    "to_model_inputs": "model_input",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (PEP 562)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
