"""Figures of the data: stacked bars, contact sheets, evidence maps over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from training.plots.style import COLOURS, new_figure, save_figure, short_name


def plot_bars(tables: dict[str, pd.DataFrame], path: Path, title: str) -> None:
    """Draw stacked bars, one panel per table: its index along the axis, its columns stacked."""
    columns = min(3, max(1, len(tables)))
    rows = -(-max(1, len(tables)) // columns)
    figure = new_figure(5.2 * columns, 4.0 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, table) in zip(panels, tables.items(), strict=False):
        bottom = np.zeros(len(table))
        positions = np.arange(len(table))
        for number, column in enumerate(table.columns):
            colour = COLOURS[number % len(COLOURS)]
            heights = table[column].to_numpy(dtype=float)
            panel.bar(positions, heights, bottom=bottom, color=colour, label=short_name(str(column)))
            bottom += heights
        panel.set_xticks(
            positions, [short_name(str(value)) for value in table.index], rotation=35, ha="right", fontsize=8
        )
        panel.set(title=name, ylabel="images")
        panel.legend(fontsize=7)
    for panel in panels[len(tables) :]:
        panel.set_visible(False)
    save_figure(figure, path, title)


def plot_sheet(images: list[np.ndarray], captions: list[str], path: Path, title: str, *, columns: int = 6) -> None:
    """Draw a contact sheet of images in [0, 1], (S, S) or (S, S, 1), each with its caption."""
    columns = min(columns, max(1, len(images)))
    rows = -(-max(1, len(images)) // columns)
    figure = new_figure(2.0 * columns, 2.25 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, image, caption in zip(panels, images, captions, strict=False):
        panel.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
        panel.set_title(caption, fontsize=7)
    save_figure(figure, path, title)


def plot_overlays(
    images: list[np.ndarray],
    maps: np.ndarray,
    captions: list[str],
    path: Path,
    title: str,
    *,
    columns: int = 6,
    unit: str = "logits",
    cells: Sequence[int] | None = None,
    notes: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Draw maps over their images on one colour scale: red above 0, blue below, transparent near 0.

    Parameters
    ----------
    images
        (S, S) or (S, S, 1) in [0, 1].
    maps
        (N, h, w).
    captions
        One for each.
    path
        The PNG to write.
    title
        Of the figure.
    columns
        Most images of a row.
    unit
        Of the maps' values.
    cells
        Place of each image, row by row; None: one after the other.
    notes
        Cell to text, where there is no image.
    """
    places = list(range(len(images))) if cells is None else list(cells)
    last = max([*places, *notes], default=0)
    columns = min(columns, last + 1)
    rows = last // columns + 1
    figure = new_figure(2.0 * columns + 0.8, 2.25 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    largest = float(np.abs(maps).max()) or 1.0
    for panel in panels:
        panel.set_axis_off()
    for cell, note in notes.items():
        panels[cell].text(0, 0.5, note, fontsize=8, transform=panels[cell].transAxes)
    for panel, image, evidence, caption in zip(panels[places], images, maps, captions, strict=True):
        size = image.shape[0]
        panel.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
        panel.imshow(
            evidence,
            cmap="bwr",
            vmin=-largest,
            vmax=largest,
            alpha=0.6 * np.abs(evidence) / largest,  # without evidence, the image alone
            extent=(-0.5, size - 0.5, size - 0.5, -0.5),
            interpolation="bilinear",
        )
        panel.set_title(caption, fontsize=7)
    scale = ScalarMappable(Normalize(-largest, largest), cmap="bwr")
    bar = figure.colorbar(scale, ax=list(panels), shrink=0.6, label=unit)
    if float(maps.min()) >= 0:
        bar.ax.set_ylim(0, largest)  # no evidence against
    save_figure(figure, path, title)
