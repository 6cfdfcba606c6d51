"""Load a package as the worker does, in a child process, before it is promoted.

Verified digests only show that a package is the exported one. An unreadable component or a graph that the
runtime refuses would otherwise first fail in the worker, which then has no model to score with.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import signal
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cxr.errors import CxrError, IncompatiblePackage
from cxr.package import load_package
from inference.model.devices import Runtime
from inference.worker.decode_process import ChildError

if TYPE_CHECKING:
    from cxr.package import ModelPackage

LONGEST_S: Final = 600.0


class TrialLoad:
    """Loads packages in child processes, on the CPU because the worker may occupy the GPU's memory.

    Parameters
    ----------
    runtime
        The setting ``worker.runtime``.
    longest_s
        Time limit for loading, in seconds.
    """

    def __init__(self, runtime: Runtime, *, longest_s: float = LONGEST_S) -> None:
        self._runtime: Runtime = runtime
        self._longest_s = longest_s

    def __call__(self, package: ModelPackage) -> None:
        """Load graph, mask model and input gate, and score one grey image.

        Raises
        ------
        PackageError
            If a component can't be loaded, or loading crashes or exceeds the time limit.
        CxrError
            If the runtime is not installed.
        """
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_load, args=(sender, package.folder, self._runtime), daemon=True)
        child.start()
        sender.close()
        try:
            error = self._outcome(receiver)
        finally:
            child.kill()
            child.join()
            receiver.close()
        if error is not None:
            raise error.error(f"The worker can't load this package; the package in service stays. {error.message}")

    def _outcome(self, receiver: Connection) -> ChildError | None:
        if not receiver.poll(self._longest_s):
            return ChildError(IncompatiblePackage, f"Loading took longer than {self._longest_s:g} s.")
        try:
            outcome: ChildError | None = receiver.recv()
        except EOFError:
            return ChildError(IncompatiblePackage, "The process that loaded the package crashed.")
        return outcome


def _load(sender: Connection, folder: Path, runtime: Runtime) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # Imported in the child only: TensorFlow takes seconds to import.
    from inference.model.model import Model  # noqa: PLC0415
    from inference.worker.image_warnings import InputGate  # noqa: PLC0415

    try:
        package = load_package(folder)
        InputGate.of(package)
        Model.load(package, device="cpu", runtime=runtime)
    except CxrError as error:
        sender.send(ChildError(type(error), str(error)))
    except Exception as error:  # noqa: BLE001 (every exception would occur in the worker, too)
        sender.send(ChildError(IncompatiblePackage, f"Loading failed unexpectedly ({type(error).__name__})."))
    else:
        sender.send(None)
