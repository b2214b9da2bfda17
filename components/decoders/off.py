"""
The Object File Format, as text.
"""

import re

import numpy as np
from numpy.typing import NDArray

from components.decoders.shared import Resolve, as_array, covering, enough, joined, newlines
from components.kernels import text
from components.mesh import Mesh
from components.source import Unreadable


def read(data: bytes, resolve: Resolve) -> Mesh:
    """Object File Format: counts, vertices, polygons; colours and the normals of NOFF are passed over."""
    data = newlines(data)
    match = re.match(rb"\s*(ST)?(C)?(N)?OFF[ \t]*(#[^\n]*)?", data)
    if not match:
        raise Unreadable("an OFF file starts with 'OFF', but this one does not")
    if b"BINARY" in data[: match.end() + 16]:
        raise Unreadable("an OFF file is text here, but this one is binary: save it as text, or as PLY")
    raw = as_array(data)
    counts, at = text.numbers(raw, match.end(), 3)  # ModelNet40 has files where they follow OFF at once
    if len(counts) < 3 or not np.isfinite(counts).all() or (counts < 0).any():
        raise Unreadable("an OFF file starts with how many vertices, faces and edges it has, but this one does not")
    v, f = int(counts[0]), int(counts[1])
    width = 3 + 2 * bool(match[1]) + 3 * bool(match[3])
    if match[2]:  # a colour has three numbers or four, which only the length of a line tells
        width += 3 if _numbers_of_a_line(data[at:]) == width + 3 else 4
    flat, at = text.numbers(raw, at, min(v * width, len(data)))
    enough(len(flat) == v * width, "vertex", v)
    vertices = flat.reshape(v, width)[:, :3].astype(np.float32)
    lines = [line for line in data[at:].split(b"\n") if line.strip() and not line.lstrip().startswith(b"#")][:f]
    enough(len(lines) == f, "face", f)
    return Mesh(vertices, _faces(lines, vertices))


def _numbers_of_a_line(data: bytes) -> int:
    """How many numbers the first line that has any has."""
    match = re.search(rb"^[ \t]*([^\s#][^#\n]*)", data, re.M)
    return len(match[1].split()) if match else 0


def _faces(lines: list[bytes], vertices: NDArray[np.float32]) -> NDArray[np.int32]:
    """Line by line, because what follows a polygon's corners may be a colour."""
    flat, _ = text.numbers(as_array(b"\n".join(lines)), 0, 4 * len(lines))
    all_triangles = len(flat) == 4 * len(lines) and (flat[::4] == 3).all()
    if all_triangles and not _bytes_left(lines):
        return np.ascontiguousarray(flat.reshape(-1, 4)[:, 1:], np.int32)
    polygons = []
    for line in lines:
        words = line.split()
        size = int(words[0]) if words[0].isdigit() else -1
        if size < 0 or len(words) <= size or not all(w.isdigit() for w in words[: size + 1]):
            raise Unreadable(f"a face is its number of corners and then these, but it has {line[:40]!r}")
        polygons.append(np.array(words[1 : size + 1], np.int64))
    return covering(vertices, *joined(polygons, "face"))


def _bytes_left(lines: list[bytes]) -> bool:
    """Whether any line has more than the four numbers of a triangle."""
    return any(len(line.split()) != 4 for line in lines)
