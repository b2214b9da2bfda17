import numpy as np
import pytest

from components.errors import DataError
from components.metrics.coverage import coverage


def cloud(rows=200, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, 2))


def two_heaps(rows=100):
    return np.concatenate([cloud(rows), cloud(rows, seed=1) + 100])


def test_a_set_covers_itself():
    found = coverage(cloud(), cloud())

    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_far_sets_share_nothing():
    found = coverage(cloud(), cloud() + 100)

    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)


def test_samples_of_one_heap_of_two_are_precise_and_recall_half():
    found = coverage(two_heaps(), cloud(seed=2))

    assert found.precision > 0.9
    assert found.recall == pytest.approx(0.5, abs=0.05)
    assert found.coverage == pytest.approx(0.5, abs=0.05)


def test_real_data_in_one_heap_of_two_made_are_recalled_at_half_the_precision():
    found = coverage(cloud(seed=2), two_heaps())

    assert found.precision == pytest.approx(0.5, abs=0.05)
    assert found.recall > 0.9


def test_a_ball_reaches_to_the_neighbour_asked_for():
    real, made = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[4.5], [-1.0], [9.0]])

    # the ball around 3 reaches 1 with one neighbour, and 2 with two: 4.5 lies within the second only
    assert coverage(real, made, neighbours=1).precision == pytest.approx(1 / 3)
    assert coverage(real, made, neighbours=2).precision == pytest.approx(2 / 3)


def test_too_few_samples_are_refused():
    with pytest.raises(DataError, match="but got 3 and 3"):
        coverage(cloud(3), cloud())
