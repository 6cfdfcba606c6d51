"""Predictions files, evaluation, comparison, suspects, cards: all from tables, no model anywhere."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from app.cli import app
from cxr.errors import PredictionsError
from cxr.package import OperatingPoint
from training.evaluation import (
    choose_operating_points,
    find_suspects,
    read_operating_points,
    read_predictions,
    tabulate,
    write_evaluation,
    write_operating_points,
    write_predictions,
    write_suspects,
)
from training.evaluation.cautions import explains
from training.evaluation.compare import compare
from training.evaluation.evaluate import evaluate
from training.evaluation.predictions import check
from training.files import to_document, write_document
from training.metrics.calibration import sigmoid, softmax_rows
from training.metrics.interval import Estimate
from training.packaging.model_card import CardFacts, evaluated_card
from training.packaging.promotion_figures import package_figures


def cases(count: int, seed: int = 0, **columns: object) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    table = {
        "image_id": [f"made:{row}" for row in range(count)],
        "patient_id": [f"P{row // 2}" for row in range(count)],
        "source": generator.choice(["alpha", "beta"], count),
        "view": generator.choice(["AP", "PA"], count),
        "sex": generator.choice(["F", "M", ""], count),
        "age": generator.choice([5.0, 30.0, 70.0, np.nan], count),
        "site": "",
        "manufacturer": "NA",  # a text that pandas would take for a missing value
        "label": "covid19",
    }
    return pd.DataFrame(table | columns)


def binary(count: int = 400, gap: float = 1.5, seed: int = 0, **columns: object):
    generator = np.random.default_rng(seed + 100)
    truth = np.random.default_rng(1).integers(0, 2, count)
    logits = gap * (truth * gap + generator.normal(size=count) - gap / 2)
    frame = cases(count, label=np.where(truth == 1, "covid19", "normal"), **columns)
    return tabulate(frame, ["covid19"], logits=logits[:, None], probabilities=sigmoid(logits)[:, None], truth=truth)


def several(count: int = 300):
    generator = np.random.default_rng(3)
    truth = np.arange(count) % 3
    logits = generator.normal(size=(count, 3)) + 2 * np.eye(3)[truth]
    names = ["normal", "covid19", "viral_pneumonia"]
    frame = cases(count, label=np.array(names)[truth])
    return tabulate(frame, names, logits=logits, probabilities=softmax_rows(logits), truth=truth)


class TestPredictions:
    @pytest.mark.parametrize("make", [binary, several], ids=["binary", "multiclass"])
    def test_come_back_from_the_file_as_they_were(self, make, tmp_path):
        exact = make().frame
        columns = [name for name in exact if name.startswith(("prob_", "logit_"))]
        made = check(exact.assign(**{name: exact[name].astype(np.float32) for name in columns}))
        path = tmp_path / "run" / "predictions.csv"
        write_predictions(made, path)
        read = read_predictions(path)
        assert (read.classes, read.kind) == (made.classes, made.kind)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]
        for name in made.classes:
            assert np.array_equal(read.truth(name), made.truth(name))
            # Nine digits: a float32 comes back to the bit.
            for column in (f"prob_{name}", f"logit_{name}"):
                assert np.array_equal(read.frame[column].astype(np.float32), made.frame[column].astype(np.float32))
        assert set(read.frame["manufacturer"]) == {"NA"}
        assert list(read.patients) == list(made.patients)

    def test_of_several_findings_know_what_is_not_known(self, tmp_path):
        truth = np.array([[1, 0], [0, np.nan], [-1, 1]])
        logits = np.array([[2.0, -1], [-2, 0.5], [0, 1]])
        made = tabulate(
            cases(3), ["covid19", "lung_opacity"], logits=logits, probabilities=sigmoid(logits), truth=truth
        )
        write_predictions(made, tmp_path / "p.csv")
        read = read_predictions(tmp_path / "p.csv")
        assert read.kind == "multilabel"
        assert read.has_truth("covid19").tolist() == [True, True, False]
        assert read.has_truth("lung_opacity").tolist() == [True, False, True]
        assert read.truth("lung_opacity").tolist() == [False, False, True]
        assert evaluate(read, replicates=100).of("lung_opacity").images == 2

    def test_order_images_by_logits_where_probabilities_are_all_one(self):
        logits = np.array([20.0, 40.0, 60.0, 80.0])
        chance = sigmoid(logits).astype(np.float32)
        assert len(set(chance)) == 1
        made = tabulate(
            cases(4), ["covid19"], logits=logits[:, None], probabilities=chance[:, None], truth=[0, 0, 1, 1]
        )
        assert evaluate(made, replicates=100).of("covid19").auc.value == 1

    def test_score_of_softmax_is_the_log_odds(self):
        made = several()
        chance = made.probability("covid19")
        assert np.allclose(made.score("covid19"), np.log(chance / (1 - chance)))

    def test_without_logits_can_still_be_judged(self, tmp_path):
        frame = binary().frame.drop(columns="logit_covid19")
        frame.to_csv(tmp_path / "theirs.csv", index=False)
        theirs = evaluate(read_predictions(tmp_path / "theirs.csv"), replicates=100)
        assert theirs.of("covid19").auc.value == pytest.approx(
            evaluate(binary(), replicates=100).of("covid19").auc.value
        )
        with pytest.raises(PredictionsError, match="logit_covid19"):
            read_predictions(tmp_path / "theirs.csv").logits()

    @pytest.mark.parametrize(
        ("column", "value", "words"),
        [
            ("prob_covid19", 1.5, "line 4 .* not within 0 to 1"),
            ("prob_covid19", "", "line 4 .* not a number"),
            ("prob_covid19", 0.123, "line 4 .* not what its logit stands for"),
            ("logit_covid19", "inf", "line 4 .* not a number"),
            ("y", 2, "line 4 .* whole number from 0 to 1"),
            ("y", "", "line 4 .* y is not a number"),
            ("age", "old", "line 4 .* age is not a number, or nothing"),
            ("image_id", "", "line 4 .* image_id is empty"),
            ("image_id", "made:0", "line 4 .* second time"),
        ],
    )
    def test_faults_are_named_with_their_line(self, tmp_path, column, value, words):
        frame = binary(10).frame.astype(object)
        frame.loc[2, column] = value
        frame.to_csv(tmp_path / "p.csv", index=False)
        with pytest.raises(PredictionsError, match=words):
            read_predictions(tmp_path / "p.csv")

    def test_missing_columns_and_files_are_named(self, tmp_path):
        with pytest.raises(PredictionsError, match=r"column y\b"):
            check(binary(4).frame.drop(columns="y"))
        with pytest.raises(PredictionsError, match="no column prob_"):
            check(pd.DataFrame({"image_id": ["a"], "y": [1]}))
        with pytest.raises(PredictionsError, match=r"absent\.csv can't be read"):
            read_predictions(tmp_path / "absent.csv")
        with pytest.raises(PredictionsError, match="add up to 1"):
            check(several(3).frame.drop(columns=["logit_normal"]).assign(prob_normal=0.99))
        with pytest.raises(PredictionsError, match=r"shape \(3, 1\)"):
            tabulate(cases(3), ["covid19"], logits=np.zeros((2, 1)), probabilities=np.zeros((3, 1)), truth=[0, 0, 0])

    def test_images_without_a_patient_are_their_own_and_stamp_the_figures(self):
        made = binary(40, patient_id="")
        assert made.is_image_wise
        assert len(set(made.patients)) == 40
        found = evaluate(made, replicates=100)
        assert found.patients is None
        assert "image_wise" in [each.code for each in found.cautions]


class TestEvaluation:
    def test_figures_equal_scikit_learns_for_one_class(self):
        made = binary()
        truth, score = made.truth("covid19"), made.score("covid19")
        figures = evaluate(made, thresholds={"covid19": 0.4}, replicates=200).of("covid19")
        assert figures.auc.value == pytest.approx(roc_auc_score(truth, score))
        assert figures.auc.interval.method == "obuchowski"  # two images each
        assert figures.average_precision.value == pytest.approx(average_precision_score(truth, score))
        assert figures.sensitivity_bootstrap.holds(figures.at_threshold.sensitivity.value)
        assert figures.patients == 200
        within = figures.within_source
        assert within.sources == 2
        assert 0.4 < within.share_of_pairs < 0.6

    def test_bootstrap_of_proportions_agrees_with_wilson_where_each_patient_has_one_image(self):
        made = binary(patient_id=[f"P{row}" for row in range(400)])
        figures = evaluate(made, thresholds={"covid19": 0.3}, replicates=1000).of("covid19")
        at = figures.at_threshold
        for drawn, wilson in (
            (figures.sensitivity_bootstrap, at.sensitivity.interval),
            (figures.specificity_bootstrap, at.specificity.interval),
        ):
            assert (drawn.low, drawn.high) == pytest.approx((wilson.low, wilson.high), abs=0.015)

    def test_figures_equal_scikit_learns_for_several_classes(self):
        made = several()
        found = evaluate(made, replicates=100)
        chances = np.column_stack([made.probability(name) for name in made.classes])
        expected = roc_auc_score(made.frame["y"], chances, multi_class="ovr")
        assert found.macro_auc == pytest.approx(expected)
        assert found.report.accuracy.value == (chances.argmax(axis=1) == made.frame["y"]).mean()

    def test_file_is_the_same_each_time_and_made_from_the_predictions_alone(self, tmp_path):
        write_predictions(binary(), tmp_path / "p.csv")
        contents = []
        for folder in ("one", "two"):
            found = evaluate(read_predictions(tmp_path / "p.csv"), thresholds={"covid19": 0.5}, replicates=200)
            contents.append(write_evaluation(found, tmp_path / folder).read_bytes())
        assert contents[0] == contents[1]
        document = json.loads(contents[0])
        assert document["notice"] == "RESEARCH USE ONLY - NOT FOR CLINICAL USE"
        assert document["classes"][0]["at_threshold"]["threshold"] == 0.5

    @pytest.mark.parametrize("truth", [[1] * 6, [0] * 6, [1], [0, 1]])
    def test_degenerate_sets_give_no_figure_and_no_nan(self, truth, tmp_path):
        logits = np.linspace(-1, 1, len(truth))[:, None]
        frame = cases(len(truth))
        made = tabulate(frame, ["covid19"], logits=logits, probabilities=sigmoid(logits), truth=truth)
        found = evaluate(made, thresholds={"covid19": 0.5}, replicates=100)
        write_evaluation(found, tmp_path)  # refuses NaN
        if len(set(truth)) == 1:
            assert found.of("covid19").auc is None
            assert "one_class" in [each.code for each in found.cautions]

    def test_thresholds_of_no_class_are_refused(self):
        with pytest.raises(ValueError, match="got normal"):
            evaluate(binary(10), thresholds={"normal": 0.5})

    def test_package_figures_are_plain_values(self):
        figures = package_figures(evaluate(binary(), thresholds={"covid19": 0.5}, replicates=100), {"seen": True})
        assert json.loads(json.dumps(figures)) == figures
        one = figures["classes"]["covid19"]
        assert one["auc_low"] < one["auc"] < one["auc_high"]
        assert one["worst_subgroup"]["auc"] <= one["auc"] + 0.05
        assert {"source_only_auc", "metadata_only_auc", "within_source_auc", "ece", "sensitivity"} <= set(one)
        assert figures["seen"] is True


class TestCautions:
    def codes(self, made, **options):
        return [each.code for each in evaluate(made, replicates=100, **options).cautions]

    def test_an_honest_model_gets_none_but_its_chance_flags(self):
        assert set(self.codes(binary(gap=1.0))) <= {"subgroup", "badly_calibrated"}

    def test_a_model_that_is_too_good_is_a_likely_shortcut(self):
        assert "too_good" in self.codes(binary(gap=4.0))
        assert "too_good" not in self.codes(binary(gap=1.5))

    def test_a_source_that_explains_the_model_is_said(self):
        truth = binary().truth("covid19")
        source = np.where(truth, "alpha", "beta")
        found = self.codes(binary(source=source))
        assert "source_explains" in found
        assert "no_pair_within_a_source" in found
        age = np.where(truth, 70.0, 5.0)
        assert "metadata_explains" in self.codes(binary(age=age))

    def test_a_model_that_knows_the_source_alone_falls_within_one(self):
        generator = np.random.default_rng(0)
        source = generator.integers(0, 2, 400)
        truth = (generator.random(400) < np.where(source == 1, 0.9, 0.1)).astype(int)
        logits = (source * 4 - 2 + generator.normal(size=400))[:, None]
        frame = cases(400, source=np.where(source == 1, "alpha", "beta"), patient_id=[f"P{i}" for i in range(400)])
        made = tabulate(frame, ["covid19"], logits=logits, probabilities=sigmoid(logits), truth=truth)
        found = evaluate(made, replicates=100)
        assert "within_source_falls" in [each.code for each in found.cautions]
        assert found.of("covid19").within_source.auc.interval.holds(0.5)

    def test_few_images_and_bad_probabilities_are_said(self):
        assert "few_images" in self.codes(binary(60))
        logits = binary().score("covid19") * 6
        made = tabulate(
            binary().frame,
            ["covid19"],
            logits=logits[:, None],
            probabilities=sigmoid(logits)[:, None],
            truth=binary().frame["y"],
        )
        assert "badly_calibrated" in self.codes(made)

    def test_a_baseline_at_chance_explains_nothing(self):
        figures = evaluate(binary(gap=0.01), replicates=100).of("covid19")
        assert not any(explains(base, figures.auc) for base in figures.baselines)
        assert not explains(replace(figures.baselines[0], auc=None), Estimate(0.4))


class TestOperatingPoints:
    def test_are_chosen_on_validation_and_survive_their_file(self, tmp_path):
        points = choose_operating_points(binary(seed=5))
        assert points.rule == "sensitivity of at least 0.90"
        one = points.classes["covid19"]
        assert one.low <= one.threshold <= one.high
        write_operating_points(points, tmp_path / "operating_point.json")
        assert read_operating_points(tmp_path / "operating_point.json") == points
        at = evaluate(binary(seed=6), thresholds=points.thresholds, replicates=100).of("covid19").at_threshold
        assert 0.85 < at.sensitivity.value < 0.96

    def test_one_class_or_a_broken_file_is_an_error(self, tmp_path):
        made = binary(4)
        with pytest.raises(PredictionsError, match="one class only"):
            choose_operating_points(check(made.frame.assign(y=1)))
        (tmp_path / "broken.json").write_text('{"rule": 3}')
        for name in ("broken.json", "absent.json"):
            with pytest.raises(PredictionsError, match=name.replace(".", r"\.")):
                read_operating_points(tmp_path / name)


class TestComparison:
    def test_finds_the_better_of_two_models_by_their_common_images(self):
        better, worse = binary(gap=2.0), binary(gap=1.0, seed=7)
        part = check(worse.frame.iloc[::-1].iloc[:350])  # another order, fewer images
        found = compare(better, part, names=("new", "old"))
        assert (found.images, found.only_first, found.only_second) == (350, 50, 0)
        one = found.classes[0].auc
        assert one.difference.value > 0.05
        assert one.difference.interval.low > 0
        assert one.p_value < 0.01
        back = compare(part, better).classes[0].auc
        assert back.difference.value == pytest.approx(-one.difference.value)
        json.dumps(to_document(found))

    def test_refuses_what_can_not_be_compared(self):
        made = binary(20)
        with pytest.raises(PredictionsError, match="share no image"):
            compare(made, check(made.frame.assign(image_id=[f"other:{row}" for row in range(20)])))
        with pytest.raises(PredictionsError, match="share no class"):
            compare(
                made, check(made.frame.rename(columns={"prob_covid19": "prob_normal", "logit_covid19": "logit_normal"}))
            )
        with pytest.raises(PredictionsError, match="disagree about covid19 in 20 images"):
            compare(made, check(made.frame.assign(y=1 - made.frame["y"])))


class TestSuspects:
    def test_wrong_labels_come_first(self, tmp_path):
        made = binary(400, gap=4.0)
        wrong = np.flatnonzero(np.abs(made.score("covid19")) > 6)[:12]
        frame = made.frame.copy()
        frame.loc[wrong, "y"] = 1 - frame.loc[wrong, "y"]
        found = find_suspects(check(frame), basis="test")
        assert set(found["image_id"][:12]) == set(frame.loc[wrong, "image_id"])
        assert (found["doubt"].diff().dropna() <= 0).all()
        assert found["doubt"].between(0, 1).all()
        assert set(found["basis"]) == {"test"}
        write_suspects(found, tmp_path / "suspects.csv")
        assert stat.S_IMODE((tmp_path / "suspects.csv").stat().st_mode) == 0o600
        assert len(pd.read_csv(tmp_path / "suspects.csv")) == len(found)

    def test_of_several_classes_name_the_likelier_one(self):
        frame = several().frame.copy()
        row = int(np.argmax(frame["prob_covid19"]))
        frame.loc[row, "y"] = 0
        found = find_suspects(check(frame), basis="test")
        assert found.loc[0, ["image_id", "given", "suggested"]].tolist() == [f"made:{row}", "normal", "covid19"]

    def test_of_one_class_there_are_none(self):
        assert find_suspects(check(binary(10).frame.assign(y=1)), basis="test").empty


class TestCard:
    def card(self, model_manifest, made=None, **facts):
        point = OperatingPoint(rule="sensitivity of at least 0.90", chosen_on="the validation images", prevalence=0.3)
        manifest = model_manifest("covid19", threshold=0.4, operating_point=point)
        evaluation = evaluate(made or binary(), thresholds={"covid19": 0.4}, dataset="the test part", replicates=100)
        return evaluation, evaluated_card(manifest, CardFacts(internal=evaluation, **facts))

    def test_says_its_makers_note_before_that(self, model_manifest):
        _, text = self.card(model_manifest, note="Worth little elsewhere: 0.485.")
        assert text.split("\n\n")[1].startswith("Worth little elsewhere: 0.485. For covid19")

    def test_says_first_what_the_model_is_worth(self, model_manifest):
        evaluation, text = self.card(model_manifest)
        first = text.split("\n\n")[1]
        assert str(evaluation.of("covid19").auc) in first
        assert "from its source" in first
        assert "not for clinical use" in first.lower()
        assert "Do not trust" not in first

    def test_warns_first_of_a_shortcut(self, model_manifest):
        truth = binary().truth("covid19")
        _, text = self.card(model_manifest, binary(gap=4.0, source=np.where(truth, "alpha", "beta")))
        first = text.split("\n\n")[1]
        assert "**Do not trust these figures:**" in first
        assert "likelier a shortcut than skill" in first
        assert "the image's source alone" in first

    def test_has_the_headings_and_tables_of_a_report(self, model_manifest):
        external = evaluate(binary(100, seed=9), thresholds={"covid19": 0.4}, dataset="another site", replicates=100)
        _, text = self.card(
            model_manifest,
            external=(external,),
            audit={"patients on two sides": "none", "a|b": "c"},
            audit_cautions=("Copies of films are on two sides.",),
        )
        for heading in (
            "Intended use",
            "Data",
            "Partitions",
            "Operating point",
            "Results",
            "Subgroups",
            "Audit",
            "Limits",
        ):
            assert f"\n## {heading}" in text
        assert "PPV at a prevalence of 0.05" in text
        assert "Copies of films are on two sides." in text.split("\n\n")[1]
        assert "### Side by side" in text
        assert "None" not in text
        assert "nan" not in text.lower().replace("manufacturer: na", "")
        for block in text.split("\n\n"):
            rows = [line for line in block.split("\n") if line.startswith("|")]
            assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1  # each table is a rectangle

    def test_says_what_was_not_done(self, model_manifest):
        _, text = self.card(model_manifest)
        assert "No other site's images were evaluated" in text
        assert "No audit was made" in text

    def test_of_an_accepted_gate_starts_with_it(self, model_manifest):
        from cxr.domain import PackageStatus

        manifest = model_manifest("covid19", status=PackageStatus.DEMONSTRATION)
        text = evaluated_card(manifest, CardFacts(internal=evaluate(binary(60), replicates=100)))
        assert text.split("\n\n")[1].startswith("**DEMONSTRATION MODEL")
        assert "0.6 < 0.8" in text.split("\n\n")[1]


class TestDocuments:
    def test_refuse_what_is_no_figure(self, tmp_path: Path):
        for number in (float("nan"), float("inf"), np.float64("nan")):
            with pytest.raises(ValueError, match="None, not NaN"):
                write_document({"auc": number}, tmp_path / "m.json")
        with pytest.raises(TypeError, match="set"):
            to_document({"a": {1}})
        assert not (tmp_path / "m.json").exists()

    def test_numbers_have_six_digits(self):
        assert to_document([1 / 3, np.float32(0.1), np.int64(3), True, None]) == [0.333333, 0.1, 3, True, None]


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "app", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def evaluate_here(file: Path, *arguments: str):
    command = ["train", "evaluate", str(file), "--replicates", "100", *arguments]
    return CliRunner().invoke(app, command, env={"COLUMNS": "80", "TERM": "dumb"})


def test_sensitivity_of_classes_that_exclude_each_other_is_that_of_the_matrix():
    table = several()
    found = evaluate(table, thresholds=dict.fromkeys(table.classes, 0.999), replicates=100)
    matrix = np.array(found.report.matrix)
    for index, name in enumerate(table.classes):
        others = np.delete(matrix, index, axis=0)
        assert found.sensitivity(name).value == matrix[index, index] / matrix[index].sum()
        assert found.specificity(name).value == 1 - others[:, index].sum() / others.sum()
        assert package_figures(found)["classes"][name]["sensitivity"] == pytest.approx(
            found.sensitivity(name).value, abs=1e-6
        )
    one = evaluate(binary(), thresholds={"covid19": 0.3}, replicates=100)
    assert one.sensitivity("covid19") == one.of("covid19").at_threshold.sensitivity
    assert one.specificity("covid19") == one.of("covid19").at_threshold.specificity
    assert evaluate(binary(), replicates=100).sensitivity("covid19") is None


class TestVerbs:
    def test_evaluate_writes_figures_pictures_and_suspects(self, tmp_path):
        write_predictions(binary(100), tmp_path / "predictions_test.csv")
        write_operating_points(choose_operating_points(binary(100, seed=5)), tmp_path / "operating_point.json")
        (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n0,0.7,0.7\n1,0.5,0.6\n")
        done = train("evaluate", str(tmp_path), "--replicates", "100", "--prevalence", "0.1")
        assert done.returncode == 0, done.stderr
        made = {path.name for path in tmp_path.iterdir()}
        assert {"metrics.json", "curves.png", "subgroups.png", "confusion.png", "history.png", "suspects.csv"} <= made
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["classes"][0]["at_threshold"]["stated"][0]["prevalence"] == 0.1
        assert "warning (few_images)" in done.stderr or metrics["classes"][0]["positives"] >= 50

    def test_a_file_is_evaluated_into_a_folder_of_its_own(self, tmp_path):
        write_predictions(binary(40), tmp_path / "one.csv")
        write_predictions(several(60), tmp_path / "two.csv")
        for name in ("one", "two", "one"):
            done = evaluate_here(tmp_path / f"{name}.csv")
            assert done.exit_code == 0, done.output
        kinds = {
            name: json.loads((tmp_path / f"{name}-evaluation" / "metrics.json").read_text())["kind"]
            for name in ("one", "two")
        }
        assert kinds == {"one": "binary", "two": "multiclass"}
        assert not (tmp_path / "metrics.json").exists()

    def test_figures_of_other_predictions_are_never_overwritten(self, tmp_path):
        (tmp_path / "other").mkdir()
        write_predictions(binary(40), tmp_path / "one.csv")
        write_predictions(binary(60), tmp_path / "two.csv")
        write_predictions(binary(60), tmp_path / "other" / "one.csv")
        out = tmp_path / "out"
        assert evaluate_here(tmp_path / "one.csv", "-o", str(out)).exit_code == 0
        assert evaluate_here(tmp_path / "one.csv", "-o", str(out)).exit_code == 0  # the same once more
        for other in ("two.csv", "other/one.csv"):
            done = evaluate_here(tmp_path / other, "-o", str(out))
            assert done.exit_code == 1
            assert "holds the figures of other predictions (one.csv)" in str(done.exception)
        assert json.loads((out / "metrics.json").read_text())["images"] == 40

    def test_what_people_came_for_is_printed_at_80_columns(self, tmp_path):
        write_predictions(several(60), tmp_path / "p.csv")
        done = evaluate_here(tmp_path / "p.csv", "--threshold", "covid19=1")
        found = evaluate(several(60), replicates=100)
        assert max(map(len, done.stdout.splitlines()[:-1])) <= 80  # the last one names the folder
        assert "…" not in done.stdout
        assert f"accuracy {found.report.accuracy}" in " ".join(done.stdout.split())
        for line, each in zip(found.report.classes, found.classes, strict=True):
            assert f"{line.recall.value:.3f}" in done.stdout
            assert f"{line.f1:.3f}" in done.stdout
            interval = each.within_source.auc.interval
            assert f"{interval.low:.3f}-{interval.high:.3f}" in done.stdout
            assert f"{each.auc.interval.low:.3f}-{each.auc.interval.high:.3f}" in done.stdout
        for row in found.report.matrix:
            assert any(all(str(count) in line.split() for count in row) for line in done.stdout.splitlines())

    def test_findings_that_do_not_exclude_each_other_are_printed_at_their_thresholds(self, tmp_path):
        truth = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
        chances = np.array([[0.9, 0.2], [0.6, 0.8], [0.4, 0.7], [0.1, 0.1]])
        table = tabulate(
            cases(4),
            ["covid19", "lung_opacity"],
            logits=np.log(chances / (1 - chances)),
            probabilities=chances,
            truth=truth,
        )
        write_predictions(table, tmp_path / "p.csv")
        done = evaluate_here(tmp_path / "p.csv", "--threshold", "covid19=0.5", "--threshold", "lung_opacity=0.5")
        lines = [line.split() for line in done.stdout.splitlines()]
        assert ["covid19", "0.500", "0.500", "0.500", "0.500", "2"] in lines

    def test_faults_end_with_a_message_and_a_code(self, tmp_path):
        done = train("evaluate", str(tmp_path / "absent.csv"))
        assert done.returncode == 1
        assert "absent.csv can't be read" in done.stderr
        assert "Traceback" not in done.stderr
        write_predictions(binary(10), tmp_path / "p.csv")
        for wrong in ("covid19=2", "normal=0.5", "covid19"):
            command = ["train", "evaluate", str(tmp_path / "p.csv"), "--threshold", wrong]
            assert CliRunner().invoke(app, command).exit_code == 2

    def test_compare_prints_and_writes(self, tmp_path):
        write_predictions(binary(gap=2.0), tmp_path / "a.csv")
        write_predictions(binary(gap=1.0, seed=7), tmp_path / "b.csv")
        done = train("compare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "-o", str(tmp_path / "c.json"))
        assert done.returncode == 0, done.stderr
        assert "covid19: ROC AUC 0." in done.stdout
        assert json.loads((tmp_path / "c.json").read_text())["images"] == 400
