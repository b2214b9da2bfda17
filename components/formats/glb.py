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
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from components.formats.mesh import Mesh
from components.formats.shared import GREY, Look, Picture, Resolve, read_picture, unit_to_bytes, within
from components.kernels.srgb import from_linear, to_linear
from components.source import Unreadable

Floats = NDArray[np.float64]

TYPES = {
    code: np.dtype(name)
    for code, name in {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}.items()
}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
IDENTITY = np.eye(4)
MOVES = {"rotation", "scale", "translation"}
TRIANGLES, STRIP, FAN = 4, 5, 6
INSTANCING, VISIBILITY, WEBP = "EXT_mesh_gpu_instancing", "KHR_node_visibility", "EXT_texture_webp"
EXTENSIONS = {
    INSTANCING,
    VISIBILITY,
    WEBP,
    "KHR_mesh_quantization",
    "KHR_materials_unlit",
    "KHR_texture_transform",
    "KHR_materials_specular",
}


def read(data: bytes, resolve: Resolve) -> Mesh:
    """
    Binary glTF 2: the triangles of the default scene where its nodes put them, base colours and their pictures.

    Skins stand as the scene's joints do, morph targets count by their weights; points, lines and animations are passed
    over. What takes an extension that is not read is refused with its name.
    """
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
    pieces = [piece for node in scene.worlds for piece in scene.primitives(node)]
    if not pieces:
        raise Unreadable("its scene has no triangles")
    return pieces[0][1] if len(pieces) == 1 else _joined(*zip(*pieces, strict=True))


