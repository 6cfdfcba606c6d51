"""Build the model package of a finished run: graph, thresholds, figures and card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cxr.domain import PackageStatus
from cxr.errors import PackageError, RunError
from cxr.package import (
    MODEL_CARD_FILE,
    MODEL_FILE,
    ModelPackage,
    OperatingPoint,
    Outputs,
    PackageClass,
    PackageManifest,
    Provenance,
    write_package,
)
from training.audit.blanked_lungs import BlankedAudit
from training.audit.report import AUDIT_FILE, blanked_lung_cautions, describe_blanked_lungs, read_summary
from training.cases import SPLITS, read_manifest
from training.evaluation import (
    OPERATING_POINT_FILE,
    Evaluation,
    OperatingPoints,
    read_operating_points,
    read_predictions,
    write_evaluation,
)
from training.evaluation.evaluate import evaluate
from training.packaging.blanked_lungs_of_run import lung_figures
from training.packaging.comparison import OtherModel, compare_with_other
from training.packaging.image_checks import EXAMPLES_FILE, check_images
from training.packaging.model_card import CardFacts, evaluated_card
from training.packaging.promotion_figures import case_figures, package_figures
from training.recipe import Stage
from training.runs.brisque_filter import describe_exclusions
from training.runs.folder import CALIBRATION_FILE, ENVIRONMENT_FILE, MANIFEST_FILE, RUN_FILE, Run, open_run
from training.runs.lineage import count_seen
from training.runs.lung_mask_model import mask_model_of_run
from training.runs.train import Options

TEST_PREDICTIONS: Final = "predictions_test.csv"


def package_run(
    folder: Path,
    target: Path,
    *,
    version: str | None = None,
    replicates: int = 2000,
    compare_with: Sequence[Path] = (),
    options: Options | None = None,
    note: str = "",
) -> ModelPackage:
    """Make the package of a finished run; the package of a run is reproducible byte for byte.

    Parameters
    ----------
    folder
        Of the run.
    target
        Folder of the package; it must not exist.
    version
        Of the model; None: derived from the run's fingerprint.
    replicates
        Draws of the bootstrap over the test images.
    compare_with
        Packages or runs whose models score the same test images, such as the package in service.
    options
        Cache, processes, progress.
    note
        First paragraph of the card, in Markdown, such as figures on images of other sites.

    Raises
    ------
    RunError
        If the run is not finished, has no test images, or its images can't be read.
    PackageError
        If the folder exists or can't be written.
    """
    run = open_run(folder)
    fingerprint = run.fingerprint()
    if not (folder / TEST_PREDICTIONS).exists():
        raise RunError(
            "The run has no test images, and a package needs figures on test images: split the cases with a test side."
        )
    if target.exists():
        raise PackageError("The package's folder exists already: give another one, or remove it.")
    points = read_operating_points(folder / OPERATING_POINT_FILE)
    predictions = read_predictions(folder / TEST_PREDICTIONS)
    # Before the checks of images, which take minutes: a model that can't be compared is an error.
    others = [OtherModel.of(each, predictions.classes) for each in compare_with]
    evaluation = evaluate(predictions, thresholds=points.thresholds, dataset="test", replicates=replicates)
    write_evaluation(evaluation, folder)
    options = options or Options()
    checks = check_images(run, options)
    comparisons = [compare_with_other(each, predictions, run.manifest(), progress=options.progress) for each in others]
    figures = package_figures(evaluation, case_figures(run) | {
        "blanked_lungs": lung_figures(checks.blanked), "comparisons": comparisons,
    } | _mask_figures(run))  # fmt: skip
    manifest = _manifest(run, points, version or f"1.0.0+{fingerprint[:12]}", figures, checks.components)
    facts = _facts(run, evaluation, checks.blanked, note)
    if EXAMPLES_FILE in checks.files:
        facts = replace(facts, examples=_examples(run))
    card = evaluated_card(manifest, facts).encode()
    return write_package(target, manifest, {MODEL_FILE: folder / MODEL_FILE, MODEL_CARD_FILE: card, **checks.files})


def _facts(run: Run, evaluation: Evaluation, blanked: Sequence[BlankedAudit], note: str) -> CardFacts:
    task = run.recipe.task
    single_label_classes = [name for name in task.classes if task.labels_of(name) == (name,)]
    audit, cautions = read_summary(run.folder / AUDIT_FILE, single_label_classes)
    return CardFacts(
        internal=evaluation,
        audit=audit | describe_blanked_lungs(blanked),
        audit_cautions=(*cautions, *(each.sentence for each in blanked_lung_cautions(blanked))),
        data=_describe_data(run),
        split=_describe_split(run),
        training=_describe_training(run),
        note=note,
        reproduce="cxr train evaluate RUN",
    )


def _examples(run: Run) -> str:
    """Return the card's paragraph on the golden images, with their picture."""
    finding, is_exact = run.recipe.task.classes[0], run.recipe.network.head == "evidence"
    kind = "its evidence map, which sums up to the score" if is_exact else "Grad-CAM, an approximation"
    return (
        f"Test images of this package (`golden.json`), as the model sees them, each with its score for "
        f"{finding} and {kind}: red is evidence for it, blue against it.\n\n"
        f"![Evidence map for {finding}]({EXAMPLES_FILE})"
    )


