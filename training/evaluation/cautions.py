"""Reasons to distrust a figure: likely shortcuts, few images, unknown patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from training.evaluation.baselines import Baseline
from training.evaluation.results import Caution, ClassEvaluation, WithinSource
from training.metrics.interval import Estimate

TOO_GOOD = 0.95
"""AUC above which a shortcut is likelier than skill; see docs/evaluation.md, `too_good`."""

FEW_IMAGES = 50
"""Images of a class, positive or negative, below which the AUC's confidence interval is too wide for a conclusion."""

BADLY_CALIBRATED = 0.10
"""Expected calibration error above which a score should not be read as a probability."""


def cautions_of(classes: Sequence[ClassEvaluation], *, is_image_wise: bool) -> tuple[Caution, ...]:
    """Return every reason to distrust these figures, the gravest first."""
    cautions = [caution for each in classes for caution in _of_class(each)]
    if is_image_wise:
        cautions.append(
            Caution(
                "image_wise",
                "Patients are unknown: figures are image-wise, not for claims. The same patient may be in training and "
                "test, and intervals are too narrow.",
            )
        )
    order = list(_GRAVITY)
    return tuple(sorted(cautions, key=lambda caution: order.index(caution.code)))


_GRAVITY = (
    "one_class",
    "image_wise",
    "source_explains",
    "metadata_explains",
    "too_good",
    "within_source_falls",
    "no_pair_within_a_source",
    "few_images",
    "subgroup",
    "badly_calibrated",
)


def _of_class(figures: ClassEvaluation) -> Iterator[Caution]:
    name, auc = figures.name, figures.auc
    if auc is None:
        yield Caution(
            "one_class",
            f"{name}: all {figures.images} images are of one kind ({figures.positives} positive): nothing can be "
            "measured.",
        )
        return
    if auc.value > TOO_GOOD:
        yield Caution(
            "too_good",
            f"{name}: an AUC of {auc.value:.3f} is likelier a shortcut than skill; see the audit. Published AUCs for "
            "COVID-19 that held up in other hospitals are 0.70 to 0.82.",
        )
    for baseline in figures.baselines:
        if explains(baseline, auc):
            yield _explained(name, baseline, auc)
    yield from _within_source(name, auc, figures.within_source)
    if min(figures.positives, figures.images - figures.positives) < FEW_IMAGES:
        yield Caution(
            "few_images",
            f"{name}: {figures.positives} positive and {figures.images - figures.positives} negative images; with "
            f"fewer than {FEW_IMAGES} of either, the figures are imprecise.",
        )
    for group in figures.subgroups:
        for flag in group.flags:
            yield Caution("subgroup", f"{name}: {group.attribute} {group.value} ({group.images} images): {flag}.")
    if figures.calibration is not None and figures.calibration.ece > BADLY_CALIBRATED:
        yield Caution(
            "badly_calibrated",
            f"{name}: probabilities are off by {figures.calibration.ece:.2f} on average: not calibrated.",
        )


def explains(baseline: Baseline, auc: Estimate) -> bool:
    """Return whether a baseline does about as well as the model: its AUC reaches the model's interval, above 0.5."""
    if baseline.auc is None:
        return False
    low = auc.value if auc.interval is None else auc.interval.low
    lowest = baseline.auc.value if baseline.auc.interval is None else baseline.auc.interval.low
    return baseline.auc.value >= low and lowest > 0.5


def _explained(name: str, baseline: Baseline, auc: Estimate) -> Caution:
    words = {"source_only": "the image's source alone", "metadata_only": "view, age, sex and device alone"}
    code = {"source_only": "source_explains"}.get(baseline.name, "metadata_explains")
    return Caution(
        code,
        f"{name}: {words.get(baseline.name, baseline.name)} ({', '.join(baseline.columns)}) reaches an AUC of "
        f"{baseline.auc}, the model {auc}: the model may have learnt nothing else.",
    )


def _within_source(name: str, auc: Estimate, within: WithinSource) -> Iterator[Caution]:
    if within.auc is None:
        yield Caution(
            "no_pair_within_a_source",
            f"{name}: no source has positive and negative images: disease and source can't be separated in these data.",
        )
        return
    low = auc.value if auc.interval is None else auc.interval.low
    high = within.auc.value if within.auc.interval is None else within.auc.interval.high
    if high < low:
        yield Caution(
            "within_source_falls",
            f"{name}: within one source the AUC is {within.auc}, over all {auc}: the difference is due to the sources.",
        )
