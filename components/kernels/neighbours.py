"""
Orders and neighbours among points.
"""

# N points, K chosen, C cells

import numpy as np
from numpy.typing import NDArray

from components.kernels.compiled import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def farthest(points: Floats, count: int, *, start: int = 0) -> Integers:
    """
    Choose `count` points, each the farthest from all chosen before it, beginning with `start`: rows [K] of `points`.

    Farthest-point sampling (Eldar et al., IEEE TIP 1997), ties to the lower row. Points are kept in cells of a grid:
    a cell whose box is no nearer to the newest point than each of its points is to an older one cannot change, and is
    passed over. The test is on rounded numbers in the order of the real computation, so no choice differs from the
    plain double loop's. Where all distinct points are taken, the last is repeated.

    Takes points [N, 3] in any unit. Raises ValueError where there are fewer than `count`, or no row `start`.
    """
    if not 0 <= start < len(points) or count > len(points):
        raise ValueError(
            f"`count` <= points and 0 <= `start` < points must hold, but got {count=}, {start=} and {len(points)} "
            "points: draw more points, or choose fewer."
        )
    points = np.asarray(points, np.float64)
    order, starts = _cells(points)
    return _farthest(points[order], order, starts, count, start)


def _cells(points: Floats) -> tuple[Integers, Integers]:
    """The rows [N] sorted by the cell of a grid that they lie in, and where each cell in use begins, [C + 1]."""
    # A surface meets about 4 side^2 cells; this side makes that some sqrt(N), so that passing over costs as visiting.
    side = max(1, round(1.2 * len(points) ** 0.25))
    low = points.min(axis=0)
    scale = side / (np.ptp(points, axis=0).max() or 1.0)
    x, y, z = np.minimum((points - low) * scale, side - 1).astype(np.int64).T
    cell = (x * side + y) * side + z
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    return order, np.append(starts, len(points))


@kernel
def _farthest(points: Floats, order: Integers, starts: Integers, count: int, start: int) -> Integers:
    """The chosen rows [K], from points [N, 3] sorted by cell."""
    boxes = _boxes(points, starts)
    distance = np.full(len(points), np.inf)
    far = np.full(len(starts) - 1, np.inf)  # [C] the largest distance in a cell, and whose it is
    who = starts[:-1].copy()
    chosen = np.empty(count, np.int64)
    newest = np.flatnonzero(order == start)[0]
    for place in range(count):
        chosen[place] = order[newest]
        x, y, z = points[newest]
        for cell in range(len(far)):
            if _gap(boxes[cell], x, y, z) < far[cell]:
                who[cell], far[cell] = _visit(points, order, distance, starts[cell], starts[cell + 1], x, y, z)
        newest = _best(order, far, who, newest)
    return chosen


@kernel
def _boxes(points: Floats, starts: Integers) -> Floats:
    """The bounding box of each cell, [C, 6]: the lowest corner, then the highest."""
    out = np.empty((len(starts) - 1, 6))
    for cell in range(len(out)):
        for axis in range(3):
            inside = points[starts[cell] : starts[cell + 1], axis]
            out[cell, axis], out[cell, axis + 3] = inside.min(), inside.max()
    return out


@kernel
def _gap(box: Floats, x: float, y: float, z: float) -> float:
    """The squared distance from a point to a box, never above the rounded one to any point within."""
    dx = max(box[0] - x, x - box[3], 0.0)
    dy = max(box[1] - y, y - box[4], 0.0)
    dz = max(box[2] - z, z - box[5], 0.0)
    return dx * dx + (dy * dy + dz * dz)


@kernel
def _visit(
    points: Floats, order: Integers, distance: Floats, low: int, high: int, x: float, y: float, z: float
) -> tuple[int, float]:
    """Bring a cell's distances up to date; the place and the distance of its farthest point."""
    who, far = low, -1.0
    for place in range(low, high):
        dx, dy, dz = points[place, 0] - x, points[place, 1] - y, points[place, 2] - z
        # Summed in the order of Eigen's unrolled norm, so that near ties fall as they do in Open3D.
        near = min(distance[place], dx * dx + (dy * dy + dz * dz))
        distance[place] = near
        if near > far:
            who, far = place, near
    return who, far


@kernel
def _best(order: Integers, far: Floats, who: Integers, newest: int) -> int:
    """The place of the farthest point of all; the one chosen last where every distance is zero."""
    best, most = newest, 0.0
    for cell in range(len(far)):
        nearer_row = far[cell] == most and most > 0 and order[who[cell]] < order[best]
        if far[cell] > most or nearer_row:
            best, most = who[cell], far[cell]
    return best
