"""
Binary glTF 2: the triangles of a scene where its nodes put them, with base colours and their pictures.
"""

# F triangles

import base64
import json
import math
import struct
from itertools import accumulate
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from components.decoders.shared import GREY, Look, Picture, Resolve, read_picture, unit_to_bytes, within
from components.mesh import Mesh
from components.source import Unreadable
from components.srgb import from_linear, to_linear

TYPES = {
    code: np.dtype(name)
    for code, name in {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}.items()
}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
IDENTITY = np.eye(4)
MOVES = {"rotation", "scale", "translation"}
TRIANGLES, STRIP, FAN = 4, 5, 6
EXTENSIONS = {"KHR_mesh_quantization", "KHR_materials_unlit", "KHR_texture_transform", "KHR_materials_specular"}


def read(data: bytes, resolve: Resolve) -> Mesh:
    """Binary glTF 2: the triangles of the default scene where its nodes put them, base colours and their pictures."""
    try:
        return _mesh(_Scene(*_chunks(data), resolve))
    except (KeyError, IndexError) as error:
        raise Unreadable(f"its scene names what the file has not: {error}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise Unreadable("its scene has a value of another kind than glTF has there: export it anew") from error


def names(data: bytes) -> list[str]:
    """The files beside it that a GLB names: buffers and pictures."""
    try:
        document, _ = _chunks(data)
        uris = [one.get("uri", "") for kind in ("buffers", "images") for one in document.get(kind, ())]
    except (Unreadable, ValueError, AttributeError, TypeError):
        return []  # its bytes alone decide that it cannot be read
    return [unquote(uri) for uri in uris if uri and not uri.startswith("data:")]


def _mesh(scene: "_Scene") -> Mesh:
    pieces = [piece for node, matrix in scene.nodes() for piece in scene.primitives(node, matrix)]
    if not pieces:
        raise Unreadable("its scene has no triangles")
    return pieces[0][1] if len(pieces) == 1 else _joined(*zip(*pieces, strict=True))


def _joined(names: tuple[int, ...], pieces: tuple[Mesh, ...]) -> Mesh:
    """All as one, with a row for each name of a material; where one piece has colours of vertices, every one has."""
    if not all(within(p.faces, len(p.vertices)) for p in pieces):
        raise Unreadable("a face names a vertex that its primitive has not")
    rows = {name: row for row, name in enumerate(dict.fromkeys(names))}
    looks = dict(zip(names, pieces, strict=True)).values()
    starts = accumulate((len(p.vertices) for p in pieces[:-1]), initial=0)
    has_colors = any(p.vertex_colors is not None for p in pieces)
    has_pictures = any(p.uv is not None for p in pieces)
    return Mesh(
        np.concatenate([p.vertices for p in pieces]),
        np.concatenate([p.faces + np.int32(start) for p, start in zip(pieces, starts, strict=True)]),
        np.repeat(np.array([rows[name] for name in names], np.int32), [len(p.faces) for p in pieces]),
        np.concatenate([p.colors for p in looks]),
        vertex_colors=np.concatenate([_vertex_colors(p) for p in pieces]) if has_colors else None,
        uv=np.concatenate([_coordinates(p) for p in pieces]) if has_pictures else None,
        textures=tuple(p.textures[0] for p in looks),
        tinted=has_colors,
    )


def _vertex_colors(piece: Mesh) -> Picture:
    """Those of a piece that has none: its material's, or white, through which its picture is seen unchanged."""
    if piece.vertex_colors is not None:
        return piece.vertex_colors
    plain = piece.colors[0] if piece.textures[0] is None else np.full(3, 255, np.uint8)
    return np.tile(plain, (len(piece.vertices), 1))


def _coordinates(piece: Mesh) -> NDArray[np.float32]:
    return np.zeros((len(piece.faces), 3, 2), np.float32) if piece.uv is None else piece.uv


def _chunks(data: bytes) -> tuple[dict[str, Any], Any]:
    """The JSON of a GLB, and its binary chunk."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise Unreadable("a GLB starts with 'glTF' and its length, but this file does not")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise Unreadable(f"its glTF version must be 2, but is {version}")
    if length > len(data):
        raise Unreadable(f"its header names {length} bytes, but the file has {len(data)}: it is cut short")
    chunks: dict[int, memoryview] = {}
    whole, at = memoryview(data), 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", data, at)
        chunks.setdefault(kind, whole[at + 8 : at + 8 + size])
        at += 8 + size
    try:
        document = json.loads(str(chunks.get(0x4E4F534A, b""), "utf-8"))
    except ValueError as error:
        raise Unreadable(f"the JSON of its scene cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise Unreadable("the JSON of its scene is an object of names, but this one is not: export it anew")
    return document, chunks.get(0x004E4942, b"")


class _Scene:
    """A glTF document and its bytes."""

    def __init__(self, document: dict[str, Any], binary: Any, resolve: Resolve) -> None:
        unknown = [name for name in document.get("extensionsRequired", ()) if name not in EXTENSIONS]
        if unknown:
            raise Unreadable(f"it needs the glTF extension {unknown[0]}, which is not read here: export it without")
        self.document, self.binary, self.resolve = document, binary, resolve
        self.looks: dict[int, Look] = {-1: (GREY, None)}

    def nodes(self) -> list[tuple[dict[str, Any], NDArray[np.float64]]]:
        """The nodes of the scene, each with its matrix to the world."""
        every = self.document.get("nodes", [])
        scenes = self.document.get("scenes", [])
        if scenes:
            roots = scenes[self.document.get("scene", 0)].get("nodes", [])
        else:
            inner = {child for node in every for child in node.get("children", [])}
            roots = [i for i in range(len(every)) if i not in inner]
        out: list[tuple[dict[str, Any], NDArray[np.float64]]] = []
        waiting = [(i, IDENTITY) for i in reversed(roots)]
        while waiting and len(out) <= len(every):  # a node has one parent: more visits than nodes would be a ring
            i, above = waiting.pop()
            own = _local(every[i])
            matrix = above if own is IDENTITY else above @ own
            out.append((every[i], matrix))
            waiting += [(child, matrix) for child in reversed(every[i].get("children", []))]
        return out

    def primitives(self, node: dict[str, Any], matrix: NDArray[np.float64]) -> list[tuple[int, Mesh]]:
        """The parts of a node's mesh that are made of triangles, in the world, each with its material."""
        if "mesh" not in node:
            return []
        every = self.document["meshes"][node["mesh"]]["primitives"]
        return [self._primitive(p, matrix) for p in every if p.get("mode", TRIANGLES) >= TRIANGLES]

    def _primitive(self, primitive: dict[str, Any], matrix: NDArray[np.float64]) -> tuple[int, Mesh]:
        attributes, material = primitive["attributes"], primitive.get("material", -1)
        vertices = self.values(attributes["POSITION"])
        index = np.arange(len(vertices)) if "indices" not in primitive else self.values(primitive["indices"])[:, 0]
        faces = _strips(_signed(index), primitive.get("mode", TRIANGLES))
        if matrix is not IDENTITY:
            vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
            if np.linalg.det(matrix[:3, :3]) < 0:
                faces = faces[:, ::-1]  # a mirror turns every face around
        color, picture = self.look(material)
        return material, Mesh(
            np.ascontiguousarray(vertices, np.float32),
            np.ascontiguousarray(faces),
            colors=np.array([color], np.uint8),
            vertex_colors=self.colors(attributes, material, len(vertices)) if "COLOR_0" in attributes else None,
            uv=None if picture is None else self.coordinates(attributes, faces, self.texture(material)),
            textures=(picture,),
            tinted="COLOR_0" in attributes,
        )

    def colors(self, attributes: dict[str, int], material: int, count: int) -> Picture:
        """The colour of each vertex times its material's, which a picture has in it already."""
        values = self.values(attributes["COLOR_0"])[:, :3]
        if len(values) != count:
            raise Unreadable(f"a primitive has {count} vertices, but {len(values)} colours of vertices: export it anew")
        return _to_srgb(values if self.look(material)[1] is not None else values * self.factor(material))

    def coordinates(
        self, attributes: dict[str, int], faces: NDArray[np.int32], texture: dict[str, Any]
    ) -> NDArray[np.float32]:
        """The texture coordinate of each corner, [F, 3, 2]."""
        moved = texture.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{moved.get('texCoord', texture.get('texCoord', 0))}"
        if name not in attributes:
            return np.zeros((len(faces), 3, 2), np.float32)
        uv = self.values(attributes[name])[faces]
        uv = _moved(uv, moved) if moved else uv
        return np.stack([uv[..., 0], 1 - uv[..., 1]], axis=-1).astype(np.float32)  # glTF counts v from above

    def look(self, material: int) -> Look:
        """The colour and the picture of a material, which is read once."""
        if material not in self.looks:
            self.looks[material] = self._look(material)
        return self.looks[material]

    def _look(self, material: int) -> Look:
        factor, texture = self.factor(material), self.texture(material)
        color = tuple(_to_srgb(factor))
        image = self.document["textures"][texture["index"]].get("source") if texture else None
        if image is None:
            return color, None
        picture = read_picture(self._image(self.document["images"][image]), f"image {image}")
        return color, picture if picture is None or (factor == 1).all() else _seen_through(factor, picture)

    def surface(self, material: int) -> dict[str, Any]:
        return {} if material < 0 else self.document["materials"][material].get("pbrMetallicRoughness", {})

    def factor(self, material: int) -> NDArray[np.float64]:
        """The linear colour that a material's picture and the colours of its vertices are multiplied by."""
        return np.array(self.surface(material).get("baseColorFactor", (1, 1, 1, 1))[:3], np.float64)

    def texture(self, material: int) -> dict[str, Any]:
        """Which texture a material has, and how it lies; nothing where it has none."""
        return self.surface(material).get("baseColorTexture", {})

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
        kind = TYPES[accessor["componentType"]]
        width, count = WIDTHS[accessor["type"]], accessor["count"]
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
    if MOVES.isdisjoint(node):
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


def _signed(index: NDArray[Any]) -> NDArray[np.int32]:
    """Indices as int32; most are uint32, and are looked at with other eyes: too great a one is then below zero."""
    return index.view(np.int32) if index.dtype == np.uint32 else index.astype(np.int32)


def _strips(index: NDArray[np.int32], mode: int) -> NDArray[np.int32]:
    """Triangles [F, 3] of a list, a strip or a fan."""
    if mode == TRIANGLES:
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    if mode == FAN:
        return np.stack([np.full(len(index) - 2, index[0]), index[1:-1], index[2:]], axis=1)
    faces = np.stack([index[:-2], index[1:-1], index[2:]], axis=1)
    faces[1::2] = faces[1::2, ::-1]  # every second triangle of a strip is wound the other way
    return faces


def _moved(uv: NDArray[Any], transform: dict[str, Any]) -> NDArray[np.float64]:
    """
    Texture coordinates [F, 3, 2] by KHR_texture_transform: scaled, turned, shifted.

    The turn is counter-clockwise as one sees it, with v downward: what the extension's words say and viewers do, where
    the signs of its sample shader say the other way.
    """
    cos, sin = math.cos(transform.get("rotation", 0)), math.sin(transform.get("rotation", 0))
    turned = uv * np.array(transform.get("scale", (1, 1)), np.float64) @ np.array([[cos, -sin], [sin, cos]])
    return turned + np.array(transform.get("offset", (0, 0)), np.float64)


def _seen_through(factor: NDArray[np.float64], picture: Picture) -> Picture:
    """A picture times a linear colour; a byte has 256 values, so each channel is a table."""
    table = _to_srgb(to_linear(np.arange(256))[:, None] * factor)
    return np.stack([table[picture[..., channel], channel] for channel in range(3)], axis=-1)


def _to_srgb(linear: NDArray[Any]) -> Picture:
    """The colours of glTF are linear; ours are sRGB."""
    return unit_to_bytes(from_linear(linear))
