import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import ndimage

from components.kernels.voxels import closed, fill, solid, surface
from tests.components.kernels.shapes import box, soup, sphere, torus


def separating_axes(triangles, resolution):
    """Every triangle against every unit voxel, along all thirteen axes (Akenine-Moller 2001)."""
    centres = np.stack(np.indices((resolution,) * 3), axis=-1) + 0.5
    grid = np.zeros((resolution,) * 3, bool)
    for triangle in triangles:
        edges = np.roll(triangle, -1, axis=0) - triangle
        crossed = [np.cross(axis, edge) for axis in np.eye(3) for edge in edges]
        meets = np.ones_like(grid)
        for axis in [*np.eye(3), np.cross(edges[0], edges[1]), *crossed]:
            corners, middles = triangle @ axis, centres @ axis
            reach = np.abs(axis).sum() / 2 + 1e-9
            meets &= (corners.min() <= middles + reach) & (corners.max() >= middles - reach)
        grid |= meets
    return grid


def labelled(grid):
    """What is not joined to the border, by labels of the free voxels."""
    labels, _ = ndimage.label(np.pad(~grid, 1, constant_values=True))
    return (labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1]


@pytest.mark.parametrize("edge", [0.02, 0.1, 0.5])
def test_marks_what_separating_axes_mark(edge):
    triangles = soup(np.random.default_rng(0), 150, scale=14, edge=edge) + 6  # some lie partly or wholly outside

    assert_array_equal(surface(triangles, 12, np.zeros(3), 12.0), separating_axes(triangles, 12))


def test_marks_slivers_and_points_as_segments_and_points():
    triangles = soup(np.random.default_rng(0), 100, scale=12) + 6
    triangles[:, 2] = triangles[:, 0] + 0.3 * (triangles[:, 1] - triangles[:, 0])
    triangles[::5] = triangles[::5, :1]

    assert_array_equal(surface(triangles, 12, np.zeros(3), 12.0), separating_axes(triangles, 12))


def test_a_box_between_voxel_sides_has_the_exact_count():
    grid = surface(box((8, 6, 4)) + 0.5, 16, np.full(3, -8.0), 16.0)  # each side lies in the middle of a voxel layer

    assert grid.sum() == 9 * 7 * 5 - 7 * 5 * 3
    assert solid(box((8, 6, 4)) + 0.5, 16, np.full(3, -8.0), 16.0).sum() == 9 * 7 * 5


def test_a_side_between_two_voxels_touches_both():
    grid = surface(box((8, 6, 4)), 16, np.full(3, -8.0), 16.0)

    assert grid.sum() == 10 * 8 * 6 - 6 * 4 * 2


def test_a_triangle_within_one_voxel_marks_it_alone():
    grid = surface(np.array([[[0.31, 0.52, 0.73], [0.32, 0.53, 0.74], [0.33, 0.51, 0.75]]]), 10, np.zeros(3), 1.0)

    assert_array_equal(np.argwhere(grid), [[3, 5, 7]])


def test_moving_by_whole_voxels_moves_the_grid():
    triangles = soup(np.random.default_rng(0), 30, scale=4, edge=0.1)

    here = surface(triangles, 16, np.full(3, -8.0), 16.0)
    there = surface(triangles + [3, -2, 1], 16, np.full(3, -8.0), 16.0)

    assert_array_equal(there, np.roll(here, (3, -2, 1), axis=(0, 1, 2)))


def test_a_mirrored_shape_gives_a_mirrored_grid():
    triangles = soup(np.random.default_rng(0), 30)

    here = surface(triangles, 17, np.full(3, -1.3), 2.6)

    assert_array_equal(surface(triangles * [-1, 1, 1], 17, np.full(3, -1.3), 2.6), here[::-1])


def test_what_lies_outside_the_grid_marks_nothing():
    for shift in np.concatenate([30 * np.eye(3), -30 * np.eye(3)]):
        assert not surface(sphere() + shift, 8, np.full(3, -2.0), 4.0).any()


