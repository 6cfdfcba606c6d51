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


def test_epochs_are_whole_numbers_from_1(tmp_path, monkeypatch):
    (tmp_path / "history.csv").write_text("epoch,stage,loss,val_loss\n0,head,0.7,0.7\n1,head,0.6,0.5\n")
    figures = []
    monkeypatch.setattr("training.plots.curves.save_figure", lambda figure, *_: figures.append(figure))
    plot_history(tmp_path / "history.csv", tmp_path / "history.png")
    (panel,) = figures[0].axes
    assert list(panel.lines[0].get_xdata()) == [1, 2]
    assert all(tick == int(tick) for tick in panel.get_xticks())


def test_the_roc_speaks_of_a_dot_only_where_there_is_one(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("training.plots.curves.save_figure", lambda figure, *_: figures.append(figure))
    table = made_up()
    plot_curves(evaluate(table, replicates=100), table, tmp_path / "curves.png")
    plot_curves(evaluate(table, thresholds={"covid19": 0.4}, replicates=100), table, tmp_path / "curves.png")
    assert [figure.axes[0].get_title() for figure in figures] == ["ROC", "ROC (dot: operating point)"]


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
    plot_gallery(graph, recipe, cases, table, "covid19", tmp_path / "gallery.png", threshold=0.5)
    assert has_colour(picture(tmp_path / "gallery.png"), "#666666")  # the notice
    with pytest.raises(PredictionsError, match="None of the predicted images"):
        plot_gallery(
            graph, recipe, cases.assign(path="absent.png"), table, "covid19", tmp_path / "none.png", threshold=0.5
        )


@pytest.fixture
def gallery(tmp_path, monkeypatch, tiny_package):
    """Draw the gallery of predictions over made pictures; return captions by row, and the words of empty rows."""

    def draw(table, name, threshold):
        from training.plots import evidence_gallery

        said = []
        draw_overlays = evidence_gallery.plot_overlays

        def note(images, maps, captions, path, title, **more):
            said.append((captions, more["cells"], more["notes"]))
            draw_overlays(images, maps, captions, path, title, **more)

        monkeypatch.setattr(evidence_gallery, "plot_overlays", note)
        package = tiny_package(*table.classes)
        cv2.imwrite(str(tmp_path / "film.png"), np.random.default_rng(0).integers(0, 255, (70, 60), np.uint8))
        cases = pd.DataFrame({"image_id": table.frame["image_id"], "path": str(tmp_path / "film.png")})
        graph, recipe = package.folder / "model.keras", package.manifest.recipe
        plot_gallery(graph, recipe, cases, table, name, tmp_path / "gallery.png", threshold=threshold)
        captions, cells, notes = said[0]
        rows = [[], [], []]
        for caption, cell in zip(captions, cells, strict=True):
            rows[cell // 6].append(caption)
        return rows, {cell // 6: words for cell, words in notes.items()}

    return draw


def predictions(probabilities, y, classes=("covid19",), **columns):
    chances = np.array(probabilities, dtype=float).reshape(len(y), -1)
    cases = pd.DataFrame({"image_id": [f"made:{row}" for row in range(len(y))], "patient_id": "P", **columns})
    logits = np.log(chances) if len(classes) > 1 else np.log(chances / (1 - chances))
    return tabulate(cases, classes, logits=logits, probabilities=chances, truth=np.array(y))


def test_a_model_that_never_says_positive_has_no_hits(gallery):
    labels = ["covid19", "normal", "covid19", "normal"]
    rows, notes = gallery(predictions([0.36, 0.37, 0.2, 0.1], [1, 0, 1, 0], label=labels), "covid19", 0.5)
    assert rows == [[], [], ["miss: 0.20\nlabel covid19", "miss: 0.36\nlabel covid19"]]
    assert notes == {0: "no hit", 1: "no false alarm"}


def test_a_perfect_model_has_no_false_alarms(gallery):
    rows, notes = gallery(
        predictions([0.6, 0.4, 0.9], [1, 0, 1], label=["covid19", "viral", "covid19"]), "covid19", 0.5
    )
    assert rows == [["hit: 0.90\nlabel covid19", "hit: 0.60\nlabel covid19"], [], []]
    assert notes == {1: "no false alarm", 2: "no miss"}


def test_a_score_at_the_operating_point_is_said(gallery):
    rows, _ = gallery(
        predictions([0.36, 0.37, 0.2], [1, 0, 1], label=["covid19", "viral_pneumonia", "x"]), "covid19", 0.3
    )
    assert rows == [["hit: 0.36\nlabel covid19"], ["false alarm: 0.37\nlabel viral_pneumonia"], ["miss: 0.20\nlabel x"]]


def test_of_several_classes_the_one_with_the_largest_score_is_said_whatever_its_threshold(gallery):
    classes = ("covid19", "normal", "viral_pneumonia")
    chances = [[0.4, 0.35, 0.25], [0.45, 0.5, 0.05], [0.4, 0.3, 0.3]]
    rows, notes = gallery(predictions(chances, [0, 0, 2], classes), "covid19", 0.5)
    assert rows == [
        ["hit: 0.40\nlabel covid19"],
        ["false alarm: 0.40\nlabel viral_pneumonia"],
        ["miss: 0.45\nlabel covid19"],
    ]
    assert notes == {}


def test_without_an_operating_point_nothing_is_called_a_hit(gallery):
    rows, notes = gallery(predictions([0.36, 0.37], [1, 0], label=["covid19", "normal"]), "covid19", None)
    assert rows[:2] == [
        ["with covid19, highest score: 0.36\nlabel covid19"],
        ["without covid19, highest score: 0.37\nlabel normal"],
    ]
    assert notes == {}


def test_an_empty_map_is_called_empty(tmp_path, monkeypatch):
    from training.plots import evidence_gallery

    said = []
    monkeypatch.setattr(
        evidence_gallery, "plot_overlays", lambda _images, _maps, captions, *_, **__: said.append(captions)
    )
    monkeypatch.setattr(
        evidence_gallery, "grad_cam_maps", lambda *_: np.array([np.zeros((2, 2)), np.eye(2)], np.float32)
    )
    network = type("Network", (), {"outputs": [None]})()
    evidence_gallery.plot_maps(
        network, [np.zeros((4, 4, 1))] * 2, ["one", "two"], tmp_path / "x.png", name="covid19", index=0
    )
    assert said == [["one\nempty map", "two"]]