def _joined(names: tuple[int, ...], pieces: tuple[Mesh, ...]) -> Mesh:
    """All as one, with a row for each name of a material; where one piece has colours of vertices, every one has."""
    if not all(within(p.faces, len(p.vertices)) for p in pieces):
        raise Unreadable("a face names a vertex that its primitive has not")
    if sum(len(p.vertices) for p in pieces) > np.iinfo(np.int32).max:
        raise Unreadable("a shape has at most 2,147,483,647 vertices, but this one has more")
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
        document = json.loads(str(chunks.get(0x4E4F534A, b""), "utf-8-sig"))
    except ValueError as error:
        raise Unreadable(f"the JSON of its scene cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise Unreadable("the JSON of its scene is an object of names, but this one is not: export it anew")
    return document, chunks.get(0x004E4942, b"")


class _Scene:
    """A glTF document and its bytes."""

    def __init__(self, document: dict[str, Any], binary: Any, resolve: Resolve) -> None:
        for name in document.get("extensionsRequired", ()):
            if name not in EXTENSIONS:
                raise _unread(name)
        self.document, self.binary, self.resolve = document, binary, resolve
        self.looks: dict[int, Look] = {-1: (GREY, None)}
        self.worlds = self._worlds()

    def item(self, kind: str, index: int) -> dict[str, Any]:
        """An entry of one of the document's lists; counting from the end is Python's, not glTF's."""
        every = self.document[kind]
        if not 0 <= index < len(every):
            raise IndexError(f"{kind} {index}")
        return every[index]  # type: ignore[no-any-return]

    def _worlds(self) -> dict[int, Floats]:
        """The matrix to the world of each node that the default scene shows, in the order of its tree."""
        every = self.document.get("nodes", [])
        if self.document.get("scenes", []):
            roots = self.item("scenes", self.document.get("scene", 0)).get("nodes", [])
        else:
            inner = {child for node in every for child in node.get("children", [])}
            roots = [i for i in range(len(every)) if i not in inner]
        out: dict[int, Floats] = {}
        waiting = [(i, IDENTITY) for i in reversed(roots)]
        while waiting:
            i, above = waiting.pop()
            node = self.item("nodes", i)
            if i in out:
                raise Unreadable(f"a node has one parent, but node {i} of its scene has several: export it anew")
            if _extension(node, VISIBILITY).get("visible", True):
                own = _local(node)
                out[i] = above if own is IDENTITY else above @ own
                waiting += [(child, out[i]) for child in reversed(node.get("children", []))]
        return out

    def primitives(self, index: int) -> list[tuple[int, Mesh]]:
        """The parts of a node's mesh that are made of triangles, in the world, each with its material."""
        node = self.item("nodes", index)
        if "mesh" not in node:
            return []
        mesh = self.item("meshes", node["mesh"])
        weights = node.get("weights", mesh.get("weights", ()))
        every = [p for p in mesh["primitives"] if p.get("mode", TRIANGLES) >= TRIANGLES]
        return [self._primitive(p, node, weights, place) for place in self._places(index) for p in every]

    def _places(self, index: int) -> list[Floats]:
        """The matrices to the world of a node's mesh: its own, or one for each instance."""
        node, matrix = self.item("nodes", index), self.worlds[index]
        attributes = _extension(node, INSTANCING).get("attributes")
        if attributes is None:
            return [matrix]
        if "skin" in node:
            raise Unreadable(f"a skin with {INSTANCING} is not read here: export it without")
        counts = {self.item("accessors", place)["count"] for place in attributes.values()}
        if len(counts) != 1:
            raise Unreadable(f"the attributes of {INSTANCING} have one count, but these have {sorted(counts)}")
        moves = {move: self.values(attributes[move.upper()]) for move in MOVES if move.upper() in attributes}
        return [matrix @ _local({move: rows[i].tolist() for move, rows in moves.items()}) for i in range(*counts)]

    def _primitive(
        self, primitive: dict[str, Any], node: dict[str, Any], weights: list[float], matrix: Floats
    ) -> tuple[int, Mesh]:
        attributes, material = primitive["attributes"], primitive.get("material", -1)
        _refuse_compressed(primitive, self.item("accessors", attributes["POSITION"]))
        vertices = self._morphed(primitive, "POSITION", weights)
        index = np.arange(len(vertices)) if "indices" not in primitive else self.values(primitive["indices"])[:, 0]
        faces = _strips(_signed(index), primitive.get("mode", TRIANGLES))
        vertices, faces = _placed(vertices, faces, self._skin(node, attributes) if "skin" in node else matrix)
        color, picture = self.look(material)
        return material, Mesh(
            np.ascontiguousarray(vertices, np.float32),
            np.ascontiguousarray(faces),
            colors=np.array([color], np.uint8),
            vertex_colors=self.colors(primitive, weights, len(vertices)) if "COLOR_0" in attributes else None,
            uv=None if picture is None else self.coordinates(primitive, weights, faces),
            textures=(picture,),
            tinted="COLOR_0" in attributes,
        )

    def _morphed(self, primitive: dict[str, Any], name: str, weights: list[float]) -> NDArray[Any]:
        """The rows of an attribute, the differences of its morph targets added by their weights."""
        rows = self.values(primitive["attributes"][name])
        for weight, target in zip(weights, primitive.get("targets", ()), strict=False):
            if weight and name in target:
                change = self.values(target[name])
                if len(change) != len(rows):
                    raise Unreadable(f"a morph target has a row for each of {len(rows)}, but one has {len(change)}")
                rows = rows + weight * change
        return rows

    def _skin(self, node: dict[str, Any], attributes: dict[str, int]) -> Floats:
        """
        The matrix to the world of each vertex, [V, 4, 4]: those of its joints, by weight.

        The node's own does not count (glTF 2.0, 3.7.3.3).
        """
        skin = self.item("skins", node["skin"])
        joints = np.array([self.worlds[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            inverse = self.values(skin["inverseBindMatrices"])[: len(joints)]
            joints = joints @ inverse.reshape(-1, 4, 4).transpose(0, 2, 1)  # written column by column
        sets = range(max(1, sum(name.startswith("JOINTS_") for name in attributes)))
        rows = np.hstack([self.values(attributes[f"JOINTS_{n}"]) for n in sets])
        weights = np.hstack([self.values(attributes[f"WEIGHTS_{n}"]) for n in sets]).astype(np.float64)
        total = weights.sum(axis=1, keepdims=True)
        if not (total > 0).all():
            raise Unreadable("a vertex of a skin hangs on a joint, but one of this file's hangs on none")
        parts = (share[:, None, None] * joints[row] for row, share in zip(rows.T, (weights / total).T, strict=True))
        return sum(parts, np.zeros((len(rows), 4, 4)))

    def colors(self, primitive: dict[str, Any], weights: list[float], count: int) -> Picture:
        """The colour of each vertex times its material's, which a picture has in it already."""
        material = primitive.get("material", -1)
        values = self._morphed(primitive, "COLOR_0", weights)[:, :3]
        if len(values) != count:
            raise Unreadable(f"a primitive has {count} vertices, but {len(values)} colours of vertices: export it anew")
        values = values if values.dtype.kind == "f" else _normalized(values)
        return _to_srgb(values if self.look(material)[1] is not None else values * self.factor(material))

    def coordinates(
        self, primitive: dict[str, Any], weights: list[float], faces: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """The texture coordinate of each corner, [F, 3, 2]."""
        texture = self.texture(primitive.get("material", -1))
        moved = _extension(texture, "KHR_texture_transform")
        name = f"TEXCOORD_{moved.get('texCoord', texture.get('texCoord', 0))}"
        if name not in primitive["attributes"]:
            return np.zeros((len(faces), 3, 2), np.float32)
        uv = self._morphed(primitive, name, weights)[faces]
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
        if not texture:
            return color, None
        image = self._source(self.item("textures", texture["index"]))
        picture = None if image is None else read_picture(self._image(self.item("images", image)), f"image {image}")
        return color, picture if picture is None or (factor == 1).all() else _seen_through(factor, picture)

    def _source(self, texture: dict[str, Any]) -> int | None:
        """The image of a texture; none where it has none at all."""
        image: int | None = _extension(texture, WEBP).get("source", texture.get("source"))
        if image is None and texture.get("extensions"):
            raise _unread(next(iter(texture["extensions"])))
        return image

    def surface(self, material: int) -> dict[str, Any]:
        return {} if material == -1 else self.item("materials", material).get("pbrMetallicRoughness", {})

    def factor(self, material: int) -> Floats:
        """The linear colour that a material's picture and the colours of its vertices are multiplied by."""
        return np.array(self.surface(material).get("baseColorFactor", (1, 1, 1, 1))[:3], np.float64)

    def texture(self, material: int) -> dict[str, Any]:
        """Which texture a material has, and how it lies; nothing where it has none."""
        return self.surface(material).get("baseColorTexture", {})

    def _image(self, image: dict[str, Any]) -> bytes | None:
        return bytes(self._view(image["bufferView"])[0]) if "bufferView" in image else self._at(image.get("uri", ""))

    def _at(self, uri: str) -> bytes | None:
        if uri.startswith("data:"):
            kind, _, text = uri.partition(",")
            return base64.b64decode(text) if kind.endswith(";base64") else unquote_to_bytes(text)
        return self.resolve(unquote(uri)) if uri else None

    def _view(self, index: int) -> tuple[Any, int]:
        """The bytes of a buffer view, and its stride."""
        view = self.item("bufferViews", index)
        buffer = self.item("buffers", view["buffer"])
        if "uri" not in buffer and view["buffer"] > 0:  # the binary chunk is the first buffer's alone
            _refuse_extended(view)
        data = self._at(buffer["uri"]) if "uri" in buffer else self.binary if view["buffer"] == 0 else None
        start = view.get("byteOffset", 0)
        if data is None or start + view["byteLength"] > len(data):
            raise Unreadable(f"its buffer {view['buffer']} is shorter than its views: the file is cut short")
        return data[start : start + view["byteLength"]], view.get("byteStride", 0)

    def values(self, index: int) -> NDArray[Any]:
        """The rows of an accessor; integers that stand for fractions come as floats."""
        accessor = self.item("accessors", index)
        kind, count, width = TYPES[accessor["componentType"]], accessor["count"], WIDTHS[accessor["type"]]
        rows = self._rows(accessor, kind, count, width) if "bufferView" in accessor else np.zeros((count, width), kind)
        if "sparse" in accessor:
            sparse, rows = accessor["sparse"], rows.copy()
            places = self._rows(sparse["indices"], TYPES[sparse["indices"]["componentType"]], sparse["count"], 1)
            rows[places[:, 0].astype(np.uint32)] = self._rows(sparse["values"], kind, sparse["count"], width)
        return _normalized(rows) if accessor.get("normalized") and kind.kind != "f" else rows

    def _rows(self, part: dict[str, Any], kind: np.dtype[Any], count: int, width: int) -> NDArray[Any]:
        """The rows of numbers [count, width] in a buffer view, from where an accessor or its sparse part says."""
        data, stride = self._view(part["bufferView"])
        start, stride = part.get("byteOffset", 0), stride or width * kind.itemsize
        if start + (count - 1) * stride + width * kind.itemsize > len(data):
            raise Unreadable(f"an accessor reaches behind buffer view {part['bufferView']}: the file is cut short")
        return np.ndarray((count, width), kind, data, start, (stride, kind.itemsize))


def _extension(owner: dict[str, Any], name: str) -> dict[str, Any]:
    """An extension of a part of the document; nothing where it has none of that name."""
    found: dict[str, Any] = owner.get("extensions", {}).get(name, {})
    return found


def _unread(name: str) -> Unreadable:
    return Unreadable(f"it needs the glTF extension {name}, which is not read here: export it without")


def _refuse_extended(owner: dict[str, Any]) -> None:
    """Raises `Unreadable` where a part that has no bytes of its own has an extension, which would give them."""
    for name in owner.get("extensions", ()):
        raise _unread(name)


def _refuse_compressed(primitive: dict[str, Any], accessor: dict[str, Any]) -> None:
    if "bufferView" not in accessor and "sparse" not in accessor:
        _refuse_extended(primitive)


def _normalized(rows: NDArray[Any]) -> NDArray[Any]:
    """Integers as the fractions that they stand for: -1 or 0 to 1 (glTF 2.0, 3.6.2.2)."""
    return np.maximum(rows / np.float32(np.iinfo(rows.dtype).max), np.float32(-1))


def _placed(vertices: NDArray[Any], faces: NDArray[np.int32], matrix: Floats) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Vertices [V, 3] moved by one matrix [4, 4], or each by its own [V, 4, 4]; a mirror turns every face around."""
    if matrix is IDENTITY:
        return vertices, faces
    if matrix.ndim == 2:
        vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    else:
        vertices = np.einsum("vij,vj->vi", matrix[:, :3, :3], vertices) + matrix[:, :3, 3]
    return vertices, faces[:, ::-1] if np.linalg.det(matrix[..., :3, :3]).sum() < 0 else faces


def _local(node: dict[str, Any]) -> Floats:
    """
    The matrix of a node to its parent; IDENTITY itself where it has none.

    It is given whole, or as translation, rotation (a quaternion x, y, z, w) and scale.
    """
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T  # written column by column
    if MOVES.isdisjoint(node):
        return IDENTITY
    x, y, z, w = _unit(node["rotation"]) if "rotation" in node else (0, 0, 0, 1)
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, :3] *= np.array(node.get("scale", (1, 1, 1)))
    out[:3, 3] = node.get("translation", (0, 0, 0))
    return out


def _unit(quaternion: list[float]) -> list[float]:
    """A rotation written in bytes or shorts is not quite of length 1."""
    length = math.hypot(*quaternion)
    if not length > 0:
        raise Unreadable("a rotation is a quaternion of length 1, but one of this file's has length 0")
    return [part / length for part in quaternion]


def _signed(index: NDArray[Any]) -> NDArray[np.int32]:
    """Indices as int32; most are uint32, and are looked at with other eyes: too great a one is then below zero."""
    return index.view(np.int32) if index.dtype == np.uint32 else index.astype(np.int32)


def _strips(index: NDArray[np.int32], mode: int) -> NDArray[np.int32]:
    """Triangles [F, 3] of a list, a strip or a fan."""
    if mode > FAN:
        raise Unreadable(f"a primitive has mode 0 to 6, but one of this file's has {mode}: export it anew")
    if mode == TRIANGLES or len(index) < 3:
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    if mode == FAN:
        return np.stack([np.full(len(index) - 2, index[0]), index[1:-1], index[2:]], axis=1)
    faces = np.stack([index[:-2], index[1:-1], index[2:]], axis=1)
    faces[1::2] = faces[1::2, ::-1]  # every second triangle of a strip is wound the other way
    return faces


def _moved(uv: NDArray[Any], transform: dict[str, Any]) -> Floats:
    """
    Texture coordinates [F, 3, 2] by KHR_texture_transform: scaled, turned, shifted.

    The turn is counter-clockwise as one sees it, with v downward: what the extension's words say and viewers do, where
    the signs of its sample shader say the other way.
    """
    cos, sin = math.cos(transform.get("rotation", 0)), math.sin(transform.get("rotation", 0))
    turned = uv * np.array(transform.get("scale", (1, 1)), np.float64) @ np.array([[cos, -sin], [sin, cos]])
    return turned + np.array(transform.get("offset", (0, 0)), np.float64)


def _seen_through(factor: Floats, picture: Picture) -> Picture:
    """A picture times a linear colour; a byte has 256 values, so each channel is a table."""
    table = _to_srgb(to_linear(np.arange(256))[:, None] * factor)
    return np.stack([table[picture[..., channel], channel] for channel in range(3)], axis=-1)


def _to_srgb(linear: NDArray[Any]) -> Picture:
    """The colours of glTF are linear; ours are sRGB."""
    return unit_to_bytes(from_linear(linear))
