"""Importing Keras without what it only looks for: a third of the time until a worker scores.

Keras takes scikit-learn (with SciPy), pandas and Matplotlib where they are installed, for wrappers,
data frames and pictures that serving has no use for, and does without them where they are not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

OPTIONAL: Final = ("sklearn", "scipy", "pandas", "matplotlib")


@contextmanager
def without_optional() -> Iterator[None]:
    """Let packages that Keras does not need look absent while it is imported; afterwards they are there again.

    What this process has imported already stays. No other thread may import them meanwhile.

    References
    ----------
    https://docs.python.org/3/reference/import.html#the-module-cache: None forces a ModuleNotFoundError
    """
    absent = [name for name in OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
