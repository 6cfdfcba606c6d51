"""The model card of a view model: permitted use, training images, figures on images left out of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxr.package import PackageManifest
from cxr.package.view_model import CLASSES, ENOUGH_LATERALS, ViewComponent
from cxr.product import NOTICE_SENTENCE
from training.view_model.cases import ONE_BY_ONE
from training.view_model.figures import ANSWERS


def view_card(manifest: PackageManifest, component: ViewComponent, licences: Mapping[str, int], note: str = "") -> str:
    """Write the card, in Markdown.

    Parameters
    ----------
    manifest
        Of the package, with its figures.
    component
        Of the view model: counts of training images, thresholds.
    licences
        Licence to number of training images.
    note
        A paragraph about these images.
    """
    evaluation: Mapping[str, Any] = manifest.evaluation
    licence_rows = "\n".join(f"| {name} | {count} |" for name, count in licences.items())
    parts = [
        f"# {manifest.name} {manifest.version}",
        _permission(component),
        NOTICE_SENTENCE,
        "It classifies pixels as a frontal chest radiograph, a lateral one, or no chest radiograph. Below a "
        f"probability of {component.confidence:g} the answer is `unsure`. **An image whose probability of frontal "
        f"is below {component.frontal_at_least:g} is held for a person** (`view.pixels`): of the frontal films that "
        "were left out of training in turn, 1 in 100 is below. A film on its side or head is in the class of no "
        "chest radiograph; an inverted film has the class of its original. It finds no disease.",
        "## Training images",
        f"{component.frontals} frontal, {component.laterals} lateral, {component.not_a_chest} that are no chest "
        f"radiograph, and {component.synthetic} synthetic pictures: one in six is drawn (noise, pages of text, "
        "patterns, limbs, hands, slices), the others are made of the frontal films (close-ups, corners, films on "
        "their side or head, films in permuted pieces, drawn limbs with the texture of a film). Sources with "
        "laterals have as many frontal draws as lateral ones, so that the source is no cue to the view. "
        f"{manifest.provenance.training_data}",
        note,
        f"| Licence | Images |\n|---|---|\n{licence_rows}",
        "## Left out of training in turn",
        _how(component, int(evaluation["folds"])),
        _table(evaluation["left_out"]),
        "## Never trained on",
        _table(evaluation["test"]),
        _sources(evaluation["test"]),
        "## Limits",
        "Few radiographs of hands and knees were available: drawn ones substitute for them. Lateral films of healthy "
        "people, oblique and lordotic views are missing unless the table above has them. Intervals are Wilson's, 95 %.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _permission(component: ViewComponent) -> str:
    if component.may_decide:
        return (
            f'**Trained on {component.laterals} real laterals**, {ENOUGH_LATERALS} or more: `view.unknown = "model"` '
            "is allowed: the model then decides the view of images whose header lacks it."
        )
    return (
        f"**Trained on {component.laterals} real laterals, fewer than {ENOUGH_LATERALS}: it may flag an image or hold "
        'it for a person, and decides no view.** `view.unknown = "model"` is refused with it.'
    )


def _how(component: ViewComponent, folds: int) -> str:
    if component.laterals <= ONE_BY_ONE and folds <= ONE_BY_ONE:
        return (
            f"{folds} networks: each patient with laterals is left out in turn, and with each a part of all other "
            'patients, of the other sources of "no chest radiograph", and of the synthetic pictures.'
        )
    return (
        f"{folds} networks, each without one part of the patients, of the other sources and of the synthetic pictures."
    )


def _table(part: Mapping[str, Any]) -> str:
    heads = " | ".join([*(f"answer {answer.value}" for answer in ANSWERS), "held"])
    rows = "\n".join(
        f"| {truth} | " + " | ".join(str(count) for count in part["answers"][truth].values()) + " |"
        for truth in CLASSES
    )
    fractions = ", ".join(
        f"{name.replace('_', ' ')} {share['value']:.3f} ({share['low']:.3f} to {share['high']:.3f})"
        for name, share in part["shares"].items()
        if share is not None
    )
    return (
        f"| truth | {heads} |\n|---|" + "---|" * len(ANSWERS) + f"\n{rows}\n\n{fractions[:1].upper()}{fractions[1:]}."
    )


def _sources(part: Mapping[str, Any]) -> str:
    heads = " | ".join([*(answer.value for answer in ANSWERS), "held"])
    rows = "\n".join(
        f"| {name} | " + " | ".join(str(count) for count in answers.values()) + " |"
        for name, answers in part["by_source"].items()
    )
    return f"| truth, source | {heads} |\n|---|" + "---|" * (len(ANSWERS) + 1) + f"\n{rows}"
