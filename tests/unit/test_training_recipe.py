"""Recipes are strict, tell every fault at once, and come back from a run's folder as they were."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from cxr.domain import Code
from cxr.errors import RecipeError
from cxr.pixels.recipe import MIDRC_EMORY_RECIPE, TRAINING_RECIPE
from training.recipe import load_recipe, parse_recipe, recipe_names

NAMES = (
    "default-finetune",
    "default-model-conv5",
    "default-model-covid",
    "default-model-four",
    "default-model-trunk",
    "default-model-trunk-224",
    "default-pretrain",
    "densenet169-4class",
    "emory-finetune",
    "emory-pretrain",
    "masked-4class",
    "radiography-4class",
    "vgg16-covid",
)


def small(**changes: Any) -> dict[str, Any]:
    stage = {"name": "all", "train": "all", "learning_rate": 0.001, "epochs": 1}
    return {"name": "small", "task": {"classes": ["covid19"]}, "stages": [stage]} | changes


def test_the_projects_recipes_are_there() -> None:
    assert recipe_names() == NAMES
    assert len({load_recipe(name).digest for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_writes_down_is_the_same_recipe(name: str) -> None:
    recipe = load_recipe(name)
    again = parse_recipe(tomllib.loads(tomlkit.dumps(recipe.to_document())))
    assert again == recipe
    assert again.digest == recipe.digest


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_served_as_it_is_trained(name: str) -> None:
    assert load_recipe(name).pixels.quantised


def test_the_defaults_are_the_specifications() -> None:
    pretrain, finetune = load_recipe("default-pretrain"), load_recipe("default-finetune")
    assert pretrain.pixels == finetune.pixels == TRAINING_RECIPE
    assert pretrain.augment == finetune.augment
    assert (finetune.augment.rotation_degrees, finetune.augment.shift, finetune.augment.zoom) == (7, 0.05, 0.05)
    assert not finetune.augment.flip_horizontal
    head, trunk = pretrain.stages
    assert (head.train, head.optimizer, head.learning_rate) == ("head", "adam", 1e-3)
    assert (trunk.train, trunk.optimizer, trunk.learning_rate, trunk.weight_decay) == ("conv4", "adamw", 1e-4, 1e-4)
    assert (trunk.monitor, trunk.patience, trunk.keep) == ("val_auc", 5, "best")
    head, trunk = finetune.stages
    assert (head.train, head.epochs, trunk.train) == ("head", 3, "conv5")
    assert 1e-5 <= trunk.learning_rate <= 3e-5
    assert (finetune.finish.rule, finetune.finish.target) == ("sensitivity", 0.9)
    assert finetune.split.strategy == "temporal"


def test_the_emory_recipes_are_its_notebooks() -> None:
    first, second = load_recipe("emory-pretrain"), load_recipe("emory-finetune")
    assert first.pixels == second.pixels == dataclasses.replace(MIDRC_EMORY_RECIPE, quantised=True)
    for recipe, rate, size in ((first, 1e-3, 128), (second, 1e-4, 32)):
        (stage,) = recipe.stages
        assert (stage.learning_rate, stage.batch_size, stage.epochs) == (rate, size, 50)
        assert (stage.train, stage.batch_norm, stage.keep, stage.monitor) == ("conv5", "trained", "last", "val_loss")
        assert (stage.plateau_factor, stage.plateau_patience, stage.patience) == (0.01, 3, 6)
        assert recipe.split.fractions == (0.6, 0.2, 0.2)
    assert (first.balance.method, first.balance.seed) == ("undersample", 3)
    assert second.augment.flip_horizontal
    assert not first.augment.flip_horizontal


def test_every_fault_is_told_at_once() -> None:
    document = small(seed=-1, colour="red", network={"architecture": "alexnet"}, pixels={"size": "large", "sharpen": 1})
    document["stages"][0] |= {"epochs": 0, "decay": 0.1}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(document)
    for said in ("seed:", "colour:", "resnet50", "sharpen", "stages.0.epochs"):
        assert said in str(caught.value)
    assert "5 fault(s)" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"classes": ["covid20"]}}, "covid20"),
        ({"task": {"classes": ["covid19"], "activation": "softmax"}}, "softmax"),
        ({"task": {"classes": ["covid19", "normal"]}}, "from_columns"),
        ({"split": {"fractions": [0.5, 0.2, 0.2]}}, "fractions"),
        ({"weights": {"source": "file"}}, "sha256"),
        ({"weights": {"source": "imagenet", "head": "keep"}}, "keep"),
        ({"network": {"architecture": "tiny"}}, "tiny"),
        ({"network": {"head": "evidence", "hidden": [5]}}, "evidence"),
        ({"pixels": {"quantised": False}}, "quantised"),
        ({"pixels": {"size": 5, "fit": "crop"}}, r"  pixels: size: [^\n]*16; fit: [^\n]*'stretch'"),
        ({"augment": {"gamma": [2.0, 1.0]}}, "gamma"),
        ({"stages": []}, "stages"),
        ({"stages": [{"name": "a", "train": "all", "epochs": 3, "warmup_epochs": 3}]}, "fewer than the stage's 3"),
        ({"stages": [{"name": "a", "train": "all", "epochs": 3, "warmup_epochs": 1, "schedule": "plateau"}]}, "cosine"),
        ({"stages": [{"name": "a", "train": "all", "epochs": 3, "accumulate": 1}]}, "accumulate"),
        ({"stages": [{"name": "a", "train": "all", "epochs": 3, "ema_momentum": 1.0}]}, "ema_momentum"),
        (
            {
                "stages": [
                    {"name": "a", "train": "head", "epochs": 1, "optimizer": "regression", "strength": 1.0}
                    | {"accumulate": 2, "ema_momentum": 0.9}
                ]
            },
            "accumulate, ema_momentum: a regression has no steps",
        ),
        ({"stages": [{"name": "a", "train": "all", "learning_rate": 1.0, "epochs": 1, "weight_decay": 0.1}]}, "adamw"),
        ({"stages": [{"name": "a", "train": "all", "learning_rate": 1.0, "epochs": 1}] * 2}, "name of its own"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe(small(**changes))


def test_overrides_reach_every_key() -> None:
    changed = load_recipe(
        "default-pretrain",
        [
            "seed=3",
            "network.architecture=resnet18",
            "stages.1.epochs=1",
            "augment.gamma=[1.0, 1.0]",
            "lung_masks=model",
        ],
    )
    assert (changed.seed, changed.network.architecture, changed.stages[1].epochs) == (3, "resnet18", 1)
    assert changed.augment.gamma == (1, 1)
    assert changed.lung_masks == "model"
    for wrong in ("seed", "stages.7.epochs=1", "stages.x=1", "name.more=1", ".=1"):
        with pytest.raises(RecipeError):
            load_recipe("default-pretrain", [wrong])


def test_a_file_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tomlkit.dumps(small()))
    assert load_recipe(str(path)).name == "small"
    path.write_text("name = ")
    with pytest.raises(RecipeError, match="not TOML"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="can't be read"):
        load_recipe(str(tmp_path / "absent.toml"))
    with pytest.raises(RecipeError, match="default-finetune"):
        load_recipe("no-such-recipe")


def test_keys_that_came_later_leave_the_digest_of_older_recipes_alone() -> None:
    # Written down before there were warmup_epochs, accumulate and ema_momentum: a run resumes by its recipe's digest.
    assert parse_recipe(small()).digest == "2d78cbf9198c403d362f61743264176ed2ae7789dd089f70a75067788882e173"
    document = small()
    for key, value in (("warmup_epochs", 1), ("accumulate", 2), ("ema_momentum", 0.9)):
        document["stages"][0] |= {"epochs": 2, key: value}
        recipe = parse_recipe(document)
        again = parse_recipe(tomllib.loads(tomlkit.dumps(recipe.to_document())))
        assert again.digest == recipe.digest != parse_recipe(small()).digest


def test_every_field_counts_for_the_digest() -> None:
    assert parse_recipe(small()).digest != parse_recipe(small(seed=1)).digest
    assert parse_recipe(small()).digest != parse_recipe(small(compute={"deterministic": False})).digest


# Findings


def test_a_recipe_may_define_findings_of_its_own() -> None:
    task = {
        "classes": ["covid19", "pleural_plug", "rare_shadow"],
        "from_columns": True,
        "findings": {
            "pleural_plug": {"meaning": "Pleural plug", "code": "C0000000", "scheme": "UMLS"},
            "rare_shadow": {"meaning": "A rare shadow"},
        },
    }
    recipe = parse_recipe(small(task=task))
    assert recipe.task.code_of("covid19").value == "840539006"
    assert recipe.task.code_of("pleural_plug") == Code(
        value="C0000000", scheme_designator="UMLS", meaning="Pleural plug"
    )
    own = recipe.task.code_of("rare_shadow")
    assert (own.value, own.scheme_designator, own.meaning) == ("RARE_SHADOW", "99CXRLISTENER", "A rare shadow")
    assert parse_recipe(tomllib.loads(tomlkit.dumps(recipe.to_document()))) == recipe


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        ({}, r"cardiomegalie is unknown; did you mean cardiomegaly.*\[task.findings.cardiomegalie\]"),
        ({"covid19": {"meaning": "x"}, "cardiomegalie": {"meaning": "y"}}, "covid19 is known already"),
        ({"cardiomegalie": {"meaning": "y", "code": "1"}}, "code and scheme: give both"),
        ({"cardiomegalie": {"meaning": ""}}, "at least 1 character"),
    ],
)
def test_an_unknown_finding_is_refused_with_the_way_out(findings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(small(task={"classes": ["cardiomegalie"], "findings": findings}))


def test_undersampling_of_several_labels_is_refused() -> None:
    task = {"classes": ["covid19", "edema"], "from_columns": True}
    with pytest.raises(RecipeError, match="undersample needs one label per image"):
        parse_recipe(small(task=task, balance={"method": "undersample"}))
    assert parse_recipe(small(task=task, balance={"method": "oversample"})).task.is_multi_label
    assert not parse_recipe(small(balance={"method": "undersample"})).task.is_multi_label
