import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from components.kernels.sampling import areas, interpolate, normals, sample
from components.source import Unreadable
from tests.components.kernels.shapes import box, soup, sphere, torus


def twin(triangles, count, generator):
    """The same draws, found by binary search."""
    edges = triangles[:, 1:] - triangles[:, :1]
    sums = np.cumsum(np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1))
    places = (np.arange(count) + generator.random(count)) / count
    faces = np.searchsorted(sums, places * sums[-1], side="right")
    square = generator.random((count, 2))
    weights = np.where(square.sum(axis=1, keepdims=True) > 1, 1 - square, square)
    return triangles[faces, 0] + np.einsum("nk,nkc->nc", weights, edges[faces]), faces, weights


def test_agrees_with_a_binary_search():
    triangles = soup(np.random.default_rng(0), 500)

    expected = twin(triangles, 4096, np.random.default_rng(1))
    actual = sample(triangles, 4096, np.random.default_rng(1))

    for one, other in zip(expected, actual, strict=True):
        assert_allclose(other, one, atol=1e-12)


def test_the_outer_half_of_a_torus_gets_its_share():
    points, _, _ = sample(torus(), 200_000, np.random.default_rng(0))

    outer = (np.hypot(points[:, 0], points[:, 1]) > 1).mean()

    assert outer == pytest.approx(0.5 + 0.4 / np.pi, abs=0.003)  # 1/2 + r / (pi R)


def test_no_face_gets_more_than_one_draw_beyond_its_share():
    triangles = soup(np.random.default_rng(0), 50)

    _, faces, _ = sample(triangles, 5000, np.random.default_rng(1))
    share = 5000 * areas(triangles) / areas(triangles).sum()

    assert np.abs(np.bincount(faces, minlength=50) - share).max() < 2


def test_points_lie_within_their_faces():
    triangles = soup(np.random.default_rng(0), 50)

    points, faces, weights = sample(triangles, 1000, np.random.default_rng(1))

    assert (weights >= 0).all() and (weights.sum(axis=1) <= 1).all()
    assert_allclose(interpolate(triangles, faces, weights), points)


def test_points_fill_a_triangle_evenly():
    triangle = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])

    points, _, _ = sample(triangle, 100_000, np.random.default_rng(0))

    assert_allclose(points.mean(axis=0), [1 / 3, 1 / 3, 0], atol=0.003)
    assert_allclose(np.cov(points[:, :2].T), [[1 / 18, -1 / 36], [-1 / 36, 1 / 18]], atol=0.001)


def test_a_face_without_area_is_never_drawn():
    triangles = box((1, 1, 1))
    flat = np.repeat(triangles[:1, :1], 3, axis=1)
    mixed = np.concatenate([flat, triangles, flat])

    _, faces, _ = sample(mixed, 1000, np.random.default_rng(0))

    assert set(faces) == set(range(1, 13))


def test_a_draw_at_the_very_end_lands_on_the_last_face_with_area():
    class Last:
        def random(self, shape):
            return np.full(shape, np.nextafter(1, 0))

    triangles = np.concatenate([box((1, 1, 1)), np.zeros((3, 3, 3))])

    _, faces, _ = sample(triangles, 7, Last())

    assert faces[-1] == 11


def test_a_mesh_without_area_is_refused_with_a_reason():
    with pytest.raises(Unreadable, match="some face must have an area, but none of 2 has"):
        sample(np.zeros((2, 3, 3)), 10, np.random.default_rng(0))


def test_a_generator_decides_every_draw():
    first, again, other = (sample(sphere(), 100, np.random.default_rng(seed))[0] for seed in (1, 1, 2))

    assert_array_equal(again, first)
    assert not np.allclose(other, first)


def test_normals_of_a_sphere_point_away_from_its_centre():
    triangles = sphere()
    points, faces, _ = sample(triangles, 1000, np.random.default_rng(0))

    assert (normals(triangles, faces) * points).sum(axis=1).min() > 0.98
    assert_allclose(np.linalg.norm(normals(triangles, faces), axis=1), 1)


def test_the_normal_of_a_face_without_area_is_zero():
    assert_array_equal(normals(np.ones((1, 3, 3)), np.zeros(1, np.int64)), np.zeros((1, 3)))
