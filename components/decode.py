"""
Files of shapes to meshes: OBJ with its materials and pictures, PLY, OFF, STL and GLB.

    mesh = decode(path.read_bytes(), "obj", beside(path))

Every polygon becomes a fan of triangles around its first corner. Vertices are neither merged nor dropped: their
order is the file's. A file that is cut short, empty or not finite raises `Unreadable` with the reason.
"""

# V vertices, F triangles, P polygons, M materials, T texture coordinates

import base64
import io
import json
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numba import njit
from numpy.typing import NDArray

from components.kernels import text
from components.mesh import Mesh
from components.source import Unreadable

Resolve = Callable[[str], bytes | None]
Picture = NDArray[np.uint8]

GREY = (178, 178, 178)


def decode(data: bytes, kind: str, resolve: Resolve | None = None) -> Mesh:
    """
    The mesh in `data`, a file whose name ends in `kind`.

    `resolve` gives the bytes of a file that this one names, None where there is none; without it, a mesh has neither
    the materials nor the pictures that are kept in other files.
    """
    if not data:
        raise Unreadable("the file has no bytes")
    try:
        mesh = READERS[kind](data, resolve or (lambda name: None))
    except (KeyError, IndexError) as error:  # a glTF document that names what it has not
        if kind != "glb":
            raise
        raise Unreadable(f"its scene names what the file has not: {error}") from None
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


