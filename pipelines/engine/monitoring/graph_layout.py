"""
A graph drawn from left to right: each node right of those that it needs, with few crossings (Sugiyama et al. 1981).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SWEEPS = 8
Place = tuple[float, float]


@dataclass
class Layout:
    """Where the nodes are, and through which points each edge goes; units of one node's width and height."""

    at: dict[str, Place]
    """node -> (layer, row)"""
    edges: list[list[Place]]
    width: float
    height: float


def layout(needs: Mapping[str, Sequence[str]]) -> Layout:
    """The places of nodes that are given with what they need, in an order in which that comes first."""
    drawing = _Drawing()
    for name, own in needs.items():
        drawing.add(name, [need for need in own if need in needs])
    drawing.order()
    rows = drawing.rows()
    at = {name: (float(drawing.layer[name]), rows[name]) for name in needs}
    edges = [[(float(drawing.layer[name]), rows[name]) for name in chain] for chain in drawing.chains]
    return Layout(at, edges, max(drawing.layer.values(), default=0) + 1.0, max(rows.values(), default=0) + 1.0)


@dataclass
class _Drawing:
    """Nodes by layer; an edge over several layers has a point in each, so that it goes around what is there."""

    layer: dict[str, int] = field(default_factory=dict)
    layers: list[list[str]] = field(default_factory=list)
    chains: list[list[str]] = field(default_factory=list)
    links: dict[str, list[str]] = field(default_factory=dict)
    """name -> its neighbours, in the layers before and after"""

    def add(self, name: str, needs: Sequence[str]) -> None:
        self._put(name, max((self.layer[need] for need in needs), default=-1) + 1)
        for need in needs:
            points = [f"{need}>{name}@{level}" for level in range(self.layer[need] + 1, self.layer[name])]
            for level, point in enumerate(points, self.layer[need] + 1):
                self._put(point, level)
            chain = [need, *points, name]
            self.chains.append(chain)
            for one, other in zip(chain, chain[1:], strict=False):
                self.links[one].append(other)
                self.links[other].append(one)

    def _put(self, name: str, level: int) -> None:
        self.layer[name] = level
        self.links[name] = []
        while len(self.layers) <= level:
            self.layers.append([])
        self.layers[level].append(name)

    def order(self) -> None:
        """Sorts each layer by the middle of its neighbours, forwards and backwards."""
        for sweep in range(SWEEPS):
            step = 1 if sweep % 2 == 0 else -1
            for own in self.layers[::step]:
                level = self.layer[own[0]]
                place = {n: p for row in self.layers for p, n in enumerate(row)}
                before = {n: [place[m] for m in self.links[n] if self.layer[m] == level - step] for n in own}
                own.sort(key=lambda n, b=before, p=place: sum(b[n]) / len(b[n]) if b[n] else p[n])  # type: ignore[misc]

    def rows(self) -> dict[str, float]:
        """Heights near those of the neighbours, at least one row apart."""
        rows = {name: float(place) for own in self.layers for place, name in enumerate(own)}
        for _ in range(SWEEPS):
            for own in self.layers:
                wish = [self._middle(name, rows) for name in own]
                for name, row in zip(own, _apart(wish), strict=True):
                    rows[name] = row
        top = min(rows.values(), default=0)
        return {name: row - top for name, row in rows.items()}

    def _middle(self, name: str, rows: Mapping[str, float]) -> float:
        near = [rows[other] for other in self.links[name]]
        return sum(near) / len(near) if near else rows[name]


def _apart(wish: Sequence[float]) -> list[float]:
    """The nearest heights in this order with one row between: blocks that would overlap share their mean."""
    blocks: list[tuple[float, int]] = []  # sum of (wish - offset), members
    for place, height in enumerate(wish):
        blocks.append((height - place, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = (blocks[-1][0] + last[0], blocks[-1][1] + last[1])
    flat = [total / count for total, count in blocks for _ in range(count)]
    return [base + place for place, base in enumerate(flat)]
