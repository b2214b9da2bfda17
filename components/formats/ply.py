"""
Stanford PLY, ASCII or binary of either order.
"""

# N vertices or polygons, F triangles

import codecs
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.formats.mesh import Mesh
from components.formats.shared import (
    GREY,
    Picture,
    Resolve,
    as_array,
    color_bytes,
    covering,
    enough,
    joined,
    refuse_wide,
    whole_lists,
    within,
)
from components.kernels import text
from components.kernels.compiled import kernel
from components.source import Unreadable

UV_NAMES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
Property = tuple[str, str, str]  # its name, its type, and the type of its count where it is a list
Element = tuple[str, int, list[Property]]  # its name, its count, its properties
Columns = dict[str, Any]  # the values of each property; those of a list as a table, or as `joined` gives them
ROWS = ""  # among the columns of a binary file: all of them, as they lie there


def read(data: bytes, resolve: Resolve) -> Mesh:
    """Stanford PLY, ASCII or binary of either order: positions, colours of vertices or faces, coordinates s, t."""
    refuse_wide(data)
    data = data.removeprefix(codecs.BOM_UTF8)
    elements, order, body = _header(data)
    declared = {name: properties for name, _, properties in elements}
    columns, at = {}, body
    for name, count, properties in elements:
        rows = _ascii if order == "ascii" else _binary
        columns[name], at = rows(data, at, name, count, properties, order)
    vertex, face = columns.get("vertex", {}), columns.get("face", {})
    if not {"x", "y", "z"} <= set(vertex):
        raise Unreadable("a vertex of a PLY has x, y and z, but this file's has not")
    indices = face.get("vertex_indices", face.get("vertex_index"))
    positions = _stack(vertex, ("x", "y", "z"))
    faces = _triangles(indices, positions) if indices is not None else np.empty((0, 3), np.int32)
    materials, palette = _palette(_channels(face, declared.get("face", [])), indices)
    uv = next((_stack(vertex, pair) for pair in UV_NAMES if set(pair) <= set(vertex)), None)
    return Mesh(
        positions,
        faces,
        materials,
        palette,
        vertex_colors=_channels(vertex, declared["vertex"]),
        uv=uv[faces] if uv is not None and within(faces, len(uv)) else None,
    )


def _header(data: bytes) -> tuple[list[Element], str, int]:
    """The elements with their counts and properties, the order of the bytes, and where the body starts."""
    is_old_mac = re.match(rb"ply[ \t]*\r(?!\n)", data)
    match = re.search(rb"end_header[ \t]*\r" if is_old_mac else rb"end_header[ \t\r]*\n", data[:65536])
    if not data.startswith(b"ply") or not match:
        raise Unreadable("a PLY starts with 'ply' and has a line 'end_header', but this file has not")
    elements: list[Element] = []
    order = ""
    for line in data[: match.start()].decode("ascii", "replace").splitlines():
        match line.split():
            case ["format", word, *_]:
                order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}.get(word, "")
            case ["element", name, count] if count.isdigit():
                elements.append((name, int(count), []))
            case ["property", "list", length, kind, name] if elements and length in TYPES and kind in TYPES:
                elements[-1][2].append((name, TYPES[kind], TYPES[length]))
            case ["property", kind, name] if elements and kind in TYPES:
                elements[-1][2].append((name, TYPES[kind], ""))
            case ["ply"] | ["comment", *_] | ["obj_info", *_] | []:
                pass
            case _:
                raise Unreadable(f"its PLY header has a line that means nothing: {line[:60]!r}")
    if not order:
        raise Unreadable("a PLY is ascii, binary_little_endian or binary_big_endian, but this file says neither")
    return elements, order, match.end()


def _ascii(data: bytes, at: int, name: str, count: int, properties: list[Property], order: str) -> tuple[Columns, int]:
    """Rows of numbers are one table; so are rows of one list, where each is a triangle."""
    raw = as_array(data)
    lists = [p for p in properties if p[2]]
    if not lists:
        flat, at = text.numbers(raw, at, min(count * len(properties), len(data)))  # a damaged header names any number
        enough(len(flat) == count * len(properties), name, count)
        table = flat.reshape(count, len(properties))
        return {p[0]: table[:, column] for column, p in enumerate(properties)}, at
    if len(properties) > 1:
        return _mixed_ascii(raw, at, name, count, properties)
    flat, after = text.numbers(raw, at, min(count * 4, len(data)))  # most are triangles: three corners and their count
    if len(flat) == 4 * count and (flat[::4] == 3).all():
        return {lists[0][0]: (flat.reshape(count, 4)[:, 1:].astype(np.int32))}, after
    flat, _ = text.numbers(raw, at, len(data) - at)
    packed, used = whole_lists(flat, count, name)
    _, at = text.numbers(raw, at, used)
    return {lists[0][0]: packed}, at


def _mixed_ascii(raw: text.Bytes, at: int, name: str, count: int, properties: list[Property]) -> tuple[Columns, int]:
    """Rows of lists and numbers, one by one: the slow way, for the files that need it."""
    flat, _ = text.numbers(raw, at, len(raw) - at)
    columns: dict[str, list[Any]] = {p[0]: [] for p in properties}
    place = 0
    for _ in range(count):
        for key, _, length in properties:
            enough(place < len(flat), name, count)
            size = int(flat[place]) if length else 1
            place += bool(length)
            enough(0 <= size <= len(flat) - place, name, count)
            columns[key].append(flat[place : place + size] if length else flat[place])
            place += size
    _, at = text.numbers(raw, at, place)
    return {p[0]: joined(columns[p[0]], name) if p[2] else np.array(columns[p[0]]) for p in properties}, at