@pytest.mark.parametrize("resolution", [1, 2, 16, 63, 64, 65, 130])
@pytest.mark.parametrize("density", [0.5, 0.68, 0.8])
def test_fills_what_labels_call_inside(resolution, density):
    grid = np.random.default_rng(resolution).random((resolution,) * 3) < density

    assert_array_equal(fill(grid), labelled(grid))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_flood_follows_a_winding_tunnel_to_its_end(axes):
    grid = np.ones((65, 65, 65), bool)
    for x in range(1, 62, 2):
        grid[x, 1:64, 32] = False
        grid[x + 1, 1 if x % 4 == 1 else 63, 32] = False
    sealed = grid.transpose(axes).copy()
    grid[0, 63, 32] = False
    opened = grid.transpose(axes)

    assert fill(sealed).all()
    assert_array_equal(fill(opened), opened)


def test_a_filled_sphere_has_no_holes_and_the_right_volume():
    grid = solid(sphere(subdivisions=4), 64, np.full(3, -1.25), 2.5)
    centres = (np.stack(np.indices(grid.shape), axis=-1) + 0.5) * 2.5 / 64 - 1.25
    distance = np.linalg.norm(centres, axis=-1)
    diagonal = 2.5 / 64 * np.sqrt(3)

    assert grid[distance < 0.99].all()
    assert not grid[distance > 1 + diagonal / 2].any()


def test_the_hole_of_a_torus_stays_open():
    grid = solid(torus(), 48, np.full(3, -1.5), 3.0)

    assert not grid[24, 24].any()
    assert grid[40, 24, 24]


@pytest.mark.parametrize("turn", [1, -1])
def test_a_sphere_with_holes_is_filled_whichever_way_it_looks(turn):
    triangles = sphere(subdivisions=4)
    kept = triangles[np.random.default_rng(0).random(len(triangles)) > 0.2]
    cut = kept[kept[:, :, 0].max(axis=1) < 0.9]  # and a cap is gone, so that the flood gets in
    low, size = np.full(3, -1.25), 2.5

    whole, rest = solid(triangles, 32, low, size), solid(cut[:, ::turn], 32, low, size)

    assert not fill(surface(cut, 32, low, size))[16, 16, 16]
    assert rest[16, 16, 16]
    assert (whole & rest).sum() / (whole | rest).sum() > 0.95


def test_an_open_cup_stays_empty():
    wall = box((1, 1, 1))
    cup = wall[wall[:, :, 1].min(axis=1) < 0.5]  # no lid
    inner = 0.8 * cup[:, ::-1] + [0, 0.1, 0]

    assert not solid(np.concatenate([cup, inner]), 32, np.full(3, -0.75), 1.5)[16, 16, 16]


def test_closed_means_that_edges_are_shared():
    assert closed(sphere())
    assert closed(np.concatenate([sphere(), torus()]))
    assert not closed(sphere()[1:])
    assert closed(np.concatenate([sphere(), np.ones((1, 3, 3))]))  # a face that is a point has no edge


def test_a_grid_may_be_anywhere_and_of_any_unit():
    triangles = soup(np.random.default_rng(0), 50)

    here = surface(triangles, 16, np.full(3, -1.0), 2.0)
    there = surface(triangles * 100 + 7, 16, np.full(3, -93.0), 200.0)

    assert_array_equal(there, here)


def test_the_layer_that_a_surface_adds_to_a_solid_halves_with_the_voxel():
    volume, triangles = 4 / 3 * np.pi, sphere(subdivisions=4)

    excess = [solid(triangles, r, np.full(3, -1.25), 2.5).sum() * (2.5 / r) ** 3 / volume - 1 for r in (32, 64)]

    assert 0 < excess[1] < 0.1
    assert excess[0] == pytest.approx(2 * excess[1], rel=0.1)
