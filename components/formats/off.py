"""
The Object File Format, as text.
"""

import re
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from components.formats.mesh import Mesh
from components.formats.shared import Resolve, as_array, color_bytes, covering, enough, joined, newlines, refuse_wide
from components.kernels import text
from components.source import Unreadable

Floats = NDArray[np.float64]

HEADER = re.compile(rb"(?:\s|#[^\n]*\n)*(?:(ST)?(C)?(N)?(4)?(n)?OFF)?")  # the word itself may be left out
LINE = re.compile(rb"#[^\n]*|([^\s#][^#\n]*)")  # a comment, or the words of a line
MORE = re.compile(rb"[ \t\r]*[^\s#]")  # a word before the line ends


def read(data: bytes, resolve: Resolve) -> Mesh:
    """Object File Format: vertices, their colours (COFF) and polygons; all else is passed over."""
    refuse_wide(data)
    data = newlines(data)
    header = HEADER.match(data)
    assert header is not None, "every part of it may be left out"
    has_coordinates, has_colors, has_normals, is_homogeneous, has_dimension = map(bool, header.groups())
    v, f, at = _counts(data, _dimension(data, header.end()) if has_dimension else header.end())
    color = 3 + is_homogeneous + 3 * has_normals  # the column in which it starts
    rows, at = _vertices(data, at, v, color + 3 * has_colors + 2 * has_coordinates)
    vertices = (rows[:, :3] / rows[:, 3:4] if is_homogeneous else rows[:, :3]).astype(np.float32)
    lines = [line for line in data[at:].split(b"\n") if line.strip() and not line.lstrip().startswith(b"#")][:f]
    enough(len(lines) == f, "face", f)
    colors = color_bytes(rows[:, color : color + 3], "f8") if has_colors else None
    return Mesh(vertices, _faces(lines, vertices), vertex_colors=colors)


def _dimension(data: bytes, at: int) -> int:
    """Where the dimension behind nOFF ends."""
    dimension, at = text.numbers(as_array(data), at, 1)
    if dimension.tolist() != [3]:
        raise Unreadable(f"the vertices of a shape have 3 dimensions, but this nOFF file's have {dimension.sum():g}")
    return at


def _counts(data: bytes, at: int) -> tuple[int, int, int]:
    """How many vertices and faces there are, and where these counts end; that of the edges may be left out."""
    if re.match(rb"\s*BINARY", data[at : at + 80]):
        raise Unreadable("an OFF file is text here, but this one is binary: save it as text, or as PLY")
    first, second, *_ = [len(words) for words in islice(_lines(data, at), 2)] + [0, 0]
    wanted = 2 if first == 2 and second != 1 else 3
    counts, at = text.numbers(as_array(data), at, wanted)  # ModelNet40 has files where they follow OFF at once
    if len(counts) < wanted or not ((counts >= 0) & (counts % 1 == 0)).all():
        raise Unreadable("an OFF file starts with 'OFF' and its numbers of vertices and faces, but this one does not")
    return int(counts[0]), int(counts[1]), at


def _vertices(data: bytes, at: int, count: int, least: int) -> tuple[Floats, int]:
    """
    The numbers of each vertex, [V, `least` or more], and where they end.

    How many only a line tells: a colour has three or four, and some have one that the header does not name.
    """
    width = next((len(words) for words in _lines(data, at)), least)
    if count and width < least:
        raise Unreadable(f"a vertex of this OFF has {least} numbers by its header, but the first one has {width}")
    flat, at = text.numbers(as_array(data), at, min(count * width, len(data)))
    enough(len(flat) == count * width, "vertex", count)
    if count and MORE.match(data, at):
        raise Unreadable(
            f"every vertex of an OFF has as many numbers as the first, but not all of this one's have {width}"
        )
    return flat.reshape(count, width), at


def _lines(data: bytes, at: int) -> Iterator[list[bytes]]:
    """The words of each line that has any."""
    return (match[1].split() for match in LINE.finditer(data, at) if match[1])


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
    """True if any line has more than the four numbers of a triangle."""
    return any(len(line.split()) != 4 for line in lines)
