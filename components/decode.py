"""
Files of shapes to meshes: OBJ with its materials and pictures, PLY, OFF, STL and GLB.

    mesh = decode(path.read_bytes(), "obj", beside(path))

Every polygon becomes a fan of triangles around its first corner. Vertices are neither merged nor dropped: their
order is the file's. A file that is cut short, empty or not finite raises `Unreadable` with the reason.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from components.decoders import glb, obj, off, ply, stl
from components.decoders.shared import Resolve
from components.mesh import Mesh
from components.source import Unreadable

READERS: dict[str, Callable[[bytes, Resolve], Mesh]] = {
    "obj": obj.read,
    "ply": ply.read,
    "off": off.read,
    "stl": stl.read,
    "glb": glb.read,
}


def decode(data: bytes, kind: str, resolve: Resolve | None = None) -> Mesh:
    """
    The mesh in `data`, a file whose name ends in `kind`.

    `resolve` gives the bytes of a file that this one names, None where there is none; without it, a mesh has neither
    the materials nor the pictures that are kept in other files.
    """
    if not data:
        raise Unreadable("the file has no bytes")
    mesh = READERS[kind](data, resolve or (lambda name: None))
    if not _is_sound(mesh.vertices, mesh.faces):
        problem = mesh.problem()
        if problem:
            raise Unreadable(problem)
    return mesh


@njit(cache=True, nogil=True)
def _is_sound(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> bool:
    """Whether `Mesh.problem` is sure to find nothing: its checks in one pass, a fifth of their time."""
    finite, spread, low, high = True, False, 0, -1
    for row in range(len(vertices)):
        for axis in range(3):
            value = vertices[row, axis]
            finite &= value - value == 0
            spread |= value != vertices[0, axis]
    for row in range(len(faces)):
        for corner in range(3):
            low, high = min(low, faces[row, corner]), max(high, faces[row, corner])
    return finite and spread and low >= 0 and 0 <= high < len(vertices)


def beside(path: Path) -> Resolve:
    """Finds the files that `path` names in its own folder."""

    def resolve(name: str) -> bytes | None:
        near = path.parent / name.replace("\\", "/")
        return near.read_bytes() if near.is_file() else None

    return resolve
