import numpy as np
import pytest
from numpy.testing import assert_allclose

from components.kernels.winding import winding
from tests.components.kernels.shapes import box, soup, sphere, torus


def twin(triangles, points):
    """The solid angles, one arctangent each (Van Oosterom and Strackee 1983)."""
    a, b, c = np.moveaxis(triangles[None] - points[:, None, None], 2, 0)
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    sine = (a * np.cross(b, c)).sum(axis=-1)
    cosine = la * lb * lc + (a * b).sum(axis=-1) * lc + (b * c).sum(axis=-1) * la + (c * a).sum(axis=-1) * lb
    return np.arctan2(sine, cosine).sum(axis=1) / (2 * np.pi)


@pytest.mark.parametrize("faces", [1, 7, 8, 9, 300])
def test_agrees_with_a_sum_of_arctangents(faces):
    generator = np.random.default_rng(faces)
    triangles, points = soup(generator, faces), generator.normal(size=(500, 3))

    assert_allclose(winding(triangles, points), twin(triangles, points), atol=1e-12)


def test_surfaces_wound_many_times_are_counted_each_time():
    triangles = np.concatenate([sphere(radius) for radius in (1, 2, 3, 4, 5)])

    assert_allclose(winding(triangles, np.array([[0.1, 0.2, 0.3], [2.5, 0, 0], [9, 9, 9]])), [5, 3, 0], atol=1e-12)


def test_a_mesh_turned_inside_out_winds_minus_one():
    triangles = sphere()[:, ::-1]

    assert winding(triangles, np.zeros((1, 3)))[0] == pytest.approx(-1)


def test_an_open_sphere_still_winds_around_its_inside():
    generator = np.random.default_rng(0)
    triangles = sphere()
    kept = triangles[generator.random(len(triangles)) > 0.2]
    directions = generator.normal(size=(2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    assert (winding(kept, 0.8 * directions) > 0.5).all()
    assert (winding(kept, 1.2 * directions) < 0.5).all()
    assert winding(kept, np.zeros((1, 3)))[0] == pytest.approx(len(kept) / len(triangles), abs=0.01)


def test_clusters_taken_together_come_close():
    triangles = torus()[::2]
    points = np.random.default_rng(0).uniform(-1.6, 1.6, (3000, 3))

    error = np.abs(winding(triangles, points, near=2.0) - winding(triangles, points))

    assert 0 < error.max() < 0.02 and error.mean() < 0.003


def test_a_larger_near_errs_less():
    triangles = torus()[::2]
    points = np.random.default_rng(0).uniform(-1.6, 1.6, (3000, 3))
    exact = winding(triangles, points)

    errors = [np.abs(winding(triangles, points, near=near) - exact).mean() for near in (1.0, 2.0, 4.0)]

    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_from_afar_what_is_left_out_falls_with_the_fourth_power_of_the_distance():
    generator = np.random.default_rng(0)
    triangles, directions = soup(generator, 40), generator.normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    near, far = (
        np.abs(winding(triangles, d * directions, near=0.0) - winding(triangles, d * directions)).mean()
        for d in (20, 40)
    )

    assert near / far == pytest.approx(2**4, rel=0.05)  # the sum falls with the square, its first moment with the cube


@pytest.mark.parametrize("scale, shift", [(1e-6, 0.0), (1e6, 3e6)])
def test_neither_the_unit_nor_the_origin_matters(scale, shift):
    triangles, points = soup(np.random.default_rng(0), 40), np.random.default_rng(1).normal(size=(100, 3))

    assert_allclose(winding(triangles * scale + shift, points * scale + shift), winding(triangles, points), atol=1e-6)


def test_a_point_on_the_surface_gets_a_finite_number():
    triangles = box((2, 2, 2))
    points = np.array([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0.3, 0.2]])  # a corner, an edge, a diagonal, a face

    assert np.isfinite(winding(triangles, points)).all()


def test_the_order_of_points_does_not_matter():
    generator = np.random.default_rng(0)
    triangles, points = soup(generator, 100), generator.normal(size=(200, 3))
    order = generator.permutation(200)

    assert_allclose(winding(triangles, points[order]), winding(triangles, points)[order], atol=1e-12)


def test_nothing_winds_around_nothing():
    assert_allclose(winding(np.zeros((0, 3, 3)), np.zeros((3, 3))), 0)
    assert winding(sphere(), np.zeros((0, 3))).shape == (0,)
