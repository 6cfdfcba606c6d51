"""The model card of an evaluated model: main figures and cautions, then the headings of CLAIM and TRIPOD+AI.

References
----------
Mongan, Moy, Kahn, Radiology: Artificial Intelligence 2020;2:e200029 (CLAIM). Collins et al., BMJ
2024;385:e078378 (TRIPOD+AI). Mitchell et al., FAT* 2019 (model cards).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cxr.package import PackageManifest
from cxr.product import DEMONSTRATION, NOTICE_SENTENCE
from training.evaluation import ClassEvaluation, Evaluation
from training.metrics.interval import Estimate

NONE = "none"
MOST_SUBGROUPS = 60


@dataclass(frozen=True)
class CardFacts:
    """Content of a card beyond the package's manifest; every text is one paragraph of Markdown."""

    internal: Evaluation  # over the test images of the same data
    external: tuple[Evaluation, ...] = ()  # over other manifests
    audit: Mapping[str, str] = field(default_factory=dict)  # check -> result
    audit_cautions: tuple[str, ...] = ()
    data: str = ""  # sources, dates, eligibility, labels
    split: str = ""  # sizes of the sides, and whether patients are disjoint
    training: str = ""  # recipe in words
    note: str = ""  # first paragraph, from its maker
    examples: str = ""  # example output for images of the package, with a picture
    limits: tuple[str, ...] = ()  # further ones
    reproduce: str = "cxr train evaluate"  # command that computes these figures


