"""
The headers of OFF, as Geomview's manual has them and as files have them.
"""

import io

import numpy as np
import pytest
import trimesh

from components.formats.decode import decode
from components.source import Unreadable

SQUARE = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
TRIANGLES = [[0, 1, 2], [0, 2, 3]]
BODY = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"

HEADERS = {
    "three counts": "OFF\n4 2 0\n",
    "two counts": "OFF\n4 2\n",
    "two counts behind the word": "OFF 4 2\n",
    "counts behind the word": "OFF 4 2 5\n",
    "counts that the word runs into": "OFF4 2 0\n",
    "edges on a line of their own": "OFF\n4 2\n0\n",
    "a count to each line": "OFF\n4\n2\n0\n",
    "comments": "# a\n\n  OFF # b\n# 9 9 9\n4 2 # two\n\n# c\n",
    "no word": "4 2 0\n",
    "no word and two counts": "# of no word\n4 2\n",
}


@pytest.mark.parametrize("case", HEADERS)
def test_an_off_is_read_whatever_its_header_leaves_out(case):
    mesh = decode((HEADERS[case] + BODY).encode(), "off")

    assert mesh.vertices.tolist() == SQUARE
    assert mesh.faces.tolist() == TRIANGLES


@pytest.mark.parametrize("case", ["three counts", "two counts", "comments"])
def test_trimesh_reads_the_same(case):
    data = (HEADERS[case] + BODY).encode()
    twin = trimesh.load(io.BytesIO(data), file_type="off", process=False)

    assert np.array_equal(decode(data, "off").vertices, twin.vertices)
    assert np.array_equal(decode(data, "off").faces, twin.faces)


PREFIXES = {
    "OFF": "",
    "NOFF": " 0 0 1",
    "STOFF": " 7 8",
    "STNOFF": " 0 0 1 7 8",
    "OFF\n#": " 200 100 0",  # colours that the header does not name
}


@pytest.mark.parametrize("word", PREFIXES)
def test_what_stands_behind_a_vertex_is_passed_over(word):
    lines = "".join(f"{x} {y} {z}{PREFIXES[word]}\n" for x, y, z in SQUARE)
    mesh = decode(f"{word}\n4 2 0\n{lines}3 0 1 2\n3 0 2 3 255 0 0\n".encode(), "off")

    assert mesh.vertices.tolist() == SQUARE
    assert mesh.faces.tolist() == TRIANGLES and mesh.vertex_colors is None


@pytest.mark.parametrize("word", ["4OFF", "4nOFF\n3"])
def test_a_homogeneous_vertex_is_divided_by_its_fourth_number(word):
    lines = "".join(f"{2 * x} {2 * y} {2 * z} 2\n" for x, y, z in SQUARE)

    assert decode(f"{word}\n4 1 0\n{lines}3 0 1 2\n".encode(), "off").vertices.tolist() == SQUARE


def test_an_off_of_three_dimensions_is_read_and_one_of_others_is_named():
    assert decode(f"nOFF\n3\n4 2\n{BODY}".encode(), "off").vertices.tolist() == SQUARE
    with pytest.raises(Unreadable, match=r"have 3 dimensions, but this nOFF file's have 5"):
        decode(b"nOFF 5\n1 0 0\n1 2 3 4 5\n", "off")


@pytest.mark.parametrize(
    ("colour", "bytes_of_it"),
    [
        ("255 128 0", [255, 128, 0]),
        ("255 128 0 255", [255, 128, 0]),
        ("1 0.5 0", [255, 128, 0]),
        ("1.0 0.2 0.0 1.0", [255, 51, 0]),
    ],
)
def test_the_vertices_of_a_coff_are_coloured_by_bytes_or_by_fractions(colour, bytes_of_it):
    lines = "".join(f"{x} {y} {z} {colour}\n" for x, y, z in SQUARE)
    mesh = decode(f"COFF\n4 1 0\n{lines}3 0 1 2\n".encode(), "off")

    assert mesh.vertices.tolist() == SQUARE
    assert mesh.vertex_colors.tolist() == [bytes_of_it] * 4


def test_a_colour_stands_between_the_normal_and_the_coordinate():
    lines = "".join(f"{x} {y} {z} 0 0 1 10 20 30 255 0.5 0.5\n" for x, y, z in SQUARE)
    mesh = decode(f"STCNOFF\n4 1 0\n{lines}3 0 1 2\n".encode(), "off")

    assert mesh.vertices.tolist() == SQUARE
    assert mesh.vertex_colors.tolist() == [[10, 20, 30]] * 4


REFUSED = {
    "a binary one": (b"OFF BINARY\n\0\0\0\4", "this one is binary"),
    "a binary one with its word on a line": (b"OFF\nBINARY\n\0\0\0\4", "this one is binary"),
    "counts that are no whole numbers": (b"OFF\n4.5 2 0\n" + BODY.encode(), "starts with 'OFF' and its numbers"),
    "no counts": (b"OFF\n", "starts with 'OFF' and its numbers"),
    "fewer numbers than its header has": (b"NOFF\n4 2 0\n" + BODY.encode(), "has 6 numbers by its header, but the"),
    "lines of several lengths": (b"OFF\n2 0 0\n0 0 0\n1 0 0 9 9 9\n", "not all of this one's have 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_off_that_cannot_be_read_says_why(case):
    data, reason = REFUSED[case]

    with pytest.raises(Unreadable, match=reason):
        decode(data, "off")
