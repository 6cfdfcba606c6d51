"""Write a network as a ``.keras`` file whose bytes depend on the network alone."""

from __future__ import annotations

import json
import tempfile
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

from training.files import whole_file
from training.networks.keras_types import KerasModel

# The earliest date that a zip archive can hold: dates inside say nothing.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def save_network(network: KerasModel, path: Path, *, now: datetime) -> None:
    """Write a network: the same network and the same ``now`` give the same bytes.

    Keras writes the time of day and Python's object numbers into its archive; the package's
    fingerprint would differ between two exports of one model.

    Parameters
    ----------
    network
        The Keras model; it is written without how it was trained.
    path
        The file to write.
    now
        The time that is recorded.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / "model.keras"
        network.save(written, include_optimizer=False)
        with (
            zipfile.ZipFile(written) as source,
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
    """Number shared objects in the order of their appearance, not by their place in memory."""
    if isinstance(node, list):
        return [_renumber(value, numbers) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: numbers.setdefault(value, len(numbers) + 1) if key == "shared_object_id" else _renumber(value, numbers)
        for key, value in node.items()
    }
