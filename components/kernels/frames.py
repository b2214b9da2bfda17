"""
Frames that representations put shapes into: which way is up, where the middle is, how large a shape is.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Rotations that bring an axis to y: as columns are turned, so is a shape; none mirrors it.
TO_Y = {
    "x": np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    "y": np.eye(3),
    "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}


def upright(points: Floats, up: str) -> Floats:
    """The points [..., 3] turned so that the axis `up` (x, y or z) becomes y."""
    if up not in TO_Y:
        raise ValueError(f"`up` must be x, y or z, but got {up!r}: set it where the mesh is opened.")
    return points if up == "y" else points @ TO_Y[up].T


def box(points: Floats) -> tuple[Floats, Floats]:
    """The middle and the sides of the bounding box of the points [..., 3], each [3]."""
    flat = points.reshape(-1, 3)
    low, high = flat.min(axis=0), flat.max(axis=0)
    return (low + high) / 2, high - low


def reach(points: Floats, middle: Floats) -> float:
    """How far the farthest of the points [..., 3] is from `middle`."""
    return float(np.sqrt(((points - middle) ** 2).sum(axis=-1).max()))
