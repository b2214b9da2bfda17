import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from components.representations.descriptors import Descriptors
from tests.components.kernels.shapes import box, sphere
from tests.components.representations.test_points import mesh


def descriptor(asset, seed=0, **fields):
    descriptors = Descriptors(**fields)
    (row,) = descriptors.rows(asset, descriptors.generator(seed, "a"))
    return row["descriptor"]


def test_a_row_is_what_the_columns_declare():
    actual, column = descriptor(mesh(sphere())), Descriptors().columns()["descriptor"]

    assert (actual.shape, str(actual.dtype)) == (column.shape, column.dtype) == ((64 + 1728 + 3,), "float32")


def test_distances_on_a_sphere_follow_their_law():
    """On a sphere of diameter 1 the distance of two random points has the density 2 d."""
    edges = np.linspace(0, np.sqrt(3), 65).clip(0, 1)

    shares = descriptor(mesh(sphere(subdivisions=4)), pairs=200_000)[:64]

    assert_allclose(shares, np.diff(edges**2), atol=0.004)
    assert shares.sum() == pytest.approx(1)


def test_the_cells_of_a_box_are_its_shell():
    cells = descriptor(mesh(box((1, 1, 1))), count=20_000)[64:-3].reshape(12, 12, 12)

    assert cells.sum() == 12**3 - 10**3
    assert not cells[1:-1, 1:-1, 1:-1].any()


def test_proportions_end_the_vector():
    assert_allclose(descriptor(mesh(box((4, 2, 1)) + 5))[-3:], [1, 0.5, 0.25])


def test_neither_the_unit_nor_the_place_matters():
    assert_allclose(descriptor(mesh(8 * box((4, 2, 1)) + 16)), descriptor(mesh(box((4, 2, 1)))), atol=1e-5)


def test_a_row_depends_on_the_seed():
    asset = mesh(sphere())

    assert_array_equal(descriptor(asset), descriptor(asset))
    assert not np.array_equal(descriptor(asset, seed=1), descriptor(asset))
