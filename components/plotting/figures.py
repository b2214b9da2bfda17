"""
Pictures that two or more families draw. Each returns a matplotlib Figure, made without a window.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float = 6, height: float = 5, **grid: Any) -> "tuple[Figure, Any]":
    """An empty figure and its axes; inches."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(**grid)


def confusion_matrix(counts: np.ndarray, labels: Sequence[str]) -> "Figure":
    """
    Truth in rows, answers in columns; each row coloured by its share, each cell written as a count.

    `labels` name the rows. The last of them may have no column, for what no answer can be: it is drawn if it has any.
    """
    if not counts[counts.shape[1] :].any():
        counts, labels = counts[: counts.shape[1]], labels[: counts.shape[1]]
    answers = labels[: counts.shape[1]]
    side = 2.5 + 0.38 * len(labels)
    made, axes = figure(side + 1, side)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts > 0):
        color = "white" if share[row, column] > 0.5 else "#223"
        axes.text(column, row, int(counts[row, column]), ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(answers)), answers, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.set_title(f"{int(np.trace(counts))} of {int(counts.sum())} right")
    return made


def scatter_map(points: np.ndarray, labels: Sequence[str], title: str, note: str = "") -> "Figure":
    """A two-dimensional map, [N, 2], coloured by label."""
    from matplotlib import colormaps

    made, axes = figure(9, 7)
    names = sorted(set(labels))
    colors = colormaps["tab20"](np.linspace(0, 1, 20))
    markers = "osD^v"
    for place, name in enumerate(names):
        chosen = np.array([label == name for label in labels])
        color, marker = colors[place % 20], markers[place // 20 % len(markers)]
        axes.scatter(*points[chosen].T, s=22, color=color, marker=marker, label=name, linewidths=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set(xticks=[], yticks=[], title=title)
    if note:
        axes.set_xlabel(note, fontsize=8)
    return made


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], title: str, x: str, y: str) -> "Figure":
    """Named lines of (x, y)."""
    made, axes = figure(7, 4)
    for name, points in lines.items():
        axes.plot(*np.array(points).T, label=name)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.legend(frameon=False)
    return made


def scatter_panels(
    panels: Mapping[str, Sequence[Any]],
    values: Sequence[float],
    *,
    colors: Sequence[float],
    ring: int | None,
    ylabel: str,
    clabel: str,
) -> "Figure":
    """The same values against several quantities side by side, four panels in a row; words are put on a scale too."""
    from matplotlib.ticker import NullFormatter

    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    made, axes = figure(3.2 * columns + 0.8, 2.9 * rows, nrows=rows, ncols=columns, squeeze=False, sharey=True)
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    for place, (name, across) in zip(axes.flat, panels.items(), strict=False):
        words = any(isinstance(x, str) for x in across)
        xs = [str(x) for x in across] if words else [float(x) for x in across]
        dots = place.scatter(xs, values, c=colors, cmap="viridis", s=34)
        if ring is not None:
            place.scatter(xs[ring : ring + 1], values[ring : ring + 1], s=140, facecolors="none", edgecolors="crimson")
        if not words and min(across) > 0 and max(across) > 10 * min(across):
            place.set_xscale("log")
            place.xaxis.set_minor_formatter(NullFormatter())
        place.set_xlabel(name)
    for row in axes:
        row[0].set_ylabel(ylabel)
    made.colorbar(dots, ax=axes, label=clabel)
    return made


def contact_sheet(pictures: np.ndarray, columns: int = 8, gap: int = 2) -> np.ndarray:
    """Pictures [N, H, W, 3] uint8 side by side on one white sheet."""
    count, height, width = pictures.shape[:3]
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
