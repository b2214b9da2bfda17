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

# of the bits of a float32
MAGNITUDE, INFINITY = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
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
    if not _is_sound(mesh) and (problem := mesh.problem()):
        raise Unreadable(problem)
    return mesh


def _is_sound(mesh: Mesh) -> bool:
    """Whether `Mesh.problem` is sure to find nothing: its checks in one pass, a fiftieth of their time."""
    vertices = mesh.vertices.reshape(-1)
    return _numbers_are_sound(vertices, vertices.view(np.int32), mesh.faces.reshape(-1).view(np.uint32))


@njit(cache=True, nogil=True)
def _numbers_are_sound(vertices: NDArray[np.float32], bits: NDArray[np.int32], corners: NDArray[np.uint32]) -> bool:
    # maxima of whole numbers, which the compiler takes eight at a time: without its sign, an index below zero is great
    size, index = np.int32(0), np.uint32(0)
    for word in bits:
        size = max(size, word & MAGNITUDE)
    for corner in corners:
        index = max(index, corner)
    spread = False
    for place in range(3, len(vertices)):
        if vertices[place] != vertices[place % 3]:
            spread = True
            break
    return bool(spread and len(corners) > 0 and size < INFINITY and index < len(vertices) // 3)


def beside(path: Path) -> Resolve:
    """Finds the files that `path` names in its own folder."""

    def resolve(name: str) -> bytes | None:
        near = path.parent / name.replace("\\", "/")
        return near.read_bytes() if near.is_file() else None

    return resolve
