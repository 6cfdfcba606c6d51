"""ROC AUC, its variance and comparison; curves; bootstrap; proportions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import given as given_any
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import average_precision_score, roc_auc_score

from training.metrics import bootstrap, curves
from training.metrics.auc import auc_covariance, compare_auc, roc_auc, roc_auc_with_interval
from training.metrics.interval import Interval, wilson

# Ratings of 58 normal and 51 abnormal CT images: Hanley and McNeil, Radiology 1982;143:29, Table I.
HANLEY_TRUTH = np.repeat([0, 1], [58, 51])
HANLEY_RATING = np.r_[np.repeat(range(1, 6), [33, 6, 6, 11, 2]), np.repeat(range(1, 6), [3, 2, 2, 11, 33])]

# 43 patients with ovarian cancer: albumin, total protein, K-G score, popind. DeLong et al. 1988, as
# in the SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver Operating Characteristic Curves".
OVARIAN = """3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
    3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
    2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
    3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
    3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
    3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1"""

ALBUMIN, PROTEIN, KG_SCORE, POPIND = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4).T
KG_SCORE = 10 - KG_SCORE


def brute_force_covariance(truth, scores):
    """DeLong's formula as it stands in the paper: every pair of images, no ranks."""
    is_case = np.asarray(truth) == 1
    kernels = [
        (s[is_case][:, None] > s[~is_case]) + 0.5 * (s[is_case][:, None] == s[~is_case])
        for s in map(np.asarray, scores)
    ]
    of_cases = np.atleast_2d(np.cov([kernel.mean(axis=1) for kernel in kernels]))
    of_controls = np.atleast_2d(np.cov([kernel.mean(axis=0) for kernel in kernels]))
    return of_cases / is_case.sum() + of_controls / (~is_case).sum()


def given(*strategies):
    """Hypothesis without its deadline: other processes share the machine."""
    return lambda test: settings(deadline=None, max_examples=60)(given_any(*strategies)(test))


@st.composite
def two_classes(draw, least=1, most=40):
    """Truths and coarse scores (so that ties occur), both classes present."""
    positives = draw(st.integers(least, most))
    negatives = draw(st.integers(least, most))
    size = positives + negatives
    scores = draw(st.lists(st.integers(-8, 8), min_size=size, max_size=size))
    return np.repeat([1, 0], [positives, negatives]), np.array(scores, dtype=float)


