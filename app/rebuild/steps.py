"""Steps of a rebuild (data, fine-tune, package, gates); each one continues from the files of an earlier attempt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.rebuild.data import MANIFEST_FILE, Counts, prepare
from app.rebuild.report import REPORT_FILE, Report, write_report
from cxr.domain import PackageStatus, RebuildState
from cxr.errors import PackageError
from cxr.package import ModelPackage, load_package
from db.models import Outcome
from inference.registry import GateResult, Gates, Registry
from inference.registry.golden_check import golden_difference

if TYPE_CHECKING:
    from config.settings import Settings
    from db.engine import Database
    from training.recipe import TrainingRecipe
    from training.runs.folder import Run
    from training.runs.train import Options

RUN: Final = "run"
PACKAGE: Final = "package"
TOO_FEW: Final = "too_few_images"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """One rebuild in its folder.

    Parameters
    ----------
    settings
        All settings.
    database
        Audit database whose results are exported.
    folder
        Folder of this rebuild.
    due_at
        Its scheduled time.
    earlier_manifests
        Manifests of the start run and of the last rebuild.
    clock
        Returns the current time, aware.
    """

    settings: Settings
    database: Database
    folder: Path
    due_at: datetime
    earlier_manifests: Sequence[Path]
    clock: Callable[[], datetime]

    def run(self) -> Outcome:
        """Run the remaining steps and write the report; nothing is promoted.

        Returns
        -------
        Outcome
            ``DONE``, or ``SKIPPED`` with ``too_few_images``.

        Raises
        ------
        CxrError
            If a step fails; files of earlier steps stay.
        """
        recipe = self._recipe()
        settings = self.settings.rebuild
        counts = prepare(settings, self.database, self.settings.spool_dir, self.folder, recipe, self.earlier_manifests)
        if counts.new_images < settings.min_new_images:
            return Outcome(
                state=RebuildState.SKIPPED,
                error_code=TOO_FEW,
                images=counts.images,
                new_images=counts.new_images,
            )
        run = self._finetune(recipe)
        package = self._package(run)
        gates = self._registry().check_gates(package)
        self._report(counts, run, package, gates)
        return Outcome(
            state=RebuildState.DONE,
            images=counts.images,
            new_images=counts.new_images,
            fingerprint=package.fingerprint,
            failed_gates=[gate.name for gate in gates if not gate.is_passed],
        )

    def _recipe(self) -> TrainingRecipe:
        from training.recipe import load_recipe

        return load_recipe(self.settings.rebuild.recipe, self.settings.rebuild.overrides)

    def _finetune(self, recipe: TrainingRecipe) -> Run:
        from training.runs import train

        return train.finetune(
            recipe,
            self.folder / MANIFEST_FILE,
            self.folder / RUN,
            start=self.settings.rebuild.start,
            now=self.clock(),
            options=self._options(),
        )

    def _options(self) -> Options:
        from training.runs.train import Options

        return Options(processes=self.settings.rebuild.processes)

    def _package(self, run: Run) -> ModelPackage:
        from training.packaging.build import package_run

        target = self.folder / PACKAGE
        if target.exists():
            return load_package(target)
        return package_run(run.folder, target, compare_with=self._comparable_packages(run), options=self._options())

    def _comparable_packages(self, run: Run) -> list[Path]:
        active = self._active()
        if active is None or not self.settings.rebuild.compare_with_active:
            return []
        is_comparable = active.manifest.status is not PackageStatus.UNTRAINED
        shared = set(active.manifest.findings) & set(run.recipe.task.classes)
        return [active.folder] if is_comparable and shared else []

    def _active(self) -> ModelPackage | None:
        try:
            return self._registry().active()
        except PackageError:
            return None

    def _registry(self) -> Registry:
        return Registry(self.settings.models_dir, gates=Gates(self.settings.gates, golden_difference))

    def _report(self, counts: Counts, run: Run, package: ModelPackage, gates: Sequence[GateResult]) -> None:
        report = Report(
            due_at=self.due_at,
            ended_at=self.clock(),
            counts=counts,
            run=run,
            start=self.settings.rebuild.start,
            package=package,
            active=self._active(),
            gates=tuple(gates),
        )
        write_report(report, self.folder / REPORT_FILE)
