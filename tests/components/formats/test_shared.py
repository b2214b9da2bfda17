"""
What all formats share: colours of every number type, pictures of every mode, and the marks and ends of text.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import trimesh
from PIL import Image

from components.formats.decode import decode
from components.formats.obj import names
from components.formats.shared import color_bytes, read_picture
from components.source import Unreadable

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
TYPES = {
    "char": (127, "b"), "uchar": (255, "B"), "short": (32767, "h"), "ushort": (65535, "H"),
    "int": (2**31 - 1, "i"), "uint": (2**32 - 1, "I"), "float": (1.0, "f"), "double": (1.0, "d"),
}  # fmt: skip
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def coloured_ply(kind: str, form: str, colors: list, of: str = "vertex", alpha: bool = True) -> bytes:
    """A triangle with a colour for each corner, or one for its face."""
    own = [f"property {kind} {name}" for name in ("red", "green", "blue", *(["alpha"] if alpha else []))]
    head = [f"ply\nformat {form} 1.0\nelement vertex 3", *(f"property float {axis}" for axis in "xyz")]
    head += own if of == "vertex" else []
    head += ["element face 1\nproperty list uchar int vertex_indices", *(own if of == "face" else []), "end_header\n"]
    rows = [("fff", corner) for corner in ((0, 0, 0), (1, 0, 0), (0, 1, 0))] + [("Biii", (3, 0, 1, 2))]
    letter = TYPES[kind][1]
    for place, color in zip(range(3) if of == "vertex" else [3], colors, strict=True):
        row = [*color, TYPES[kind][0]] if alpha else color
        rows[place] = (rows[place][0] + letter * len(row), (*rows[place][1], *row))
    if form == "ascii":
        return "\n".join([*head[:-1], head[-1] + "\n".join(" ".join(map(str, row)) for _, row in rows), ""]).encode()
    return "\n".join(head).encode() + b"".join(struct.pack(ORDERS[form] + letters, *row) for letters, row in rows)


@pytest.mark.parametrize("of", ["vertex", "face"])
@pytest.mark.parametrize("form", ORDERS)
@pytest.mark.parametrize("kind", TYPES)
def test_the_colours_of_a_ply_are_scaled_by_the_range_of_their_type(kind, form, of):
    """A fifth is 51; a type's greatest is 255."""
    most = TYPES[kind][0]
    fifth = 0.2 if kind in ("float", "double") else round(most / 5)
    colors = [[most, fifth, 0]] * (3 if of == "vertex" else 1)
    mesh = decode(coloured_ply(kind, form, colors, of), "ply")
    found = mesh.vertex_colors[1] if of == "vertex" else mesh.colors[mesh.materials[0]]

    assert found.tolist() == [255, round(fifth / most * 255), 0]
    assert mesh.faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("form", ORDERS)
@pytest.mark.parametrize("kind", ["uchar", "short", "ushort", "int", "uint", "float", "double"])
def test_colours_of_0_to_255_are_known_in_a_wide_type(kind, form):
    """By the range of its type, each of them would be black; or white, as a fraction."""
    mesh = decode(coloured_ply(kind, form, [[255, 51, 0], [1, 2, 3], [7, 8, 9]], alpha=False), "ply")

    assert mesh.vertex_colors.tolist() == [[255, 51, 0], [1, 2, 3], [7, 8, 9]]


def test_a_float_colour_that_is_a_little_above_one_is_cut_and_not_taken_for_a_byte():
    assert color_bytes(np.array([[1.02, 0.5, -0.1]]), "f8").tolist() == [[255, 128, 0]]


def test_a_colour_that_is_not_a_number_is_named():
    with pytest.raises(Unreadable, match="a colour is a finite number"):
        decode(coloured_ply("float", "ascii", [["nan", 0, 0]] * 3), "ply")
    with pytest.raises(Unreadable, match="a colour is a finite number"):
        decode(TRIANGLE.replace("0\nv", "0 1 0 red\nv").replace("1 0\nf", "1 0 1 0 0\nf").encode(), "obj")


