"""
Grids of voxels from triangle soups: the surface, the inside of closed shapes, the inside of open ones.

A grid covers a cube: `low` is its lowest corner, `size` its edge in the triangles' unit, `resolution` its voxels along
each axis. Entry [x, y, z] is the closed box from low + [x, y, z] h to low + [x+1, y+1, z+1] h, where h is size / R.
"""

# F faces, N points, R resolution, W words of 64 voxels

import numpy as np
from numpy.typing import NDArray

from components.kernels.compiled import kernel
from components.kernels.winding import winding

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Words = NDArray[np.uint64]
Grid = NDArray[np.bool_]

SLACK = 1e-9  # voxels: what is as near as this touches, so that rounding does not favour one side of a symmetric shape
STRIDES = tuple(np.uint64(2**power) for power in range(6))
NONE, ONE, TOP, ONES = np.uint64(0), np.uint64(1), np.uint64(63), np.uint64(2**64 - 1)


def surface(triangles: Floats, resolution: int, low: Floats, size: float) -> Grid:
    """
    The voxels [R, R, R] that the triangles [F, 3, 3] meet; to touch a voxel's side is to meet it.

    Exact, by separating axes: the boxes overlap, the triangle's plane crosses the voxel, and the three projections
    overlap (Schwarz and Seidel, SIGGRAPH Asia 2010, section 3). What lies outside the grid is left out.
    """
    grid = np.zeros((resolution,) * 3, np.bool_)
    _surface(triangles, np.broadcast_to(np.asarray(low, np.float64), 3).copy(), resolution / size, grid)
    return grid


def fill(grid: Grid) -> Grid:
    """The voxels [R, R, R] of `grid`, and those that no path through faces of free voxels joins to the border."""
    return ~_unpack(_flood(_pack(~grid)), len(grid))


def solid(triangles: Floats, resolution: int, low: Floats, size: float) -> Grid:
    """
    The voxels [R, R, R] that the triangles [F, 3, 3] meet or enclose.

    What the surface seals off is inside. Where the mesh has holes, so are the voxels whose centre it winds around more
    than half, whichever way its faces look (Jacobson et al., SIGGRAPH 2013).
    """
    grid = fill(surface(triangles, resolution, low, size))
    if not closed(triangles):
        free = np.argwhere(~grid)
        centres = low + (free + 0.5) * (size / resolution)
        within = ((centres > triangles.min(axis=(0, 1))) & (centres < triangles.max(axis=(0, 1)))).all(axis=1)
        grid[tuple(free[within].T)] = np.abs(winding(triangles, centres[within], near=2.0)) > 0.5
    return grid


def closed(triangles: Floats) -> bool:
    """True if every edge belongs to an even number of faces, equal corners being one vertex."""
    corners = _identities(triangles.reshape(-1, 3)).reshape(-1, 3)
    proper = (corners != np.roll(corners, 1, axis=1)).all(axis=1)  # a face with two equal corners bounds nothing
    edges = np.stack([corners[proper], np.roll(corners[proper], 1, axis=1)], axis=-1).reshape(-1, 2)
    edges.sort(axis=1)
    _, uses = np.unique(edges[:, 0] * len(triangles) * 3 + edges[:, 1], return_counts=True)
    return bool((uses % 2 == 0).all())


def _identities(points: Floats) -> NDArray[np.int64]:
    """A number for each of the points [N, 3], the same where they are equal."""
    order = np.lexsort(points.T)
    changes = (np.diff(points[order], axis=0) != 0).any(axis=1)
    out = np.empty(len(points), np.int64)
    out[order] = np.concatenate([[0], np.cumsum(changes)])
    return out


# The surface. Triangles are in voxels here: voxel [x, y, z] is the box from there to there + 1.


