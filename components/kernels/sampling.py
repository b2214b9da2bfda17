"""
Points drawn evenly over the surface of a triangle soup.
"""

# F faces, N points

import numpy as np
from numpy.typing import NDArray

from components.kernels.compiled import kernel
from components.source import Unreadable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64] | NDArray[np.int32]
ROUNDING = 2.0**-22  # of a coordinate, float32's twice: both ends of a height are rounded


def sample(triangles: Floats, count: int, generator: np.random.Generator) -> tuple[Floats, Integers, Floats]:
    """
    Draw `count` points, as many on a face as its area deserves.

    Draw i lies in the i-th of `count` equal parts of the whole area (stratified sampling), so the counts vary less
    than independent draws do, and finding the faces is one walk along both lists. The points come in the order of
    the faces: shuffle them where a prefix must stand for the whole.

    Takes triangles [F, 3, 3]. Gives points [N, 3], faces [N], and the weights [N, 2] of corners 1 and 2; corner 0 has
    the rest. A face without area is never drawn. Raises `Unreadable` where no face has any.
    """
    weights = areas(triangles)
    if not weights.sum() > 0:
        raise Unreadable(f"some face must have an area, but none of {len(triangles)} has: leave this mesh out")
    places = (np.arange(count) + generator.random(count)) / count
    faces = _faces(np.cumsum(weights), places)
    weights = _fold(generator.random((count, 2)))
    return interpolate(triangles, faces, weights), faces, weights


@kernel
def areas(triangles: Floats) -> Floats:
    """The area of each triangle, [F]."""
    out = np.empty(len(triangles))
    for face in range(len(triangles)):
        x, y, z = _cross(triangles[face])
        out[face] = 0.5 * np.sqrt(x * x + y * y + z * z)
    return out


@kernel
def has_area(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> bool:
    """True where the corners of some face, rows of vertices [V, 3], lie farther off a line than float32 rounds them."""
    for face in range(len(faces)):
        t = vertices[faces[face]].astype(np.float64)
        x, y, z = _cross(t)
        longest = max(((t[1] - t[0]) ** 2).sum(), ((t[2] - t[1]) ** 2).sum(), ((t[0] - t[2]) ** 2).sum())
        if x * x + y * y + z * z > longest * (ROUNDING * np.abs(t).max()) ** 2:
            return True
    return False


@kernel
def normals(triangles: Floats, faces: Integers) -> Floats:
    """The unit normal of each of `faces`, [N, 3], by the right hand; zero where the face has no area."""
    out = np.zeros((len(faces), 3))
    for place, face in enumerate(faces):
        x, y, z = _cross(triangles[face])
        length = np.sqrt(x * x + y * y + z * z)
        if length > 0:
            scale = 1 / length
            out[place, 0], out[place, 1], out[place, 2] = x * scale, y * scale, z * scale
    return out


@kernel
def interpolate(values: Floats, faces: Integers, weights: Floats) -> Floats:
    """Interpolate `values` [F, 3, C], given at the corners, at `weights` [N, 2] within `faces` [N]: [N, C]."""
    out = np.empty((len(faces), values.shape[2]))
    for place, face in enumerate(faces):
        one, two = weights[place, 0], weights[place, 1]
        for channel in range(values.shape[2]):
            first = values[face, 0, channel]
            edges = one * (values[face, 1, channel] - first) + two * (values[face, 2, channel] - first)
            out[place, channel] = first + edges
    return out


@kernel
def _cross(t: Floats) -> tuple[float, float, float]:
    """The cross product of two edges of one triangle [3, 3]: along its normal, twice its area long."""
    # Entry by entry: numba would allocate an array for `t[1] - t[0]`, eight times the cost of the rest.
    ax, ay, az = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
    bx, by, bz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@kernel
def _faces(sums: Floats, places: Floats) -> Integers:
    """The face at each of the ascending `places` [N] in [0, 1), given the running sums [F] of the areas."""
    out = np.empty(len(places), np.int64)
    total = sums[-1]
    # Strictly below the total, so that the walk ends on a face that has an area even where rounding reaches 1.
    most = np.nextafter(total, 0.0)
    face = 0
    for place in range(len(places)):
        goal = min(places[place] * total, most)
        while sums[face] <= goal:
            face += 1
        out[place] = face
    return out


@kernel
def _fold(square: Floats) -> Floats:
    """Fold the unit square [N, 2] onto the triangle u + v <= 1, which keeps areas."""
    out = np.empty_like(square)
    for place in range(len(square)):
        u, v = square[place, 0], square[place, 1]
        beyond = u + v > 1
        out[place, 0], out[place, 1] = (1 - u, 1 - v) if beyond else (u, v)
    return out
