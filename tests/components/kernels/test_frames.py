import numpy as np
import pytest
from numpy.testing import assert_allclose

from components.kernels.frames import box, reach, upright


@pytest.mark.parametrize("up, axis", [("x", 0), ("y", 1), ("z", 2)])
def test_the_axis_named_becomes_y_and_nothing_is_mirrored(up, axis):
    turned = upright(np.eye(3), up)

    assert_allclose(turned[axis], [0, 1, 0])
    assert np.linalg.det(turned) == pytest.approx(1)


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="`up` must be x, y or z, but got 'w'"):
        upright(np.eye(3), "w")


def test_the_box_and_the_reach_of_a_shape():
    points = np.array([[[0.0, 0, 0], [2, 4, 0]], [[1, 1, 6], [0, 0, 1]]])

    middle, sides = box(points)

    assert_allclose(middle, [1, 2, 3])
    assert_allclose(sides, [2, 4, 6])
    assert reach(points, middle) == pytest.approx(np.sqrt(14))
