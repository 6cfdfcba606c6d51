"""Refuse imports of optional packages of Keras and OpenVINO, with an import hook.

Keras imports scikit-learn (with SciPy), pandas and Matplotlib if they are installed, for wrappers, data frames and
plots that scoring does not use. Without them, importing Keras takes 4.4 s of processor time instead of 10.0 s and
160 MiB less memory (medians of four runs), in the worker, the shadow and each trial load. They are installed
wherever training is, so that leaving them out of the installation is no alternative.

References
----------
https://docs.python.org/3/reference/import.html#the-meta-path: finders are called before any module is searched for
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

OPTIONAL_OF_KERAS: Final = ("sklearn", "scipy", "pandas", "matplotlib")


class RefusedImports(MetaPathFinder):
    """Import hook that raises ``ModuleNotFoundError`` for some top-level packages.

    Packages that are already imported are not affected.

    Parameters
    ----------
    names
        Top-level packages to refuse.
    thread
        Identifier of the only thread that is affected; None: all threads.
    """

    def __init__(self, names: Sequence[str], *, thread: int | None = None) -> None:
        self._names = frozenset(names)
        self._thread = thread

    def refuses(self, name: str) -> bool:
        """Return whether the package is refused to all threads."""
        return self._thread is None and name in self._names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise for a refused package; return None for any other, so that the next finder searches for it.

        Raises
        ------
        ModuleNotFoundError
            If the package is refused.
        """
        is_affected = self._thread is None or self._thread == threading.get_ident()
        if is_affected and fullname in self._names:
            raise ModuleNotFoundError(f"{fullname} is refused by {__name__}", name=fullname)
        return None


@contextmanager
def without_optional() -> Iterator[None]:
    """Refuse the optional packages of Keras to this thread inside the block."""
    hook = RefusedImports(OPTIONAL_OF_KERAS, thread=threading.get_ident())
    sys.meta_path.insert(0, hook)
    try:
        yield
    finally:
        sys.meta_path.remove(hook)


def refuse_from_now_on(name: str) -> None:
    """Refuse a package for the rest of the process; a second call changes nothing."""
    if not any(isinstance(hook, RefusedImports) and hook.refuses(name) for hook in sys.meta_path):
        sys.meta_path.insert(0, RefusedImports((name,)))
