"""Operating points, calibration, decision curves, subgroups, several classes, strata."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    roc_auc_score,
)

from training.metrics.auc import roc_auc, roc_auc_with_interval
from training.metrics.calibration import calibration_figures, fit_sigmoid, fit_softmax, sigmoid, softmax_rows
from training.metrics.decision_curve import decision_curve
from training.metrics.interval import wilson
from training.metrics.multiclass import classification_report
from training.metrics.operating_point import (
    choose_threshold,
    evaluate_at,
    predictive_values,
    threshold_interval,
)
from training.metrics.stratified import stratified_auc
from training.metrics.subgroups import age_band, subgroup_table


def given(*strategies):
    """Hypothesis without its deadline: other processes share the machine."""
    return lambda test: settings(deadline=None, max_examples=60)(given_any(*strategies)(test))


@st.composite
def chances(draw, least=1, most=30):
    positives, negatives = draw(st.integers(least, most)), draw(st.integers(least, most))
    size = positives + negatives
    values = draw(st.lists(st.integers(0, 20), min_size=size, max_size=size))
    return np.repeat([1, 0], [positives, negatives]), np.array(values) / 20


def made_up(count=2000, gap=1.5, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, count)
    # Two normals of unit variance, gap apart: this is the true log odds.
    return truth, gap * (truth * gap + generator.normal(size=count) - gap / 2)


class TestThreshold:
    @given(chances(), st.floats(0.05, 1))
    def test_for_sensitivity_is_the_highest_that_reaches_it(self, case, target):
        truth, chance = case
        chosen = choose_threshold(truth, chance, target=target)
        reached = evaluate_at(truth, chance, chosen.threshold)
        assert reached.sensitivity.value >= target - 1e-9
        for higher in np.unique(chance[chance > chosen.threshold])[1:]:
            # Any threshold above the next score loses an image that is at the chosen one.
            assert evaluate_at(truth, chance, higher).sensitivity.value < target

    @given(chances(), st.floats(0.05, 1))
    def test_for_specificity_is_the_lowest_that_reaches_it(self, case, target):
        truth, chance = case
        chosen = choose_threshold(truth, chance, rule="specificity", target=target)
        assert evaluate_at(truth, chance, chosen.threshold).specificity.value >= target - 1e-9
        lower = chance[chance < chosen.threshold]
        if lower.size:
            assert evaluate_at(truth, chance, lower.max()).specificity.value < target

    @given(chances())
    def test_of_youden_has_the_best_balanced_accuracy(self, case):
        truth, chance = case
        chosen = choose_threshold(truth, chance, rule="youden")
        best = max(balanced_accuracy_score(truth, chance >= cut) for cut in np.unique(chance))
        assert balanced_accuracy_score(truth, chance >= chosen.threshold) == pytest.approx(best)

    @given(chances(), st.sampled_from([0.1, 1.0, 20.0]), st.sampled_from([None, 0.05]))
    def test_of_cost_costs_least(self, case, miss_cost, prevalence):
        truth, chance = case
        share = truth.mean() if prevalence is None else prevalence

        def cost(cut):
            at = evaluate_at(truth, chance, cut)
            return miss_cost * share * (1 - at.sensitivity.value) + (1 - share) * (1 - at.specificity.value)

        chosen = choose_threshold(truth, chance, rule="cost", miss_cost=miss_cost, prevalence=prevalence)
        assert cost(chosen.threshold) == pytest.approx(min(cost(cut) for cut in np.unique(chance)))

    def test_lies_between_scores_so_that_rounding_decides_nothing(self):
        assert choose_threshold([0, 1, 1], [0.2, 0.6, 0.9], target=1).threshold == pytest.approx(0.4)
        assert choose_threshold([1, 1], [0.2, 0.6]) is None

    def test_says_how_it_was_chosen(self):
        assert choose_threshold([0, 1], [0, 1], target=0.9).rule == "sensitivity of at least 0.90"
        assert "20 false alarms" in choose_threshold([0, 1], [0, 1], rule="cost", miss_cost=20).rule

    @pytest.mark.parametrize(
        "options", [{"rule": "best"}, {"target": 0}, {"target": 1.1}, {"miss_cost": 0}, {"prevalence": 1}]
    )
    def test_refuses_what_is_no_rule(self, options):
        with pytest.raises(ValueError, match="got"):
            choose_threshold([0, 1], [0, 1], **options)

    def test_interval_narrows_with_more_patients_and_knows_patients(self):
        truth, logit = made_up(2000)
        few = threshold_interval(truth[:60], logit[:60])
        many = threshold_interval(truth, logit)
        assert many.high - many.low < 0.5 * (few.high - few.low)
        assert many.holds(choose_threshold(truth, logit).threshold)
        same_patients = threshold_interval(np.tile(truth[:60], 9), np.tile(logit[:60], 9), np.tile(np.arange(60), 9))
        assert same_patients.high - same_patients.low > 0.7 * (few.high - few.low)
        assert threshold_interval([], []) is None
        assert threshold_interval([1, 1], [0, 1]) is None


class TestAtThreshold:
    @given(chances(), st.floats(0, 1))
    def test_counts_equal_scikit_learns(self, case, cut):
        truth, chance = case
        at = evaluate_at(truth, chance, cut)
        expected = confusion_matrix(truth, chance >= cut, labels=[0, 1])
        counts = at.counts
        assert [[counts.true_negative, counts.false_positive], [counts.false_negative, counts.true_positive]] == (
            expected.tolist()
        )
        assert at.sensitivity == wilson(counts.true_positive, int(truth.sum()))
        assert at.accuracy.value == np.mean((chance >= cut) == truth)

    def test_an_image_at_the_threshold_is_positive(self):
        assert evaluate_at([1], [0.5], 0.5).sensitivity.value == 1

    def test_predictive_values_agree_with_a_worked_example(self):
        # Altman and Bland, BMJ 1994;309:102: liver scans of 258 abnormal and 86 normal livers; 0.45 and 0.95 where
        # a quarter of the livers is abnormal.
        found = predictive_values(wilson(231, 258), wilson(54, 86), 0.25)
        sensitivity, specificity = 231 / 258, 54 / 86
        expected = 0.25 * sensitivity / (0.25 * sensitivity + 0.75 * (1 - specificity))
        assert found.ppv.value == pytest.approx(expected)
        assert round(found.ppv.value, 2) == 0.45
        assert round(found.npv.value, 2) == 0.95

    @given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.floats(0.001, 0.999))
    def test_predictive_values_hold_their_estimates(self, hits, misses, clears, alarms, prevalence):
        found = predictive_values(wilson(hits, hits + misses), wilson(clears, clears + alarms), prevalence)
        for estimate in (found.ppv, found.npv):
            if estimate is not None and estimate.interval is not None:
                assert 0 <= estimate.interval.low <= estimate.value <= estimate.interval.high <= 1 + 1e-12

    def test_predictive_values_at_the_samples_own_prevalence_are_the_observed_ones(self):
        truth, logit = made_up(500)
        at = evaluate_at(truth, logit, 0.3, prevalences=(float(truth.mean()),))
        assert at.stated[0].ppv.value == pytest.approx(at.ppv.value)
        assert at.stated[0].npv.value == pytest.approx(at.npv.value)

    def test_what_has_no_images_does_not_exist(self):
        at = evaluate_at([1, 1], [0.2, 0.1], 0.5, prevalences=(0.1,))
        assert at.specificity is None
        assert at.ppv is None
        assert at.stated[0].ppv is None
        assert evaluate_at([], [], 0.5).accuracy is None
        # Nobody is ever called positive: what a positive result means can't be said.
        assert predictive_values(wilson(0, 5), wilson(5, 5), 0.1).ppv is None
        with pytest.raises(ValueError, match="prevalence"):
            predictive_values(wilson(1, 2), wilson(1, 2), 0)


class TestCalibration:
    @given(chances())
    def test_bins_equal_scikit_learns(self, case):
        truth, chance = case
        chance = (chance * 20 + 0.5) / 21.5  # none on an edge: scikit-learn puts those into the lower bin
        figures = calibration_figures(truth, chance, bins=7)
        observed, mean = calibration_curve(truth, chance, n_bins=7)
        assert [each.observed.value for each in figures.bins] == pytest.approx(observed)
        assert [each.mean_probability for each in figures.bins] == pytest.approx(mean)

    @given(chances())
    def test_brier_equals_scikit_learns_and_errors_are_bounded(self, case):
        truth, chance = case
        figures = calibration_figures(truth, chance)
        assert figures.brier == pytest.approx(brier_score_loss(truth, chance))
        assert 0 <= figures.ece <= figures.largest_error <= 1
        assert sum(each.count for each in figures.bins) == truth.size

    def test_ece_of_a_worked_example(self):
        # Two bins: ten images at 0.2, of which 4 have it; five at 0.9, of which 3 do.
        truth = [1] * 4 + [0] * 6 + [1] * 3 + [0] * 2
        figures = calibration_figures(truth, [0.2] * 10 + [0.9] * 5)
        assert figures.ece == pytest.approx((10 * 0.2 + 5 * 0.3) / 15)
        assert figures.largest_error == pytest.approx(0.3)

    def test_bins_of_mass_hold_about_equally_many(self):
        truth, logit = made_up(1000)
        figures = calibration_figures(truth, sigmoid(logit * 3), bins=10, kind="mass")
        assert {each.count for each in figures.bins} <= set(range(95, 106))

    def test_of_true_log_odds_is_right_and_slope_shows_overconfidence(self):
        truth, logit = made_up(20000)
        right = calibration_figures(truth, sigmoid(logit))
        assert right.ece < 0.02
        assert right.slope == pytest.approx(1, abs=0.05)
        assert right.intercept == pytest.approx(0, abs=0.05)
        wrong = calibration_figures(truth, sigmoid(3 * logit + 1))
        assert wrong.slope == pytest.approx(1 / 3, abs=0.02)
        assert wrong.ece > 3 * right.ece

    def test_slope_equals_scikit_learns_logistic_regression(self):
        truth, logit = made_up(400, seed=4)
        fitted = LogisticRegression(C=1e9, tol=1e-10).fit(logit[:, None], truth)
        figures = calibration_figures(truth, sigmoid(logit))
        assert figures.slope == pytest.approx(fitted.coef_[0, 0], abs=1e-3)
        assert figures.intercept == pytest.approx(fitted.intercept_[0], abs=1e-3)

    def test_degenerate_cases_have_no_slope_and_no_nan(self):
        assert calibration_figures([], []) is None
        for truth, chance in (([1, 1], [0.2, 0.9]), ([0, 1], [0.1, 0.9]), ([0], [1.0]), ([0, 1], [0.0, 1.0])):
            figures = calibration_figures(truth, chance)
            assert figures.slope is None
            assert figures.intercept is None
            assert math.isfinite(figures.ece)
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            calibration_figures([1], [1.2])
        with pytest.raises(ValueError, match="bin"):
            calibration_figures([1], [0.2], bins=0)


class TestRecalibration:
    def test_of_one_logit_finds_what_was_done_to_it(self):
        truth, logit = made_up(20000)
        found = fit_sigmoid(truth, 4 * logit - 2)
        assert found.scale == pytest.approx(0.25, abs=0.01)
        assert found.temperature == pytest.approx(4, abs=0.2)
        assert found.offset[0] == pytest.approx(0.5, abs=0.05)
        assert found.loss_after < found.loss_before
        assert calibration_figures(truth, sigmoid(found.apply(4 * logit - 2))).ece < 0.02

    def test_losses_equal_scikit_learns(self):
        truth, logit = made_up(300)
        found = fit_sigmoid(truth, logit)
        assert found.loss_before == pytest.approx(log_loss(truth, sigmoid(logit)))
        assert found.loss_after == pytest.approx(log_loss(truth, sigmoid(found.apply(logit))))

    def test_of_softmax_finds_what_was_done_to_it(self):
        generator = np.random.default_rng(0)
        logits = generator.normal(size=(30000, 3)) * 2
        label = np.array([generator.choice(3, p=chance) for chance in softmax_rows(logits)])
        found = fit_softmax(label, 2 * logits + [0.0, 1.0, -1.0])
        assert found.scale == pytest.approx(0.5, abs=0.02)
        assert found.offset == pytest.approx((0, -0.5, 0.5), abs=0.05)
        assert found.loss_after == pytest.approx(log_loss(label, softmax_rows(logits)), abs=1e-3)

    @given(chances(least=1, most=20))
    def test_keeps_the_order_of_images(self, case):
        truth, chance = case
        found = fit_sigmoid(truth, chance * 10)
        assert found.scale > 0
        assert roc_auc(truth, found.apply(chance * 10)) == pytest.approx(roc_auc(truth, chance))

    def test_of_separated_or_single_classes_stays_finite(self):
        found = fit_sigmoid([0, 0, 1, 1], [-1, -2, 1, 2])
        assert 0 < found.scale < 10
        assert fit_sigmoid([1, 1], [0, 1]) is None
        assert fit_softmax([0, 1, 1], np.eye(3)) is None
        with pytest.raises(ValueError, match="from 0 to 2"):
            fit_softmax([0, 1, 3], np.eye(3))
        with pytest.raises(ValueError, match="got"):
            fit_softmax([0, 1], np.eye(3))


class TestDecisionCurve:
    def test_agrees_with_the_formula_image_by_image(self):
        truth, logit = made_up(300)
        chance = sigmoid(logit)
        curve = decision_curve(truth, chance)
        for place, cut in enumerate(curve.thresholds):
            treated = chance >= cut
            benefit = (treated & (truth == 1)).mean() - (treated & (truth == 0)).mean() * cut / (1 - cut)
            assert curve.model[place] == pytest.approx(benefit)
            assert curve.treat_all[place] == pytest.approx(truth.mean() - (1 - truth.mean()) * cut / (1 - cut))

    def test_a_model_without_knowledge_is_never_useful_and_a_perfect_one_always(self):
        truth = np.repeat([0, 1], 50)
        assert decision_curve(truth, np.full(100, 0.5)).useful == ()
        perfect = decision_curve(truth, truth * 1.0)
        assert np.allclose(perfect.model, 0.5)
        assert len(perfect.useful) == 99

    def test_at_another_prevalence(self):
        truth, logit = made_up(300)
        assert decision_curve(truth, sigmoid(logit), prevalence=0.05).treat_all[0] == pytest.approx(0.05 - 0.95 / 99)
        assert decision_curve([1, 1], [0.1, 0.2]) is None
        with pytest.raises(ValueError, match="between 0 and 1"):
            decision_curve([0, 1], [0, 1], thresholds=(1.0,))


class TestSubgroups:
    def table(self, count=600, bad_group=True):
        truth, logit = made_up(count)
        sex = np.where(np.arange(count) % 3 == 0, "F", "M")
        noise = np.random.default_rng(9).normal(size=count) * 4
        score = np.where((sex == "F") & bad_group, noise, logit)
        return truth, score, {"sex": sex, "site": ["one"] * count}

    def test_flags_the_group_whose_interval_excludes_the_whole(self):
        truth, score, attributes = self.table()
        table = subgroup_table(truth, score, attributes, threshold=0.0)
        assert [(each.attribute, each.value) for each in table] == [("sex", "F"), ("sex", "M")]  # one site: no table
        women, men = table
        assert "auc below that of all images" in women.flags
        assert "auc above that of all images" in men.flags
        assert women.auc.value == pytest.approx(roc_auc_score(truth[::3], score[::3]))
        assert women.images + men.images == 600

    def test_flags_nobody_where_all_are_alike(self):
        table = subgroup_table(*self.table(bad_group=False), threshold=0.0)
        assert all(not each.flags for each in table)

    def test_flags_the_sensitivity_of_a_group_that_has_positives_only(self):
        truth, score, _ = self.table(bad_group=False)
        ward = np.where((truth == 1) & (score < np.quantile(score[truth == 1], 0.2)), "ward", "clinic")
        table = subgroup_table(truth, score, {"site": ward}, threshold=float(np.median(score)))
        found = next(each for each in table if each.value == "ward")
        assert found.auc is None
        assert found.flags == ("sensitivity below that of all images",)

    def test_says_so_when_a_group_is_too_small_to_be_flagged(self):
        truth, score = np.repeat([0, 1], 50), np.r_[np.zeros(50), np.ones(50)]
        score[:9] = 2
        table = subgroup_table(truth, score, {"view": ["AP"] * 9 + [""] * 91})
        small = next(each for each in table if each.value == "AP")
        assert small.is_small
        assert small.flags == ()
        assert small.auc is None
        assert small.sensitivity is None
        assert {each.value for each in table} == {"AP", "unknown"}

    @pytest.mark.parametrize(
        ("age", "band"),
        [
            (0, "0-17"),
            (17.9, "0-17"),
            (18, "18-39"),
            (80, "80+"),
            (119, "80+"),
            (None, "unknown"),
            (math.nan, "unknown"),
        ],
    )
    def test_age_bands(self, age, band):
        assert age_band(age) == band


class TestSeveralClasses:
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
    def test_report_is_counted_pair_by_pair(self, pairs):
        label, predicted = np.array(pairs).T
        report = classification_report(label, predicted, ("a", "b", "c", "d"))
        assert report.matrix == tuple(tuple(pairs.count((row, column)) for column in range(4)) for row in range(4))
        for number, each in enumerate(report.classes):
            hits, support, named = pairs.count((number, number)), sum(label == number), sum(predicted == number)
            assert each.precision == wilson(hits, int(named))
            assert each.recall == wilson(hits, int(support))
            assert each.support == support
            assert each.f1 == (2 * hits / (support + named) if support + named else None)
        assert report.accuracy == wilson(int((label == predicted).sum()), len(pairs))

    def test_degenerate_and_wrong_input(self):
        empty = classification_report([], [], ("a", "b"))
        assert (empty.accuracy, empty.macro_f1, empty.largest_class) == (None, None, None)
        with pytest.raises(ValueError, match="from 0 to 1"):
            classification_report([0, 2], [0, 0], ("a", "b"))
        with pytest.raises(ValueError, match="one length"):
            classification_report([0], [0, 0], ("a", "b"))


class TestStrata:
    def test_counts_pairs_of_one_stratum_only(self):
        generator = np.random.default_rng(2)
        source = generator.integers(0, 3, 300)
        truth = (generator.random(300) < np.array([0.1, 0.5, 0.9])[source]).astype(int)
        score = source * 10 + generator.normal(size=300)  # knows the source, and nothing else
        assert roc_auc(truth, score) > 0.75
        within = stratified_auc(truth, score, source)
        assert within.interval.holds(0.5)
        pairs = better = 0.0
        for stratum in range(3):
            cases, controls = (score[(source == stratum) & (truth == value)] for value in (1, 0))
            pairs += cases.size * controls.size
            better += (cases[:, None] > controls).sum() + 0.5 * (cases[:, None] == controls).sum()
        assert within.value == pytest.approx(better / pairs)

    def test_of_one_stratum_is_the_plain_area_with_its_interval(self):
        truth, logit = made_up(200)
        one = stratified_auc(truth, logit, ["same"] * 200)
        assert one.value == pytest.approx(roc_auc(truth, logit))
        plain = roc_auc_with_interval(truth, logit)
        half = max(plain.value - plain.interval.low, plain.interval.high - plain.value)
        assert (one.interval.low, one.interval.high) == pytest.approx((plain.value - half, min(1, plain.value + half)))

    def test_of_two_equal_strata_is_surer_by_the_root_of_two(self):
        truth, logit = made_up(200)
        one = stratified_auc(truth, logit, ["same"] * 200).interval
        two = stratified_auc([*truth, *truth], [*logit, *logit], ["a"] * 200 + ["b"] * 200).interval
        assert one.high - one.low == pytest.approx(np.sqrt(2) * (two.high - two.low))

    def test_does_not_exist_where_each_stratum_has_one_class(self):
        assert stratified_auc([0, 0, 1, 1], [1, 2, 3, 4], ["a", "a", "b", "b"]) is None
        assert stratified_auc([0, 1, 0, 1], [1, 1, 3, 3], ["a", "a", "b", "b"]).interval is None
