"""Checkpoints: the state of a run between two epochs, in one atomic file.

It holds every variable of the network (with the random state of dropout) and of the optimiser, and the
decisions so far. The data are a function of (seed, epoch), so the rest of the run depends on nothing else.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cxr.errors import RunError
from training.files import write_whole
from training.runs.early_stopping import Progress

STATE_FILE: Final = "state.npz"

Arrays = list[NDArray[Any]]


@dataclass(slots=True)
class State:
    """Progress of a run: the next epoch is ``epoch`` of stage ``stage``, both counted from 0."""

    stage: int = 0
    epoch: int = 0
    total_epochs: int = 0  # over all stages; data and augmentation depend on it
    progress: Progress = field(default_factory=Progress)
    history: list[dict[str, float | int | str]] = field(default_factory=list)
    best_file: str | None = None  # weights of the stage's best epoch


def save_state(folder: Path, state: State, network: Sequence[Any], optimizer: Sequence[Any]) -> None:
    """Write the state; the previous file stays until this one is synced.

    Parameters
    ----------
    folder
        The run's folder ``checkpoints``.
    state
        Progress and decisions.
    network, optimizer
        Variables; those of the optimiser are empty between two stages.
    """
    arrays = {f"network{index}": _numpy(each) for index, each in enumerate(network)}
    arrays |= {f"optimizer{index}": _numpy(each) for index, each in enumerate(optimizer)}
    document = np.frombuffer(json.dumps(asdict(state)).encode(), np.uint8)
    _write(folder / STATE_FILE, arrays | {"state": document})


def load_state(folder: Path) -> tuple[State, Arrays, Arrays] | None:
    """Read the state, the network's and the optimiser's variables; None without a checkpoint.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            document = json.loads(file["state"].tobytes())
            document["progress"] = Progress.from_document(document["progress"])
            return State(**document), _numbered(file, "network"), _numbered(file, "optimizer")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise RunError("The run's checkpoint is damaged: delete the run's folder and start it again.") from error


def save_weights(path: Path, network: Sequence[Any]) -> None:
    """Write a network's variables as an ``.npz`` file."""
    _write(path, {f"network{index}": _numpy(each) for index, each in enumerate(network)})


def load_weights(path: Path) -> Arrays:
    """Read the variables that ``save_weights`` wrote, in their order.

    Raises
    ------
    RunError
        If the file is absent or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return _numbered(file, "network")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunError("The weights of the best epoch are damaged: delete the run's folder and start again.") from error


def assign(variables: Sequence[Any], arrays: Arrays) -> None:
    """Set variables to saved values.

    Raises
    ------
    RunError
        If number or shapes differ.
    """
    shapes = [tuple(each.shape) for each in variables]
    if shapes != [array.shape for array in arrays]:
        raise RunError(
            "The checkpoint belongs to another network: use the recipe that the run began with, or a new folder."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _numpy(variable: Any) -> NDArray[Any]:  # noqa: ANN401 (a Keras variable)
    array: NDArray[Any] = variable.numpy()
    return array


def _numbered(file: Mapping[str, NDArray[Any]], name: str) -> Arrays:
    count = sum(key.startswith(name) for key in file)
    return [file[f"{name}{index}"] for index in range(count)]


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_whole(path, content.getbuffer())
