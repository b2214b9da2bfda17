"""
STL, binary or ASCII.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.formats.mesh import Mesh
from components.formats.shared import Resolve, as_array, newlines, refuse_wide
from components.kernels import text
from components.source import Unreadable


def read(data: bytes, resolve: Resolve) -> Mesh:
    """STL, binary or ASCII. Its triangles share no vertices."""
    refuse_wide(data)
    if len(data) >= 84:
        (count,) = struct.unpack_from("<I", data, 80)
        if len(data) >= 84 + 50 * count and (count or not data.startswith(b"solid")):
            rows = np.frombuffer(data, [("normal", "<f4", 3), ("corners", "<f4", 9), ("rest", "<u2")], count, 84)
            return _soup(rows["corners"].reshape(-1, 3))
    data = newlines(data)
    if data.lstrip()[:5].lower() != b"solid":
        if b"\0" not in data:
            raise Unreadable("an STL of text begins with 'solid', but this does not: it is something else")
        raise Unreadable(
            "a binary STL has 50 bytes for each triangle that it names, but this one has fewer: it is cut short"
        )
    corners = text.numbers_after(as_array(data), as_array(b"vertex"), 3)
    if len(corners) % 3 or b"endsolid" not in data[-4096:].lower():
        raise Unreadable("an ASCII STL ends with 'endsolid', but this one stops before: it is cut short")
    return _soup(corners)


def _soup(corners: NDArray[Any]) -> Mesh:
    """A mesh in which every three corners are a triangle."""
    return Mesh(np.ascontiguousarray(corners, np.float32), np.arange(len(corners), dtype=np.int32).reshape(-1, 3))
