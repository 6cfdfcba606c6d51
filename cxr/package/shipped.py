"""The models that come with the project: where they lie, and how one becomes an ordinary package.

::

    models/
      shipped.json       what there is: digests, fingerprints
      weights.zip        the tensors of all of them, each once (cxr.package.compact_weights)
      covid19/           a package without its model.keras
      four-class/        another
      view/              the view model, whole: it is small

Everything is verified: the archive by its digest before it is read, the expanded package by its own
digests and by the fingerprint that is written down here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxr.errors import DamagedPackage, PackageError
from cxr.package.compact_weights import Layout, expand
from cxr.package.folder import MODEL_FILE, ModelPackage, load_package
from cxr.package.scratch import scratch_folder

INDEX_FILE: Final = "shipped.json"
WEIGHTS_FILE: Final = "weights.zip"
VIEW: Final = "view"
INSTALLED: Final = Path(__file__).resolve().parent.parent / "models"
"""Where they lie in the wheel; in a checkout they are the folder ``models`` at its top."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class Index(BaseModel):
    """The content of ``shipped.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format_version: Literal[1] = 1
    weights: Sha256  # of the archive
    packages: dict[Name, Sha256]  # fingerprints


class Shipped:
    """The shipped models under one folder.

    Parameters
    ----------
    folder
        With ``shipped.json``.

    Raises
    ------
    DamagedPackage
        If there is none, or it is not one that this version reads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._index = Index.model_validate_json((folder / INDEX_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise DamagedPackage("The list of shipped models can't be read: install this project again.") from error

    @property
    def fingerprints(self) -> dict[str, str]:
        """Names of the models, and the fingerprints of their packages."""
        return dict(self._index.packages)

    @contextmanager
    def expanded(self, name: str) -> Iterator[ModelPackage]:
        """Make an ordinary package of a shipped model, in a temporary folder.

        Parameters
        ----------
        name
            One of ``fingerprints``.

        Yields
        ------
        ModelPackage
            Verified; its folder is gone afterwards.

        Raises
        ------
        DamagedPackage
            If a byte is not what was shipped.
        PackageError
            If there is no such model, or no room.
        """
        with scratch_folder() as folder:
            yield self.expand(name, folder / name)

    def expand(self, name: str, target: Path) -> ModelPackage:
        """Do the same into a folder, which must not exist."""
        if name not in self._index.packages:
            raise PackageError(f"No model of this name is shipped; there are {', '.join(self._index.packages)}.")
        try:
            content = self._model(name)
            shutil.copytree(self._folder / name, target)
            (target / MODEL_FILE).write_bytes(content)
        except (OSError, KeyError, zipfile.BadZipFile, ValidationError) as error:
            raise DamagedPackage(
                "The shipped model can't be expanded: free space, or install this project again."
            ) from error
        package = load_package(target)
        if package.fingerprint != self._index.packages[name]:
            raise DamagedPackage("The shipped model is not the one that was shipped: install this project again.")
        return package

    def _model(self, name: str) -> bytes:
        with (self._folder / WEIGHTS_FILE).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self._index.weights:
                raise DamagedPackage("The shipped weights are not those that were shipped: install this project again.")
            with zipfile.ZipFile(file) as archive:
                layout = Layout.model_validate_json(archive.read(f"{name}.json"))
                contents = {tensor.key: archive.read(tensor.key) for tensor in layout.tensors}
                return expand(layout, archive.read(f"{name}.skeleton"), contents)


def shipped_folder() -> Path | None:
    """Find the folder of the shipped models; None: this installation has none."""
    found = [each for each in (INSTALLED, INSTALLED.parent.parent / "models") if each.is_dir()]
    return found[0] if found else None


def view_folder(named: Path | None) -> Path | None:
    """Find the view model: the folder that the settings name, else the shipped one; None: there is none."""
    folder = shipped_folder()
    shipped = None if folder is None else folder / VIEW
    return named or (shipped if shipped is not None and shipped.is_dir() else None)


def shipped_models() -> Shipped | None:
    """Open the shipped models; None: this installation has none.

    Raises
    ------
    DamagedPackage
        If there are some, and their list can't be read.
    """
    folder = shipped_folder()
    return Shipped(folder) if folder is not None and (folder / INDEX_FILE).exists() else None


def write_index(folder: Path, index: Index) -> None:
    """Write ``shipped.json``."""
    (folder / INDEX_FILE).write_text(json.dumps(index.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
