"""
Wavefront OBJ, with the materials and pictures of its MTL files.
"""

# F triangles, M materials

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from components.formats.mesh import Mesh
from components.formats.shared import (
    GREY,
    Look,
    Picture,
    Resolve,
    as_array,
    color_bytes,
    covering,
    newlines,
    read_picture,
    refuse_wide,
)
from components.kernels import text
from components.source import Unreadable

CONTINUED = re.compile(rb"^([ \t]*#.*)|\\[ \t\r]*\n", re.M)
FAULTS = {
    text.SHORT_VERTEX: "a vertex has three numbers, but this one has fewer",
    text.SHORT_FACE: "a face has three corners or more, but this last one has fewer",
    text.BAD_CORNER: "a corner of a face is a whole number other than 0, but this one is not",
}


def read(data: bytes, resolve: Resolve) -> Mesh:
    """Wavefront OBJ: v, vt, f, usemtl and mtllib; lines, curves and groups are passed over."""
    refuse_wide(data)
    raw = as_array(_lines(data))
    v, t, f, k = text.count_obj(raw)
    vertices, colors = np.empty((v, 3), np.float32), np.empty((v, 3), np.float32)
    coordinates, marks = np.empty((t, 2), np.float32), np.empty((k, 4), np.int64)
    triangles, places, origin = np.empty((f, 3), np.int32), np.empty((f, 3), np.int32), np.empty(f, np.int32)
    f, colored, fault, line = text.read_obj(raw, vertices, colors, coordinates, triangles, places, origin, marks)
    if fault != text.FINE:
        raise Unreadable(f"line {line}: {FAULTS[fault]}; the file is cut short or is not an OBJ")
    places = places[:f]
    triangles = covering(vertices, triangles[:f], origin[:f], places)
    names = [(int(m[0]), _name(raw, m), int(m[3])) for m in marks]
    library = _library([name for kind, name, _ in names if kind == text.MTLLIB], resolve)
    materials, palette, pictures = _materials([(n, at) for kind, n, at in names if kind == text.USEMTL], f, library)
    return Mesh(
        vertices,
        triangles,
        materials,
        palette,
        vertex_colors=color_bytes(colors, "f4") if v and colored == v else None,
        uv=_at_corners(coordinates, places) if any(p is not None for p in pictures) else None,
        textures=pictures,
    )


def _lines(data: bytes) -> bytes:
    """With line ends that the kernels know, and continued lines as one; a comment is not continued."""
    data = newlines(data)
    return CONTINUED.sub(lambda found: found[1] or b" ", data) if b"\\" in data else data


def _name(raw: text.Bytes, mark: NDArray[np.int64]) -> str:
    """The name behind the keyword of a usemtl or mtllib line; spaces belong to it."""
    words = raw[mark[1] : mark[2]].tobytes().decode("utf-8", "replace").split(None, 1)
    known = len(words) == 2 and words[0] in ("usemtl", "mtllib")
    return words[1].strip() if known else ""


def names(data: bytes) -> list[str]:
    """The libraries of materials that an OBJ names."""
    found = re.findall(rb"^[ \t]*mtllib[ \t]+(.+)$", _lines(data), re.M)
    return [name.decode("utf-8", "replace").strip() for name in found]


def libraries(names: list[str], resolve: Resolve) -> dict[str, bytes | None]:
    """The MTL files that mtllib lines name: one with spaces in its name, or else several with spaces between them."""
    found: dict[str, bytes | None] = {}
    for name in names:
        found[name] = resolve(name)
        if found[name] is None and len(several := name.split()) > 1:
            found |= {one: resolve(one) for one in several}
    return found


def pictures(data: bytes) -> list[str]:
    """The pictures that an MTL names."""
    return [_file(value) for key, value in _entries(data) if key == "map_Kd"]


def _entries(data: bytes) -> Iterator[tuple[str, str]]:
    """The lines of an MTL: a word, and what stands behind it and a gap."""
    for line in data.decode("utf-8-sig", "replace").splitlines():
        key, *rest = line.split(None, 1) or [""]
        yield key, "".join(rest).strip()


def _file(value: str) -> str:
    """The file of a map_Kd line: options stand before its name."""
    return re.sub(r"^(-\w+(\s+[-+.\d]+|\s+on|\s+off)*\s+)+", "", value.strip())


def _at_corners(coordinates: NDArray[np.float32], places: NDArray[np.int32]) -> NDArray[np.float32]:
    """The texture coordinate of each corner, [F, 3, 2]; a corner that names none has (0, 0)."""
    table = np.vstack([coordinates, np.zeros((1, 2), np.float32)])  # the last row is the one for no coordinate
    return table[np.where((places >= 0) & (places < len(coordinates)), places, len(coordinates))]


def _library(names: list[str], resolve: Resolve) -> dict[str, Look]:
    """The colour and the picture of each material in the MTL files called `names`."""
    out: dict[str, Look] = {}
    for name, data in libraries(names, resolve).items():
        if data is not None:
            refuse_wide(data, f"its library {name}")
            out |= _read_mtl(data, resolve)
    return out


def _read_mtl(data: bytes, resolve: Resolve) -> dict[str, Look]:
    """
    Of each material the diffuse colour, Kd, and its picture, map_Kd.

    A picture wins over Kd, though MTL's own text multiplies them: exporters leave Kd at 0 or 0.8 beside a picture.
    """
    out: dict[str, Look] = {}
    pictures: dict[str, Picture | None] = {}
    name = ""
    for key, value in _entries(data):
        if key == "newmtl":
            name = value
            out[name] = (GREY, None)
        elif key == "Kd" and name in out:
            out[name] = (_color(value), out[name][1])
        elif key == "map_Kd" and name in out:
            file = _file(value)
            if file not in pictures:
                pictures[file] = read_picture(resolve(file), file)
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
    marks: list[tuple[str, int]], faces: int, library: dict[str, Look]
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
