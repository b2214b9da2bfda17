import numpy as np
import pytest
from numpy.testing import assert_array_equal

from components.errors import UsageError
from components.representations.voxels import Voxels
from tests.components.kernels.shapes import box, sphere
from tests.components.representations.test_points import mesh


def grid(voxels, asset):
    (row,) = voxels.rows(asset, voxels.generator(0, "a"))
    return row["voxels"]


def spans(filled):
    """The first and the last filled voxel along each axis."""
    return [(int(places.min()), int(places.max())) for places in np.nonzero(filled)]


def test_a_row_is_what_the_columns_declare():
    actual = grid(Voxels(resolution=24), mesh(sphere()))
    column = Voxels(resolution=24).columns()["voxels"]

    assert (actual.shape, str(actual.dtype)) == (column.shape, column.dtype)
    assert set(np.unique(actual)) == {0, 1}


def test_the_longest_side_leaves_the_pad_free_and_the_others_are_not_stretched():
    filled = grid(Voxels(resolution=32, pad=4), mesh(box((7.9, 4, 2)) + 3))  # 24 voxels wide, if just less

    assert spans(grid(Voxels(resolution=32, pad=4), mesh(sphere()))) == [(3, 28)] * 3  # sides touch the next voxel
    assert spans(filled)[0] == (3, 28)
    assert spans(filled)[1] == (9, 22)


def test_solid_counts_the_inside_and_surface_does_not():
    solid, surface = (grid(Voxels(solid=solid), mesh(sphere())) for solid in (True, False))

    assert solid[16, 16, 16] and not surface[16, 16, 16]
    assert (solid >= surface).all()


def test_y_is_up():
    tall = grid(Voxels(), mesh(box((1, 1, 5)), up="z"))

    assert np.ptp(np.nonzero(tall)[1]) == 29
    assert np.ptp(np.nonzero(tall)[2]) < 10


def test_an_edge_fixes_the_scale():
    small, large = (grid(Voxels(edge=8.0), mesh(sphere(radius))) for radius in (1, 2))

    assert np.ptp(np.nonzero(small)[0]) + 1 == pytest.approx(8, abs=2)
    assert np.ptp(np.nonzero(large)[0]) + 1 == pytest.approx(16, abs=2)
    assert "0.25 of the source's lengths" in Voxels(edge=8.0).columns()["voxels"].unit


def test_chance_has_no_part():
    voxels, asset = Voxels(), mesh(sphere())
    one, other = (next(voxels.rows(asset, voxels.generator(seed, "a")))["voxels"] for seed in (0, 1))

    assert_array_equal(one, other)


def test_a_pad_that_leaves_no_voxel_is_refused():
    with pytest.raises(UsageError, match="2 \\* `pad` must be below `resolution`, but got pad=4, resolution=8"):
        Voxels(resolution=8, pad=4)
