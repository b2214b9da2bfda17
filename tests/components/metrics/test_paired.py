"""
Differences of scores over the same parts of the data, and how sure they are.
"""

from math import isnan, nan, sqrt

import numpy as np
import pytest

from components.metrics.paired import difference, jackknife, paired_error, surpasses


def without_each(values: np.ndarray) -> list[float]:
    return [float(np.delete(values, place).mean()) for place in range(len(values))]


def scores(values: np.ndarray, parts: str = "same", **more: object) -> dict:
    return {
        "goal": "accuracy",
        "val": {"accuracy": float(values.mean())},
        "left_out": {"val": without_each(values)},
        "parts": {"val": parts},
        **more,
    }


def test_the_jackknife_of_a_mean_is_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).standard_normal(30)

    assert jackknife(without_each(values)) == pytest.approx(values.std(ddof=1) / sqrt(30))


def test_one_part_tells_no_error():
    assert isnan(jackknife([0.5]))
    assert isnan(jackknife([]))


def test_the_error_of_a_difference_is_that_of_the_differences():
    one, other = np.random.default_rng(0).standard_normal((2, 30))

    assert paired_error(without_each(one), without_each(other)) == pytest.approx((one - other).std(ddof=1) / sqrt(30))


def test_the_same_answers_differ_by_nothing_for_sure():
    values = np.array([0.0, 1, 1, 0])

    assert difference(scores(values), scores(values), "val") == (0, 0)


def test_what_is_hard_for_both_leaves_the_difference_sure():
    """Two models that are wrong on the same half, but for one row."""
    one = np.array([1.0] * 20 + [0.0] * 20)
    other = np.where(np.arange(40) == 0, 0.0, one)
    value, error = difference(scores(one), scores(other), "val")

    assert value == pytest.approx(1 / 40)
    assert error == pytest.approx(1 / 40)  # of forty differences one is 1
    assert error < jackknife(without_each(one)) / 3


def test_scores_of_other_parts_differ_as_independent_samples_do():
    one, other = np.random.default_rng(0).standard_normal((2, 30))
    _, error = difference(scores(one), scores(other, "others"), "val")

    assert error == pytest.approx(sqrt((one.var(ddof=1) + other.var(ddof=1)) / 30))


def test_scores_without_parts_have_a_difference_and_no_error():
    bare = {"goal": "accuracy", "val": {"accuracy": 0.5}, "left_out": {}, "parts": {}}
    value, error = difference(bare, {**bare, "val": {"accuracy": 0.25}}, "val")

    assert value == 0.25
    assert isnan(error)


def test_a_difference_surpasses_by_more_than_its_error_and_a_nan_never_does():
    assert surpasses(0.2, 0.1, "max") and not surpasses(0.1, 0.1, "max") and not surpasses(-0.2, 0.1, "max")
    assert surpasses(-0.2, 0.1, "min") and not surpasses(0.2, 0.1, "min")
    assert surpasses(0.2, nan, "max") and not surpasses(0.0, nan, "max")
    assert not surpasses(nan, 0.1, "max") and not surpasses(nan, 0.1, "min")