class TestArea:
    def test_agrees_with_the_published_area_error_and_interval_of_the_ct_ratings(self):
        estimate = roc_auc_with_interval(HANLEY_TRUTH, HANLEY_RATING)
        # Stata Base Reference Manual, roctab: area 0.8932, standard error 0.0307, 0.83295 to 0.95339.
        assert round(estimate.value, 4) == 0.8932
        assert round(float(auc_covariance(HANLEY_TRUTH, [HANLEY_RATING])[0, 0]) ** 0.5, 4) == 0.0307
        assert (round(estimate.interval.low, 5), round(estimate.interval.high, 5)) == (0.83295, 0.95339)
        assert estimate.interval.method == "delong"

    @pytest.mark.parametrize(
        ("score", "area", "error", "low", "high"),
        [
            (ALBUMIN, 0.7366, 0.0927, 0.5549, 0.9182),
            (KG_SCORE, 0.7258, 0.1028, 0.5243, 0.9273),
            (PROTEIN, 0.6478, 0.1000, 0.4518, 0.8439),
        ],
        ids=["albumin", "kg-score", "protein"],
    )
    def test_agrees_with_the_reference_table_of_the_ovarian_data(self, score, area, error, low, high):
        estimate = roc_auc_with_interval(POPIND, score)
        found = [
            estimate.value,
            auc_covariance(POPIND, [score])[0, 0] ** 0.5,
            *(estimate.interval.low, estimate.interval.high),
        ]
        assert [round(float(each), 4) for each in found] == [area, error, low, high]

    @pytest.mark.parametrize(
        ("score", "difference", "low", "high", "p_value"),
        [(ALBUMIN, 0.0108, -0.1761, 0.1976, 0.9102), (PROTEIN, -0.0780, -0.2830, 0.1271, 0.4561)],
        ids=["albumin", "protein"],
    )
    def test_agrees_with_the_reference_contrasts_of_the_ovarian_data(self, score, difference, low, high, p_value):
        compared = compare_auc(POPIND, score, KG_SCORE)
        interval = compared.difference.interval
        assert round(compared.difference.value, 4) == difference
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
        assert round(compared.p_value, 4) == p_value

    @given(two_classes())
    def test_equals_scikit_learn_and_the_mann_whitney_statistic(self, case):
        truth, score = case
        area = roc_auc(truth, score)
        assert area == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
        statistic = mannwhitneyu(score[truth == 1], score[truth == 0]).statistic
        assert area == pytest.approx(statistic / (truth.sum() * (1 - truth).sum()), abs=1e-12)

    @given(two_classes())
    def test_sees_only_the_order_of_scores(self, case):
        truth, score = case
        assert roc_auc(truth, np.exp(score / 3) - 7) == pytest.approx(roc_auc(truth, score), abs=1e-12)

    @given(two_classes())
    def test_of_reversed_scores_or_truths_is_its_complement(self, case):
        truth, score = case
        area = roc_auc(truth, score)
        assert roc_auc(truth, -score) == pytest.approx(1 - area, abs=1e-12)
        assert roc_auc(1 - truth, score) == pytest.approx(1 - area, abs=1e-12)

    @given(two_classes(), st.randoms(use_true_random=False))
    def test_does_not_depend_on_the_order_of_images(self, case, random):
        truth, score = case
        order = list(range(truth.size))
        random.shuffle(order)
        one, other = roc_auc_with_interval(truth, score), roc_auc_with_interval(truth[order], score[order])
        assert other.value == pytest.approx(one.value)
        if one.interval is not None:
            assert (other.interval.low, other.interval.high) == pytest.approx((one.interval.low, one.interval.high))

    @given(two_classes(least=2))
    def test_covariance_equals_the_formula_over_all_pairs(self, case):
        truth, score = case
        second = np.roll(score, 1)
        found = auc_covariance(truth, [score, second])
        assert np.allclose(found, brute_force_covariance(truth, [score, second]), atol=1e-12)

    @given(two_classes(), st.sampled_from([0.5, 0.9, 0.95, 0.999]), st.integers(1, 4))
    def test_interval_holds_its_estimate_and_stays_in_its_range(self, case, confidence, images_each):
        truth, score = case
        groups = np.arange(truth.size) // images_each
        estimate = roc_auc_with_interval(truth, score, groups, confidence=confidence)
        if estimate.interval is not None:
            assert 0 <= estimate.interval.low <= estimate.value <= estimate.interval.high <= 1

    @pytest.mark.parametrize("truth", [[], [1], [0], [1, 1, 1], [0, 0]])
    def test_does_not_exist_for_one_class(self, truth):
        score = np.linspace(0, 1, len(truth))
        assert roc_auc(truth, score) is None
        assert roc_auc_with_interval(truth, score) is None
        assert compare_auc(truth, score, -score) is None

    def test_of_one_image_each_has_no_interval_unless_separated(self):
        assert roc_auc_with_interval([0, 1], [0.3, 0.3]).interval is None
        wide = roc_auc_with_interval([0, 1], [0.1, 0.9])
        assert wide.value == 1
        assert wide.interval.low < 0.25

    def test_of_separated_classes_is_not_claimed_to_be_certain(self):
        few = roc_auc_with_interval([0] * 5 + [1] * 5, range(10)).interval
        many = roc_auc_with_interval([0] * 100 + [1] * 100, range(200)).interval
        assert few.method == many.method == "newcombe"
        assert few.low < 0.75 < 0.95 < many.low < many.high == 1
        reversed_ = roc_auc_with_interval([1] * 5 + [0] * 5, range(10)).interval
        assert (reversed_.low, reversed_.high) == pytest.approx((0, 1 - few.low))

    @pytest.mark.parametrize(
        ("truth", "score"),
        [([0, 1], [0.1]), ([0, 2], [0, 1]), ([0, 1], [0, np.nan]), ([0, 1], [0, np.inf]), ([[0, 1]], [[0, 1]])],
    )
    def test_refuses_what_is_no_truth_or_score(self, truth, score):
        with pytest.raises(ValueError, match=r"truths|scores"):
            roc_auc(truth, score)


