"""A run's folder: what it was made with, where it stands, and what came of it.

::

    config.toml        the recipe              manifest.csv        every case, with its side
    run.json           phase, digests, state   splits.csv          image_id and side, no more
    environment.json   versions, machine       preprocess.json     the pixel recipe and its digest
    checkpoints/       where it stands         history.csv         one line per epoch
    model.keras        the graph, calibrated   operating_point.json
    predictions_val.csv, predictions_test.csv  fingerprint.json

The same command on the same folder goes on where the run was killed.
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
from training.cases import assert_disjoint, read_manifest, resolve_paths, split, write_manifest
from training.files import sha256_of, write_json, write_whole
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

_SAYS_FINGERPRINT: Final = (MODEL_FILE, PREPROCESS_FILE, "operating_point.json")


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder that was begun.

    Parameters
    ----------
    folder
        Where it lies.
    recipe
        What it is made with.
    phase
        ``pretrain`` or ``finetune``.
    parent
        Fingerprint of the run whose weights it starts from; None: it starts from none.
    is_done
        Whether its model, calibration and predictions are there.
    """

    folder: Path
    recipe: TrainingRecipe
    phase: Phase
    parent: str | None
    is_done: bool

    @property
    def checkpoints(self) -> Path:
        """Where its state is kept."""
        return self.folder / CHECKPOINTS

    def manifest(self) -> pd.DataFrame:
        """Read its cases, paths absolute, sides given."""
        return resolve_paths(read_manifest(self.folder / MANIFEST_FILE), self.folder)

    def fingerprint(self) -> str:
        """Give what names a finished run.

        Raises
        ------
        RunError
            If it is not finished.
        """
        if not self.is_done:
            raise RunError("This run is not finished: give its command again, and it goes on where it stopped.")
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
    """Make a run's folder, or take up the one that is there.

    Parameters
    ----------
    folder
        The run's.
    recipe
        What it is made with.
    manifest
        Its cases; without sides, they are divided as the recipe says.
    phase
        ``pretrain`` or ``finetune``.
    parent
        The finished run whose weights it starts from.
    environment
        Versions and machine, for ``environment.json``.
    now
        The time that is recorded.

    Raises
    ------
    RunError
        If the folder holds a run of another recipe, manifest or parent.
    """
    asked = {
        "phase": phase,
        "recipe": recipe.digest,
        "manifest": sha256_of(manifest),
        "parent": None if parent is None else parent.fingerprint(),
    }
    if (folder / RUN_FILE).exists():
        found = open_run(folder)
        recorded = _read_json(folder / RUN_FILE)
        differing = [name for name, value in asked.items() if recorded.get(name) != value]
        if differing:
            raise RunError(
                f"The run's folder holds a run of another {' and '.join(differing)}: name another folder, or give the "
                "command that it was begun with."
            )
        return found
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG_FILE).exists():
        raise RunError("The run's folder exists and holds something else: name a new folder.")
    cases = _divided(resolve_paths(read_manifest(manifest), manifest.absolute().parent), recipe)
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG_FILE, tomlkit.dumps(recipe.to_document()))
    write_manifest(cases, folder / MANIFEST_FILE)
    write_whole(folder / SPLITS_FILE, cases[["image_id", "split"]].to_csv(index=False, lineterminator="\n"))
    write_json(folder / ENVIRONMENT_FILE, environment | {"seed": recipe.seed})
    pixels = recipe.pixels
    write_json(folder / PREPROCESS_FILE, {"recipe": pixels.to_dict(), "digest": pixels.digest})
    # Last: with it, the run has begun.
    write_json(folder / RUN_FILE, asked | {"created": now.isoformat()})
    return Run(folder, recipe, phase, asked["parent"], is_done=False)


def begin_ensemble(folder: Path, members: Sequence[Run], *, now: datetime) -> Run:
    """Make the folder of an ensemble, or take up the one that is there; parameters as of ``begin_run``.

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
            "The runs of an ensemble differ in nothing but their seed: the same recipe, cases and sides; else one was "
            "trained on what another is tested on."
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
        If it is none.
    """
    if not folder.is_dir():
        raise RunError("There is no such run: give a folder that `cxr train pretrain` or `finetune` has made.")
    try:
        recorded = _read_json(folder / RUN_FILE)
        recipe = parse_recipe(tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError("The folder is not a training run's: it has no readable run.json and config.toml.") from error
    if recipe.digest != recorded["recipe"]:
        raise RunError("The run's config.toml was changed after it began: put it back, or start a new run.")
    return Run(folder, recipe, recorded["phase"], recorded["parent"], (folder / FINGERPRINT_FILE).exists())


def end_run(run: Run) -> Run:
    """Write the fingerprint: SHA-256 over the digests of graph, pixel recipe and operating point."""
    digests = {name: sha256_of(run.folder / name) for name in _SAYS_FINGERPRINT if (run.folder / name).exists()}
    canonical = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    write_json(
        run.folder / FINGERPRINT_FILE,
        {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest(), "files": digests},
    )
    return Run(run.folder, run.recipe, run.phase, run.parent, is_done=True)


def _divided(cases: pd.DataFrame, recipe: TrainingRecipe) -> pd.DataFrame:
    """Give every case a side: the manifest's, or else the recipe's."""
    if (cases["split"] != "").any():
        # Divided by image on purpose (`cxr train split --by image`), every row says so.
        assert_disjoint(cases, patients=not bool((cases["image_wise"] == "yes").all()))
        return cases
    wanted = recipe.split
    fractions = dict(zip(("train", "val", "test"), wanted.fractions, strict=True))
    return split(cases, strategy=wanted.strategy, fractions=fractions, seed=wanted.seed, train_only=wanted.train_only)


def _read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
