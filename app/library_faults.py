"""Exceptions of Keras and TensorFlow, as faults that people can read."""

from __future__ import annotations

from types import TracebackType

from cxr.errors import CxrError, TrainingError

_LIBRARIES = frozenset({"keras", "tensorflow", "h5py"})
_LONGEST = 400  # characters of a library's message: some list every layer


def library_fault(error: Exception) -> CxrError | None:
    """Return the fault of an exception that Keras, TensorFlow or h5py raised; None if it is of other code.

    Parameters
    ----------
    error
        The exception, with its traceback.
    """
    library = _library_of(error)
    if library is None:
        return None
    words = " ".join(str(error).split())
    words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
    return TrainingError(
        f"{library} refused this ({type(error).__name__}): {words or 'without a reason'}. Check the files, the "
        "recipe and the sizes that the command names, and whether memory is left."
    )


def _library_of(error: Exception) -> str | None:
    """Return the library whose code raised the exception: that of the innermost frame, or of the exception's class."""
    innermost = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        innermost = str(step.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        step = step.tb_next
    of_class = type(error).__module__.partition(".")[0]
    return next((name for name in (of_class, innermost) if name in _LIBRARIES), None)
