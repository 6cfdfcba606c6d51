"""Pictures: they are drawn, hold what they should, and are the same each time."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.errors import PredictionsError
from training.evaluation import tabulate
from training.evaluation.evaluate import evaluate
from training.metrics.calibration import sigmoid, softmax_rows
from training.plots.contact_sheets import plot_bars, plot_overlays, plot_sheet
from training.plots.curves import plot_confusion, plot_curves, plot_history, plot_subgroups
from training.plots.evidence_gallery import plot_gallery


def made_up(classes=("covid19",), count=120, truth=None):
    generator = np.random.default_rng(0)
    wide = len(classes) > 1
    y = np.arange(count) % max(2, len(classes)) if truth is None else np.full(count, truth)
    logits = generator.normal(size=(count, len(classes))) + (2 * np.eye(len(classes))[y] if wide else 2.0 * y[:, None])
    cases = pd.DataFrame(
        {
            "image_id": [f"made:{row}" for row in range(count)],
            "patient_id": [f"P{row}" for row in range(count)],
            "source": generator.choice(["alpha", "a source with a name that is much too long for a plot"], count),
            "view": generator.choice(["AP", "PA"], count),
        }
    )
    chances = softmax_rows(logits) if wide else sigmoid(logits)
    return tabulate(cases, classes, logits=logits, probabilities=chances, truth=y)


def picture(path):
    image = cv2.imread(str(path))
    assert image is not None
    assert min(image.shape[:2]) > 200
    return image


def has_colour(image, colour):
    """Whether a colour, as #RRGGBB, is somewhere in the picture."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (5, 3, 1)])
    return bool((np.abs(image.astype(int) - wanted).max(axis=2) < 12).any())


@pytest.mark.parametrize("classes", [("covid19",), ("normal", "covid19", "viral_pneumonia")], ids=["binary", "several"])
def test_every_picture_of_an_evaluation_is_drawn_and_repeats_to_the_byte(classes, tmp_path):
    table = made_up(classes)
    found = evaluate(table, thresholds=dict.fromkeys(classes, 0.4), replicates=100)
    digests = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        plot_curves(found, table, folder / "curves.png")
        plot_subgroups(found, folder / "subgroups.png")
        plot_confusion(found, folder / "confusion.png")
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    assert digests[0] == digests[1]
    assert set(digests[0]) == {"curves.png", "subgroups.png", "confusion.png"}
    curves = picture(tmp_path / "one" / "curves.png")
    for colour in ("#0072B2", "#D55E00", "#009E73")[: len(classes)]:
        assert has_colour(curves, colour)


def test_axes_and_lines_have_the_words_of_the_field(tmp_path, monkeypatch):
    table = made_up()
    evaluation = evaluate(table, thresholds={"covid19": 0.4}, replicates=100)
    figures = []
    monkeypatch.setattr("training.plots.curves.save_figure", lambda figure, *_: figures.append(figure))
    plot_curves(evaluation, table, tmp_path / "curves.png")
    plot_confusion(evaluation, tmp_path / "confusion.png")
    reliability, decision = figures[0].axes[2:]
    assert reliability.get_ylabel() == "observed fraction"
    assert decision.get_title() == "decision curve (dashed: treat all)"
    assert "treat none" in [each.get_text() for each in decision.get_legend().get_texts()]
    (confusion,) = figures[1].axes
    assert (confusion.get_xlabel(), confusion.get_ylabel()) == ("predicted", "label")


def test_one_class_without_figures_still_gives_pictures(tmp_path):
    table = made_up(count=10, truth=1)
    found = evaluate(table, replicates=100)
    plot_curves(found, table, tmp_path / "curves.png")
    plot_subgroups(found, tmp_path / "subgroups.png")
    plot_confusion(found, tmp_path / "confusion.png")
    picture(tmp_path / "curves.png")
    assert not (tmp_path / "confusion.png").exists()  # no operating point, nothing to draw


def test_training_curves_show_both_sides_of_a_figure(tmp_path):
    history = tmp_path / "history.csv"
    history.write_text(
        "epoch,stage,loss,val_loss,val_auc,learning_rate\n0,head,0.7,0.7,0.5,0.001\n1,conv5,0.6,0.5,0.7,0.00001\n"
    )
    plot_history(history, tmp_path / "history.png")
    drawn = picture(tmp_path / "history.png")
    assert has_colour(drawn, "#0072B2")
    assert has_colour(drawn, "#D55E00")


@pytest.mark.parametrize("content", ["", "epoch\n1\n", None], ids=["empty", "epochs only", "absent"])
def test_a_history_without_figures_is_an_error(content, tmp_path):
    if content is not None:
        (tmp_path / "history.csv").write_text(content)
    with pytest.raises(PredictionsError, match=r"history\.csv"):
        plot_history(tmp_path / "history.csv", tmp_path / "history.png")


def test_bars_and_sheets(tmp_path):
    tables = {name: pd.DataFrame({"normal": [3, 0], "covid19": [1, 5]}, index=["AP", "PA"]) for name in "abcd"}
    plot_bars(tables, tmp_path / "bars.png", "4 tables")
    assert has_colour(picture(tmp_path / "bars.png"), "#D55E00")
    images = [np.full((32, 32, 1), share, np.float32) for share in np.linspace(0, 1, 7)]
    plot_sheet(images, [str(row) for row in range(7)], tmp_path / "sheet.png", "a sheet")
    assert has_colour(picture(tmp_path / "sheet.png"), "#7F7F7F")


def test_maps_are_drawn_red_where_evidence_speaks_for_it_and_blue_where_against(tmp_path):
    images = [np.full((32, 32, 1), 0.5, np.float32)] * 2
    maps = np.zeros((2, 4, 4))
    maps[0], maps[1] = 3.0, -3.0
    plot_overlays(images, maps, ["for", "against"], tmp_path / "maps.png", "evidence", columns=2)
    drawn = picture(tmp_path / "maps.png")
    left, right = np.array_split(drawn.astype(int)[drawn.shape[0] // 2], 2)
    assert (left[:, 2] - left[:, 0]).max() > 80  # BGR: red
    assert (right[:, 0] - right[:, 2]).max() > 80


def test_gallery_shows_hits_false_alarms_and_misses_of_a_package(tmp_path, tiny_package):
    table = made_up(count=30)
    for row in range(30):
        cv2.imwrite(str(tmp_path / f"{row}.png"), np.random.default_rng(row).integers(0, 255, (70, 60), np.uint8))
    cases = pd.DataFrame(
        {"image_id": table.frame["image_id"], "path": [str(tmp_path / f"{row}.png") for row in range(30)]}
    )
    package = tiny_package("covid19")
    graph, recipe = package.folder / "model.keras", package.manifest.recipe
    plot_gallery(graph, recipe, cases, table, "covid19", tmp_path / "gallery.png")
    assert has_colour(picture(tmp_path / "gallery.png"), "#666666")  # the notice
    with pytest.raises(PredictionsError, match="None of the predicted images"):
        plot_gallery(graph, recipe, cases.assign(path="absent.png"), table, "covid19", tmp_path / "none.png")