def evaluated_card(manifest: PackageManifest, facts: CardFacts) -> str:
    """Write the card of a trained and evaluated package, in Markdown."""
    evaluation = facts.internal
    parts = [
        f"# {manifest.name} {manifest.version}",
        _summary(manifest, facts),
        _identity(manifest),
        "## Intended use",
        f"Research on frontal chest radiographs, and nothing else. {NOTICE_SENTENCE}",
        "## Data",
        facts.data or manifest.provenance.training_data,
        "## Partitions",
        facts.split or "Not recorded.",
        "## Model and training",
        facts.training or _training(manifest),
        "## Operating point",
        _operating_point(manifest),
        "## Results",
        _results(evaluation),
        *(_results(each) for each in facts.external),
        _side_by_side(facts),
        *(("## Example output", facts.examples) if facts.examples else ()),
        "## Calibration and decision curve",
        _calibration(evaluation),
        "## Subgroups",
        _subgroups(evaluation),
        "## Audit",
        _audit(facts),
        "## Limits",
        _list([*facts.limits, *_limits(evaluation)]),
        "## Reproduction",
        f"Every figure above is computed from the predictions file, without the model: `{facts.reproduce}`. "
        f"Intervals are at {evaluation.confidence:.0%}: DeLong's for areas (Obuchowski's where a patient has several "
        f"images), Wilson's for proportions, {evaluation.replicates} draws of patients with seed {evaluation.seed} for "
        "the bootstrap.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(manifest: PackageManifest, facts: CardFacts) -> str:
    """Return the first paragraph: demonstration mark, main figures, and grave cautions."""
    evaluation = facts.internal
    sentences = [facts.note] if facts.note else []
    if manifest.accepted_gates:
        gates = "; ".join(f"{each.name} ({each.figure}): {each.reason}" for each in manifest.accepted_gates)
        sentences.append(f"**{DEMONSTRATION}.** It is in service although it failed: {gates}.")
    for each in evaluation.classes:
        if each.auc is None:
            sentences.append(f"For {each.name} nothing could be measured.")
            continue
        main = (
            f"For {each.name} the area under the ROC curve is **{each.auc}** on {each.images} images "
            f"({each.positives} positive) of {evaluation.dataset}"
        )
        baselines = [f"{_describe(base.name)} {base.auc}" for base in each.baselines if base.auc is not None]
        sentences.append(f"{main}; without the image it is {', '.join(baselines)}." if baselines else f"{main}.")
    warnings = [each.sentence for each in evaluation.cautions if each.code in _GRAVE]
    warnings += facts.audit_cautions
    if warnings:
        sentences.append(f"**Do not trust these figures:** {' '.join(warnings)}")
    sentences.append(NOTICE_SENTENCE)
    return " ".join(sentences)


_GRAVE = frozenset(
    {
        "one_class",
        "image_wise",
        "source_explains",
        "metadata_explains",
        "too_good",
        "within_source_falls",
        "no_pair_within_a_source",
    }
)


def _identity(manifest: PackageManifest) -> str:
    provenance = manifest.provenance
    return _table(
        ("", ""),
        [
            ("status", manifest.status.value),
            ("outputs", f"{', '.join(manifest.findings)} ({manifest.activation})"),
            ("calibrated", "yes" if manifest.calibrated else "no"),
            ("input", f"{manifest.input_size} x {manifest.input_size}, recipe `{manifest.recipe.digest}`"),
            ("architecture", provenance.architecture),
            ("training data", provenance.training_data),
            ("started from", ", ".join(f"`{each}`" for each in provenance.parents) or "nothing"),
            ("made", provenance.created.isoformat()),
        ],
    )


def _training(manifest: PackageManifest) -> str:
    seed = manifest.provenance.seed
    return f"{manifest.provenance.architecture}, {'no seed recorded' if seed is None else f'seed {seed}'}."


def _operating_point(manifest: PackageManifest) -> str:
    point = manifest.operating_point
    if point is None:
        return "None was chosen: scores are reported without a decision."
    rows = [(each.finding, NONE if each.threshold is None else f"{each.threshold:.4f}") for each in manifest.classes]
    prevalence = "" if point.prevalence is None else f" (prevalence {point.prevalence:.3f})"
    choice = f"Chosen on {point.chosen_on}{prevalence}, by {point.rule}; frozen before the test images were scored."
    return f"{choice}\n\n{_table(('class', 'threshold'), rows)}"


def _results(evaluation: Evaluation) -> str:
    patients = NONE if evaluation.patients is None else str(evaluation.patients)
    heading = f"### {evaluation.dataset}: {evaluation.images} images, patients {patients}"
    columns = ["", *(each.name for each in evaluation.classes)]
    rows = [[name, *(show(each) for each in evaluation.classes)] for name, show in _LINES]
    rows += [
        [
            f"{name}{_BY_LARGEST if evaluation.kind == 'multiclass' else ''}",
            *(_estimate(of(each.name)) for each in evaluation.classes),
        ]
        for name, of in (("sensitivity", evaluation.sensitivity), ("specificity", evaluation.specificity))
    ]
    if evaluation.kind != "multiclass":
        rows += [[name, *(_at(attribute, each) for each in evaluation.classes)] for name, attribute in _PREDICTIVE]
    prevalences = [] if evaluation.kind == "multiclass" else _prevalences(evaluation)
    for index, prevalence in enumerate(prevalences):
        for name, attribute in (("PPV", "ppv"), ("NPV", "npv")):
            values = [getattr(each.at_threshold.stated[index], attribute) if each.at_threshold else None
                      for each in evaluation.classes]  # fmt: skip
            rows.append([f"{name} at a prevalence of {prevalence:g}", *map(_estimate, values)])
    stamp = "**Image-wise, not for claims.**" if evaluation.is_image_wise else ""
    return "\n\n".join(part for part in (heading, stamp, _table(columns, rows), _report(evaluation)) if part)


def _at(name: str, each: ClassEvaluation) -> str:
    return NONE if each.at_threshold is None else _estimate(getattr(each.at_threshold, name))


_LINES: tuple[tuple[str, Callable[[ClassEvaluation], str]], ...] = (
    ("positive / all images", lambda each: f"{each.positives} / {each.images}"),
    ("ROC AUC", lambda each: _estimate(each.auc)),
    ("ROC AUC, patient bootstrap", lambda each: NONE if each.auc_bootstrap is None else str(each.auc_bootstrap)),
    ("ROC AUC within one source", lambda each: _estimate(each.within_source.auc)),
    ("ROC AUC of the source alone", lambda each: _baseline(each, "source_only")),
    ("ROC AUC of view, sex, age, device alone", lambda each: _baseline(each, "metadata_only")),
    ("average precision (random: prevalence)", lambda each: _estimate(each.average_precision)),
)
_BY_LARGEST = " (the class with the largest score)"
_PREDICTIVE = (("PPV in these images", "ppv"), ("NPV in these images", "npv"))


def _report(evaluation: Evaluation) -> str:
    report = evaluation.report
    if report is None:
        return ""
    matrix = _table(
        ["label \\ model", *report.names],
        [[name, *map(str, row)] for name, row in zip(report.names, report.matrix, strict=True)],
    )
    classes = _table(
        ("class", "precision", "recall", "F1", "images"),
        [
            (each.name, _estimate(each.precision), _estimate(each.recall), _number(each.f1), str(each.support))
            for each in report.classes
        ],
    )
    accuracy = (
        f"Accuracy {_estimate(report.accuracy)}; that of always predicting the largest class is "
        f"{_number(report.largest_class)}."
    )
    return f"{matrix}\n\n{classes}\n\n{accuracy}"


def _side_by_side(facts: CardFacts) -> str:
    if not facts.external:
        return "No other site's images were evaluated: performance at other sites is unknown."
    evaluations = (facts.internal, *facts.external)
    names = [each.name for each in facts.internal.classes]
    rows = []
    for evaluation in evaluations:
        areas = {each.name: each.auc for each in evaluation.classes}
        rows.append([evaluation.dataset, str(evaluation.images), *(_estimate(areas.get(name)) for name in names)])
    return "### Side by side: ROC AUC\n\n" + _table(["images of", "images", *names], rows)


def _calibration(evaluation: Evaluation) -> str:
    rows = []
    for each in evaluation.classes:
        figures, curve = each.calibration, each.decision_curve
        if figures is None:
            continue
        useful = "nowhere"
        if curve is not None and curve.useful:
            useful = f"{min(curve.useful):.2f} to {max(curve.useful):.2f}"
        rows.append(
            (
                each.name,
                f"{figures.ece:.3f}",
                f"{figures.brier:.3f}",
                _number(figures.slope),
                _number(figures.intercept),
                useful,
            )
        )
    return _table(
        ("class", "ECE", "Brier", "slope", "intercept", "better than treat all and treat none at thresholds"), rows
    )


def _subgroups(evaluation: Evaluation) -> str:
    rows = [
        (
            figures.name,
            f"{each.attribute}: {each.value}",
            f"{each.positives} / {each.images}",
            _estimate(each.auc),
            _estimate(each.sensitivity),
            _estimate(each.specificity),
            "; ".join(each.flags) or ("few images" if each.is_small else ""),
        )
        for figures in evaluation.classes
        for each in figures.subgroups
    ]
    if not rows:
        return "No attribute of the images is recorded with two values or more."
    areas = sum(bool(row[3] != NONE) for row in rows)
    text = (
        f"A flag means that the interval excludes the figure of all images; of {areas} areas compared, about "
        f"{0.05 * areas:.0f} would be flagged by chance alone."
    )
    more = len(rows) - MOST_SUBGROUPS
    if more > 0:
        text += f" {more} further rows are in metrics.json."
    heads = ("class", "group", "positive / all", "ROC AUC", "sensitivity", "specificity", "")
    return f"{text}\n\n{_table(heads, rows[:MOST_SUBGROUPS])}"


def _audit(facts: CardFacts) -> str:
    if not facts.audit:
        return "No audit was made: duplicates, shared patients and shortcuts are not excluded."
    return _table(("check", "result"), list(facts.audit.items()))


def _limits(evaluation: Evaluation) -> list[str]:
    limits = [each.sentence for each in evaluation.cautions if each.code not in _GRAVE]
    return [*limits, "Labels are those of the data sets; `suspects.csv` lists those that contradict the model."]


def _prevalences(evaluation: Evaluation) -> Sequence[float]:
    for each in evaluation.classes:
        if each.at_threshold is not None:
            return [stated.prevalence for stated in each.at_threshold.stated]
    return []


def _baseline(each: ClassEvaluation, name: str) -> str:
    return next((_estimate(base.auc) for base in each.baselines if base.name == name), NONE)


def _describe(name: str) -> str:
    return {"source_only": "from its source", "metadata_only": "from view, sex, age and device"}.get(name, name)


def _estimate(estimate: Estimate | None) -> str:
    return NONE if estimate is None else str(estimate)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"* {item}" for item in items)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    # A bar in a data set's name would open a column.
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
