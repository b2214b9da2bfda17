"""
Pictures of triangle soups: which face each pixel sees, how far, and where on the face.

Cameras are OpenCV's: x right, y down, z forward; the centre of pixel [row, column] is at (column + 0.5, row + 0.5).
"""

# F faces, H rows, W columns

import numpy as np
from numpy.typing import NDArray

from components.kernels.compiled import kernel

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int32]

Box = tuple[int, int, int, int]

MARGIN = 1e-6  # pixels: rounding may not take a pixel from the box of a face that covers it
FAR = 1e9  # pixels


def rasterize(
    triangles: Floats, intrinsics: Floats, height: int, width: int, *, near: float = 1e-3
) -> tuple[Singles, Integers, Singles]:
    """
    See the triangles [F, 3, 3], given in the camera's frame, through a pinhole camera.

    Gives depth [H, W] along z in the triangles' unit, 0 where nothing is seen; the face seen [H, W], -1 for none; and
    the weights [H, W, 2] of its corners 1 and 2 at the point seen, 0 for none. Both sides of a face are seen. What is
    nearer than `near` along z is cut off, within a face too. `intrinsics` [3, 3] is K, with a last row of 0, 0, 1.

    A face is where three linear functions of the pixel have one sign, and their sum over the face's determinant is the
    inverse depth, wherever its corners lie (Olano and Greer, Graphics Hardware 1997): so nothing is divided by a depth
    that may be zero, and what the weights give is right in perspective. Faces that share an edge leave no gap.
    """
    depth = np.zeros((height, width), np.float32)
    faces = np.full((height, width), -1, np.int32)
    weights = np.zeros((height, width, 2), np.float32)
    intrinsics = np.asarray(intrinsics, np.float64)
    inverse = np.ascontiguousarray(np.linalg.inv(intrinsics), np.float64)
    triangles = np.ascontiguousarray(triangles, np.float64)
    _draw(triangles, intrinsics, inverse, near, faces)
    _resolve(triangles, inverse, faces, depth, weights)
    return depth, faces, weights


@kernel
def _draw(triangles: Floats, intrinsics: Floats, inverse: Floats, near: float, faces: Integers) -> None:
    """Write the face that each pixel sees."""
    closest = np.zeros(faces.shape)  # [H, W] inverse depths
    edges, reach = np.empty((3, 3)), np.empty(4)
    for face in range(len(triangles)):
        if not _reach(triangles[face], intrinsics, near, reach):
            continue
        top, bottom = max(int(np.ceil(reach[1])), 0), min(int(np.floor(reach[3])), faces.shape[0] - 1)
        left, right = max(int(np.ceil(reach[0])), 0), min(int(np.floor(reach[2])), faces.shape[1] - 1)
        if top > bottom or left > right:
            continue
        volume = _edges(triangles[face], inverse, edges)
        if volume > 0:
            _draw_face(face, edges, volume, near, (top, bottom, left, right), closest, faces)


@kernel
def _reach(t: Floats, intrinsics: Floats, near: float, reach: Floats) -> bool:
    """Write left, top, right and bottom of what one triangle covers beyond `near`, as pixels; False for nothing."""
    if max(t[0, 2], t[1, 2], t[2, 2]) < near:
        return False
    reach[0], reach[1], reach[2], reach[3] = np.inf, np.inf, -np.inf, -np.inf
    for corner in range(3):
        x, y, z = t[corner, 0], t[corner, 1], t[corner, 2]
        if z >= near:
            _include(x, y, z, intrinsics, reach)
        other = (corner + 1) % 3
        if (z >= near) != (t[other, 2] >= near):
            part = (near - z) / (t[other, 2] - z)
            _include(x + part * (t[other, 0] - x), y + part * (t[other, 1] - y), near, intrinsics, reach)
    return True


@kernel
def _include(x: float, y: float, z: float, intrinsics: Floats, reach: Floats) -> None:
    """Widen a box of pixel centres to where a point is seen."""
    column = (intrinsics[0, 0] * x + intrinsics[0, 1] * y) / z + intrinsics[0, 2] - 0.5
    row = (intrinsics[1, 0] * x + intrinsics[1, 1] * y) / z + intrinsics[1, 2] - 0.5
    # Kept within what an integer holds: a corner just beyond `near` may be seen anywhere.
    column, row = min(max(column, -FAR), FAR), min(max(row, -FAR), FAR)
    reach[0], reach[1] = min(reach[0], column - MARGIN), min(reach[1], row - MARGIN)
    reach[2], reach[3] = max(reach[2], column + MARGIN), max(reach[3], row + MARGIN)


@kernel
def _edges(t: Floats, inverse: Floats, edges: Floats) -> float:
    """
    Write each edge's function of the pixel, a (column + 0.5) + b (row + 0.5) + c, as (a, b, c); the corners' volume.

    Function i is the volume that the pixel's ray spans with the edge opposite to corner i, turned so that the face is
    where none is negative. Two faces get the same numbers for the edge that they share, or the opposite, to the last
    bit: so no pixel between them is lost.
    """
    volume = 0.0
    for corner in range(3):
        i, j = (corner + 1) % 3, (corner + 2) % 3
        x = t[i, 1] * t[j, 2] - t[i, 2] * t[j, 1]
        y = t[i, 2] * t[j, 0] - t[i, 0] * t[j, 2]
        z = t[i, 0] * t[j, 1] - t[i, 1] * t[j, 0]
        if corner == 0:
            volume = t[0, 0] * x + t[0, 1] * y + t[0, 2] * z
        for column in range(3):
            edges[corner, column] = x * inverse[0, column] + y * inverse[1, column] + z * inverse[2, column]
    if volume < 0:
        for corner in range(3):
            for column in range(3):
                edges[corner, column] = -edges[corner, column]
    return abs(volume)


@kernel
def _draw_face(
    face: int, edges: Floats, volume: float, near: float, box: Box, closest: Floats, faces: Integers
) -> None:
    """Write one face to the pixels of `box` (top, bottom, left, right) that it covers and is closest to."""
    a0, a1, a2 = edges[0, 0], edges[1, 0], edges[2, 0]
    for row in range(box[0], box[1] + 1):
        b0 = edges[0, 1] * (row + 0.5) + edges[0, 2]
        b1 = edges[1, 1] * (row + 0.5) + edges[1, 2]
        b2 = edges[2, 1] * (row + 0.5) + edges[2, 2]
        for column in range(box[2], box[3] + 1):
            x = column + 0.5
            e0, e1, e2 = a0 * x + b0, a1 * x + b1, a2 * x + b2
            if e0 >= 0 and e1 >= 0 and e2 >= 0:
                closeness = (e0 + e1 + e2) / volume
                if closeness > closest[row, column] and closeness * near <= 1:
                    closest[row, column] = closeness
                    faces[row, column] = face


@kernel
def _resolve(triangles: Floats, inverse: Floats, faces: Integers, depth: Singles, weights: Singles) -> None:
    """Write the depth, and the weights of corners 1 and 2, where each pixel sees its face."""
    edges, at = np.empty((3, 3)), np.empty(3)
    for row in range(faces.shape[0]):
        for column in range(faces.shape[1]):
            face = faces[row, column]
            if face < 0:
                continue
            volume = _edges(triangles[face], inverse, edges)
            for corner in range(3):
                at[corner] = edges[corner, 0] * (column + 0.5) + edges[corner, 1] * (row + 0.5) + edges[corner, 2]
            total = at[0] + at[1] + at[2]
            depth[row, column] = volume / total
            weights[row, column, 0], weights[row, column, 1] = at[1] / total, at[2] / total