@pytest.mark.parametrize("scale", [1, 255])
def test_the_vertices_of_an_obj_are_coloured_by_fractions_or_by_bytes(scale):
    colors = [[1, 0.2, 0], [0.4, 0.6, 0.8], [0, 0, 1]]
    corners = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    rows = [
        "v " + " ".join(f"{n:g}" for n in [*c, *(scale * n for n in rgb)])
        for c, rgb in zip(corners, colors, strict=True)
    ]
    mesh = decode("\n".join([*rows, "f 1 2 3\n"]).encode(), "obj")

    assert mesh.vertex_colors.tolist() == [[255, 51, 0], [102, 153, 204], [0, 0, 255]]


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def deep_png(bits_and_kind: tuple[int, int], *rows: bytes) -> bytes:
    """A PNG of one row, in a form that Pillow does not write."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", len(rows), 1, *bits_and_kind, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(b"\0" + b"".join(rows))), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def grey(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


deep = Image.fromarray(np.array([[0, 257, 51 * 257, 32768, 65535]], np.uint16))
palette = Image.new("P", (2, 1))
palette.putpalette([10, 20, 30, 40, 50, 60])
palette.putpixel((1, 0), 1)
PICTURES = {
    "16 bits of grey": (file_of(deep), grey(0, 1, 51, 128, 255)),
    "16 bits of grey as TIFF": (file_of(deep, "TIFF"), grey(0, 1, 51, 128, 255)),
    "16 bits of grey as PGM": (file_of(deep, "PPM"), grey(0, 1, 51, 128, 255)),
    "16 bits of grey, one clear": (file_of(deep, transparency=0), grey(108, 1, 51, 128, 255)),
    "16 bits of colour": (
        deep_png((16, 2), struct.pack(">HHH", 65535, 32768, 257), bytes(6)),
        [[255, 128, 1], [0, 0, 0]],
    ),
    "16 bits of grey with alpha": (deep_png((16, 4), struct.pack(">HH", 51 * 257, 65535)), grey(51)),
    "32 bits of grey": (file_of(Image.fromarray(np.int32([[0, 2**31 - 1]])), "TIFF"), grey(0, 255)),
    "floats": (file_of(Image.fromarray(np.float32([[0, 0.2, 1]])), "TIFF"), grey(0, 51, 255)),
    "floats of bytes": (file_of(Image.fromarray(np.float32([[0, 51, 255]])), "TIFF"), grey(0, 51, 255)),
    "one bit": (file_of(Image.fromarray(np.array([[False, True]]))), grey(0, 255)),
    "8 bits of grey": (file_of(Image.fromarray(np.uint8([[0, 51, 255]]))), grey(0, 51, 255)),
    "grey with alpha": (file_of(Image.fromarray(np.uint8([[[51, 255], [9, 0]]]), "LA")), grey(51, 51)),
    "a palette": (file_of(palette), [[10, 20, 30], [40, 50, 60]]),
    "a palette, one clear": (file_of(palette, transparency=0), [[40, 50, 60]] * 2),
    "CMYK": (file_of(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [[255, 0, 0]]),
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_picture_of_any_mode_has_its_colours_as_bytes(case):
    data, colors = PICTURES[case]
    picture = read_picture(data, "a.png")

    assert picture.dtype == np.uint8
    assert picture.tolist() == [colors]


def solid(kind: str) -> bytes:
    """A tetrahedron as text."""
    shape = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    if kind == "ply":
        return trimesh.exchange.ply.export_ply(shape, encoding="ascii").replace(b"\r", b"")
    data = shape.export(file_type="stl_ascii" if kind == "stl" else kind).encode()
    return data[data.index(b"v ") :] if kind == "obj" else data  # without its comment: the mark is a vertex's


TEXTS = ["obj", "off", "ply", "stl"]


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\r\r\n"], ids=["unix", "windows", "old mac", "twice"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
def test_a_text_may_have_a_mark_and_any_line_ends(kind, end, mark):
    data = solid(kind)
    mesh = decode(mark + data.replace(b"\n", end), kind)

    np.testing.assert_array_equal(mesh.triangles, decode(data, kind).triangles)
    assert len(mesh.faces) == 4


def test_a_return_alone_ends_a_line_among_newlines_too():
    mesh = decode(b"# made on one machine\rv 5 5 5\r" + TRIANGLE.encode(), "obj")

    assert mesh.vertices[0].tolist() == [5, 5, 5] and len(mesh.vertices) == 4


def test_the_body_of_a_binary_ply_starts_where_its_line_ends_do():
    """A coordinate whose first byte is a newline's: 0x0A is part of it, whichever end the header has."""
    first = np.frombuffer(b"\x0a\0\0\x40", "<f4")[0]
    for end in ("\r", "\n", "\r\n"):
        head = coloured_ply("uchar", "binary_little_endian", [[1, 2, 3]] * 3)
        head, _, body = head.partition(b"end_header\n")
        data = (head + b"end_header\n").replace(b"\n", end.encode()) + struct.pack("<f", first) + body[4:]

        assert decode(data, "ply").vertices[:, 0].tolist() == [first, 1, 0]


def test_marks_lose_neither_a_library_nor_its_first_material():
    files = {"a.mtl": b"\xef\xbb\xbfnewmtl red\nKd 1 0 0\n"}
    data = b"\xef\xbb\xbfmtllib a.mtl\nusemtl red\n" + TRIANGLE.encode()

    assert names(data) == ["a.mtl"]
    assert decode(data, "obj", files.get).colors.tolist() == [[255, 0, 0]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", TEXTS)
def test_wide_text_is_named(kind, encoding):
    name = encoding[:6].upper()

    with pytest.raises(Unreadable, match=f"text is ASCII or UTF-8, but the file is {name}: save it as UTF-8"):
        decode(solid(kind).decode().encode(encoding), kind)


def test_a_library_of_wide_text_is_named():
    files = {"a.mtl": "newmtl red\nKd 1 0 0\n".encode("utf-16")}

    with pytest.raises(Unreadable, match="its library a.mtl is UTF-16"):
        decode(b"mtllib a.mtl\nusemtl red\n" + TRIANGLE.encode(), "obj", files.get)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " \t\n"], ids=["unix", "windows", "old mac", "gap"])
def test_a_line_goes_on_behind_a_backslash(end):
    text = TRIANGLE.replace("f 1 2 3\n", "f 1 \\\n2 \\\n  3\\\n\nv 9 9 9\n").replace("\n", end)
    mesh = decode(text.encode(), "obj")

    assert mesh.faces.tolist() == [[0, 1, 2]]
    assert mesh.vertices[3].tolist() == [9, 9, 9]


def test_a_comment_that_ends_in_a_backslash_takes_no_vertex_with_it():
    mesh = decode(b"# from C:\\shapes\\\n" + TRIANGLE.replace("f 1", "f \\\n1").encode(), "obj")

    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
