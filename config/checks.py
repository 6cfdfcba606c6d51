"""Checks of the settings that need this machine: files, folders and their permissions.

The commands call ``check_start`` before they open a port; `cxr config check` reports the same faults.
Messages name the setting, and a path only in a command to run.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from config.settings import DestinationSettings, Settings, ViewSettings
from cxr.domain import PixelView, UnknownView
from cxr.errors import PackageError, SettingsError
from cxr.package import read_manifest
from cxr.package.shipped import view_folder
from cxr.package.view_model import ENOUGH_LATERALS, component_of

_BESIDE_DATABASE: Final = ("-wal", "-shm", "-journal")
_NEEDS_VIEW_MODEL: Final[tuple[tuple[str, Callable[[ViewSettings], bool]], ...]] = (
    ("view.unknown = model", lambda view: view.unknown is UnknownView.MODEL),
    # Only if it is set: by default nothing is held where no view model is installed.
    ("view.pixels = hold", lambda view: view.pixels is PixelView.HOLD and "pixels" in view.model_fields_set),
)


def check_start(settings: Settings) -> None:
    """Refuse to start with missing files, or with private files that others can read or replace.

    Raises
    ------
    SettingsError
        If there are faults; the message lists all.
    """
    faults = faults_at_start(settings)
    if faults:
        raise SettingsError("\n".join(["The settings can't be used on this machine:", *(f"  {it}" for it in faults)]))


def faults_at_start(settings: Settings) -> tuple[str, ...]:
    """Return the faults of files and folders that the settings name.

    Returns
    -------
    tuple[str, ...]
        One sentence per fault; empty if there is none.
    """
    return tuple(_faults(settings))


def _faults(settings: Settings) -> Iterator[str]:
    tls = settings.listener.tls
    if tls.port is not None:
        yield from _file_faults("listener.tls.certificate", tls.certificate)
        yield from _file_faults("listener.tls.ca", tls.ca)
        yield from key_faults("listener.tls.key", tls.key)
    if settings.audit.key_file is not None and settings.audit.key_file.exists():
        yield from key_faults("audit.key_file", settings.audit.key_file)
    if settings.audit.pseudonym_key_file is not None and settings.audit.pseudonym_key_file.exists():
        yield from key_faults("audit.pseudonym_key_file", settings.audit.pseudonym_key_file)
    if not _is_writable(settings.data_dir):
        yield "data_dir: the service's account can't create this folder or write to it; accepted is one that it can"
    if not os.access(settings.audit_key_path, os.F_OK) and not _is_writable(settings.audit_key_path.parent):
        yield (
            "audit.key_file: the service's account can't create its folder or write to it; accepted is one that it may "
            "write: create it, or set another"
        )
    yield from mode_faults(settings)
    for destination in settings.destinations:
        yield from _destination_faults(destination)
    yield from _view_faults(settings.view)


def mode_faults(settings: Settings) -> Iterator[str]:
    """Return the faults in the permissions of the audit database, its keys and their folders.

    Parameters
    ----------
    settings
        All settings; what does not exist yet has no fault.

    Yields
    ------
    str
        Which file or folder others can read, change or replace, and the command that mends it.
    """
    database, heads = settings.database_path, settings.audit_heads_path
    for path in (database, *(database.with_name(database.name + suffix) for suffix in _BESIDE_DATABASE)):
        yield from _private_file_faults("data_dir", path)
    yield from _private_file_faults("audit.key_file", heads)
    folders = {
        settings.data_dir: "data_dir",
        settings.audit_key_path.parent: "audit.key_file",
        settings.pseudonym_key_path.parent: "audit.pseudonym_key_file",
    }
    for folder, setting in folders.items():
        mode = _mode(folder)
        # In a folder with the sticky bit, others can't replace a file that is not theirs.
        if mode & 0o022 and not mode & stat.S_ISVTX:
            yield (
                f"{setting}: others can write to the folder {folder.name} (mode {mode:04o}) and replace the files in "
                f"it; accepted is 0700: chmod 700 {shlex.quote(str(folder))}"
            )


def mode_notes(settings: Settings) -> Iterator[str]:
    """Return a sentence for each folder whose file names others can see; the files themselves are private."""
    for folder in dict.fromkeys((settings.data_dir, settings.audit_key_path.parent)):
        mode = _mode(folder)
        if mode & 0o055 and not mode & 0o022:
            yield (
                f"Other accounts can list the folder {folder.name} (mode {mode:04o}). To keep them out: "
                f"chmod 700 {shlex.quote(str(folder))}"
            )


def _private_file_faults(setting: str, path: Path) -> Iterator[str]:
    mode = _mode(path)
    if mode & 0o077:
        yield (
            f"{setting}: others can read or write {path.name} (mode {mode:04o}); accepted is 0600: "
            f"chmod 600 {shlex.quote(str(path))}"
        )


def _mode(path: Path) -> int:
    """Return the permission bits; 0 if the file or folder does not exist or can't be seen."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


def _view_faults(view: ViewSettings) -> Iterator[str]:
    """Return faults in the use of the view model; the worker checks that its files are intact."""
    folder = view_folder(view.model)
    dependent = [name for name, needs_model in _NEEDS_VIEW_MODEL if needs_model(view)]
    if folder is None:
        yield from (
            f"{name} needs a view model, and this installation has no view model: set view.model" for name in dependent
        )
        return
    try:
        component = component_of(read_manifest(folder)[0])
    except PackageError:
        if view.model is not None or dependent:
            yield "view.model: this is no view model that can be used; accepted is a folder of `cxr train view`"
        return
    if view.unknown is UnknownView.MODEL and not component.may_decide:
        yield (
            f"view.unknown = model: the view model was trained on {component.laterals} laterals; accepted is one that "
            f"was trained on {ENOUGH_LATERALS} or more: train one (`cxr train view`) and set view.model, or set "
            "view.unknown to hold, score or reject"
        )


def _destination_faults(destination: DestinationSettings) -> Iterator[str]:
    where = f"destinations ({destination.name})"
    yield from _file_faults(f"{where}.tls_ca", destination.tls_ca)
    yield from _file_faults(f"{where}.tls_certificate", destination.tls_certificate)
    yield from key_faults(f"{where}.tls_key", destination.tls_key)
    folder = Path(destination.address)
    if destination.kind == "folder" and not (folder.is_dir() and os.access(folder, os.W_OK)):
        yield f"{where}.address: there is no such folder, or the service's account can't write to it; create it first"


def _is_writable(folder: Path) -> bool:
    """Whether we can write to a folder, or create it in its nearest existing parent."""
    # Not Path.exists: it raises in a folder without permission.
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _file_faults(setting: str, path: Path | None) -> Iterator[str]:
    if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
        yield f"{setting}: there is no such file, or the service's account can't read it"


def key_faults(setting: str, path: Path | None) -> Iterator[str]:
    """Return the faults of a private key file.

    Parameters
    ----------
    setting
        Name of its setting.
    path
        The file; None: no fault.

    Yields
    ------
    str
        That it is missing or unreadable, or that others may read or write it.
    """
    yield from _file_faults(setting, path)
    if path is None or not path.is_file():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield f"{setting}: others can read or write this private key (mode {mode:04o}); accepted is 0600: chmod 600 it"