def _mask_fingerprint(run: Run) -> str | None:
    return None if run.recipe.mask_model is None else run.recipe.mask_model.fingerprint


def _mask_figures(run: Run) -> dict[str, Any]:
    """Return fingerprint and figures of the run's mask model; empty if it has none."""
    model = mask_model_of_run(run)
    if model is None:
        return {}
    return {"lung_mask": {"fingerprint": model.description.fingerprint, **model.description.figures}}


def _manifest(
    run: Run, points: OperatingPoints, version: str, figures: dict[str, Any], components: Mapping[str, Any]
) -> PackageManifest:
    recipe = run.recipe
    thresholds = points.thresholds
    record = _read(run, RUN_FILE)
    prevalences = list(points.prevalence.values())
    return PackageManifest(
        name=f"{recipe.name}-{recipe.network.architecture}",
        version=version,
        status=PackageStatus.EVALUATED,
        classes=tuple(
            PackageClass(finding=name, code=recipe.task.code_of(name), threshold=thresholds.get(name))
            for name in recipe.task.classes
        ),
        activation=recipe.task.activation,
        calibrated=bool(_read(run, CALIBRATION_FILE)["calibrated"]),
        operating_point=OperatingPoint(
            rule=points.rule, chosen_on=points.chosen_on, prevalence=prevalences[0] if len(prevalences) == 1 else None
        ),
        recipe=recipe.pixels,
        outputs=Outputs(probabilities="prob", evidence="evidence" if recipe.network.head == "evidence" else None),
        components=dict(components),
        evaluation=figures,
        provenance=Provenance(
            training_data=_describe_data(run),
            architecture=recipe.network.architecture,
            created=datetime.fromisoformat(record["created"]),
            seed=recipe.seed,
            software=_read(run, ENVIRONMENT_FILE)["software"],
            parents=tuple(
                each for each in (run.parent, recipe.digest, record["manifest"], _mask_fingerprint(run)) if each
            ),
        ),
    )


def _describe_data(run: Run) -> str:
    cases = read_manifest(run.folder / MANIFEST_FILE)
    sources = ", ".join(f"{name or 'unnamed'} ({count})" for name, count in cases["source"].value_counts().items())
    return " ".join(filter(None, (f"{len(cases)} images: {sources}.", describe_exclusions(run))))


def _describe_split(run: Run) -> str:
    cases = read_manifest(run.folder / MANIFEST_FILE)
    counts = ", ".join(f"{side} {int((cases['split'] == side).sum())}" for side in SPLITS)
    if (cases["image_wise"] == "yes").all():
        return f"{counts} images, divided image by image: not for claims."
    count = count_seen(run)["test"]
    earlier = (
        f" {count} test images are of patients that an earlier run was trained on: not for claims." if count else ""
    )
    return f"{counts} images; no patient is on two sides.{earlier}"


def _describe_training(run: Run) -> str:
    recipe = run.recipe
    start = f"run {run.parent[:12]}" if run.parent else recipe.weights.source
    stages = "; ".join(f"{each.name}: {each.train}, {_how(each)}" for each in recipe.stages)
    description = (
        f"{recipe.network.architecture} from {start} weights, seed {recipe.seed}, recipe {recipe.name} ({stages})."
    )
    if recipe.lung_masks == "manifest":
        return f"{description} It sees the lungs alone, within drawn masks: it can't be put into service."
    model = mask_model_of_run(run)
    if model is None:
        return description
    test: Any = model.description.figures["test"]
    return (
        f"{description} It sees the lungs alone, as the mask model {model.description.fingerprint[:12]} segments them "
        f"(Dice {test['dice']:.3f} on {test['images']} drawn test masks); a wrong mask may hide disease from it."
    )


def _how(stage: Stage) -> str:
    if stage.optimizer == "regression":
        return f"regression of strength {stage.strength:g}"
    return f"{stage.optimizer} {stage.learning_rate:g}"


def _read(run: Run, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run.folder / name).read_text(encoding="utf-8"))
    return document
