"""A run's folder: its inputs, its checkpoint and its results.

::

    config.toml        the recipe              manifest.csv        every case, with its side
    run.json           phase, digests, parent  splits.csv          image_id and side
    environment.json   versions, machine       preprocess.json     the pixel recipe and its digest
    checkpoints/       state between epochs    history.csv         one line per epoch
    model.keras        calibrated model        operating_point.json
    predictions_val.csv, predictions_test.csv  fingerprint.json

The same command on the same folder resumes a run that was killed.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
import tomlkit

from cxr.errors import RunError
from training.cases import LABEL_PREFIX, assert_disjoint, read_manifest, resolve_paths, split, write_manifest
from training.cases.splits import DEFAULT_STRATIFY
from training.files import sha256_of, write_json, write_whole
from training.inputs.label_table import refuse_unknown_labels
from training.recipe import TrainingRecipe, parse_recipe
from training.runs.freezing import Phase

CONFIG_FILE: Final = "config.toml"
RUN_FILE: Final = "run.json"
MANIFEST_FILE: Final = "manifest.csv"
SPLITS_FILE: Final = "splits.csv"
ENVIRONMENT_FILE: Final = "environment.json"
PREPROCESS_FILE: Final = "preprocess.json"
HISTORY_FILE: Final = "history.csv"
MODEL_FILE: Final = "model.keras"
CALIBRATION_FILE: Final = "calibration.json"
FINGERPRINT_FILE: Final = "fingerprint.json"
CHECKPOINTS: Final = "checkpoints"

_FINGERPRINTED: Final = (MODEL_FILE, PREPROCESS_FILE, "operating_point.json")


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has begun.

    Parameters
    ----------
    folder
        Its folder.
    recipe
        Its training recipe.
    phase
        ``pretrain`` or ``finetune``.
    parent
        Fingerprint of the run whose weights it starts from; None: no parent.
    is_done
        Whether it is finished: model, calibration and predictions are written.
    """

    folder: Path
    recipe: TrainingRecipe
    phase: Phase
    parent: str | None
    is_done: bool

    @property
    def checkpoints(self) -> Path:
        """Folder of its checkpoints."""
        return self.folder / CHECKPOINTS

    def manifest(self) -> pd.DataFrame:
        """Read its cases, with absolute paths and sides."""
        return resolve_paths(read_manifest(self.folder / MANIFEST_FILE), self.folder)

    def fingerprint(self) -> str:
        """Return the fingerprint of a finished run, a SHA-256 in hex.

        Raises
        ------
        RunError
            If it is not finished.
        """
        if not self.is_done:
            raise RunError("This run is not finished: give its command again; it resumes where it stopped.")
        fingerprint: str = json.loads((self.folder / FINGERPRINT_FILE).read_text(encoding="utf-8"))["fingerprint"]
        return fingerprint


def begin_run(
    folder: Path,
    recipe: TrainingRecipe,
    manifest: Path,
    *,
    phase: Phase,
    parent: Run | None,
    environment: dict[str, Any],
    now: datetime,
) -> Run:
    """Create a run's folder, or open an existing folder of the same run.

    Parameters
    ----------
    folder
        The run's folder.
    recipe
        Its training recipe.
    manifest
        Its cases; without sides they are split as in the recipe.
    phase
        ``pretrain`` or ``finetune``.
    parent
        The finished run whose weights it starts from.
    environment
        Software versions and machine, for ``environment.json``.
    now
        Time recorded in ``run.json``.

    Raises
    ------
    RunError
        If the folder holds a run of another recipe, manifest or parent, or a label is unknown.
    """
    identity = {
        "phase": phase,
        "recipe": recipe.digest,
        "manifest": sha256_of(manifest),
        "parent": None if parent is None else parent.fingerprint(),
    }
    if (folder / RUN_FILE).exists():
        existing = open_run(folder)
        recorded = _read_json(folder / RUN_FILE)
        differing = [name for name, value in identity.items() if recorded.get(name) != value]
        if differing:
            raise RunError(
                f"The run's folder holds a run of another {' and '.join(differing)}: name another folder, or give the "
                "command that began it."
            )
        return existing
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG_FILE).exists():
        raise RunError("The run's folder exists and holds other files: name a new folder.")
    cases = _with_sides(resolve_paths(read_manifest(manifest), manifest.absolute().parent), recipe)
    refuse_unknown_labels(cases, recipe.task)
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG_FILE, tomlkit.dumps(recipe.to_document()))
    write_manifest(cases, folder / MANIFEST_FILE)
    write_whole(folder / SPLITS_FILE, cases[["image_id", "split"]].to_csv(index=False, lineterminator="\n"))
    write_json(folder / ENVIRONMENT_FILE, environment | {"seed": recipe.seed})
    pixels = recipe.pixels
    write_json(folder / PREPROCESS_FILE, {"recipe": pixels.to_dict(), "digest": pixels.digest})
    # Last: run.json marks the run as begun.
    write_json(folder / RUN_FILE, identity | {"created": now.isoformat()})
    return Run(folder, recipe, phase, identity["parent"], is_done=False)


