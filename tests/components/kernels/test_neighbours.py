import numpy as np
import pytest
from numpy.testing import assert_array_equal

from components.kernels.neighbours import farthest


def twin(points, count, start=0):
    """Farthest points by the plain double loop; argmax takes the lowest row of a tie."""
    chosen, distance = [start], np.full(len(points), np.inf)
    while len(chosen) < count:
        difference = points - points[chosen[-1]]
        distance = np.minimum(distance, difference[:, 0] ** 2 + (difference[:, 1] ** 2 + difference[:, 2] ** 2))
        chosen.append(distance.argmax())
    return np.array(chosen)


@pytest.mark.parametrize("number", [1, 2, 33, 1000])
@pytest.mark.parametrize("flatness", [1.0, 0.0])
def test_chooses_what_the_plain_loop_chooses(number, flatness):
    points = np.random.default_rng(number).normal(size=(number, 3)) * [1, flatness, 1]

    assert_array_equal(farthest(points, number), twin(points, number))


def test_ties_go_to_the_lower_row():
    points = np.random.default_rng(0).permutation(np.stack(np.indices((7, 7, 7)), axis=-1).reshape(-1, 3)).astype(float)

    assert_array_equal(farthest(points, 343, start=5), twin(points, 343, start=5))


def test_begins_where_it_is_told():
    points = np.random.default_rng(0).normal(size=(100, 3))

    assert_array_equal(farthest(points, 20, start=42), twin(points, 20, start=42))
    assert farthest(points, 1, start=42)[0] == 42


def test_the_eight_corners_of_a_cube_come_before_its_inside():
    corners = np.stack(np.indices((2, 2, 2)), axis=-1).reshape(-1, 3) * 2.0 - 1
    points = np.concatenate([corners, np.random.default_rng(0).uniform(-0.3, 0.3, (500, 3))])

    assert set(farthest(points, 8)) == set(range(8))


def test_when_all_distinct_points_are_taken_the_last_is_repeated():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])

    assert_array_equal(farthest(points, 4), [0, 1, 1, 1])


def test_single_precision_is_read_as_it_stands():
    points = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)

    assert_array_equal(farthest(points, 300), twin(points.astype(np.float64), 300))


@pytest.mark.parametrize("count, start", [(5, 0), (2, 4), (2, -1)])
def test_too_few_points_are_refused(count, start):
    with pytest.raises(ValueError, match="4 points: draw more points, or choose fewer"):
        farthest(np.zeros((4, 3)), count, start=start)
