"""What every picture shares: colours, the notice, and files whose bytes depend on what is drawn alone."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr.product import NOTICE
from training.files import whole_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by colour-blind readers."""

DPI = 130


def new_figure(width: float, height: float) -> Figure:
    """Make an empty picture, in inches."""
    # No pyplot: it keeps figures in a global and looks for a display.
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, title: str) -> None:
    """Write a PNG with its title and the notice; it is there whole, or not at all."""
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(NOTICE, fontsize=7, color="#666666")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        # No software version in the file: the same figures give the same bytes.
        figure.savefig(file, format="png", metadata={"Software": None})


def short_name(text: str, length: int = 28) -> str:
    """Cut a name that is too long for a label."""
    return text if len(text) <= length else text[: length - 1] + "…"
