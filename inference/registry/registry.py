"""The model packages of an installation, and the package in service.

::

    models/<fingerprint>/     one verified package each
    models/current            link to the folder of the package in service, swapped atomically
    models/log.jsonl          promotions with time, actor and reason; append-only

A promotion is appended to the log before the link is swapped. If the process is killed in between, the log
holds a promotion that did not take place, never the reverse; a rollback recognises and skips it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cxr.domain import PackageStatus
from cxr.errors import DamagedPackage, IncompatiblePackage, NoActivePackage, PackageError, PromotionRefused
from cxr.folder_sync import sync_folder
from cxr.package import ModelPackage, PackageManifest, load_package, read_manifest
from cxr.package.view_model import is_view_model
from inference.registry.demonstration import write_demonstration
from inference.registry.gates import GateResult, check_status_gates
from inference.registry.promotion_log import Action, Promotion, PromotionLog, service_history

CURRENT = "current"
LOCK = ".lock"
_DRAFT = ".add-"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

GateCheck = Callable[[ModelPackage, ModelPackage | None], Sequence[GateResult]]
"""Checks a package against the gates; the second argument is the package in service, None if there is none."""

Trial = Callable[[ModelPackage], None]
"""Raises a ``PackageError`` if the worker could not load the package (``inference.worker.trial_load``)."""


def no_trial(_package: ModelPackage) -> None:
    """Skip the trial load: for a package that came with the project, or was trained and scored just now."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One package of the registry, as listed: only its manifest was read.

    ``manifest`` is None if it can't be read; ``fault`` is the reason.
    """

    fingerprint: str
    manifest: PackageManifest | None
    is_active: bool
    fault: str | None = None


class Registry:
    """The model packages under one folder.

    Parameters
    ----------
    models_dir
        The folder; created when the first package is added.
    gates
        Gates that a package has to pass for a promotion.
    """

    def __init__(self, models_dir: Path, *, gates: GateCheck = check_status_gates) -> None:
        self._dir = models_dir
        self._gates = gates
        self._log = PromotionLog(models_dir / "log.jsonl")

    @property
    def folder(self) -> Path:
        """Folder of the packages."""
        return self._dir

    def list(self) -> Sequence[Entry]:
        """Return all packages, the one in service first; their files are not verified."""
        active = self.active_fingerprint()
        entries = [self._entry(fingerprint, active) for fingerprint in self._fingerprints()]
        return sorted(entries, key=lambda entry: (not entry.is_active, entry.fingerprint))

    def resolve(self, prefix: str) -> str:
        """Return the one fingerprint that starts with a prefix; ``current`` means the package in service.

        Raises
        ------
        NoActivePackage
            If the prefix is ``current`` and no package is in service.
        PackageError
            If no fingerprint or several start with the prefix.
        """
        if prefix == CURRENT:
            return self._active_fingerprint_or_raise()
        matches = [each for each in self._fingerprints() if prefix and each.startswith(prefix.lower())]
        if not matches:
            raise PackageError(
                "No fingerprint of the registry starts with these characters, and no folder has this name: "
                "`cxr model list` shows the fingerprints."
            )
        if len(matches) > 1:
            raise PackageError(
                f"{len(matches)} packages have a fingerprint that starts with these characters: give more of it; "
                "`cxr model list` shows the fingerprints."
            )
        return matches[0]

    def load(self, fingerprint: str) -> ModelPackage:
        """Verify one package.

        Raises
        ------
        DamagedPackage
            If the package is absent, or a file contradicts the manifest, or the manifest the folder's name.
        IncompatiblePackage
            If this version can't read the package.
        """
        package = load_package(self._folder(fingerprint))
        if package.fingerprint != fingerprint:
            raise DamagedPackage(
                "package.json was changed after the package was added: restore the package from where it was exported."
            )
        return package

    def active(self) -> ModelPackage:
        """Verify the package in service.

        Raises
        ------
        NoActivePackage
            If no package is in service.
        DamagedPackage, IncompatiblePackage
            If the package can't be served.
        """
        return self.load(self._active_fingerprint_or_raise())

    def active_fingerprint(self) -> str | None:
        """Return the fingerprint of the package in service, None if there is none; costs one ``readlink``."""
        try:
            target = str((self._dir / CURRENT).readlink())
        except OSError:
            return None
        return target if _FINGERPRINT.fullmatch(target) else None

    def changed_since(self, fingerprint: str | None) -> bool:
        """Return whether another package than this one is in service now."""
        return self.active_fingerprint() != fingerprint

    def add(self, folder: Path) -> ModelPackage:
        """Verify a package and copy it into the registry, unless it is there already.

        Raises
        ------
        DamagedPackage, IncompatiblePackage
            If the package can't be served.
        PackageError
            If the copy can't be written.
        """
        source = load_package(folder)
        if is_view_model(source.manifest):
            raise IncompatiblePackage(
                "This package is a view model and has no findings to serve: name it with the setting view.model."
            )
        with self._locked():
            if not self._folder(source.fingerprint).exists():
                try:
                    self._copy(source)
                except OSError as error:
                    raise PackageError(f"The package can't be copied ({error.strerror}).") from error
        return self.load(source.fingerprint)

    def check_gates(self, package: ModelPackage) -> Sequence[GateResult]:
        """Return the results of the gates for a verified package, in the registry or not, without promoting it."""
        return self._gates(package, self._active_or_none())

    def promote(
        self,
        fingerprint: str,
        *,
        now: datetime,
        actor: str,
        reason: str,
        accept: Mapping[str, str] | None = None,
        trial: Trial = no_trial,
    ) -> Promotion:
        """Put a package into service; a running worker loads it between two batches.

        A trained package that fails accepted gates goes into service as a demonstration: a copy with a
        fingerprint of its own (``inference.registry.demonstration``), for which those gates stay accepted.

        Parameters
        ----------
        fingerprint
            Full fingerprint of the package.
        now
            Time of the promotion.
        actor, reason
            Account and reason, for the log.
        accept
            Accepted gates: name to reason.
        trial
            Loads the package before it goes into service; an exception keeps the old package in service.

        Returns
        -------
        Promotion
            The log entry, with the fingerprint now in service.

        Raises
        ------
        PromotionRefused
            If a gate fails and is not accepted, or can't be accepted.
        DamagedPackage, IncompatiblePackage
            If the package can't be served.
        """
        with self._locked():
            package = self.load(fingerprint)
            earlier = {gate.name: gate.reason for gate in package.manifest.accepted_gates}
            accepted = earlier | dict(accept or {})
            failed = [gate for gate in self._gates(package, self._active_or_none()) if not gate.is_passed]
            refused = [gate for gate in failed if not (gate.is_acceptable and accepted.get(gate.name))]
            if refused:
                raise PromotionRefused(_describe(refused))
            added = [gate for gate in failed if gate.name not in earlier]
            if added and package.manifest.status is not PackageStatus.UNTRAINED:
                package = self._as_demonstration(package, added, accepted, now)
            trial(package)
            return self._switch(
                Promotion(
                    at=now,
                    action=Action.PROMOTE,
                    fingerprint=package.fingerprint,
                    previous=self.active_fingerprint(),
                    actor=actor,
                    reason=reason,
                    accepted={gate.name: accepted[gate.name] for gate in failed},
                )
            )

    def rollback(self, *, now: datetime, actor: str, reason: str, trial: Trial = no_trial) -> Promotion:
        """Return to the package that the latest promotion replaced; repeated calls go further back.

        Raises
        ------
        PackageError
            If there is no earlier package, or it can't be served.
        """
        with self._locked():
            history = service_history(self._log.read(), self.active_fingerprint())
            if len(history) < 2:
                raise PackageError("There is no earlier package to go back to: `cxr model promote` another one.")
            trial(self.load(history[-2]))
            return self._switch(
                Promotion(
                    at=now,
                    action=Action.ROLLBACK,
                    fingerprint=history[-2],
                    previous=self.active_fingerprint(),
                    actor=actor,
                    reason=reason,
                )
            )

    def promotions(self) -> Sequence[Promotion]:
        """Return the log, oldest first."""
        return self._log.read()

    def _switch(self, promotion: Promotion) -> Promotion:
        self._log.append(promotion)
        temporary = self._dir / f".{CURRENT}-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(promotion.fingerprint)
        temporary.replace(self._dir / CURRENT)
        sync_folder(self._dir)
        return promotion

    def _as_demonstration(
        self, package: ModelPackage, failed: Sequence[GateResult], reasons: Mapping[str, str], now: datetime
    ) -> ModelPackage:
        temporary = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._dir))
        try:
            demonstration = write_demonstration(package, temporary / "package", failed, reasons, now=now)
            if not self._folder(demonstration.fingerprint).exists():
                _make_private(demonstration.folder)
                demonstration.folder.rename(self._folder(demonstration.fingerprint))
                sync_folder(self._dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self.load(demonstration.fingerprint)

    def _copy(self, source: ModelPackage) -> None:
        temporary = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._dir))
        try:
            copy = temporary / source.fingerprint
            shutil.copytree(source.folder.resolve(), copy, symlinks=True)
            _make_private(copy)
            copy.rename(self._folder(source.fingerprint))
            sync_folder(self._dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _entry(self, fingerprint: str, active: str | None) -> Entry:
        is_active = fingerprint == active
        try:
            manifest, actual = read_manifest(self._folder(fingerprint))
        except (DamagedPackage, IncompatiblePackage) as error:
            return Entry(fingerprint, None, is_active, str(error))
        fault = None if actual == fingerprint else "package.json was changed after the package was added."
        return Entry(fingerprint, manifest, is_active, fault)

    def _fingerprints(self) -> Sequence[str]:
        if not self._dir.is_dir():
            return []
        return sorted(each.name for each in self._dir.iterdir() if _FINGERPRINT.fullmatch(each.name))

    def _folder(self, fingerprint: str) -> Path:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise PackageError("A fingerprint has 64 hexadecimal digits: `cxr model list` shows them.")
        return self._dir / fingerprint

    def _active_fingerprint_or_raise(self) -> str:
        fingerprint = self.active_fingerprint()
        if fingerprint is None:
            raise NoActivePackage(
                "No model package is in service: `cxr model promote` one, or make one with `cxr model build-untrained`."
            )
        return fingerprint

    def _active_or_none(self) -> ModelPackage | None:
        try:
            return self.active()
        except PackageError:
            # The package in service can't be read any more: there is nothing to compare with, and a promotion mends it.
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the registry's lock against other processes."""
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(self._dir / LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self._dir.glob(f"{_DRAFT}*"):  # of a process that was killed while it held the lock
                shutil.rmtree(leftover, ignore_errors=True)
            yield


def _make_private(folder: Path) -> None:
    """Restrict a package's files to their owner (modes 0600 and 0700) and fsync them."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fchmod(opened.fileno(), 0o600)
            os.fsync(opened.fileno())
    folder.chmod(0o700)
    sync_folder(folder)


def _describe(refused: Sequence[GateResult]) -> str:
    faults = "; ".join(f"gate {gate.name}: {gate.figure} (required: {gate.requirement})" for gate in refused)
    if all(gate.is_acceptable for gate in refused):
        return (
            f"The package is not promoted. {faults}. Correct the package, or accept the gate by name and with a reason."
        )
    final = ", ".join(gate.name for gate in refused if not gate.is_acceptable)
    return f"The package is not promoted. {faults}. Correct the package: {final} can't be accepted."
