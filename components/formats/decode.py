"""
Files of shapes to meshes: OBJ with its materials and pictures, PLY, OFF, STL and GLB.

    mesh = decode(path.read_bytes(), "obj", beside(path))

A polygon becomes a fan of triangles around its first corner, or other triangles where a fan would reach outside of it.
Vertices are neither merged nor dropped: their order is the file's. A file that is cut short, empty, not finite or of
another kind raises `Unreadable` with the reason; an error of reading the files that it names is raised as it is.
"""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from components.formats import glb, obj, off, ply, stl
from components.formats.mesh import Mesh
from components.formats.shared import Resolve, is_of_the_bytes
from components.kernels.sampling import has_area
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
    the materials nor the pictures that are kept in other files. What it raises is raised here.
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
    """Whatever a reader stumbles over in the bytes, they are at fault: neither memory, nor reading another file."""
    failed: list[Exception] = []

    def noted(name: str) -> bytes | None:
        try:
            return resolve(name)
        except Exception as error:
            failed.append(error)
            raise

    try:
        with np.errstate(all="ignore"):  # numbers that overflow are found as what is not finite
            return READERS[kind](data, noted)
    except Exception as error:
        if failed:  # whatever a reader made of it
            raise failed[0] from None
        if isinstance(error, Unreadable) or not is_of_the_bytes(error):
            raise
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


NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""what an operating system says of a name that no file has, or can have"""


def read_file(path: Path) -> bytes | None:
    """The bytes of a file; None where there is none, or what is there is no file. Any other error is raised."""
    try:
        # a device or a pipe, which a shape may name, has no end
        return path.read_bytes() if stat.S_ISREG(os.stat(path).st_mode) else None
    except ValueError:  # a name with a zero in it
        return None
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise


def path_beside(path: Path, name: str) -> Path:
    """Where a file lies that the file at `path` names."""
    return path.parent / name.replace("\\", "/")


def beside(path: Path) -> Resolve:
    """Finds the files that `path` names in its own folder."""
    return lambda name: read_file(path_beside(path, name))
