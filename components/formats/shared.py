"""
Parts that several formats of shapes share: lists of polygons, pictures, and bytes as arrays.
"""

# F triangles, H rows and W columns of pixels

import codecs
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
BRIGHT = 2.0  # a float colour from here on is one of 0 to 255: one of 0 to 1 is at most a little above 1
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark is the start of this one
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def as_array(data: bytes) -> text.Bytes:
    """The bytes as what the kernels take, uncopied."""
    return np.frombuffer(data, np.uint8)


def newlines(data: bytes) -> bytes:
    """A text without UTF-8's byte-order mark, each line of which has a newline; an old Mac ends them by a return."""
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\r" not in data or data.count(b"\r") == data.count(b"\r\n"):
        return data
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def refuse_wide(data: bytes, what: str = "the file") -> None:
    """Raises `Unreadable` where `data` is text of two or four bytes a character, with or without its mark."""
    if data[:4].isascii() and 0 not in data[:4]:
        return
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "")
    one, other = data[:64:2], data[1:64:2]
    if len(other) > 1 and ((all(one) and not any(other)) or (all(other) and not any(one))):
        encoding = encoding or "UTF-16"
    if encoding:
        raise Unreadable(f"text is ASCII or UTF-8, but {what} is {encoding}: save it as UTF-8")


def unit_to_bytes(values: NDArray[Any]) -> Picture:
    """Numbers from 0 to 1 as bytes."""
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def color_bytes(values: NDArray[Any], kind: str) -> Picture:
    """
    Colours of the number type `kind` as bytes: a float counts from 0 to 1, an integer from 0 to the type's greatest.

    Files that have 0 to 255 in a float or a wide integer are known by it: the former goes beyond `BRIGHT`, and the
    latter would be black.
    """
    if values.dtype == np.uint8:
        return values
    if not np.isfinite(values).all():
        raise Unreadable("a colour is a finite number, but one of this file's is not: export it anew")
    dtype, most = np.dtype(kind), values.max(initial=0)
    if dtype.kind == "f":
        return unit_to_bytes(values if most < BRIGHT else values / 255)
    greatest = np.iinfo(dtype).max
    return unit_to_bytes(values / (255 if dtype.itemsize > 1 and most <= 255 else greatest))


def within(faces: NDArray[np.int32], count: int) -> bool:
    """True if every corner is one of `count` vertices."""
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
    """True if an error of a reader tells of the bytes that it read, and not of memory, a disk or the packages."""
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
        if image.mode[0] in "IF":
            return _wide_grey(np.asarray(image), image.info.get("transparency"))
        if not (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
            return np.asarray(image.convert("RGB"))
        pixels = np.array(image.convert("RGBA"))
    except Exception as error:  # Pillow raises many kinds over a damaged picture, and over one that is a bomb
        if not is_of_the_bytes(error):
            raise
        raise Unreadable(f"its picture {name} is damaged, or of a kind that is not read: save it as PNG") from error
    return _filled(pixels[..., :3].copy(), pixels[..., 3] >= 128)


def _wide_grey(values: NDArray[Any], transparent: int | None) -> Picture:
    """A picture [H, W] of 16 or 32 bits, or a float, for each pixel: Pillow's own conversion cuts these at 255."""
    if values.dtype.kind == "f":
        grey = color_bytes(values, "f4")
    else:  # Pillow has 16 bits as 32 for some formats
        grey = unit_to_bytes(values / (65535 if values.max(initial=0) <= 65535 else np.iinfo(np.int32).max))
    solid = np.full(values.shape, True) if transparent is None else values != transparent
    return _filled(np.stack([grey] * 3, axis=-1), solid)


def _filled(colors: Picture, solid: NDArray[np.bool_]) -> Picture:
    """The colours [H, W, 3], in place, where the mask [H, W] is false the mean of the others."""
    if solid.any():
        colors[~solid] = colors[solid].mean(axis=0)
    return colors
