import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from components.kernels.polygons import clip

NONE = np.empty((0, 3), np.int32)


def fan(*sizes):
    """The fans of polygons whose corners are numbered one after the other, and the polygon of each triangle."""
    starts = np.cumsum([0, *sizes])
    rows = [[s, s + k, s + k + 1] for s, n in zip(starts, sizes, strict=False) for k in range(1, n - 1)]
    return np.array(rows, np.int32), np.repeat(np.arange(len(sizes), dtype=np.int32), np.array(sizes) - 2)


def clipped(*polygons):
    """The corners in space, and the triangles that their polygons are cut into."""
    faces, origin = fan(*map(len, polygons))
    vertices = np.concatenate(polygons).astype(np.float32)
    clip(vertices, faces, origin, NONE)
    return vertices, faces


def crosses(vertices, faces):
    """Along the normal of each face, as long as its area."""
    a, b, c = vertices.astype(np.float64)[faces].transpose(1, 0, 2)
    return np.cross(b - a, c - a) / 2


def covers(polygon):
    """Whether the triangles of a polygon are turned as it is and have its area: then they cover it, each part once."""
    vertices, faces = clipped(polygon)
    own = np.cross(vertices, np.roll(vertices, -1, axis=0)).astype(np.float64).sum(0) / 2  # Newell
    made = crosses(vertices, faces)
    return np.allclose(np.linalg.norm(made, axis=1).sum(), np.linalg.norm(own), rtol=1e-4)


def star(points, inner, generator=None):
    """A star in the plane z = 0, or any polygon around 0."""
    angle = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    reach = np.where(np.arange(2 * points) % 2, inner, 1.0)
    if generator is not None:
        reach = generator.uniform(0.05, 1, 2 * points)
    return np.stack([reach * np.cos(angle), reach * np.sin(angle), np.zeros(2 * points)], axis=1)


def comb(teeth):
    """A comb: no corner sees all of it."""
    top = [[x / 2, 2.0 if x % 2 == 0 else 0.5, 0] for x in range(2 * teeth, -1, -1)]
    return np.array([[0, 0, 0], [teeth, 0, 0], *top])


def spiral(turns):
    """A band that is wound up."""
    angle = np.linspace(0, 2 * np.pi * turns, 20 * turns)
    around = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    return np.concatenate([around * (1 + angle)[:, None], (around * (1.3 + angle)[:, None])[::-1]])[::-1]


def tilts():
    generator = np.random.default_rng(0)
    return [np.eye(3), -np.eye(3)[[1, 0, 2]], *(np.linalg.qr(generator.normal(size=(3, 3)))[0] for _ in range(6))]


SHAPES = {
    "an L": np.array([[0, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0.0]]),
    "a dart": np.array([[0, 0, 0], [2, -1, 0], [0.5, 0, 0], [2, 1, 0.0]]),
    "a star": star(5, 0.3),
    "a thin star": star(9, 0.05),
    "any around a point": star(30, 0, np.random.default_rng(1)),
    "a comb": comb(7),
    "a spiral": spiral(3),
    "corners on a line": np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 2, 0], [1, 2, 0], [1, 1, 0], [0, 1, 0.0]]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_polygon_is_covered_once_from_each_corner_on_and_however_it_lies(name):
    shape = SHAPES[name]
    for turn in tilts():
        for first in range(len(shape)):
            assert covers(np.roll(shape, -first, axis=0) @ turn.T), (first, turn)
            assert covers(np.roll(shape, -first, axis=0)[::-1] @ turn.T), (first, turn)


def test_a_square_with_a_hole_that_a_bridge_leads_to_is_covered():
    outer = [[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0]]
    hole = [[1, 1, 0], [1, 3, 0], [3, 3, 0], [3, 1, 0]]
    ring = np.array([*outer, outer[0], hole[0], *hole[1:], hole[0]], np.float64)
    for first in range(len(ring)):
        vertices, faces = clipped(np.roll(ring, -first, axis=0))

        assert_allclose(np.linalg.norm(crosses(vertices, faces), axis=1).sum(), 12)


def test_the_fan_of_a_convex_polygon_stays_as_it_is():
    """Also where its corners do not lie in one plane, or lie on one line, or are one."""
    generator = np.random.default_rng(0)
    for corners in (4, 5, 12):
        angle = np.sort(generator.uniform(0, 2 * np.pi, corners))
        polygon = np.stack([np.cos(angle), np.sin(angle), generator.normal(0, 0.02, corners)], axis=1)
        for shape in (polygon, polygon * [1, 1, 0], polygon * [1, 0, 0], polygon * 0, polygon + 1e4):
            assert_array_equal(clipped(shape)[1], fan(corners)[0])


def test_a_polygon_that_crosses_itself_keeps_its_fan():
    for bow in ([[0, 0, 0], [2, 2, 0], [2, 0, 0], [0, 1, 0]], [[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]):
        assert_array_equal(clipped(np.array(bow))[1], fan(4)[0])


def test_each_polygon_is_cut_alone_and_other_numbers_go_with_the_corners():
    shape = np.roll(SHAPES["an L"], -1, axis=0)
    faces, origin = fan(4, 6, 3, 6)
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    vertices = np.concatenate([square, shape, shape[:3], shape]).astype(np.float32)
    before, places = faces.copy(), faces + 100
    clip(vertices, faces, origin, places)

    assert_array_equal(places, faces + 100)
    assert_array_equal(faces[[0, 1, 6]], before[[0, 1, 6]])
    assert_array_equal(faces[2:6] + 9, faces[7:])
    assert_allclose(np.linalg.norm(crosses(vertices, faces), axis=1).sum(), 1 + 3 + 0.5 + 3)


def test_a_corner_of_no_vertex_and_what_is_no_number_are_left_to_others():
    shape = SHAPES["an L"].astype(np.float32)
    for first in range(1, 6):
        faces, origin = fan(6)
        faces[2, 2] = 99
        clip(shape, faces, origin, NONE)
        torn = np.roll(shape, -first, axis=0)
        torn[3, 0] = np.nan

        assert faces[2, 2] == 99
        assert_array_equal(clipped(torn)[1], fan(6)[0])
