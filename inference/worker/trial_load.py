"""Load a package as the worker will, in a child process, before it is put into service.

Verified digests only show that a package is what was exported. A part that can't be read, or a graph that the
runtime refuses, would otherwise be found by the worker, when nothing is left to score with.
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
from inference.model.devices import Engine
from inference.worker.decode_process import Refusal

if TYPE_CHECKING:
    from cxr.package import ModelPackage

LONGEST_S: Final = 600.0


class TrialLoad:
    """Loads packages in child processes, on the CPU: the memory of a GPU may be the worker's.

    Parameters
    ----------
    engine
        The setting ``worker.runtime``.
    longest_s
        How long loading may take, in seconds.
    """

    def __init__(self, engine: Engine, *, longest_s: float = LONGEST_S) -> None:
        self._engine: Engine = engine
        self._longest_s = longest_s

    def __call__(self, package: ModelPackage) -> None:
        """Load graph, mask model and input gate, and score one grey image.

        Raises
        ------
        PackageError
            If a part can't be loaded, or loading crashes or does not end.
        CxrError
            If the runtime is not there.
        """
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_load, args=(sender, package.folder, self._engine), daemon=True)
        child.start()
        sender.close()
        try:
            refusal = self._outcome(receiver)
        finally:
            child.kill()
            child.join()
            receiver.close()
        if refusal is not None:
            raise refusal.error(f"The worker could not load this package; what is in service stays. {refusal.message}")

    def _outcome(self, receiver: Connection) -> Refusal | None:
        if not receiver.poll(self._longest_s):
            return Refusal(IncompatiblePackage, f"Loading took longer than {self._longest_s:g} s.")
        try:
            outcome: Refusal | None = receiver.recv()
        except EOFError:
            return Refusal(IncompatiblePackage, "The process that loaded it crashed.")
        return outcome


def _load(sender: Connection, folder: Path, engine: Engine) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # Here, and not in the parent: TensorFlow takes seconds to import.
    from inference.model.model import Model  # noqa: PLC0415
    from inference.worker.image_warnings import InputGate  # noqa: PLC0415

    try:
        package = load_package(folder)
        InputGate.of(package)
        Model.load(package, device="cpu", engine=engine)
    except CxrError as error:
        sender.send(Refusal(type(error), str(error)))
    except Exception as error:  # noqa: BLE001 (whatever a library raises, the worker would meet it too)
        sender.send(Refusal(IncompatiblePackage, f"Loading failed unexpectedly ({type(error).__name__})."))
    else:
        sender.send(None)
