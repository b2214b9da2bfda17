import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from components.formats.mesh import Mesh
from components.representations.views import Views, directions, look_at, look_up
from tests.components.kernels.shapes import box, sphere
from tests.components.representations.test_points import mesh


def rows(views, asset):
    return list(views.rows(asset, views.generator(0, "a")))


def points(row):
    """What the pixels of a view see, in the world [S, 3]."""
    line, column = np.nonzero(row["mask"])
    z = row["depth"][line, column].astype(np.float64)
    camera = np.stack([column + 0.5, line + 0.5, np.ones(len(z))]) * z
    pose = row["camera_to_world"].astype(np.float64)
    return (pose[:3, :3] @ np.linalg.solve(row["intrinsics"], camera)).T + pose[:3, 3]


@pytest.mark.parametrize("count", [1, 12, 24])
def test_every_view_is_a_row_of_what_the_columns_declare(count):
    views = Views(count=count, size=16)

    actual = rows(views, mesh(sphere()))

    assert [int(row["view"]) for row in actual] == list(range(count))
    for row in actual:
        assert {name: (column.shape, column.dtype) for name, column in views.columns().items()} == {
            name: (value.shape, str(value.dtype)) for name, value in row.items()
        }


def test_depth_and_camera_put_a_sphere_back_together():
    for row in rows(Views(count=6, size=48), mesh(5 * sphere(subdivisions=4) + 3)):
        cloud = points(row)

        assert len(cloud) > 500
        assert_allclose(np.linalg.norm(cloud, axis=1), 1, atol=3e-3)
        seen = row["normal"][row["mask"] == 1]
        assert (seen * cloud).sum(axis=1).min() > 0.98


def test_metric_keeps_lengths():
    for row in rows(Views(count=2, size=48, metric=True), mesh(5 * sphere(subdivisions=4) + 3)):
        assert_allclose(np.linalg.norm(points(row), axis=1), 5, atol=0.02)


def test_the_shape_fits_the_picture_and_fills_it():
    for row in rows(Views(count=24, size=64), mesh(sphere(subdivisions=4))):
        across = row["mask"].any(axis=0)

        assert 60 <= across.sum() <= 64


def test_cameras_are_rigid_look_at_the_shape_and_stand_upright():
    for direction in np.concatenate([directions(12), directions(40)]):
        pose = look_at(3 * direction)

        assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        assert_allclose(pose[:3, 2], -direction)
        assert pose[1, 0] == pytest.approx(0) and pose[1, 1] < 0  # x level, y downward


def test_up_to_twenty_views_stand_in_a_ring_and_more_all_round():
    assert_allclose(directions(20)[:, 1], 0.5)
    assert_allclose(directions(100).mean(axis=0), 0, atol=0.02)
    assert directions(100)[:, 1].min() < -0.98


def test_what_is_up_is_up_in_the_picture():
    post = box((0.2, 2, 0.2)) + [0, 1, 0]
    foot = box((1, 0.2, 1))

    mask = rows(Views(count=1), mesh(np.concatenate([post, foot])))[0]["mask"]

    assert mask[:32].sum() < mask[32:].sum()


def test_hold_out_makes_every_so_manyth_view_test_and_those_half_way_between_val():
    held = [row["split"] for row in rows(Views(count=8, size=8, hold_out=4), mesh(sphere()))]

    assert held == ["test", "train", "val", "train"] * 2
    assert "split" not in rows(Views(count=1, size=8), mesh(sphere()))[0]


def test_where_nothing_is_there_is_white_and_zero():
    row = rows(Views(count=1), mesh(sphere()))[0]
    nothing = row["mask"] == 0

    assert nothing.any()
    assert (row["color"][nothing] == 255).all()
    assert (row["depth"][nothing] == 0).all() and (row["normal"][nothing] == 0).all()
    assert (row["depth"][~nothing] > 0).all()


def square(**fields):
    """A unit square that looks along z, of two faces."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), **fields)


def colors(asset, **fields):
    row = rows(Views(count=1, size=32, shading=0.0, **fields), asset)[0]
    return row["color"][row["mask"] == 1]


UV = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], np.float32)


def test_a_face_has_its_material():
    palette = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)

    seen = colors(square(materials=np.array([0, 1], np.int32), colors=palette))

    assert_array_equal(np.unique(seen, axis=0), [[0, 0, 255], [255, 0, 0]])


def test_colors_of_vertices_win_over_materials_and_are_blended():
    seen = colors(square(vertex_colors=np.array([[0, 0, 0], [200, 0, 0], [200, 0, 0], [0, 0, 0]], np.uint8)))

    assert seen[:, 0].min() < 20 and seen[:, 0].max() > 180
    assert len(np.unique(seen[:, 0])) > 10


def test_a_texture_wins_and_lies_the_right_way_up():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, :, 0], picture[4:, :, 1] = 255, 255  # red above, green below
    asset = square(uv=UV, textures=(picture,), vertex_colors=np.full((4, 3), 9, np.uint8))

    row = rows(Views(count=1, size=32, shading=0.0), asset)[0]
    lines = np.nonzero(row["mask"].any(axis=1))[0]
    column = 16

    assert_array_equal(row["color"][lines[2], column], [255, 0, 0])
    assert_array_equal(row["color"][lines[-3], column], [0, 255, 0])


def test_a_texture_of_a_tinted_mesh_is_seen_through_the_colors_of_its_vertices():
    """As light: half of it is 188 in sRGB, not 128, and a quarter is 138."""
    picture = np.full((1, 1, 3), [255, 255, 188], np.uint8)
    fields = {"uv": UV, "textures": (picture,), "vertex_colors": np.full((4, 3), [255, 188, 188], np.uint8)}

    assert_array_equal(np.unique(colors(square(**fields, tinted=True)), axis=0), [[255, 188, 138]])
    assert_array_equal(np.unique(colors(square(**fields)), axis=0), [[255, 255, 188]])


def test_a_texture_repeats_and_is_blended_between_texels():
    picture = np.zeros((1, 4, 3), np.uint8)
    picture[0, 1] = 100

    seen = look_up(picture, np.array([[0.375, 0.5], [0.5, 0.5], [1.375, 0.5], [-0.625, 7.5], [0.0, 0.5]]))

    assert_allclose(seen[:, 0], [100, 50, 100, 100, 0])


def test_shading_darkens_and_does_not_depend_on_the_way_a_face_looks():
    asset, turned = mesh(sphere()), mesh(sphere()[:, ::-1])
    lit, again = (rows(Views(count=1), a)[0]["color"] for a in (asset, turned))

    assert len(np.unique(lit[..., 0])) > 20
    assert_array_equal(again, lit)
    assert len(np.unique(colors(asset))) == 1


def test_chance_has_no_part():
    views, asset = Views(count=1, size=16), mesh(sphere())
    one, other = (next(views.rows(asset, views.generator(seed, "a")))["color"] for seed in (0, 1))

    assert_array_equal(one, other)


def test_supersampled_colours_are_means_of_finer_ones_and_leave_depth_alone():
    shape = mesh(sphere())
    (coarse,) = rows(Views(count=1, size=16, supersample=4), shape)
    (plain,) = rows(Views(count=1, size=16), shape)
    (fine,) = rows(Views(count=1, size=64), shape)

    means = fine["color"].reshape(16, 4, 16, 4, 3).mean((1, 3))

    assert np.abs(coarse["color"] - means).max() <= 1
    assert np.array_equal(coarse["depth"], plain["depth"])
    assert not np.array_equal(coarse["color"], plain["color"])