class TestPatientsWithSeveralImages:
    def test_copies_of_the_images_do_not_narrow_the_interval(self):
        once = roc_auc_with_interval(HANLEY_TRUTH, HANLEY_RATING)
        patients = np.arange(HANLEY_TRUTH.size)
        many = roc_auc_with_interval(np.tile(HANLEY_TRUTH, 7), np.tile(HANLEY_RATING, 7), np.tile(patients, 7))
        naive = roc_auc_with_interval(np.tile(HANLEY_TRUTH, 7), np.tile(HANLEY_RATING, 7))
        assert many.interval.method == "obuchowski"
        assert (many.interval.low, many.interval.high) == pytest.approx((once.interval.low, once.interval.high))
        assert naive.interval.low > once.interval.low + 0.03

    def test_covariance_equals_the_formula_of_the_paper(self):
        generator = np.random.default_rng(3)
        truth = generator.integers(0, 2, 60)
        score = truth + generator.normal(size=60)
        patient = generator.integers(0, 17, 60)
        cases, controls = truth == 1, truth == 0
        kernel = (score[cases][:, None] > score[controls]) * 1.0
        area = kernel.mean()
        sums = np.zeros((2, 17))
        np.add.at(sums[0], patient[cases], kernel.mean(axis=1) - area)
        np.add.at(sums[1], patient[controls], kernel.mean(axis=0) - area)
        of = {name: np.unique(patient[mask]).size for name, mask in (("cases", cases), ("controls", controls))}
        s10 = of["cases"] / (of["cases"] - 1) / cases.sum() * (sums[0] ** 2).sum()
        s01 = of["controls"] / (of["controls"] - 1) / controls.sum() * (sums[1] ** 2).sum()
        patients = np.unique(patient).size
        s11 = patients / (patients - 1) * (sums[0] * sums[1]).sum()
        expected = s10 / cases.sum() + s01 / controls.sum() + 2 * s11 / (cases.sum() * controls.sum())
        assert auc_covariance(truth, [score], patient)[0, 0] == pytest.approx(expected)

    def test_a_variance_needs_two_patients_of_each_class(self):
        with pytest.raises(ValueError, match="two patients"):
            auc_covariance([0, 0, 1, 1], [[0, 1, 2, 1]], [1, 2, 3, 3])

    def test_groups_must_be_as_many_as_images(self):
        with pytest.raises(ValueError, match="one group"):
            roc_auc_with_interval([0, 1], [0, 1], [1])


class TestComparison:
    @given(two_classes(least=2))
    def test_of_a_score_with_itself_finds_nothing(self, case):
        truth, score = case
        compared = compare_auc(truth, score, score * 2 + 1)
        assert compared.difference.value == 0
        assert compared.p_value == pytest.approx(1)

    @given(two_classes(least=2))
    def test_changes_its_sign_with_the_order(self, case):
        truth, score = case
        other = np.roll(score, 3)
        one, two = compare_auc(truth, score, other), compare_auc(truth, other, score)
        assert one.difference.value == pytest.approx(-two.difference.value)
        assert one.p_value == pytest.approx(two.p_value)
        interval = one.difference.interval
        assert interval.low <= one.difference.value <= interval.high

    def test_error_rate_under_no_difference_is_what_it_says(self):
        generator = np.random.default_rng(0)
        rejected = 0
        for _ in range(400):
            truth = np.repeat([0, 1], 60)
            common = truth + generator.normal(size=120)
            compared = compare_auc(truth, common + generator.normal(size=120), common + generator.normal(size=120))
            rejected += compared.p_value < 0.05
        assert 8 <= rejected <= 34  # 20 expected; 5 sigma