def _binary(data: bytes, at: int, name: str, count: int, properties: list[Property], order: str) -> tuple[Columns, int]:
    """Rows of one width are one NumPy view; a first guess is that every list has as many entries as the first one."""
    dtype = _row_type(data, at, name, count, properties, order)
    if at + count * dtype.itemsize <= len(data):
        rows = np.frombuffer(data, dtype, count, at)
        lists = {p[0]: _whole_lists(rows["n " + p[0]], rows[p[0]]) for p in properties if p[2]}
        if all(found is not None for found in lists.values()):
            scalars = {p[0]: rows[p[0]] for p in properties if not p[2]}
            return {**scalars, **lists, ROWS: rows}, at + count * dtype.itemsize
    enough(any(p[2] for p in properties), name, count)
    return _mixed_binary(data, at, name, count, properties, order)


def _whole_lists(counts: NDArray[Any], lists: NDArray[Any]) -> NDArray[Any] | None:
    """Lists that have all as many entries as there is room for, [N, room]; None where one has another number."""
    if lists.dtype == np.int32 and counts.dtype == np.uint8:
        copy, whole = _copied(counts, lists)
        return copy if whole else None
    return lists if (counts == lists.shape[1]).all() else None


@kernel
def _copied(counts: NDArray[np.uint8], lists: NDArray[np.int32]) -> tuple[NDArray[np.int32], bool]:
    """The check and the copy in one pass: NumPy takes twice as long over numbers that lie across words."""
    out = np.empty(lists.shape, np.int32)
    whole = True
    for row in range(len(lists)):
        whole &= counts[row] == lists.shape[1]
        for place in range(lists.shape[1]):
            out[row, place] = lists[row, place]
    return out, whole


def _row_type(data: bytes, at: int, name: str, count: int, properties: list[Property], order: str) -> np.dtype[Any]:
    """The type of the first row, in which a list has its count before it."""
    layout: list[Any] = []
    for key, kind, length in properties:
        if length and count:
            width = at + np.dtype(layout).itemsize
            enough(width + np.dtype(length).itemsize <= len(data), name, count)
            size = int(np.frombuffer(data, order + length, 1, width)[0])
            layout += [("n " + key, order + length), (key, order + kind, (size,))]
        else:
            layout.append((key, order + kind))
    return np.dtype(layout)


def _mixed_binary(
    data: bytes, at: int, name: str, count: int, properties: list[Property], order: str
) -> tuple[Columns, int]:
    """Rows of several widths, one by one."""
    columns: dict[str, list[Any]] = {p[0]: [] for p in properties}
    for _ in range(count):
        dtype = _row_type(data, at, name, count, properties, order)
        enough(at + dtype.itemsize <= len(data), name, count)
        row = np.frombuffer(data, dtype, 1, at)
        for key, _, _ in properties:
            columns[key].append(row[key][0])
        at += dtype.itemsize
    return {p[0]: joined(columns[p[0]], name) if p[2] else np.array(columns[p[0]]) for p in properties}, at


def _triangles(indices: Any, vertices: NDArray[np.float32]) -> NDArray[np.int32]:
    """Triangles [F, 3]."""
    if isinstance(indices, tuple):
        return covering(vertices, *indices)
    size = indices.shape[1]
    if size == 3:
        return np.ascontiguousarray(indices, np.int32)
    fan = [indices[:, [0, k, k + 1]] for k in range(1, size - 1)]
    faces = np.ascontiguousarray(np.stack(fan, axis=1).reshape(-1, 3) if fan else np.empty((0, 3)), np.int32)
    return covering(vertices, faces, _polygons(indices))


def _polygons(indices: Any) -> NDArray[np.int32]:
    """The polygon that each triangle comes from, [F]."""
    if isinstance(indices, tuple):
        return indices[1]
    return np.repeat(np.arange(len(indices), dtype=np.int32), max(indices.shape[1] - 2, 0))


def _stack(columns: Columns, names: tuple[str, ...]) -> NDArray[np.float32]:
    """The named columns side by side, [N, len(names)]."""
    if ROWS in columns and (block := _block(columns[ROWS], names)) is not None:
        return block
    out = np.empty((len(columns[names[0]]), len(names)), np.float32)
    for place, name in enumerate(names):
        out[:, place] = columns[name]
    return out


def _block(rows: NDArray[Any], names: tuple[str, ...]) -> NDArray[np.float32] | None:
    """The named fields of rows in one piece, if that is how they lie there."""
    fields = [rows.dtype.fields[name][:2] for name in names]  # type: ignore[index]
    first = fields[0][1]
    if any(field != (np.float32, first + 4 * place) for place, field in enumerate(fields)):
        return None
    return np.ndarray((len(rows), len(names)), np.float32, rows, first, (rows.strides[0], 4)).copy()


def _channels(columns: Columns, properties: list[Property]) -> Picture | None:
    """Columns red, green and blue as bytes, [N, 3], by the types that the header has: a text has none of its own."""
    if not {"red", "green", "blue"} <= set(columns):
        return None
    rgb = np.stack([columns[c] for c in ("red", "green", "blue")], axis=1)
    return color_bytes(rgb, next(kind for name, kind, _ in properties if name == "red"))


def _palette(rgb: Picture | None, indices: Any) -> tuple[NDArray[np.int32], Picture]:
    """The materials that the colours of polygons amount to."""
    if rgb is None or not len(rgb):
        return np.empty(0, np.int32), np.array([GREY], np.uint8)
    palette, index = np.unique(rgb, axis=0, return_inverse=True)
    return index.reshape(-1)[_polygons(indices)].astype(np.int32), palette
