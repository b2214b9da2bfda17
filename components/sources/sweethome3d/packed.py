"""
Many small meshes in one file, each of which can be read alone.

    RFMESH1\\n | length of the index, uint64 | index: JSON, zstd | one zstd frame for each mesh

All numbers are little-endian. The index is a list of rows; a row has what the packer says of the mesh (`id`, `label`,
...) and `at`, `length` and `digest` (blake2b, 16 bytes) of its frame. A frame holds, one after the other,

    counts      uint32 [5]   V vertices, F faces, M materials, T texture coordinates, bytes of pictures
    grid        float32 [4]  the low corner, and the step of the 16-bit grid on which the vertices lie
    vertices    uint16 [3, V]  the zigzag difference from the vertex before, axis by axis, as byte planes
    corners     uint32 [F, 3]  see `_to_codes`, as byte planes
    materials   uint8 [F], colors uint8 [M, 3]
    if T > 0:   float32 [4] grid of uv; uint16 [2, T] as for vertices; uint32 [F, 3] as for corners
    pictures    for each material: uint32 length, and a PNG or JPEG (length 0: none)

A byte plane is every first byte, then every second one, and so on: the high bytes, mostly zero, compress to nothing.
"""

# V vertices, F faces, M materials, T texture coordinates

import hashlib
import io
import json
import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from components.errors import DataError
from components.formats.mesh import Mesh

MAGIC = b"RFMESH1\n"
LEVEL = 22
STEPS = 65535

Row = dict[str, Any]


def write(path: Path, shapes: Iterable[tuple[Row, Mesh, list[bytes]]]) -> list[Row]:
    """Writes the rows, their meshes, and the encoded pictures of each one's materials; gives the rows as written."""
    rows, frames, at = [], [], 0
    for row, mesh, pictures in shapes:
        frame = zstandard.ZstdCompressor(level=LEVEL).compress(to_bytes(mesh, pictures))
        digest = hashlib.blake2b(frame, digest_size=16).hexdigest()
        rows.append(row | {"at": at, "length": len(frame), "digest": digest})
        frames.append(frame)
        at += len(frame)
    index = zstandard.ZstdCompressor(level=LEVEL).compress(json.dumps(rows, ensure_ascii=False).encode())
    path.write_bytes(MAGIC + struct.pack("<Q", len(index)) + index + b"".join(frames))
    return rows


def index_of(path: Path) -> list[Row]:
    """The rows, without reading a mesh. Their `at` counts from the start of the file."""
    with path.open("rb") as stream:
        head = stream.read(len(MAGIC) + 8)
        if not head.startswith(MAGIC) or len(head) < len(MAGIC) + 8:
            raise DataError(f"{path} must be a file of packed meshes, but is not: it is damaged. Install it again.")
        (length,) = struct.unpack_from("<Q", head, len(MAGIC))
        rows: list[Row] = json.loads(zstandard.decompress(stream.read(length)))
    start = len(MAGIC) + 8 + length
    return [row | {"at": row["at"] + start} for row in rows]


def mesh_at(path: Path, row: Row) -> Mesh:
    """The mesh of one row; only its own bytes are read, and compared with its digest."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        frame = whole[row["at"] : row["at"] + row["length"]]
    if hashlib.blake2b(frame, digest_size=16).hexdigest() != row["digest"]:
        raise DataError(
            f"The bytes of {row['id']} in {path} must be those that its digest names, but they are not: the file is "
            "damaged. Install it again."
        )
    return from_bytes(zstandard.decompress(frame))


def to_bytes(mesh: Mesh, pictures: list[bytes]) -> bytes:
    """A mesh as the frame's contents, its vertices on the grid."""
    uv, places = _coordinates(mesh)
    packed = b"".join(struct.pack("<I", len(picture)) + picture for picture in pictures)
    counts = (len(mesh.vertices), len(mesh.faces), len(mesh.colors), len(uv), len(packed))
    parts = [struct.pack("<5I", *counts), _to_grid(mesh.vertices), _to_codes(mesh.faces)]
    parts += [mesh.materials.astype(np.uint8).tobytes(), mesh.colors.tobytes()]
    if len(uv):
        parts += [_to_grid(uv), _to_codes(places)]
    return b"".join([*parts, packed])


