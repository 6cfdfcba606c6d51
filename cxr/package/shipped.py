"""The models that are shipped with this project, and their expansion to ordinary packages.

::

    models/
      shipped.json       index: digest of weights.zip, fingerprints of the packages
      weights.zip        tensors of all models, each once (cxr.package.compact_weights)
      covid19/           package without model.keras
      four-class/        package without model.keras
      view/              view model: a complete package

All of it is verified: the archive by its digest before it is read, the expanded package by its own
digests and by the fingerprint of the index.
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
"""Folder of the models in the wheel; in a checkout it is ``models`` at the top."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class Index(BaseModel):
    """Content of ``shipped.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format_version: Literal[1] = 1
    weights: Sha256  # of weights.zip
    packages: dict[Name, Sha256]  # fingerprint of each model


class Shipped:
    """The shipped models in a folder.

    Parameters
    ----------
    folder
        The folder with ``shipped.json``.

    Raises
    ------
    DamagedPackage
        If ``shipped.json`` is missing or invalid.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._index = Index.model_validate_json((folder / INDEX_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise DamagedPackage("The list of shipped models can't be read: install this project again.") from error

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each model's package, by the model's name."""
        return dict(self._index.packages)

    @contextmanager
    def expanded(self, name: str) -> Iterator[ModelPackage]:
        """Expand a shipped model to an ordinary package in a temporary folder.

        Parameters
        ----------
        name
            A key of ``fingerprints``.

        Yields
        ------
        ModelPackage
            The verified package; its folder is removed on exit.

        Raises
        ------
        DamagedPackage
            If a shipped file is damaged, or the disk is full.
        PackageError
            If there is no such model.
        """
        with scratch_folder() as folder:
            yield self.expand(name, folder / name)

    def expand(self, name: str, target: Path) -> ModelPackage:
        """Expand a shipped model to an ordinary package.

        Parameters
        ----------
        name
            A key of ``fingerprints``.
        target
            The package's folder; it must not exist.

        Raises
        ------
        DamagedPackage
            If a shipped file is damaged, or writing fails.
        PackageError
            If there is no such model.
        """
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
            raise DamagedPackage("The shipped model differs from its recorded fingerprint: install this project again.")
        return package

    def _model(self, name: str) -> bytes:
        with (self._folder / WEIGHTS_FILE).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self._index.weights:
                raise DamagedPackage("The shipped weights differ from their digest: install this project again.")
            with zipfile.ZipFile(file) as archive:
                layout = Layout.model_validate_json(archive.read(f"{name}.json"))
                contents = {tensor.key: archive.read(tensor.key) for tensor in layout.tensors}
                return expand(layout, archive.read(f"{name}.skeleton"), contents)


def shipped_folder() -> Path | None:
    """Return the folder of the shipped models; None: this installation has none."""
    folders = [each for each in (INSTALLED, INSTALLED.parent.parent / "models") if each.is_dir()]
    return folders[0] if folders else None


def view_folder(configured: Path | None) -> Path | None:
    """Return the view model's folder: the configured one, else the shipped one; None: there is none."""
    folder = shipped_folder()
    shipped = None if folder is None else folder / VIEW
    return configured or (shipped if shipped is not None and shipped.is_dir() else None)


def shipped_models() -> Shipped | None:
    """Open the shipped models; None: this installation has none.

    Raises
    ------
    DamagedPackage
        If ``shipped.json`` is invalid.
    """
    folder = shipped_folder()
    return Shipped(folder) if folder is not None and (folder / INDEX_FILE).exists() else None


def write_index(folder: Path, index: Index) -> None:
    """Write ``shipped.json``."""
    (folder / INDEX_FILE).write_text(json.dumps(index.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
