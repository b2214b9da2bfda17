"""
Files of shapes to meshes: OBJ with its materials and pictures, PLY, OFF, STL and GLB.

    mesh = decode(path.read_bytes(), "obj", beside(path))

A polygon becomes a fan of triangles around its first corner, or other triangles where a fan would reach outside of it.
Vertices are neither merged nor dropped: their order is the file's. A file that is cut short, empty, not finite or of
another kind raises `Unreadable` with the reason.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from components.decoders import glb, obj, off, ply, stl
from components.decoders.shared import Resolve
from components.kernels.sampling import has_area
from components.mesh import Mesh
from components.source import Unreadable

least, greatest = np.minimum.reduce, np.maximum.reduce
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
    if kind not in READERS:
        ends = f"ends in .{kind}" if kind else "has no ending"
        raise Unreadable(f"a shape is an OBJ, PLY, OFF, STL or GLB file, but its name {ends}: export it as one of them")
    if not data:
        raise Unreadable("the file has no bytes")
    mesh = _read(data, kind, resolve or (lambda name: None))
    if not _is_sound(mesh) and (problem := mesh.problem()):
        raise Unreadable(problem)
    return mesh


def _read(data: bytes, kind: str, resolve: Resolve) -> Mesh:
    """Whatever a reader stumbles over, it is the file that is at fault: its bytes come from anywhere."""
    try:
        with np.errstate(all="ignore"):  # numbers that overflow are found as what is not finite
            return READERS[kind](data, resolve)
    except Unreadable:
        raise
    except MemoryError as error:
        raise Unreadable("it names more than fits in memory: it is damaged, or too large for this machine") from error
    except Exception as error:
        raise Unreadable(f"it breaks the rules of {kind.upper()}: it is damaged; export it anew") from error


def _is_sound(mesh: Mesh) -> bool:
    """True where `Mesh.problem` is sure to find nothing: the same checks in a fifth of their time."""
    vertices, corners = mesh.vertices, mesh.faces.reshape(-1).view(np.uint32)
    if not len(vertices) or not len(corners):
        return False
    flat = vertices.reshape(-1)
    # what is not a number is both the least and the greatest; an index below zero is a great one without its sign
    finite = -np.inf < least(flat) and greatest(flat) < np.inf
    return bool(finite and greatest(corners) < len(vertices) and has_area(vertices, mesh.faces))


def beside(path: Path) -> Resolve:
    """Finds the files that `path` names in its own folder."""

    def resolve(name: str) -> bytes | None:
        near = path.parent / name.replace("\\", "/")
        try:
            return near.read_bytes() if near.is_file() else None
        except (OSError, ValueError):  # without permission, or named by what is no name: too long, or with a zero in it
            return None

    return resolve