class TestCoverage:
    def test_intervals_cover_the_true_area_about_as_often_as_they_say(self):
        generator = np.random.default_rng(1)
        area = 0.8  # of two normal distributions 1.19 standard deviations apart
        covered = clustered = 0
        for _ in range(400):
            truth = np.repeat([0, 1], 50)
            score = truth * 1.1902 + generator.normal(size=100)
            covered += roc_auc_with_interval(truth, score).interval.holds(area)
            # Three images of each patient that differ little.
            noisy = np.repeat(score, 3) + generator.normal(size=300) * 0.01
            interval = roc_auc_with_interval(np.repeat(truth, 3), noisy, np.arange(300) // 3).interval
            clustered += interval.holds(area)
        assert 358 <= covered <= 396  # 380 expected
        assert 358 <= clustered <= 396


def counted_points(truth, score):
    """Count, at each distinct score from the highest, the positives and the images at or above it."""
    thresholds = np.unique(score)[::-1]
    hits = np.array([(truth[score >= each] == 1).sum() for each in thresholds])
    return hits, np.array([(score >= each).sum() for each in thresholds]), thresholds


class TestCurves:
    @given(two_classes())
    def test_roc_curve_is_counted_at_each_score(self, case):
        truth, score = case
        hits, alarms, thresholds = counted_points(truth, score)
        curve = curves.roc_curve(truth, score)
        assert np.array_equal(curve.x, np.r_[0, (alarms - hits) / (1 - truth).sum()])
        assert np.array_equal(curve.y, np.r_[0, hits / truth.sum()])
        assert np.array_equal(curve.thresholds, np.r_[np.inf, thresholds])

    @given(two_classes())
    def test_area_under_the_curve_is_the_area(self, case):
        curve = curves.roc_curve(*case)
        assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc(*case))

    @given(two_classes())
    def test_average_precision_is_the_sum_of_the_steps(self, case):
        hits, alarms, _ = counted_points(*case)
        steps = np.diff(np.r_[0, hits]) / case[0].sum()
        assert curves.average_precision(*case) == pytest.approx((steps * hits / alarms).sum(), abs=1e-14)

    @given(two_classes())
    def test_precision_recall_points_are_counted_at_each_score(self, case):
        truth, score = case
        hits, alarms, thresholds = counted_points(truth, score)
        curve = curves.precision_recall_curve(truth, score)
        assert np.array_equal(curve.x, hits / truth.sum())
        assert np.array_equal(curve.y, hits / alarms)
        assert np.array_equal(curve.thresholds, thresholds)

    @pytest.mark.parametrize("step", [5e-324, 1e-300, 1e-15, 1e300])
    def test_scores_that_differ_at_all_are_distinct_thresholds(self, step):
        score = np.array([1, 2, 2, 3]) * step
        truth = np.array([0, 1, 0, 1])
        assert curves.roc_curve(truth, score).thresholds.tolist() == [np.inf, *score[[3, 1, 0]]]
        assert curves.precision_recall_curve(truth, score).thresholds.tolist() == score[[3, 1, 0]].tolist()
        assert curves.average_precision(truth, score) == pytest.approx(0.5 + 0.5 * 2 / 3)

    def test_do_not_exist_without_what_they_show(self):
        assert curves.roc_curve([1, 1], [0, 1]) is None
        assert curves.roc_curve([], []) is None
        assert curves.precision_recall_curve([0, 0], [0, 1]) is None
        assert curves.average_precision([0], [1]) is None
        assert curves.average_precision([1, 1], [0, 1]) == 1


