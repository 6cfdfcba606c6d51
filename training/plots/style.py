"""Colours, the notice and reproducible PNG files, shared by all figures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr.product import NOTICE
from training.files import whole_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, distinct for colour-blind readers."""

DPI = 130


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height in inches."""
    # No pyplot: it keeps figures in a global and looks for a display.
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, title: str) -> None:
    """Write a PNG with its title and the notice; see ``training.files.whole_file``."""
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(NOTICE, fontsize=7, color="#666666")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of Matplotlib, so that the same figure has the same bytes.
    with whole_file(path) as stream:
        figure.savefig(stream, format="png", metadata={"Software": None})


def short_name(text: str, length: int = 28) -> str:
    """Return the name, shortened to `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
