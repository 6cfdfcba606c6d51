"""The card of a view model: what it may do, what it was trained on, what it said of images it never saw."""

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
        What it says about itself.
    licences
        Licence to how many images of it were trained on.
    note
        A paragraph about these images.
    """
    evaluation: Mapping[str, Any] = manifest.evaluation
    licence_rows = "\n".join(f"| {name} | {count} |" for name, count in licences.items())
    parts = [
        f"# {manifest.name} {manifest.version}",
        _worth(component),
        NOTICE_SENTENCE,
        "It tells a frontal chest radiograph, a lateral one, and what is no chest radiograph apart, from the pixels. "
        f"Below a probability of {component.confidence:g} it says `unsure`. **An image that it gives less than "
        f"{component.frontal_at_least:g} for frontal is held for a person** (`view.pixels`): of the frontal films that "
        "were left out of training in turn, 1 in 100 lie below. A film on its side or head counts as no chest "
        "radiograph; a negative it does not know from one that is none. It finds no disease.",
        "## Training images",
        f"{component.frontals} frontal, {component.laterals} lateral, {component.not_a_chest} that are no chest "
        f"radiograph, and {component.synthetic} made pictures: one in six is drawn (noise, pages of text, patterns, "
        "limbs, hands, slices), the others are made of the frontal films (close-ups, corners, films on their side or "
        "head, films in pieces of another order, drawn limbs with the grey of a film). Sources that have laterals "
        "give as many frontal draws as lateral ones, so that a source does not tell the view. "
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
        "Radiographs of hands and knees were hardly at hand: drawn ones stand in for them. Lateral films of healthy "
        "people, oblique and lordotic views are missing unless the table above has them. Intervals are Wilson's, 95 %.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _worth(component: ViewComponent) -> str:
    if component.may_decide:
        return (
            f'**Trained on {component.laterals} real laterals**, {ENOUGH_LATERALS} or more: `view.unknown = "model"` '
            "is allowed, and it then decides about images whose header does not tell the view."
        )
    return (
        f"**Trained on {component.laterals} real laterals, fewer than {ENOUGH_LATERALS}: it may flag an image or have "
        'it held for a person, and decide nothing.** `view.unknown = "model"` is refused with it.'
    )


def _how(component: ViewComponent, folds: int) -> str:
    if component.laterals <= ONE_BY_ONE and folds <= ONE_BY_ONE:
        return (
            f"{folds} networks: each patient with laterals is left out in turn, and with each a part of all other "
            "patients, of the origins of what is no chest radiograph, and of the made pictures."
        )
    return f"{folds} networks, each without one part of the patients, of the other origins and of the made pictures."


def _table(part: Mapping[str, Any]) -> str:
    heads = " | ".join([*(f"said {answer.value}" for answer in ANSWERS), "held"])
    rows = "\n".join(
        f"| {truth} | " + " | ".join(str(count) for count in part["answers"][truth].values()) + " |"
        for truth in CLASSES
    )
    said = ", ".join(
        f"{name.replace('_', ' ')} {share['value']:.3f} ({share['low']:.3f} to {share['high']:.3f})"
        for name, share in part["shares"].items()
        if share is not None
    )
    return f"| truth | {heads} |\n|---|" + "---|" * len(ANSWERS) + f"\n{rows}\n\n{said[:1].upper()}{said[1:]}."


def _sources(part: Mapping[str, Any]) -> str:
    heads = " | ".join([*(answer.value for answer in ANSWERS), "held"])
    rows = "\n".join(
        f"| {name} | " + " | ".join(str(count) for count in answers.values()) + " |"
        for name, answers in part["by_source"].items()
    )
    return f"| truth, source | {heads} |\n|---|" + "---|" * (len(ANSWERS) + 1) + f"\n{rows}"