def from_bytes(data: bytes) -> Mesh:
    """The mesh in a frame's contents."""
    stream = io.BytesIO(data)
    v, f, m, t, packed = struct.unpack("<5I", stream.read(20))
    vertices = _from_grid(stream, v, 3)
    faces = _from_codes(stream, f)
    materials = np.frombuffer(stream.read(f), np.uint8).astype(np.int32)
    colors = np.frombuffer(stream.read(3 * m), np.uint8).reshape(m, 3)
    uv = None
    if t:
        table = _from_grid(stream, t, 2)
        uv = table[_from_codes(stream, f)]
    pictures = tuple(_picture(stream) for _ in range(m)) if packed else ()
    return Mesh(vertices, faces, materials, colors, uv=uv, textures=pictures)


def grid(vertices: NDArray[Any]) -> tuple[NDArray[np.float32], np.float32, NDArray[np.uint16]]:
    """The low corner, the step, and the place of each vertex on a grid of 65,536 steps along its longest side."""
    low = vertices.min(axis=0).astype(np.float32)
    step = np.float32(max(float((vertices - low).max()) / STEPS, 1e-12))
    return low, step, ((vertices - low) / step).round().clip(0, STEPS).astype(np.uint16)


def _coordinates(mesh: Mesh) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The different texture coordinates in the order of their first use, and the one of each corner."""
    if mesh.uv is None:
        return np.empty((0, 2), np.float32), np.empty((0, 3), np.int32)
    table, first, inverse = np.unique(mesh.uv.reshape(-1, 2), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    return table[order], rank[inverse.reshape(-1, 3)]


def _to_grid(values: NDArray[np.float32]) -> bytes:
    low, step, places = grid(values)
    wide = places.T.astype(np.int32)  # [axes, V]
    steps = wide - np.hstack([np.zeros_like(wide[:, :1]), wide[:, :-1]])
    near = ((steps + 32768) % 65536 - 32768).astype(np.int32)  # the way around the end of 16 bits is shorter
    zigzag = ((near << 1) ^ (near >> 31)).astype(np.uint16)
    return np.array([*low, step], "<f4").tobytes() + _planes(zigzag.astype("<u2"))


def _from_grid(stream: io.BytesIO, count: int, axes: int) -> NDArray[np.float32]:
    *low, step = np.frombuffer(stream.read(4 * (axes + 1)), "<f4")
    zigzag = _from_planes(stream, axes * count, "<u2").reshape(axes, count)
    steps = (zigzag >> 1) ^ (0 - (zigzag & 1)).astype(np.uint16)
    places = np.cumsum(steps, axis=1, dtype=np.uint16)  # wraps, as the differences do
    return (places.T * step + np.array(low)).astype(np.float32)


def _to_codes(faces: NDArray[np.int32]) -> bytes:
    """
    Each corner as how far it lies below the next new vertex; 0 is the new one itself.

    So the vertices must stand in the order of their first use, and neighbouring faces have small codes.
    """
    flat = faces.reshape(-1).astype(np.int64)
    newest = np.maximum.accumulate(np.concatenate([[-1], flat[:-1]]))
    return _planes((newest + 1 - flat).astype("<u4"))


def _from_codes(stream: io.BytesIO, faces: int) -> NDArray[np.int32]:
    codes = _from_planes(stream, 3 * faces, "<u4").astype(np.int64)
    is_new = codes == 0
    return (np.cumsum(is_new) - is_new - codes).astype(np.int32).reshape(faces, 3)


def _planes(values: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _from_planes(stream: io.BytesIO, count: int, dtype: str) -> NDArray[Any]:
    width = np.dtype(dtype).itemsize
    planes = np.frombuffer(stream.read(count * width), np.uint8).reshape(width, count)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(count)


def _picture(stream: io.BytesIO) -> NDArray[np.uint8] | None:
    (length,) = struct.unpack("<I", stream.read(4))
    if not length:
        return None
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(stream.read(length))).convert("RGB"))
