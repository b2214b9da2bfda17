import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from components.errors import UsageError
from components.formats.mesh import Mesh
from components.representations.points import Points
from tests.components.kernels.shapes import box, sphere


def mesh(triangles, up="y"):
    corners = triangles.reshape(-1, 3)
    return Mesh(corners.astype(np.float32), np.arange(len(corners), dtype=np.int32).reshape(-1, 3), up=up)


def row(points, asset, seed=0, name="a"):
    (row,) = points.rows(asset, points.generator(seed, name))
    return row


@pytest.mark.parametrize("unit", ["sphere", "box", "metric"])
@pytest.mark.parametrize("farthest", [False, True])
def test_a_row_is_what_the_columns_declare(unit, farthest):
    points = Points(count=100, normals=True, farthest=farthest, unit=unit)

    actual = row(points, mesh(sphere()))

    assert {name: (column.shape, column.dtype) for name, column in points.columns().items()} == {
        name: (value.shape, str(value.dtype)) for name, value in actual.items()
    }


def test_a_row_depends_on_the_seed_and_the_id_alone():
    points, asset = Points(count=64), mesh(sphere())
    first = row(points, asset)["points"]

    assert_array_equal(row(points, asset)["points"], first)
    assert not np.allclose(row(points, asset, seed=1)["points"], first)
    assert not np.allclose(row(points, asset, name="b")["points"], first)


def test_in_the_unit_sphere_the_centroid_is_zero_and_the_largest_norm_one():
    cloud = row(Points(count=500), mesh(box((4, 2, 1)) + 7))["points"]

    assert_allclose(cloud.mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1)


def test_in_the_unit_box_the_longest_side_is_one():
    cloud = row(Points(count=5000, unit="box"), mesh(box((4, 2, 1)) + 7))["points"]

    assert_allclose(np.ptp(cloud, axis=0), [1, 0.5, 0.25], atol=0.01)
    assert np.abs(cloud).max() <= 0.5 + 1e-6


def test_metric_keeps_lengths():
    cloud = row(Points(count=5000, unit="metric"), mesh(box((4, 2, 1)) + 7))["points"]

    assert_allclose(np.ptp(cloud, axis=0), [4, 2, 1], atol=0.02)


def test_what_was_up_is_y():
    cloud = row(Points(count=5000, unit="metric"), mesh(box((1, 2, 4)), up="z"))["points"]

    assert_allclose(np.ptp(cloud, axis=0), [1, 4, 2], atol=0.02)


def test_a_prefix_covers_the_whole_shape():
    cloud = row(Points(count=2000), mesh(sphere()))["points"]

    assert_allclose(cloud[:200].mean(axis=0), 0, atol=0.15)


def test_farthest_points_keep_their_distance():
    asset = mesh(sphere(subdivisions=4))
    random, even = (row(Points(count=256, farthest=far, unit="metric"), asset)["points"] for far in (False, True))

    def closest(cloud):
        distances = np.linalg.norm(cloud[:, None] - cloud[None], axis=-1)
        return (distances + 9 * np.eye(len(cloud))).min()

    assert closest(even) > 3 * closest(random)


def test_each_point_keeps_its_own_normal():
    actual = row(Points(count=300, normals=True, farthest=True, unit="metric"), mesh(sphere(subdivisions=4)))

    assert (actual["points"] * actual["normals"]).sum(axis=1).min() > 0.99


def test_an_unknown_unit_is_refused():
    with pytest.raises(UsageError, match="points.unit must be sphere or box or metric, but got 'ball'"):
        Points(unit="ball")
