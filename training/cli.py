"""``cxr train``: from a data set's folder to a model package; each verb lives in a module of its own."""

from __future__ import annotations

import typer

from training.index_cli import index_app
from training.split_cli import split

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Index data sets, split, train, evaluate: all from the shell."
)
app.add_typer(index_app, name="index")
app.command()(split)