@kernel
def _surface(triangles: Floats, low: Floats, scale: float, grid: Grid) -> None:
    resolution, flat = len(grid), grid.reshape(-1)
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    triangle, edges = np.empty((3, 3)), np.empty((9, 3))
    for face in range(len(triangles)):
        for corner in range(3):
            for axis in range(3):
                triangle[corner, axis] = (triangles[face, corner, axis] - low[axis]) * scale
        _bounds(triangle, first, last)
        wide = (first[0] != last[0]) + (first[1] != last[1]) + (first[2] != last[2])
        axis = 0 if first[0] == last[0] else 1 if first[1] == last[1] else 2
        for i in range(3):
            first[i], last[i] = max(first[i], 0), max(min(last[i], resolution - 1), -1)
        if wide < 2:  # a connected set meets every voxel of a box that is one voxel wide along two axes
            grid[first[0] : last[0] + 1, first[1] : last[1] + 1, first[2] : last[2] + 1] = True
        elif wide < 3:  # in a layer of voxels, the projection along its axis decides
            _mark_layer(triangle, axis, edges, first, last, flat, resolution)
        else:
            _mark(triangle, edges, first, last, flat, resolution)


@kernel
def _bounds(triangle: Floats, first: Integers, last: Integers) -> None:
    """Write the first and the last voxel that the triangle's box touches along each axis, within the grid or not."""
    for axis in range(3):
        a, b, c = triangle[0, axis], triangle[1, axis], triangle[2, axis]
        first[axis] = int(np.ceil(min(a, b, c) - SLACK)) - 1
        last[axis] = int(np.floor(max(a, b, c) + SLACK))


@kernel
def _mark_layer(
    triangle: Floats, axis: int, edges: Floats, first: Integers, last: Integers, flat: Grid, resolution: int
) -> None:
    """Mark the voxels of one triangle that stays within one layer across `axis`."""
    if first[axis] > last[axis]:
        return
    i, j = (axis + 1) % 3, (axis + 2) % 3
    stride = (resolution * resolution, resolution, 1)
    _project(triangle, i, j, edges, 0)
    for u in range(first[i], last[i] + 1):
        for v in range(first[j], last[j] + 1):
            if _meets(edges, 0, u, v):
                flat[u * stride[i] + v * stride[j] + first[axis] * stride[axis]] = True


@kernel
def _mark(triangle: Floats, edges: Floats, first: Integers, last: Integers, flat: Grid, resolution: int) -> None:
    """Mark the voxels of one triangle: columns along the axis that it faces most, cut where its plane leaves them."""
    k, along, across, facing = _plane(triangle)
    i, j = (k + 1) % 3, (k + 2) % 3
    stride = (resolution * resolution, resolution, 1)
    _project(triangle, i, j, edges, 0)
    _project(triangle, j, k, edges, 3)
    _project(triangle, k, i, edges, 6)
    below, above = min(along, 0.0) + min(across, 0.0) - SLACK, max(along, 0.0) + max(across, 0.0) + SLACK
    for u in range(first[i], last[i] + 1):
        for v in range(first[j], last[j] + 1):
            if not _meets(edges, 0, u, v):
                continue
            bottom, top = first[k], last[k]
            if facing:
                level = triangle[0, k] + along * (u - triangle[0, i]) + across * (v - triangle[0, j])
                bottom, top = max(bottom, int(np.ceil(level + below)) - 1), min(top, int(np.floor(level + above)))
            for w in range(bottom, top + 1):
                if _meets(edges, 3, v, w) and _meets(edges, 6, w, u):
                    flat[u * stride[i] + v * stride[j] + w * stride[k]] = True


@kernel
def _plane(t: Floats) -> tuple[int, float, float, bool]:
    """The axis k that a triangle faces most, its slopes along axes k + 1 and k + 2, whether it has a plane at all."""
    ax, ay, az = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
    bx, by, bz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
    normal = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    k = 0
    for axis in range(1, 3):
        k = axis if abs(normal[axis]) > abs(normal[k]) else k
    longest = max(ax * ax + ay * ay + az * az, bx * bx + by * by + bz * bz)
    # A sliver's normal is rounding noise; its three projections decide alone, as they do for a segment.
    if abs(normal[k]) <= SLACK * longest:
        return k, 0.0, 0.0, False
    return k, -normal[(k + 1) % 3] / normal[k], -normal[(k + 2) % 3] / normal[k], True


