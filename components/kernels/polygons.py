"""
Polygons that are not convex, cut into triangles that cover them and nothing else.

Meisters, Polygons have ears, American Mathematical Monthly 1975: a triangle of three neighbouring corners in which no
other corner lies is cut off, until one triangle is left.
"""

# V vertices, F triangles, N corners of a polygon

import numpy as np
from numpy.typing import NDArray

from components.kernels.compiled import kernel

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]
SLACK = 1e-6  # of a polygon's area: what rounding to float32 makes of corners on one line
PATIENCE = 2_000_000_000  # looks at corners, seconds: a band wound up a hundred times would take a minute


@kernel
def clip(vertices: NDArray[np.float32], triangles: Indices, origin: Indices, places: Indices) -> None:
    """
    Cuts again, in place, each polygon of which a fan around its first corner covers what is outside.

    Takes such fans, triangles [F, 3] of vertices [V, 3]; `origin` [F] is the polygon of each, and `places` [F, 3] are
    other numbers of the same corners, which go with them; it may be empty. Every other fan stays as it is, and so does
    that of a polygon that crosses itself, or has many thousand corners that hide each other.
    """
    start = 0
    while start < len(triangles):
        stop = start + 1
        while stop < len(triangles) and origin[stop] == origin[start]:
            stop += 1
        if stop > start + 1 and _is_within(triangles[start:stop], len(vertices)):
            _clip_one(vertices, triangles[start:stop], places[start:stop])
        start = stop


@kernel(inline="always")
def _is_within(fan: Indices, count: int) -> bool:
    for row in range(len(fan)):
        for corner in range(3):
            if fan[row, corner] < 0 or fan[row, corner] >= count:
                return False
    return True


@kernel
def _clip_one(vertices: NDArray[np.float32], fan: Indices, places: Indices) -> None:
    x, y, z = 0.0, 0.0, 0.0
    for row in range(len(fan)):
        across = _cross(vertices, fan[row])
        x, y, z = x + across[0], y + across[1], z + across[2]
    most = SLACK * (x * x + y * y + z * z)
    covers = True
    for row in range(len(fan)):
        across = _cross(vertices, fan[row])
        covers &= not across[0] * x + across[1] * y + across[2] * z < -most
    if covers:
        return
    corners = _corners(fan)
    ears, found = _ears(_flattened(vertices, corners, x, y, z))
    if found:
        _put(fan, ears, corners)
        if len(places):
            _put(places, ears, _corners(places))


@kernel(inline="always")
def _cross(vertices: NDArray[np.float32], triangle: Indices) -> tuple[float, float, float]:
    """Along the normal of a triangle, twice its area long."""
    a, b, c = triangle[0], triangle[1], triangle[2]
    ox, oy, oz = np.float64(vertices[a, 0]), np.float64(vertices[a, 1]), np.float64(vertices[a, 2])
    ux, uy, uz = vertices[b, 0] - ox, vertices[b, 1] - oy, vertices[b, 2] - oz
    vx, vy, vz = vertices[c, 0] - ox, vertices[c, 1] - oy, vertices[c, 2] - oz
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


@kernel
def _corners(fan: Indices) -> Indices:
    """The corners [N] of the polygon that a fan [N - 2, 3] is made of."""
    out = np.empty(len(fan) + 2, np.int32)
    out[0], out[1] = fan[0, 0], fan[0, 1]
    out[2:] = fan[:, 2]
    return out


@kernel
def _flattened(vertices: NDArray[np.float32], corners: Indices, x: float, y: float, z: float) -> Floats:
    """The corners [N, 2] as seen along the axis that is nearest to the normal (x, y, z), anticlockwise."""
    normal = (x, y, z)
    axis = 0
    for other in range(1, 3):
        if abs(normal[other]) > abs(normal[axis]):
            axis = other
    one, two = (axis + 1) % 3, (axis + 2) % 3
    if normal[axis] < 0:
        one, two = two, one
    out = np.empty((len(corners), 2))
    for place, corner in enumerate(corners):
        out[place, 0], out[place, 1] = vertices[corner, one], vertices[corner, two]
    return out


@kernel
def _ears(flat: Floats) -> tuple[NDArray[np.int64], bool]:
    """Triangles [N - 2, 3] of the corners [N, 2] of a polygon, and whether there are such that cover it."""
    count = len(flat)
    before, after = np.arange(-1, count - 1), np.arange(1, count + 1)
    before[0], after[count - 1] = count - 1, 0
    out = np.empty((count - 2, 3), np.int64)
    slack, made, at, tried, is_flat_one, looks = SLACK * _area(flat), 0, 0, 0, False, 0
    while made < count - 2 and looks < PATIENCE:
        if tried == count - made:  # then one without area may go; if there is none of those either, it crosses itself
            if is_flat_one:
                return out, False
            is_flat_one, tried = True, 0
        one, two = before[at], after[at]
        area = _side(flat, one, at, two)
        if abs(area) <= slack if is_flat_one else area > 0 and _is_empty(flat, one, at, two, after):
            out[made, 0], out[made, 1], out[made, 2] = one, at, two
            after[one], before[two] = two, one
            made, tried, is_flat_one = made + 1, -1, False
        at, tried, looks = two, tried + 1, looks + count - made
    return out, made == count - 2


@kernel
def _area(flat: Floats) -> float:
    """Twice the area of a polygon, [N, 2]."""
    out = 0.0
    for place in range(1, len(flat) - 1):
        out += _side(flat, 0, place, place + 1)
    return out


@kernel(inline="always")
def _side(flat: Floats, one: int, two: int, three: int) -> float:
    """Twice the area of a triangle, below zero where its corners go clockwise."""
    ux, uy = flat[two, 0] - flat[one, 0], flat[two, 1] - flat[one, 1]
    return ux * (flat[three, 1] - flat[one, 1]) - uy * (flat[three, 0] - flat[one, 0])


@kernel
def _is_empty(flat: Floats, one: int, at: int, two: int, after: NDArray[np.int64]) -> bool:
    """True if no corner that is left lies in a triangle, or on its rim."""
    other = after[two]
    while other != one:
        is_inside = _side(flat, one, at, other) >= 0 and _side(flat, at, two, other) >= 0
        if is_inside and _side(flat, two, one, other) >= 0 and not _is_one_of(flat, other, one, at, two):
            return False
        other = after[other]
    return True


@kernel
def _is_one_of(flat: Floats, other: int, one: int, at: int, two: int) -> bool:
    """True if a corner stands where another does: a polygon with a hole passes two of them twice."""
    return _is_same(flat, other, one) or _is_same(flat, other, at) or _is_same(flat, other, two)


@kernel(inline="always")
def _is_same(flat: Floats, one: int, other: int) -> bool:
    return flat[one, 0] == flat[other, 0] and flat[one, 1] == flat[other, 1]


@kernel
def _put(fan: Indices, ears: NDArray[np.int64], corners: Indices) -> None:
    for row in range(len(fan)):
        for corner in range(3):
            fan[row, corner] = corners[ears[row, corner]]