def begin_ensemble(folder: Path, members: Sequence[Run], *, now: datetime) -> Run:
    """Create the folder of an ensemble, or open an existing one; parameters as in ``begin_run``.

    Raises
    ------
    RunError
        If the members are fewer than two, differ in more than their seed, or the folder holds another run.
    """
    if len({member.fingerprint() for member in members}) < 2:
        raise RunError("An ensemble needs two different runs or more: train with --seed 0, 1, 2.")
    first = members[0]
    recipes = {member.recipe.model_copy(update={"seed": 0}).digest for member in members}
    splits = {sha256_of(member.folder / SPLITS_FILE) for member in members}
    if len(recipes) > 1 or len(splits) > 1:
        raise RunError(
            "The runs of an ensemble may differ only in their seed: give runs of the same recipe, cases and sides; "
            "otherwise one run was trained on test images of another."
        )
    names = sorted(member.fingerprint() for member in members)
    parent = hashlib.sha256("".join(names).encode()).hexdigest()
    if (folder / RUN_FILE).exists():
        if _read_json(folder / RUN_FILE).get("members") != names:
            raise RunError("The folder holds another run: name another folder.")
        return open_run(folder)
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, SPLITS_FILE, ENVIRONMENT_FILE, PREPROCESS_FILE):
        write_whole(folder / name, (first.folder / name).read_bytes())
    write_manifest(first.manifest(), folder / MANIFEST_FILE)
    recorded = _read_json(first.folder / RUN_FILE) | {"parent": parent, "members": names, "created": now.isoformat()}
    write_json(folder / RUN_FILE, recorded)
    return Run(folder, first.recipe, first.phase, parent, is_done=False)


def open_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises
    ------
    RunError
        If the folder is absent, is no run's folder, or its recipe was changed.
    """
    if not folder.is_dir():
        raise RunError("There is no such run: name a folder that `cxr train pretrain` or `finetune` wrote.")
    try:
        recorded = _read_json(folder / RUN_FILE)
        recipe = parse_recipe(tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError("The folder is not a training run's: it has no readable run.json and config.toml.") from error
    if recipe.digest != recorded["recipe"]:
        raise RunError("The run's config.toml was changed after the run began: restore it, or start a new run.")
    return Run(folder, recipe, recorded["phase"], recorded["parent"], (folder / FINGERPRINT_FILE).exists())


def end_run(run: Run) -> Run:
    """Write the fingerprint: SHA-256 over the digests of model, pixel recipe and operating points."""
    digests = {name: sha256_of(run.folder / name) for name in _FINGERPRINTED if (run.folder / name).exists()}
    canonical = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    write_json(
        run.folder / FINGERPRINT_FILE,
        {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest(), "files": digests},
    )
    return Run(run.folder, run.recipe, run.phase, run.parent, is_done=True)


def _with_sides(cases: pd.DataFrame, recipe: TrainingRecipe) -> pd.DataFrame:
    """Return the cases with sides: those of the manifest, or a split as in the recipe."""
    if (cases["split"] != "").any():
        # A deliberate split by image (`cxr train split --by image`) has image_wise = yes in every row.
        assert_disjoint(cases, patients=not bool((cases["image_wise"] == "yes").all()))
        return cases
    rule = recipe.split
    fractions = dict(zip(("train", "val", "test"), rule.fractions, strict=True))
    return split(
        cases,
        strategy=rule.strategy,
        fractions=fractions,
        seed=rule.seed,
        train_only=rule.train_only,
        stratify=strata_columns(recipe, cases),
    )


def strata_columns(recipe: TrainingRecipe, cases: pd.DataFrame) -> tuple[str, ...]:
    """Return the columns that the recipe's truths are from."""
    columns = tuple(f"{LABEL_PREFIX}{name}" for name in recipe.task.classes)
    # A column that is missing is refused where the cases are selected.
    return tuple(name for name in columns if name in cases) if recipe.task.from_columns else DEFAULT_STRATIFY


def _read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
