"""
What several formats of shapes have in common: lists of polygons, pictures, and bytes as arrays.
"""

# F triangles, H rows and W columns of pixels

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.kernels import text
from components.kernels.polygons import clip
from components.source import Unreadable

Resolve = Callable[[str], bytes | None]
Picture = NDArray[np.uint8]
Look = tuple[tuple[int, ...], Picture | None]  # the colour of a material, and its picture

GREY = (178, 178, 178)


def as_array(data: bytes) -> text.Bytes:
    """The bytes as what the kernels take, uncopied."""
    return np.frombuffer(data, np.uint8)


def newlines(data: bytes) -> bytes:
    """A text whose lines end in a newline; those of an old Mac end in a return alone."""
    return data if b"\n" in data else data.replace(b"\r", b"\n")


def unit_to_bytes(values: NDArray[Any]) -> Picture:
    """Numbers from 0 to 1 as bytes."""
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def within(faces: NDArray[np.int32], count: int) -> bool:
    """Whether every corner is one of `count` vertices."""
    return not len(faces) or (faces.min() >= 0 and faces.max() < count)


def enough(fits: bool, name: str, count: int) -> None:
    """Raises `Unreadable` unless the `count` entries of element `name` fit into the file."""
    if not fits:
        raise Unreadable(
            f"its header names {count} of element {name!r}, but the file ends before them: it is cut short"
        )


def joined(lists: list[NDArray[Any]], name: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lists of several lengths as triangles [F, 3], and the list that each comes from [F]."""
    flat = np.concatenate([np.r_[len(one), one] for one in lists]) if lists else np.empty(0)
    return whole_lists(flat, len(lists), name)[0]


def covering(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    origin: NDArray[np.int32],
    places: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """The fans `faces` [F, 3], those that reach outside of their polygon cut anew, in place; `places` go with them."""
    if (origin[1:] == origin[:-1]).any():  # most files have triangles alone
        clip(vertices, faces, origin, np.empty((0, 3), np.int32) if places is None else places)
    return faces


def whole_lists(flat: NDArray[Any], count: int, name: str) -> tuple[tuple[NDArray[np.int32], NDArray[np.int32]], int]:
    """`count` lists, each behind its length, as `joined` gives them, and how many numbers of `flat` they are."""
    if not np.isfinite(flat).all():
        raise Unreadable(f"the lists of element {name!r} hold what is not a number")
    faces, polygon, used = text.corners(flat.astype(np.int64), count)
    enough(used >= 0, name, count)
    return (faces, polygon), used


def is_of_the_bytes(error: Exception) -> bool:
    """Whether an error that a reader met tells of the bytes that it read, and not of memory, a disk or the packages."""
    return not isinstance(error, MemoryError | ImportError) and getattr(error, "errno", None) is None


def read_picture(data: bytes | None, name: str) -> Picture | None:
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
    except Exception as error:  # Pillow raises many kinds over a damaged picture, and over one that is a bomb
        if not is_of_the_bytes(error):
            raise
        raise Unreadable(f"its picture {name} is damaged, or of a kind that is not read: save it as PNG") from error
    solid = pixels[..., 3] >= 128
    colors = pixels[..., :3].copy()
    if solid.any():
        colors[~solid] = colors[solid].mean(axis=0)
    return colors
