"""The model packages of this installation, and which of them is in service.

::

    models/<fingerprint>/     one verified package each
    models/current            link to the folder of the one in service, swapped atomically
    models/log.jsonl          who put what into service, when and why; only ever appended to

A promotion is written to the log before the link is swapped: killed in between, the log tells of a
promotion that did not take place, never the other way round, and a rollback sees that.
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
from cxr.package import ModelPackage, PackageManifest, load_package, read_manifest, sync_folder
from cxr.package.view_model import is_view_model
from inference.registry.demonstration import demonstrate
from inference.registry.gates import GateResult, judge_by_status
from inference.registry.promotion_log import Action, Promotion, PromotionLog, in_service

CURRENT = "current"
LOCK = ".lock"
_DRAFT = ".add-"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

Judge = Callable[[ModelPackage, ModelPackage | None], Sequence[GateResult]]
"""Judges a package against the one in service; None: there is none."""

Trial = Callable[[ModelPackage], None]
"""Raises a ``PackageError`` where the worker could not load a package (``inference.worker.trial_load``)."""


def no_trial(_package: ModelPackage) -> None:
    """Accept a package without loading it: one that came with the project, or was just trained and scored here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One package of the registry, as ``Registry.list`` finds it; only its manifest was read.

    ``manifest`` is None where ``fault`` says why it can't be read.
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
        The folder; made when the first package is added.
    judge
        The gates that a promotion has to pass.
    """

    def __init__(self, models_dir: Path, *, judge: Judge = judge_by_status) -> None:
        self._dir = models_dir
        self._judge = judge
        self._log = PromotionLog(models_dir / "log.jsonl")

    def list(self) -> Sequence[Entry]:
        """Return all packages, the one in service first, without verifying their files."""
        active = self.active_fingerprint()
        entries = [self._entry(fingerprint, active) for fingerprint in self._fingerprints()]
        return sorted(entries, key=lambda entry: (not entry.is_active, entry.fingerprint))

    def resolve(self, prefix: str) -> str:
        """Return the fingerprint that starts so; ``current`` is the one in service.

        Raises
        ------
        NoActivePackage
            If ``current`` is asked for and no package is in service.
        PackageError
            If none or several start so.
        """
        if prefix == CURRENT:
            return self._active_fingerprint_or_raise()
        found = [each for each in self._fingerprints() if each.startswith(prefix.lower())] if prefix else []
        if len(found) != 1:
            raise PackageError(
                f"{len(found)} packages have a fingerprint that starts so: `cxr model list` shows all; give more of it."
            )
        return found[0]

    def load(self, fingerprint: str) -> ModelPackage:
        """Verify one package.

        Raises
        ------
        DamagedPackage
            If it is absent or a file is not what its manifest or the folder's name says.
        IncompatiblePackage
            If this version does not read it.
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
            If none is.
        DamagedPackage, IncompatiblePackage
            If it can't be served.
        """
        return self.load(self._active_fingerprint_or_raise())

    def active_fingerprint(self) -> str | None:
        """Return the fingerprint of the package in service: one ``readlink``, cheap between two batches."""
        try:
            target = str((self._dir / CURRENT).readlink())
        except OSError:
            return None
        return target if _FINGERPRINT.fullmatch(target) else None

    def changed_since(self, fingerprint: str | None) -> bool:
        """Whether another package than this one is in service now."""
        return self.active_fingerprint() != fingerprint

    def add(self, folder: Path) -> ModelPackage:
        """Verify a package and copy it into the registry; one that is there already stays.

        Raises
        ------
        DamagedPackage, IncompatiblePackage
            If the package can't be served.
        PackageError
            If the disk refuses.
        """
        source = load_package(folder)
        if is_view_model(source.manifest):
            raise IncompatiblePackage(
                "This package tells the view and no finding, so it can't serve: name it with the setting view.model."
            )
        with self._locked():
            if not self._folder(source.fingerprint).exists():
                try:
                    self._copy(source)
                except OSError as error:
                    raise PackageError(f"The package can't be copied ({error.strerror}).") from error
        return self.load(source.fingerprint)

    def judge(self, fingerprint: str) -> Sequence[GateResult]:
        """Return what the gates say about a package, were it promoted now."""
        return self.judge_package(self.load(fingerprint))

    def judge_package(self, package: ModelPackage) -> Sequence[GateResult]:
        """Return what the gates say about a verified package, in the registry or not, were it promoted now."""
        return self._judge(package, self._active_or_none())

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
        """Put a package into service; a running worker takes it up between two batches.

        A trained package that is promoted past a gate goes into service as a demonstration: a copy
        with a fingerprint of its own (``inference.registry.demonstration``). Gates that such a copy was
        promoted past stay accepted.

        Parameters
        ----------
        fingerprint
            In full.
        now
            The time.
        actor, reason
            Who does it and why, for the log.
        accept
            Failed gates that are accepted: name to reason.
        trial
            Called with what is about to be in service; what it raises keeps the old one there.

        Returns
        -------
        Promotion
            With the fingerprint that is in service now.

        Raises
        ------
        PromotionRefused
            If a gate fails that is not accepted, or that nobody may accept.
        DamagedPackage, IncompatiblePackage
            If the package can't be served.
        """
        with self._locked():
            package = self.load(fingerprint)
            standing = {gate.name: gate.reason for gate in package.manifest.accepted_gates}
            accepted = standing | dict(accept or {})
            failed = [gate for gate in self._judge(package, self._active_or_none()) if not gate.is_passed]
            refused = [gate for gate in failed if not (gate.is_acceptable and accepted.get(gate.name))]
            if refused:
                raise PromotionRefused(_describe(refused))
            added = [gate for gate in failed if gate.name not in standing]
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
        """Put the package back into service that the latest promotion took out of it.

        Repeated, it goes further back, as undo does.

        Raises
        ------
        PackageError
            If there is none to go back to, or it can't be served.
        """
        with self._locked():
            history = in_service(self._log.read(), self.active_fingerprint())
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
            made = demonstrate(package, temporary / "package", failed, reasons, now=now)
            if not self._folder(made.fingerprint).exists():
                _make_private(made.folder)
                made.folder.rename(self._folder(made.fingerprint))
                sync_folder(self._dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self.load(made.fingerprint)

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
            manifest, found = read_manifest(self._folder(fingerprint))
        except (DamagedPackage, IncompatiblePackage) as error:
            return Entry(fingerprint, None, is_active, str(error))
        fault = None if found == fingerprint else "package.json was changed after the package was added."
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
            # What is in service can't be served any more: nothing to compare with, and every reason to promote.
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the registry meanwhile."""
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(self._dir / LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self._dir.glob(f"{_DRAFT}*"):  # of a process that was killed while it held the lock
                shutil.rmtree(leftover, ignore_errors=True)
            yield


def _make_private(folder: Path) -> None:
    """Leave the files of a package to their owner, whatever they were copied from, and put them on the platter."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fchmod(opened.fileno(), 0o600)
            os.fsync(opened.fileno())
    folder.chmod(0o700)
    sync_folder(folder)


def _describe(refused: Sequence[GateResult]) -> str:
    faults = "; ".join(f"gate {gate.name}: {gate.figure} (wanted: {gate.bar})" for gate in refused)
    if all(gate.is_acceptable for gate in refused):
        return f"The package is not promoted. {faults}. Mend it, or accept the gate by name and with a reason."
    final = ", ".join(gate.name for gate in refused if not gate.is_acceptable)
    return f"The package is not promoted. {faults}. Mend it: {final} can't be accepted."
