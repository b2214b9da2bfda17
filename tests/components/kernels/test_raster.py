import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from components.kernels.raster import rasterize
from tests.components.kernels.shapes import box, soup, sphere

CAMERA = np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])
HEIGHT, WIDTH = 48, 64


def rays():
    """The direction of each pixel's ray [H, W, 3], 1 along z."""
    row, column = np.indices((HEIGHT, WIDTH)) + 0.5
    return np.stack([(column - 32) / 40, (row - 24) / 40, np.ones((HEIGHT, WIDTH))], axis=-1)


def twin(triangles, near):
    """Every ray against every triangle (Moller and Trumbore 1997), both sides."""
    depth, faces = np.full((HEIGHT, WIDTH), np.inf), np.full((HEIGHT, WIDTH), -1)
    weights = np.zeros((HEIGHT, WIDTH, 2))
    for face, (origin, one, two) in enumerate(triangles):
        edges = np.stack(np.broadcast_arrays(-rays(), one - origin, two - origin), axis=-1)
        with np.errstate(all="ignore"):
            z, u, v = np.moveaxis(
                np.linalg.solve(edges, np.broadcast_to(-origin, edges.shape[:-1])[..., None])[..., 0], -1, 0
            )
        nearer = (u >= 0) & (v >= 0) & (u + v <= 1) & (z >= near) & (z < depth)
        depth[nearer], faces[nearer], weights[nearer] = z[nearer], face, np.stack([u, v], axis=-1)[nearer]
    return np.where(faces < 0, 0, depth), faces, weights


@pytest.mark.parametrize("edge", [0.02, 0.2, 2.0])
def test_sees_what_rays_hit(edge):
    triangles = soup(np.random.default_rng(0), 60, edge=edge) * 2 + [
        0,
        0,
        2,
    ]  # some cross the near plane, or lie behind

    expected = twin(triangles, near=0.5)
    actual = rasterize(triangles, CAMERA, HEIGHT, WIDTH, near=0.5)

    assert_array_equal(actual[1], expected[1])
    assert_allclose(actual[0], expected[0], rtol=1e-5)
    assert_allclose(actual[2], expected[2], atol=1e-5)


def test_a_sphere_is_as_far_as_its_equation_says():
    depth, faces, _ = rasterize(sphere(subdivisions=5) + [0, 0, 3], CAMERA, HEIGHT, WIDTH)

    square = (rays() ** 2).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        expected = (3 - np.sqrt(9 - 8 * square)) / square  # the nearer root of |z d - c|^2 = 1
    inside = 9 - 8 * square > 0.05

    assert (faces[inside] >= 0).all() and (faces[9 - 8 * square < 0] < 0).all()
    assert_allclose(depth[inside], expected[inside], atol=2e-3)


def test_a_triangle_that_crosses_the_near_plane_is_cut_there():
    floor = np.array([[[-5000.0, 1, -50], [5000, 1, -50], [0, 1, 150]]])  # one unit below the camera, from behind it on

    depth, faces, _ = rasterize(floor, CAMERA, HEIGHT, WIDTH, near=2.5)
    expected = np.where(rays()[..., 1] > 0, 1 / rays()[..., 1].clip(1e-9), np.inf)
    seen = (expected >= 2.5) & (expected < 100)

    assert_array_equal(faces >= 0, seen)
    assert seen.any(axis=1).sum() == 16  # rows whose depth 40 / (row - 23.5) is 2.5 or more
    assert_allclose(depth[seen], expected[seen], rtol=1e-6)


def test_what_is_behind_the_camera_is_not_seen():
    assert (rasterize(sphere() - [0, 0, 3], CAMERA, HEIGHT, WIDTH)[1] == -1).all()


def test_from_within_a_box_there_is_no_gap():
    depth, faces, _ = rasterize(box((2, 2, 2)), CAMERA, HEIGHT, WIDTH)

    assert (faces >= 0).all()
    assert_allclose(depth, 1 / np.abs(rays()).max(axis=-1), rtol=1e-6)


def test_faces_that_share_an_edge_leave_no_gap():
    generator = np.random.default_rng(0)
    steps = np.stack(np.meshgrid(np.arange(-20, 21), np.arange(-20, 21)), axis=-1) / 8
    points = np.concatenate(
        [steps, 3 + generator.normal(size=(41, 41, 1)) * 0.05], axis=-1
    )  # corners hit pixel centres
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    sheet = np.stack([np.stack([a, b, c], axis=-2), np.stack([a, c, d], axis=-2)]).reshape(-1, 3, 3)

    assert (rasterize(sheet, CAMERA, HEIGHT, WIDTH)[1] >= 0).all()


def test_a_pixel_is_seen_at_its_centre():
    dot = np.array([[[-0.4, -0.4, 40], [0.4, -0.4, 40], [0, 0.4, 40]]])  # within half a pixel of the optical axis
    on_centre = dot + [0.5, 0.5, 0]

    assert (rasterize(dot, CAMERA, HEIGHT, WIDTH)[1] < 0).all()
    assert_array_equal(np.argwhere(rasterize(on_centre, CAMERA, HEIGHT, WIDTH)[1] == 0), [[24, 32]])


def test_both_sides_of_a_face_are_seen():
    triangle = np.array([[[-1.0, -1, 2], [1, -1, 2], [0, 1, 2]]])

    front = rasterize(triangle, CAMERA, HEIGHT, WIDTH)
    back = rasterize(triangle[:, ::-1], CAMERA, HEIGHT, WIDTH)

    assert (front[1] >= 0).sum() > 300
    assert_array_equal(back[1], front[1])
    assert_allclose(back[0], front[0])


def test_weights_are_right_in_perspective():
    triangle = np.array([[[-1.0, -1, 1.5], [3, -1, 6], [-1, 2, 3]]])

    depth, faces, weights = rasterize(triangle, CAMERA, HEIGHT, WIDTH)
    seen = faces == 0
    one, two = weights[seen].T.astype(float)
    points = (1 - one - two)[:, None] * triangle[0, 0] + one[:, None] * triangle[0, 1] + two[:, None] * triangle[0, 2]

    assert_allclose(points, rays()[seen] * depth[seen][:, None], atol=1e-5)


def test_faces_without_area_or_seen_edge_on_are_left_out():
    flat = np.array([[[0.0, 0, 2], [0, 0, 2], [0, 0, 2]], [[0.0, -1, 2], [0, 1, 2], [0, 0, 3]]])

    depth, faces, _ = rasterize(flat, CAMERA, HEIGHT, WIDTH)

    assert (faces == -1).all() and (depth == 0).all()


def test_no_triangles_give_an_empty_picture():
    depth, faces, weights = rasterize(np.zeros((0, 3, 3)), CAMERA, HEIGHT, WIDTH)

    assert depth.dtype == np.float32 and faces.dtype == np.int32 and weights.shape == (HEIGHT, WIDTH, 2)
    assert (faces == -1).all() and (depth == 0).all()