@kernel
def _project(t: Floats, i: int, j: int, edges: Floats, row: int) -> None:
    """Write each edge of the triangle seen along one axis as (a, b, c): a u + b v + c >= 0 where it lets [u, v] be."""
    turn = (t[1, i] - t[0, i]) * (t[2, j] - t[0, j]) - (t[1, j] - t[0, j]) * (t[2, i] - t[0, i])
    sign = 1.0 if turn >= 0 else -1.0
    for corner in range(3):
        u, v = t[corner, i], t[corner, j]
        a, b = sign * (v - t[(corner + 1) % 3, j]), sign * (t[(corner + 1) % 3, i] - u)
        reach = max(a, 0.0) + max(b, 0.0) + SLACK * (abs(a) + abs(b))
        edges[row + corner, 0], edges[row + corner, 1], edges[row + corner, 2] = a, b, reach - a * u - b * v


@kernel
def _meets(edges: Floats, row: int, u: int, v: int) -> bool:
    """True if the square from [u, v] to [u, v] + 1 reaches the inner side of three edges."""
    return (
        edges[row, 0] * u + edges[row, 1] * v + edges[row, 2] >= 0
        and edges[row + 1, 0] * u + edges[row + 1, 1] * v + edges[row + 1, 2] >= 0
        and edges[row + 2, 0] * u + edges[row + 2, 1] * v + edges[row + 2, 2] >= 0
    )


# The inside. Free voxels are bits, 64 of a row along z in a word: the flood crosses a row in a few operations.


def _pack(grid: Grid) -> Words:
    """A grid [R, R, R] as words [R, R, W]; the bits beyond the grid are 0."""
    resolution = len(grid)
    padded = np.zeros((resolution, resolution, -(-resolution // 64) * 64), np.bool_)
    padded[:, :, :resolution] = grid
    return np.packbits(padded, axis=2, bitorder="little").view(np.uint64)


def _unpack(words: Words, resolution: int) -> Grid:
    """The grid [R, R, R] of words [R, R, W]."""
    return np.unpackbits(words.view(np.uint8), axis=2, count=resolution, bitorder="little").view(np.bool_)


@kernel
def _flood(free: Words) -> Words:
    """The free bits [R, R, W] that a path through faces joins to the border."""
    outside = np.zeros_like(free)
    while True:
        up = _sweep(free, outside, 1)
        down = _sweep(free, outside, -1)
        if not (up or down):
            return outside


@kernel
def _sweep(free: Words, outside: Words, step: int) -> bool:
    """Let the flood go on along all three axes, upward (step 1) or downward (-1); whether it did."""
    resolution, _, width = free.shape
    last = ONE << np.uint64((resolution - 1) % 64)
    changed = False
    for i in range(resolution):
        x = i if step > 0 else resolution - 1 - i
        for j in range(resolution):
            y = j if step > 0 else resolution - 1 - j
            for k in range(width):
                w = k if step > 0 else width - 1 - k
                entering = outside[x - step, y, w] if i else ONES
                entering |= outside[x, y - step, w] if j else ONES
                if step > 0:
                    entering |= outside[x, y, w - 1] >> TOP if k else ONE
                else:
                    entering |= outside[x, y, w + 1] << TOP if k else last
                new = entering & free[x, y, w] & ~outside[x, y, w]
                if new != NONE:
                    outside[x, y, w] |= _spread(new, free[x, y, w])
                    changed = True
    return changed


@kernel
def _spread(bits: np.uint64, free: np.uint64) -> np.uint64:
    """Every free bit that a run of free bits joins to one of `bits`, by doubling strides (Kogge and Stone 1973)."""
    up, down, upper, lower = bits, bits, free, free
    for step in STRIDES:
        up |= upper & (up << step)
        upper &= upper << step
        down |= lower & (down >> step)
        lower &= lower >> step
    return up | down
