"""
Pictures of a run as SVG text: its graph, its timeline, its curves. Colours are classes of the report's style.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

from pipelines.engine.monitoring.graph_layout import layout
from pipelines.engine.monitoring.run_view import Step, duration

BOX, HIGH, ACROSS, DOWN = 152, 46, 186, 60
"""of a node: its width and height, and the distances from one to the next"""
LABEL, CHART, ROW = 190, 700, 26

Points = Sequence[tuple[float, float]]


def graph(steps: Sequence[Step]) -> str:
    """The steps and what each needs, from left to right; each links to its row."""
    placed = layout({step.key: step.needs for step in steps})
    width, height = (placed.width - 1) * ACROSS + BOX + 4, (placed.height - 1) * DOWN + HIGH + 4
    edges = [_edge([(x * ACROSS, y * DOWN + HIGH / 2) for x, y in edge]) for edge in placed.edges]
    nodes = [_node(step, placed.at[step.key]) for step in steps]
    return _svg(width, height, edges + nodes, "graph", f"The {len(steps)} steps and what each needs")


def _edge(points: Points) -> str:
    """A line from the right side of the first to the left side of the last."""
    path = f"M{points[0][0] + BOX:.1f} {points[0][1]:.1f}"
    for (x, y), (u, v) in zip(points, points[1:], strict=False):
        middle = (x + BOX + u) / 2
        path += f" C{middle:.1f} {y:.1f} {middle:.1f} {v:.1f} {u:.1f} {v:.1f}"
        if (u, v) != points[-1]:
            path += f" H{u + BOX:.1f}"
    return f'<path class="edge" d="{path}"/>'


def _node(step: Step, place: tuple[float, float]) -> str:
    x, y = place[0] * ACROSS, place[1] * DOWN
    name, _, fold = step.title.partition(", fold ")
    tail = f" {fold.replace(' of ', '/')}" if fold else ""
    word = "kept" if step.status == "cached" else step.status
    under = " · ".join(filter(None, [word, duration(step.seconds) if step.manifest else ""]))
    return (
        f'<a href="#step-{step.key}"><g class="node {escape(step.status)}" transform="translate({x:.1f} {y:.1f})">'
        f"<title>{escape(step.title)}: {escape(step.what or word)}</title>"
        f'<rect width="{BOX}" height="{HIGH}" rx="8"/>'
        f'<rect class="mark" width="4" height="{HIGH - 16}" x="8" y="8" rx="2"/>'
        f'<text x="20" y="20">{escape(_cut(name, 19 - len(tail)) + tail)}</text>'
        f'<text class="small" x="20" y="36">{escape(under)}</text></g></a>'
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def timeline(steps: Sequence[Step], began: float, ended: float) -> str:
    """When each attempt of each step that ran was under way."""
    shown = [step for step in steps if step.starts]
    whole = max(ended - began, 1e-3)
    scale = CHART / whole
    height = len(shown) * ROW + 26
    parts = [_tick(LABEL + at * scale, height, clock(at)) for at in ticks(whole)]
    for row, step in enumerate(shown):
        y = row * ROW + 22
        parts.append(f'<text class="label" x="{LABEL - 12}" y="{y + 15}">{escape(_cut(step.title, 26))}</text>')
        parts += _bars(step, began, ended, scale, y)
    return _svg(LABEL + CHART + 90, height, parts, "timeline", "When each step ran")


def _tick(x: float, height: float, word: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="16" y2="{height:.1f}"/>'
    return line + f'<text class="small middle" x="{x:.1f}" y="10">{word}</text>'


def _bars(step: Step, began: float, ended: float, scale: float, y: float) -> list[str]:
    """A bar for each attempt, and the time of the last one beside it."""
    failures = [failure["time"] for failure in step.failures]
    parts, right = [], 0.0
    for place, start in enumerate(step.starts):
        last = place == len(step.starts) - 1
        stop = (step.ended or ended) if last else next((t for t in failures if t >= start), step.starts[place + 1])
        x, wide = LABEL + (start - began) * scale, max((stop - start) * scale, 2)
        status, right = step.status if last else "failed", x + wide
        word = f"{step.title}, attempt {place + 1}: {duration(stop - start)}"
        parts.append(
            f'<a href="#step-{step.key}"><rect class="bar {escape(status)}" x="{x:.1f}" y="{y + 3}" width="{wide:.1f}" '
            f'height="{ROW - 8}" rx="3"><title>{escape(word)}</title></rect></a>'
        )
    took = duration((step.ended or ended) - step.starts[-1])
    parts.append(f'<text class="small" x="{right + 6:.1f}" y="{y + 15}">{took}</text>')
    return parts


def clock(seconds: float) -> str:
    """A time of the axis: 0.2 s, 0:30, 1:05:00."""
    if seconds != int(seconds):
        return f"{seconds:.2g} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours}:{left:02d}:{rest:02d}" if hours else f"{left}:{rest:02d}"


def ticks(whole: float, most: int = 7) -> list[float]:
    """Round times from 0 to the whole: seconds, minutes or hours."""
    rounds = [b * s for s in (1, 60, 3600) for b in (1, 2, 5, 10, 15, 20, 30)] + [
        86400.0 * n for n in (1, 2, 5, 10, 30)
    ]
    small = [whole / 5] if whole < 1 else []
    step = next((s for s in small + rounds if whole / s <= most), whole)
    return [step * n for n in range(int(whole / step) + 1)]


def chart(title: str, lines: Mapping[str, Points]) -> str:
    """A small chart of named lines over updates; what was measured now and then, "val", has its points drawn."""
    wide, high, left, top, bottom = 320, 176, 46, 28, 22
    values = [y for points in lines.values() for _, y in points if math.isfinite(y)]
    ends = [x for points in lines.values() for x, _ in points]
    if not values:
        return ""
    low, most = min(values), max(values)
    pad = (most - low) * 0.06 or abs(most) * 0.1 or 1.0
    low, most, first, last = low - pad, most + pad, min(ends), max(max(ends), min(ends) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - first) / (last - first) * (wide - left - 12)
        return across, top + (most - y) / (most - low) * (high - top - bottom)

    parts = [f'<text class="head" x="{left}" y="15">{escape(_cut(title, 34))}</text>']
    for y in (low + pad, (low + most) / 2, most - pad):
        down = place(first, y)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{wide - 12}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text class="small end" x="{left - 6}" y="{down + 4:.1f}">{y:.3g}</text>')
    parts.append(f'<text class="small" x="{left}" y="{high - 6}">{first:g}</text>')
    parts.append(f'<text class="small end" x="{wide - 12}" y="{high - 6}">{last:g} steps</text>')
    for number, (name, points) in enumerate(lines.items()):
        parts.append(_line(name, [place(x, y) for x, y in points if math.isfinite(y)], number, dots=name == "val"))
    return _svg(wide, high, parts, "chart", title)


def _line(name: str, points: Points, number: int, dots: bool) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    kind = f"line c{number % 8}"
    text = f'<polyline class="{kind}" points="{path}"><title>{escape(name)}</title></polyline>'
    if dots and len(points) <= 40:
        text += "".join(f'<circle class="dot c{number % 8}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in points)
    return text


def _svg(width: float, height: float, parts: Sequence[str], kind: str, title: str) -> str:
    size = f'viewBox="-2 -2 {width + 4:.0f} {height + 4:.0f}" style="--wide:{width + 4:.0f}px"'
    return f'<svg class="{kind}" {size} role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
