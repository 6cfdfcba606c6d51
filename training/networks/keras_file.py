"""Reproducible ``.keras`` files: their bytes depend on the network and a given time alone."""

from __future__ import annotations

import json
import tempfile
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

from training.files import whole_file
from training.networks.keras_types import KerasModel

# The earliest date of a zip archive, for all members.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def save_network(network: KerasModel, path: Path, *, now: datetime) -> None:
    """Write a network as an atomic file; the same network and ``now`` give the same bytes.

    Keras writes the current time and Python object ids into its archive, so that the fingerprint would
    differ between two exports of one model.

    Parameters
    ----------
    network
        The Keras model; it is written without optimiser and loss.
    path
        The file to write.
    now
        Time recorded in the file.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        original = Path(folder) / "model.keras"
        network.save(original, include_optimizer=False)
        with (
            zipfile.ZipFile(original) as source,
            whole_file(path) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target,
        ):
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    content = _dump(json.loads(content) | {"date_saved": now.strftime("%Y-%m-%d@%H:%M:%S")})
                elif name == "config.json":
                    content = _dump(_renumber(json.loads(content), {}))
                target.writestr(zipfile.ZipInfo(name, _NO_DATE), content)


def _dump(document: object) -> bytes:
    return json.dumps(document).encode()


def _renumber(node: Any, numbers: dict[int, int]) -> Any:  # noqa: ANN401 (any JSON)
    """Number shared objects by order of appearance instead of by memory address."""
    if isinstance(node, list):
        return [_renumber(value, numbers) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: numbers.setdefault(value, len(numbers) + 1) if key == "shared_object_id" else _renumber(value, numbers)
        for key, value in node.items()
    }
