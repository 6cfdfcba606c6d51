"""Read, verify and write the folder of a model package.

The folder holds ``model.keras`` (graph and weights), ``package.json`` (see ``cxr.package.manifest``),
``MODEL_CARD.md`` and other files that the manifest lists. The manifest lists every file with its SHA-256; unlisted
files, links and subfolders are refused.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cxr.errors import DamagedPackage, PackageError
from cxr.folder_sync import sync_folder
from cxr.package.manifest import (
    AcceptedGate,
    OperatingPoint,
    Outputs,
    PackageClass,
    PackageManifest,
    Provenance,
    parse_manifest,
)

__all__ = [
    "MANIFEST_FILE",
    "MODEL_CARD_FILE",
    "MODEL_FILE",
    "AcceptedGate",
    "ModelPackage",
    "OperatingPoint",
    "Outputs",
    "PackageClass",
    "PackageManifest",
    "Provenance",
    "load_package",
    "read_manifest",
    "write_package",
]

MODEL_FILE = "model.keras"
MANIFEST_FILE = "package.json"
MODEL_CARD_FILE = "MODEL_CARD.md"
REQUIRED_FILES = frozenset({MODEL_FILE, MODEL_CARD_FILE})

# A manifest has a few KiB.
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package whose files were verified.

    Parameters
    ----------
    folder
        The package's folder.
    manifest
        Content of ``package.json``.
    fingerprint
        Identifier of the package in every result: hex SHA-256, see ``cxr.package.manifest.fingerprint_of``.
    """

    folder: Path
    manifest: PackageManifest
    fingerprint: str

    @property
    def model_path(self) -> Path:
        """Path of the graph with its weights."""
        return self.folder / MODEL_FILE


def read_manifest(folder: Path) -> tuple[PackageManifest, str]:
    """Read ``package.json`` without verifying the other files.

    Returns
    -------
    tuple[PackageManifest, str]
        The manifest and the package's fingerprint.

    Raises
    ------
    DamagedPackage
        If ``package.json`` is missing or unreadable.
    IncompatiblePackage
        If this version does not support its content.
    """
    try:
        with _open_regular(folder / MANIFEST_FILE) as file:
            content = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise DamagedPackage(f"package.json can't be read ({error.strerror}): give the folder of a package.") from error
    if len(content) > _MAX_MANIFEST_BYTES:
        raise DamagedPackage("package.json is larger than 1 MiB: this is not a model package.")
    return parse_manifest(content)


def load_package(folder: Path) -> ModelPackage:
    """Verify a package.

    Raises
    ------
    DamagedPackage
        If a file is missing, unlisted, a link or a folder, or differs from its digest.
    IncompatiblePackage
        If this version does not support its manifest.
    """
    manifest, fingerprint = read_manifest(folder)
    _check_file_set(folder, manifest)
    for name, expected in manifest.files.items():
        if _sha256(folder / name) != expected:
            raise DamagedPackage(
                f"{name} differs from the SHA-256 that package.json records: restore the package from where it was "
                "exported."
            )
    return ModelPackage(folder, manifest, fingerprint)


def write_package(folder: Path, manifest: PackageManifest, contents: Mapping[str, bytes | Path]) -> ModelPackage:
    """Write a package; the folder appears complete or not at all.

    Parameters
    ----------
    folder
        The folder to create; it must not exist.
    manifest
        The manifest; ``files`` is replaced.
    contents
        File name to content, or to a file to copy; at least ``model.keras`` and ``MODEL_CARD.md``.

    Raises
    ------
    PackageError
        If the folder exists, a required file is absent, or writing fails.
    """
    if not set(contents) >= REQUIRED_FILES or MANIFEST_FILE in contents:
        raise PackageError(
            f"A package needs {', '.join(sorted(REQUIRED_FILES))}; {MANIFEST_FILE} is written for it: leave that out."
        )
    if folder.exists():
        raise PackageError("The folder of the new package exists already: give another one, or remove it.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".package-", dir=folder.parent))
        try:
            _fill(temporary, manifest, contents)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    except OSError as error:
        raise PackageError(f"The package can't be written ({error.strerror}).") from error
    return load_package(folder)


def _fill(folder: Path, manifest: PackageManifest, contents: Mapping[str, bytes | Path]) -> None:
    # Check the names before any file is written.
    _with_files(manifest, dict.fromkeys(contents, "0" * 64))
    for name, content in contents.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_bytes(content)
    digests = {name: _sha256(folder / name) for name in sorted(contents)}
    complete = _with_files(manifest, digests)
    (folder / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in (*contents, MANIFEST_FILE):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _with_files(manifest: PackageManifest, digests: Mapping[str, str]) -> PackageManifest:
    try:
        return PackageManifest.model_validate(dict(manifest) | {"files": dict(digests)})
    except ValidationError:
        raise PackageError(
            "A file name of the package is refused; accepted are letters, digits, '.', '_' and '-': rename the file."
        ) from None


def _check_file_set(folder: Path, manifest: PackageManifest) -> None:
    with os.scandir(folder) as entries:
        is_file = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    if not all(is_file.values()):
        raise DamagedPackage("The package holds a link or a folder; it may hold plain files only.")
    listed = set(manifest.files)
    missing = sorted((listed | REQUIRED_FILES) - set(is_file))
    if missing:
        raise DamagedPackage(f"The package lacks {', '.join(missing)}: restore it from where it was exported.")
    extra = len(set(is_file) - listed - {MANIFEST_FILE})
    if extra:
        # The message omits their names, which could contain patient data.
        raise DamagedPackage(f"The package holds {extra} file(s) that package.json does not list: remove them.")


def _open_regular(path: Path) -> io.BufferedReader:
    # O_NOFOLLOW: a link may have replaced the file since the folder was checked.
    # O_NONBLOCK: opening a named pipe would block until it has a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a plain file")
    return file


def _sha256(path: Path) -> str:
    try:
        with _open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedPackage(f"{path.name} can't be read ({error.strerror}).") from error
