import numpy as np
import pytest

from components.errors import DataError
from components.metrics.inception_score import inception_score, inception_score_over_splits


def answers(rows=1000, classes=10, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), rows)


def slow_twin(p):
    """exp( H(y) - H(y | x) ), the mutual information of picture and class."""
    marginal = p.mean(0)
    return np.exp(-(marginal * np.log(marginal)).sum() + (p * np.log(p)).sum(1).mean())


def test_answers_that_never_vary_score_one():
    assert inception_score(np.full((50, 10), 0.1)) == pytest.approx(1, abs=1e-12)


def test_sure_answers_over_all_classes_score_their_number():
    assert inception_score(np.eye(10)[np.arange(1000) % 10]) == pytest.approx(10, abs=1e-12)


def test_one_class_only_scores_one_however_sure():
    assert inception_score(np.eye(10)[np.zeros(100, int)]) == pytest.approx(1, abs=1e-12)


def test_half_of_the_classes_score_half():
    assert inception_score(np.eye(10)[np.arange(1000) % 5]) == pytest.approx(5, abs=1e-12)


def test_it_is_the_exponential_of_the_mutual_information():
    assert inception_score(answers()) == pytest.approx(slow_twin(answers()), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_it_lies_between_one_and_the_number_of_classes(seed):
    assert 1 < inception_score(answers(seed=seed)) < 10


def test_the_order_of_pictures_and_of_classes_does_not_matter():
    p = answers()

    assert inception_score(p[::-1, ::-1]) == pytest.approx(inception_score(p), rel=1e-12)


def test_splits_of_equal_answers_do_not_spread():
    mean, spread = inception_score_over_splits(np.eye(4)[np.arange(400) % 4], splits=10)

    assert mean == pytest.approx(4)
    assert spread == pytest.approx(0, abs=1e-12)


def test_small_splits_warn():
    with pytest.warns(UserWarning, match="ten samples a class, 100, but gets 10"):
        inception_score_over_splits(answers(100))


@pytest.mark.parametrize("wrong", [np.ones((3, 3)), np.array([[1.5, -0.5]]), np.zeros((0, 3))])
def test_what_are_no_probabilities_is_refused(wrong):
    with pytest.raises(DataError, match="sum to 1"):
        inception_score(wrong)
