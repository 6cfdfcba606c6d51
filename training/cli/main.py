"""``cxr train``: from a data set's folder to a model package."""

from __future__ import annotations

import typer

from training.cli.audit import audit
from training.cli.crossval import crossval
from training.cli.evaluate import compare, evaluate
from training.cli.index import index_app
from training.cli.masks import masks
from training.cli.merge import merge
from training.cli.package import card, package
from training.cli.predict import predict
from training.cli.ship import quantise, ship
from training.cli.split import split
from training.cli.suspects import suspects
from training.cli.train import cache, ensemble, finetune, pretrain
from training.cli.view import view

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Index data sets; split, train, evaluate and package models."
)
app.add_typer(index_app, name="index")
app.command()(merge)
app.command()(split)
app.command()(audit)
app.command()(evaluate)
app.command()(compare)
app.command()(card)
app.command()(cache)
app.command()(pretrain)
app.command()(finetune)
app.command()(ensemble)
app.command()(crossval)
app.command()(package)
app.command()(masks)
app.command()(predict)
app.command()(suspects)
app.command()(quantise)
app.command()(ship)
app.command()(view)