def read_obj(data: bytes, resolve: Resolve) -> Mesh:
    """Wavefront OBJ: v, vt, f, usemtl and mtllib; lines, curves and groups are passed over."""
    raw = _bytes(data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ") if b"\\" in data else data)
    v, t, f, k = text.count_obj(raw)
    vertices, colors = np.empty((v, 3), np.float32), np.empty((v, 3), np.float32)
    coordinates, marks = np.empty((t, 2), np.float32), np.empty((k, 4), np.int64)
    triangles, places = np.empty((f, 3), np.int32), np.empty((f, 3), np.int32)
    f, colored, fault, line = text.read_obj(raw, vertices, colors, coordinates, triangles, places, marks)
    if fault != text.FINE:
        raise Unreadable(f"line {line}: {OBJ_FAULTS[fault]}; the file is cut short or is not an OBJ")
    triangles, places = triangles[:f], places[:f]
    names = [(int(m[0]), _name(raw, m), int(m[3])) for m in marks]
    library = _library([name for kind, name, _ in names if kind == text.MTLLIB], resolve)
    materials, palette, pictures = _materials([(n, at) for kind, n, at in names if kind == text.USEMTL], f, library)
    return Mesh(
        vertices,
        triangles,
        materials,
        palette,
        vertex_colors=_unit_to_bytes(colors) if v and colored == v else None,
        uv=_at_corners(coordinates, places) if any(p is not None for p in pictures) else None,
        textures=pictures,
    )


OBJ_FAULTS = {
    text.SHORT_VERTEX: "a vertex has three numbers, but this one has fewer",
    text.SHORT_FACE: "a face has three corners or more, but this last one has fewer",
    text.BAD_CORNER: "a corner of a face is a whole number other than 0, but this one is not",
}


def _name(raw: Picture, mark: NDArray[np.int64]) -> str:
    """What stands behind the keyword of a usemtl or mtllib line; spaces belong to it."""
    words = raw[mark[1] : mark[2]].tobytes().decode("utf-8", "replace").split(None, 1)
    known = len(words) == 2 and words[0] in ("usemtl", "mtllib")
    return words[1].strip() if known else ""


def _at_corners(coordinates: NDArray[np.float32], places: NDArray[np.int32]) -> NDArray[np.float32]:
    """The texture coordinate of each corner, [F, 3, 2]; a corner that names none has (0, 0)."""
    table = np.vstack([coordinates, np.zeros((1, 2), np.float32)])  # the last row is the one for no coordinate
    return table[np.where((places >= 0) & (places < len(coordinates)), places, len(coordinates))]


def _library(names: list[str], resolve: Resolve) -> dict[str, tuple[tuple[int, ...], Picture | None]]:
    """The colour and the picture of each material in the MTL files called `names`."""
    out: dict[str, tuple[tuple[int, ...], Picture | None]] = {}
    for name in names:
        data = resolve(name)
        if data is not None:
            out |= _read_mtl(data, resolve)
    return out


def _read_mtl(data: bytes, resolve: Resolve) -> dict[str, tuple[tuple[int, ...], Picture | None]]:
    out: dict[str, tuple[tuple[int, ...], Picture | None]] = {}
    pictures: dict[str, Picture | None] = {}
    name = ""
    for line in data.decode("utf-8", "replace").splitlines():
        key, _, value = line.strip().partition(" ")
        value = value.strip()
        if key == "newmtl":
            name = value
            out[name] = (GREY, None)
        elif key == "Kd" and name in out:
            out[name] = (_color(value), out[name][1])
        elif key == "map_Kd" and name in out:
            file = re.sub(r"^(-\w+(\s+[-+.\d]+|\s+on|\s+off)*\s+)+", "", value)  # options stand before the name
            if file not in pictures:
                pictures[file] = _picture(resolve(file), file)
            out[name] = (out[name][0], pictures[file])
    return out


def _color(value: str) -> tuple[int, ...]:
    """Three numbers from 0 to 1 as bytes; MTL colours are sRGB by custom."""
    try:
        numbers = [float(word) for word in value.split()[:3]]
    except ValueError:
        return GREY
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        return GREY
    return tuple(round(255 * min(max(n, 0.0), 1.0)) for n in numbers)


def _materials(
    marks: list[tuple[str, int]], faces: int, library: dict[str, tuple[tuple[int, ...], Picture | None]]
) -> tuple[NDArray[np.int32], Picture, tuple[Picture | None, ...]]:
    """The material of each triangle [F], the colour of each material [M, 3], and its picture."""
    runs = [("", 0), *marks]
    ends = [at for _, at in runs[1:]] + [faces]
    used = [(name, start, end) for (name, start), end in zip(runs, ends, strict=True) if end > start]
    order = list(dict.fromkeys(name for name, _, _ in used))
    materials = np.zeros(faces, np.int32)
    for name, start, end in used:
        materials[start:end] = order.index(name)
    looks = [library.get(name, (GREY, None)) for name in order] or [(GREY, None)]
    return materials, np.array([c for c, _ in looks], np.uint8), tuple(p for _, p in looks)


def _picture(data: bytes | None, name: str) -> Picture | None:
    """
    A picture as [H, W, 3], None where there is no file.

    What is transparent gets the mean colour of what is not, so that the edge of a leaf never shows the filler.
    """
    if data is None:
        return None
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
        if not (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
            return np.asarray(image.convert("RGB"))
        pixels = np.array(image.convert("RGBA"))
    except OSError as error:
        raise Unreadable(f"its picture {name} cannot be read: {error}") from None
    solid = pixels[..., 3] >= 128
    colors = pixels[..., :3].copy()
    if solid.any():
        colors[~solid] = colors[solid].mean(axis=0)
    return colors


def read_ply(data: bytes, resolve: Resolve) -> Mesh:
    """Stanford PLY, ASCII or binary of either order: positions, colours of vertices or faces, coordinates s, t."""
    elements, order, body = _ply_header(data)
    columns, at = {}, body
    for name, count, properties in elements:
        read = _ply_ascii if order == "ascii" else _ply_binary
        columns[name], at = read(data, at, name, count, properties, order)
    vertex, face = columns.get("vertex", {}), columns.get("face", {})
    if not {"x", "y", "z"} <= set(vertex):
        raise Unreadable("a vertex of a PLY has x, y and z, but this file's has not")
    indices = face.get("vertex_indices", face.get("vertex_index"))
    faces = _triangles(indices) if indices is not None else np.empty((0, 3), np.int32)
    materials, palette = _palette(face, indices)
    uv = next((_stack(vertex, pair) for pair in UV_NAMES if set(pair) <= set(vertex)), None)
    return Mesh(
        _stack(vertex, ("x", "y", "z")),
        faces,
        materials,
        palette,
        vertex_colors=_channels(vertex),
        uv=uv[faces] if uv is not None and _within(faces, len(uv)) else None,
    )


UV_NAMES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip

Property = tuple[str, str, str]  # its name, its type, and the type of its count where it is a list
Columns = dict[str, Any]


def _ply_header(data: bytes) -> tuple[list[tuple[str, int, list[Property]]], str, int]:
    """The elements with their counts and properties, the order of the bytes, and where the body starts."""
    match = re.search(rb"end_header[ \t\r]*\n", data[:65536])
    if not data.startswith(b"ply") or not match:
        raise Unreadable("a PLY starts with 'ply' and has a line 'end_header', but this file has not")
    elements: list[tuple[str, int, list[Property]]] = []
    order = ""
    for line in data[: match.start()].decode("ascii", "replace").splitlines():
        match line.split():
            case ["format", word, *_]:
                order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}.get(word, "")
            case ["element", name, count] if count.isdigit():
                elements.append((name, int(count), []))
            case ["property", "list", length, kind, name] if elements and length in PLY_TYPES and kind in PLY_TYPES:
                elements[-1][2].append((name, PLY_TYPES[kind], PLY_TYPES[length]))
            case ["property", kind, name] if elements and kind in PLY_TYPES:
                elements[-1][2].append((name, PLY_TYPES[kind], ""))
            case ["ply"] | ["comment", *_] | ["obj_info", *_] | []:
                pass
            case _:
                raise Unreadable(f"its PLY header has a line that means nothing: {line[:60]!r}")
    if not order:
        raise Unreadable("a PLY is ascii, binary_little_endian or binary_big_endian, but this file says neither")
    return elements, order, match.end()


def _ply_ascii(
    data: bytes, at: int, name: str, count: int, properties: list[Property], order: str
) -> tuple[Columns, int]:
    raw = _bytes(data)
    lists = [p for p in properties if p[2]]
    if not lists:
        flat, at = text.numbers(raw, at, count * len(properties))
        _enough(len(flat) == count * len(properties), name, count)
        table = flat.reshape(count, len(properties))
        return {p[0]: table[:, column] for column, p in enumerate(properties)}, at
    if len(properties) > 1:
        return _ply_mixed_ascii(raw, at, name, count, properties)
    flat, after = text.numbers(raw, at, count * 4)  # most are triangles: three corners and their count
    if len(flat) == 4 * count and (flat[::4] == 3).all():
        return {lists[0][0]: (flat.reshape(count, 4)[:, 1:].astype(np.int32))}, after
    flat, _ = text.numbers(raw, at, len(data) - at)
    packed, used = _whole_lists(flat, count, name)
    _, at = text.numbers(raw, at, used)
    return {lists[0][0]: packed}, at


def _ply_mixed_ascii(raw: Picture, at: int, name: str, count: int, properties: list[Property]) -> tuple[Columns, int]:
    """Rows of lists and numbers, one by one: the slow way, for the files that need it."""
    flat, _ = text.numbers(raw, at, len(raw) - at)
    columns: dict[str, list[Any]] = {p[0]: [] for p in properties}
    place = 0
    for _ in range(count):
        for key, _, length in properties:
            _enough(place < len(flat), name, count)
            size = int(flat[place]) if length else 1
            place += bool(length)
            _enough(place + size <= len(flat), name, count)
            columns[key].append(flat[place : place + size] if length else flat[place])
            place += size
    _, at = text.numbers(raw, at, place)
    return {p[0]: _joined(columns[p[0]], name) if p[2] else np.array(columns[p[0]]) for p in properties}, at


def _ply_binary(
    data: bytes, at: int, name: str, count: int, properties: list[Property], order: str
) -> tuple[Columns, int]:
    """Rows of one width are one NumPy view; a first guess is that every list has as many entries as the first one."""
    dtype = _row_type(data, at, name, count, properties, order)
    if at + count * dtype.itemsize <= len(data):
        rows = np.frombuffer(data, dtype, count, at)
        if all((rows["n " + p[0]] == dtype[p[0]].shape[0]).all() for p in properties if p[2]):
            return {p[0]: rows[p[0]] for p in properties}, at + count * dtype.itemsize
    _enough(any(p[2] for p in properties), name, count)
    return _ply_mixed_binary(data, at, name, count, properties, order)


def _row_type(data: bytes, at: int, name: str, count: int, properties: list[Property], order: str) -> np.dtype[Any]:
    """The type of the first row, in which a list has its count before it."""
    layout: list[Any] = []
    for key, kind, length in properties:
        if length and count:
            width = at + np.dtype(layout).itemsize
            _enough(width + np.dtype(length).itemsize <= len(data), name, count)
            size = int(np.frombuffer(data, order + length, 1, width)[0])
            layout += [("n " + key, order + length), (key, order + kind, (size,))]
        else:
            layout.append((key, order + kind))
    return np.dtype(layout)


def _ply_mixed_binary(
    data: bytes, at: int, name: str, count: int, properties: list[Property], order: str
) -> tuple[Columns, int]:
    columns: dict[str, list[Any]] = {p[0]: [] for p in properties}
    for _ in range(count):
        dtype = _row_type(data, at, name, count, properties, order)
        _enough(at + dtype.itemsize <= len(data), name, count)
        row = np.frombuffer(data, dtype, 1, at)
        for key, _, _ in properties:
            columns[key].append(row[key][0])
        at += dtype.itemsize
    return {p[0]: _joined(columns[p[0]], name) if p[2] else np.array(columns[p[0]]) for p in properties}, at


def _enough(fits: bool, name: str, count: int) -> None:
    if not fits:
        raise Unreadable(
            f"its header names {count} of element {name!r}, but the file ends before them: it is cut short"
        )


def _joined(lists: list[NDArray[Any]], name: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lists of several lengths as triangles and the list of each."""
    flat = np.concatenate([np.r_[len(one), one] for one in lists]) if lists else np.empty(0)
    return _whole_lists(flat, len(lists), name)[0]


def _whole_lists(flat: NDArray[Any], count: int, name: str) -> tuple[tuple[NDArray[np.int32], NDArray[np.int32]], int]:
    if not np.isfinite(flat).all():
        raise Unreadable(f"the lists of element {name!r} hold what is not a number")
    faces, polygon, used = text.corners(flat.astype(np.int64), count)
    _enough(used >= 0, name, count)
    return (faces, polygon), used


def _triangles(indices: Any) -> NDArray[np.int32]:
    """Triangles [F, 3]."""
    if isinstance(indices, tuple):
        return indices[0]
    size = indices.shape[1]
    if size == 3:
        return np.ascontiguousarray(indices, np.int32)
    fan = [indices[:, [0, k, k + 1]] for k in range(1, size - 1)]
    return np.ascontiguousarray(np.stack(fan, axis=1).reshape(-1, 3) if fan else np.empty((0, 3)), np.int32)


def _polygons(indices: Any) -> NDArray[np.int32]:
    """The polygon that each triangle comes from, [F]."""
    if isinstance(indices, tuple):
        return indices[1]
    return np.repeat(np.arange(len(indices), dtype=np.int32), max(indices.shape[1] - 2, 0))


def _stack(columns: Columns, names: tuple[str, ...]) -> NDArray[np.float32]:
    out = np.empty((len(columns[names[0]]), len(names)), np.float32)
    for place, name in enumerate(names):
        out[:, place] = columns[name]
    return out


def _channels(columns: Columns) -> Picture | None:
    """Columns red, green and blue as bytes, [N, 3]; numbers from 0 to 1 are scaled."""
    if not {"red", "green", "blue"} <= set(columns):
        return None
    rgb = np.stack([columns[c] for c in ("red", "green", "blue")], axis=1)
    if rgb.dtype.kind == "f" and rgb.size and rgb.max() <= 1 and rgb.dtype.itemsize == 4:
        return _unit_to_bytes(rgb)
    return rgb.clip(0, 255).astype(np.uint8)


def _palette(face: Columns, indices: Any) -> tuple[NDArray[np.int32], Picture]:
    """The materials that the colours of polygons amount to."""
    rgb = _channels(face)
    if rgb is None or not len(rgb):
        return np.empty(0, np.int32), np.array([GREY], np.uint8)
    palette, index = np.unique(rgb, axis=0, return_inverse=True)
    return index.reshape(-1)[_polygons(indices)].astype(np.int32), palette


def read_off(data: bytes, resolve: Resolve) -> Mesh:
    """Object File Format: counts, vertices, polygons; colours and the normals of NOFF are passed over."""
    match = re.match(rb"\s*(ST)?(C)?(N)?OFF[ \t]*(#[^\n]*)?", data)
    if not match:
        raise Unreadable("an OFF file starts with 'OFF', but this one does not")
    if b"BINARY" in data[: match.end() + 16]:
        raise Unreadable("an OFF file is text here, but this one is binary: save it as text, or as PLY")
    raw = _bytes(data)
    counts, at = text.numbers(raw, match.end(), 3)  # ModelNet40 has files where they follow OFF at once
    if len(counts) < 3 or not np.isfinite(counts).all() or (counts < 0).any():
        raise Unreadable("an OFF file starts with how many vertices, faces and edges it has, but this one does not")
    v, f = int(counts[0]), int(counts[1])
    width = 3 + 2 * bool(match[1]) + 4 * bool(match[2]) + 3 * bool(match[3])
    flat, at = text.numbers(raw, at, min(v * width, len(data)))
    _enough(len(flat) == v * width, "vertex", v)
    vertices = flat.reshape(v, width)[:, :3].astype(np.float32)
    lines = [line for line in data[at:].split(b"\n") if line.strip() and not line.lstrip().startswith(b"#")][:f]
    _enough(len(lines) == f, "face", f)
    return Mesh(vertices, _off_faces(lines))


def _off_faces(lines: list[bytes]) -> NDArray[np.int32]:
    """Line by line, because what follows a polygon's corners may be a colour."""
    flat, _ = text.numbers(_bytes(b"\n".join(lines)), 0, 4 * len(lines))
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
    return _joined(polygons, "face")[0]


def _bytes_left(lines: list[bytes]) -> bool:
    """Whether any line has more than the four numbers of a triangle."""
    return any(len(line.split()) != 4 for line in lines)


def read_stl(data: bytes, resolve: Resolve) -> Mesh:
    """STL, binary or ASCII. Its triangles share no vertices."""
    if len(data) >= 84:
        (count,) = struct.unpack_from("<I", data, 80)
        if len(data) >= 84 + 50 * count and (count or not data.startswith(b"solid")):
            rows = np.frombuffer(data, [("normal", "<f4", 3), ("corners", "<f4", 9), ("rest", "<u2")], count, 84)
            return _soup(rows["corners"].reshape(-1, 3))
    if not data.lstrip()[:5].lower() == b"solid":
        raise Unreadable(
            "a binary STL has 50 bytes for each triangle that it names, but this one has fewer: it is cut short"
        )
    corners = text.numbers_after(_bytes(data), _bytes(b"vertex"), 3)
    if len(corners) % 3 or b"endsolid" not in data[-4096:].lower():
        raise Unreadable("an ASCII STL ends with 'endsolid', but this one stops before: it is cut short")
    return _soup(corners)


def _soup(corners: NDArray[Any]) -> Mesh:
    return Mesh(np.ascontiguousarray(corners, np.float32), np.arange(len(corners), dtype=np.int32).reshape(-1, 3))


def _bytes(data: bytes) -> Picture:
    return np.frombuffer(data, np.uint8)


def _unit_to_bytes(values: NDArray[Any]) -> Picture:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _within(faces: NDArray[np.int32], count: int) -> bool:
    return not len(faces) or (faces.min() >= 0 and faces.max() < count)


def read_glb(data: bytes, resolve: Resolve) -> Mesh:
    """Binary glTF 2: the triangles of the default scene where its nodes put them, base colours and their pictures."""
    scene = _Scene(*_glb_chunks(data), resolve)
    pieces = [piece for node, matrix in scene.nodes() for piece in scene.primitives(node, matrix)]
    if not pieces:
        raise Unreadable("its scene has no triangles")
    order = list(dict.fromkeys(p["material"] for p in pieces))
    looks = [scene.look(material) for material in order]
    materials = np.repeat([order.index(p["material"]) for p in pieces], [len(p["faces"]) for p in pieces])
    all_colored = all(p["colors"] is not None for p in pieces)
    starts = np.cumsum([0] + [len(p["vertices"]) for p in pieces], dtype=np.int32)
    if len(pieces) > 1 and not all(_within(p["faces"], len(p["vertices"])) for p in pieces):
        raise Unreadable("a face names a vertex that its primitive has not")
    faces = [p["faces"] + start if start else p["faces"] for p, start in zip(pieces, starts[:-1], strict=True)]
    has_pictures = any(picture is not None for _, picture in looks)
    return Mesh(
        _one(p["vertices"] for p in pieces),
        _one(faces),
        materials.astype(np.int32),
        np.array([color for color, _ in looks], np.uint8),
        vertex_colors=_one(p["colors"] for p in pieces) if all_colored else None,
        uv=_one(scene.coordinates(p["attributes"], p["faces"]) for p in pieces) if has_pictures else None,
        textures=tuple(picture for _, picture in looks),
    )


def _one(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """The arrays as one; a single one is not copied."""
    listed = list(arrays)
    return listed[0] if len(listed) == 1 else np.concatenate(listed)


GLB_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
GLB_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
IDENTITY = np.eye(4)
GLB_TRIANGLES, GLB_STRIP, GLB_FAN = 4, 5, 6
GLB_KNOWN = {"KHR_mesh_quantization", "KHR_materials_unlit", "KHR_texture_transform", "KHR_materials_specular"}


def _glb_chunks(data: bytes) -> tuple[dict[str, Any], Any]:
    """The JSON of a GLB, and its binary chunk."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise Unreadable("a GLB starts with 'glTF' and its length, but this file does not")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise Unreadable(f"its glTF version must be 2, but is {version}")
    if length > len(data):
        raise Unreadable(f"its header names {length} bytes, but the file has {len(data)}: it is cut short")
    chunks, at = {}, 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", data, at)
        chunks.setdefault(kind, memoryview(data)[at + 8 : at + 8 + size])
        at += 8 + size
    try:
        return json.loads(bytes(chunks.get(0x4E4F534A, b""))), chunks.get(0x004E4942, b"")
    except ValueError as error:
        raise Unreadable(f"the JSON of its scene cannot be read: {error}") from None


class _Scene:
    """A glTF document and its bytes."""

    def __init__(self, document: dict[str, Any], binary: Any, resolve: Resolve) -> None:
        unknown = set(document.get("extensionsRequired", [])) - GLB_KNOWN
        if unknown:
            raise Unreadable(f"it needs the glTF extension {min(unknown)}, which is not read here: export it without")
        self.document, self.binary, self.resolve = document, binary, resolve

    def nodes(self) -> list[tuple[dict[str, Any], NDArray[np.float64]]]:
        """The nodes of the scene, each with its matrix to the world."""
        every = self.document.get("nodes", [])
        scenes = self.document.get("scenes", [])
        inner = {child for node in every for child in node.get("children", [])}
        roots = [i for i in range(len(every)) if i not in inner]
        if scenes:
            roots = scenes[self.document.get("scene", 0)].get("nodes", [])
        out, waiting = [], [(i, IDENTITY) for i in reversed(roots)]
        while waiting and len(out) <= len(every):  # a node has one parent: more visits than nodes would be a ring
            i, above = waiting.pop()
            own = _local(every[i])
            matrix = above if own is IDENTITY else above @ own
            out.append((every[i], matrix))
            waiting += [(child, matrix) for child in reversed(every[i].get("children", []))]
        return out

    def primitives(self, node: dict[str, Any], matrix: NDArray[np.float64]) -> list[dict[str, Any]]:
        if "mesh" not in node:
            return []
        every = self.document["meshes"][node["mesh"]]["primitives"]
        return [self._primitive(p, matrix) for p in every if p.get("mode", GLB_TRIANGLES) >= GLB_TRIANGLES]

    def _primitive(self, primitive: dict[str, Any], matrix: NDArray[np.float64]) -> dict[str, Any]:
        attributes = primitive["attributes"]
        vertices = self.values(attributes["POSITION"])
        index = np.arange(len(vertices)) if "indices" not in primitive else self.values(primitive["indices"])[:, 0]
        faces = _strips(index.astype(np.int32), primitive.get("mode", GLB_TRIANGLES))
        if matrix is not IDENTITY:
            vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
            if np.linalg.det(matrix[:3, :3]) < 0:
                faces = faces[:, ::-1]  # a mirror turns every face around
        colors = _to_srgb(self.values(attributes["COLOR_0"])[:, :3]) if "COLOR_0" in attributes else None
        return {
            "vertices": np.ascontiguousarray(vertices, np.float32),
            "faces": np.ascontiguousarray(faces),
            "material": primitive.get("material", -1),
            "colors": colors,
            "attributes": attributes,
        }

    def coordinates(self, attributes: dict[str, int], faces: NDArray[np.int32]) -> NDArray[np.float32]:
        """The texture coordinate of each corner, [F, 3, 2]."""
        if "TEXCOORD_0" not in attributes:
            return np.zeros((len(faces), 3, 2), np.float32)
        uv = self.values(attributes["TEXCOORD_0"])[faces]
        return np.stack([uv[..., 0], 1 - uv[..., 1]], axis=-1).astype(np.float32)  # glTF counts v from above

    def look(self, material: int) -> tuple[tuple[int, ...], Picture | None]:
        """The colour and the picture of a material."""
        if material < 0:
            return GREY, None
        surface = self.document["materials"][material].get("pbrMetallicRoughness", {})
        color = _to_srgb(np.array(surface.get("baseColorFactor", (1, 1, 1, 1))[:3], np.float64))
        if "baseColorTexture" not in surface:
            return tuple(color), None
        image = self.document["textures"][surface["baseColorTexture"]["index"]].get("source")
        if image is None:
            return tuple(color), None
        return tuple(color), _picture(self._image(self.document["images"][image]), f"image {image}")

    def _image(self, image: dict[str, Any]) -> bytes | None:
        return bytes(self._view(image["bufferView"])[0]) if "bufferView" in image else self._at(image.get("uri", ""))

    def _at(self, uri: str) -> bytes | None:
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition(",")[2])
        return self.resolve(unquote(uri)) if uri else None

    def _view(self, index: int) -> tuple[Any, int]:
        """The bytes of a buffer view, and its stride."""
        view = self.document["bufferViews"][index]
        buffer = self.document["buffers"][view["buffer"]]
        data = self._at(buffer["uri"]) if "uri" in buffer else self.binary
        start = view.get("byteOffset", 0)
        if data is None or start + view["byteLength"] > len(data):
            raise Unreadable(f"its buffer {view['buffer']} is shorter than its views: the file is cut short")
        return data[start : start + view["byteLength"]], view.get("byteStride", 0)

    def values(self, index: int) -> NDArray[Any]:
        """The rows of an accessor; integers that stand for fractions come as floats."""
        accessor = self.document["accessors"][index]
        if "sparse" in accessor or "bufferView" not in accessor:
            raise Unreadable("it has a sparse accessor, which is not read here: export it without")
        kind = np.dtype(GLB_TYPES[accessor["componentType"]])
        width, count = GLB_WIDTHS[accessor["type"]], accessor["count"]
        data, stride = self._view(accessor["bufferView"])
        start, stride = accessor.get("byteOffset", 0), stride or width * kind.itemsize
        if start + (count - 1) * stride + width * kind.itemsize > len(data):
            raise Unreadable(f"accessor {index} reaches behind its buffer view")
        rows = np.ndarray((count, width), kind, data, start, (stride, kind.itemsize))
        return rows / np.float32(np.iinfo(kind).max) if accessor.get("normalized") and kind.kind != "f" else rows


def _local(node: dict[str, Any]) -> NDArray[np.float64]:
    """
    The matrix of a node to its parent; IDENTITY itself where it has none.

    It is given whole, or as translation, rotation (a quaternion x, y, z, w) and scale.
    """
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T  # written column by column
    if not {"rotation", "scale", "translation"} & set(node):
        return IDENTITY
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, :3] *= np.array(node.get("scale", (1, 1, 1)))
    out[:3, 3] = node.get("translation", (0, 0, 0))
    return out


def _strips(index: NDArray[np.int32], mode: int) -> NDArray[np.int32]:
    """Triangles [F, 3] of a list, a strip or a fan."""
    if mode == GLB_TRIANGLES:
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    if mode == GLB_FAN:
        return np.stack([np.full(len(index) - 2, index[0]), index[1:-1], index[2:]], axis=1)
    faces = np.stack([index[:-2], index[1:-1], index[2:]], axis=1)
    faces[1::2] = faces[1::2, ::-1]  # every second triangle of a strip is wound the other way
    return faces


def _to_srgb(linear: NDArray[Any]) -> Picture:
    """The colours of glTF are linear; ours are sRGB."""
    linear = linear.astype(np.float64).clip(0, 1)
    return _unit_to_bytes(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


READERS: dict[str, Callable[[bytes, Resolve], Mesh]] = {
    "obj": read_obj,
    "ply": read_ply,
    "off": read_off,
    "stl": read_stl,
    "glb": read_glb,
}
