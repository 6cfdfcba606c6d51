"""``cxr train``: from a data set's folder to a model package; each verb lives in a module of its own."""

from __future__ import annotations

import typer

from training.audit_cli import audit
from training.card_cli import card
from training.evaluate_cli import compare, evaluate
from training.fit_cli import cache, ensemble, finetune, package, pretrain
from training.index_cli import index_app
from training.masks_cli import masks
from training.predict_cli import predict
from training.ship_cli import quantise, ship
from training.split_cli import split
from training.suspects_cli import suspects
from training.view_cli import view

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Index data sets, split, train, evaluate: all from the shell."
)
app.add_typer(index_app, name="index")
app.command()(split)
app.command()(audit)
app.command()(evaluate)
app.command()(compare)
app.command()(card)
app.command()(cache)
app.command()(pretrain)
app.command()(finetune)
app.command()(ensemble)
app.command()(package)
app.command()(masks)
app.command()(predict)
app.command()(suspects)
app.command()(quantise)
app.command()(ship)
app.command()(view)