class TestBootstrap:
    @given(two_classes(), st.integers(0, 3))
    def test_weights_of_one_give_the_plain_figures(self, case, seed):
        truth, score = case
        ones = np.ones((2, truth.size))
        assert bootstrap.area_under_roc(truth, score)(ones) == pytest.approx(roc_auc(truth, score))
        assert bootstrap.precision_average(truth, score)(ones) == pytest.approx(curves.average_precision(truth, score))
        # Whole-number weights are the same as images that occur that often.
        times = np.random.default_rng(seed).integers(0, 4, truth.size)
        repeated, scores = np.repeat(truth, times), np.repeat(score, times)
        assume(0 < repeated.sum() < repeated.size)
        weights = times[None].astype(float)
        assert bootstrap.area_under_roc(truth, score)(weights)[0] == pytest.approx(roc_auc_score(repeated, scores))
        assert bootstrap.precision_average(truth, score)(weights)[0] == pytest.approx(
            average_precision_score(repeated, scores)
        )

    def area(self, truth, score, groups=None, **options):
        statistics = {"auc": bootstrap.area_under_roc(truth, score)}
        return bootstrap.patient_bootstrap(statistics, groups, len(truth), **options)

    def test_agrees_with_delong_where_each_patient_has_one_image(self):
        found = self.area(HANLEY_TRUTH, HANLEY_RATING)["auc"]
        exact = roc_auc_with_interval(HANLEY_TRUTH, HANLEY_RATING).interval
        assert found.low == pytest.approx(exact.low, abs=0.012)
        assert found.high == pytest.approx(exact.high, abs=0.012)

    def test_draws_patients_and_not_images(self):
        truth, score = np.tile(HANLEY_TRUTH, 5), np.tile(HANLEY_RATING, 5)
        by_patient = self.area(truth, score, np.tile(np.arange(109), 5))["auc"]
        by_image = self.area(truth, score)["auc"]
        assert by_patient.high - by_patient.low > 1.8 * (by_image.high - by_image.low)

    def test_all_images_of_a_patient_are_drawn_together(self):
        drawn = []

        def watch(weights):
            drawn.append(weights)
            return weights.sum(axis=1)

        bootstrap.patient_bootstrap({"sum": watch}, ["b", "a", "b", "b", "c"], 5, replicates=50)
        weights = np.concatenate(drawn)
        assert weights.shape == (50, 5)
        assert (weights[:, [0, 0]] == weights[:, [2, 3]]).all()
        assert (weights[:, [0, 1, 4]].sum(axis=1) == 3).all()  # as many patients as there are
        assert (weights[:, 0] != weights[:, 1]).any()

    def test_is_the_same_for_the_same_seed_whatever_the_names_of_patients(self):
        names = np.array([f"patient {place:03d}" for place in range(109)])
        one = self.area(HANLEY_TRUTH, HANLEY_RATING, names, seed=5, replicates=100)
        assert one == self.area(HANLEY_TRUTH, HANLEY_RATING, seed=5, replicates=100)
        assert one != self.area(HANLEY_TRUTH, HANLEY_RATING, seed=6, replicates=100)

    def test_leaves_out_what_most_draws_do_not_have(self):
        # One patient holds every positive: a third of the draws lack them.
        assert "auc" in self.area([1, 1, 0, 0, 0], [3, 4, 1, 2, 0], [0, 0, 1, 2, 3], replicates=200)
        assert self.area([1, 1, 0, 0], [3, 4, 1, 2], [0, 0, 0, 0], replicates=200)["auc"].low == 1
        assert self.area([1, 1], [0, 1]) == {}
        assert self.area([], []) == {}

    def test_is_widened_to_hold_the_estimate(self):
        found = self.area(HANLEY_TRUTH, HANLEY_RATING, replicates=50, estimates={"auc": 0.99})
        assert found["auc"].high == 0.99

    def test_share_is_a_share_of_the_drawn_images(self):
        statistic = bootstrap.share(np.array([True, False, True, True]), np.array([True, True, True, False]))
        assert statistic(np.array([[1.0, 1, 1, 1], [0, 2, 1, 5]])) == pytest.approx([2 / 3, 1 / 3])
        assert np.isnan(statistic(np.array([[0.0, 0, 0, 4]]))).all()


class TestWilson:
    @pytest.mark.parametrize(
        ("successes", "trials", "low", "high"),
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
    )
    def test_agrees_with_newcombes_table(self, successes, trials, low, high):
        # Newcombe, Statistics in Medicine 1998;17:857, Table I, method 3.
        interval = wilson(successes, trials).interval
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)

    @pytest.mark.parametrize("trials", [1, 2, 7, 1000, 1_000_000])
    @pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
    def test_equals_the_formula_of_the_paper(self, trials, confidence):
        z = norm.ppf(0.5 + confidence / 2)
        for successes in {0, 1, trials // 3, trials - 1, trials}:
            p = successes / trials
            root = z * (p * (1 - p) / trials + z**2 / (4 * trials**2)) ** 0.5
            ends = [(p + z**2 / (2 * trials) + sign * root) / (1 + z**2 / trials) for sign in (-1, 1)]
            interval = wilson(successes, trials, confidence=confidence).interval
            assert (interval.low, interval.high) == pytest.approx(ends, abs=1e-14)
        assert wilson(0, trials).interval.low == 0
        assert wilson(trials, trials).interval.high == 1

    @given(st.integers(0, 200), st.integers(0, 200))
    def test_holds_its_estimate_within_0_and_1(self, successes, failures):
        assume(successes + failures)
        estimate = wilson(successes, successes + failures)
        assert 0 <= estimate.interval.low <= estimate.value <= estimate.interval.high <= 1
        mirrored = wilson(failures, successes + failures)
        assert mirrored.interval.low == pytest.approx(1 - estimate.interval.high, abs=1e-12)

    def test_does_not_exist_without_trials_and_refuses_nonsense(self):
        assert wilson(0, 0) is None
        with pytest.raises(ValueError, match="got 3"):
            wilson(3, 2)


def test_an_interval_has_its_ends_in_order():
    with pytest.raises(ValueError, match="low to high"):
        Interval(0.6, 0.5, "delong")
    with pytest.raises(ValueError, match="low to high"):
        Interval(0.5, float("nan"), "delong")
