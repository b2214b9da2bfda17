import numpy as np
import pytest

from components.errors import DataError
from components.metrics.frechet import Moments, distance_of_moments, frechet_distance, frechet_error, gaussian_distance


def sample(rows, dimensions=8, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, dimensions)) @ generator.standard_normal((dimensions, dimensions))


def slow_twin(x, y):
    """The definition, by the square root of a matrix."""
    from scipy.linalg import sqrtm

    cross = sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    offset = x.mean(0) - y.mean(0)
    return offset @ offset + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * cross)


def test_a_set_is_at_no_distance_from_itself():
    x = sample(200)

    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)


def test_it_agrees_with_the_definition():
    x, y = sample(300), sample(400, seed=1)

    assert frechet_distance(x, y) == pytest.approx(slow_twin(x, y), rel=1e-9)


def test_it_is_symmetric():
    x, y = sample(300), sample(400, seed=1)

    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-10)


def test_diagonal_gaussians_have_a_closed_form():
    generator = np.random.default_rng(0)
    m, n = generator.standard_normal((2, 64))
    a, b = generator.uniform(0.1, 3, (2, 64))

    closed = ((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert gaussian_distance(m, np.diag(a), n, np.diag(b)) == pytest.approx(closed, rel=1e-12)


def test_covariances_that_commute_have_a_closed_form():
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    a, b = np.arange(1.0, 7), np.arange(2.0, 14, 2)

    found = gaussian_distance(np.zeros(6), axes * a @ axes.T, np.zeros(6), axes * b @ axes.T)
    assert found == pytest.approx(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-12)


def test_one_dimension_is_enough():
    assert gaussian_distance([1.0], [[4.0]], [3.0], [[1.0]]) == pytest.approx(4 + 1)
    x = sample(50, 1)
    assert frechet_distance(x, x + 3) == pytest.approx(9)


@pytest.mark.parametrize("rows", [300, 6])
def test_a_translation_costs_its_squared_length(rows):
    x, offset = sample(rows), np.arange(8.0)

    assert frechet_distance(x, x + offset, **few(rows)) == pytest.approx((offset**2).sum(), rel=1e-9)


@pytest.mark.parametrize("rows", [300, 6])
def test_a_common_rotation_changes_nothing(rows):
    x, y = sample(rows), sample(rows, seed=1)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((8, 8)))[0]

    assert frechet_distance(x @ turn, y @ turn, **few(rows)) == pytest.approx(
        frechet_distance(x, y, **few(rows)), rel=1e-7
    )


def few(rows):
    return {"few": "warn"} if rows <= 8 else {}


pytestmark = pytest.mark.filterwarnings("ignore:A Frechet distance needs more samples")


def test_with_few_samples_both_routes_agree():
    x, y = sample(20, 64), sample(25, 64, seed=1)

    by_eigenvalues = gaussian_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert frechet_distance(x, y, few="warn") == pytest.approx(by_eigenvalues, rel=1e-5)


def test_few_samples_are_refused():
    with pytest.raises(DataError, match="more samples than features, but got 8 samples of 8 features"):
        frechet_distance(sample(300), sample(8))


def test_few_samples_can_be_had_with_a_warning():
    with pytest.warns(UserWarning, match="more samples than features"):
        frechet_distance(sample(8), sample(8, seed=1), few="warn")


def test_one_sample_is_no_sample():
    with pytest.raises(DataError, match="two samples"):
        frechet_distance(sample(1), sample(8), few="warn")


def test_moments_of_shards_add_up_to_those_of_the_whole():
    x, y = sample(1000) + 5, sample(900, seed=1)
    parts = [Moments.of(part) for part in np.array_split(x, 7)]

    merged, whole = sum(parts[1:], parts[0]), Moments.of(x)
    assert merged.count == 1000
    assert distance_of_moments(merged, Moments.of(y)) == pytest.approx(
        distance_of_moments(whole, Moments.of(y)), rel=1e-8
    )
    assert distance_of_moments(merged, Moments.of(y)) == pytest.approx(frechet_distance(x, y), rel=1e-8)
    np.testing.assert_allclose(merged.covariance, np.cov(x.T), rtol=1e-8)


def test_moments_take_single_precision_and_sum_in_double():
    x = (sample(50) + 1000).astype(np.float32)

    assert Moments.of(x).outer.dtype == np.float64
    np.testing.assert_allclose(Moments.of(x).covariance, np.cov(x.astype(np.float64).T), rtol=1e-6, atol=1e-6)


def test_moments_of_too_few_rows_are_refused():
    with pytest.raises(DataError):
        distance_of_moments(Moments.of(sample(5)), Moments.of(sample(100)))


def test_the_bias_between_samples_of_one_gaussian_falls_with_their_number():
    """MEASURED.md, table C: N times the distance is about 2,200 in 64 dimensions."""
    generator = np.random.default_rng(0)
    for rows in (200, 1000):
        found = [frechet_distance(*generator.standard_normal((2, rows, 64))) for _ in range(3)]

        assert rows * np.mean(found) == pytest.approx(2200, rel=0.15)


def test_the_error_is_about_the_spread_over_samples():
    generator = np.random.default_rng(0)
    pairs = [(generator.standard_normal((200, 3)), generator.standard_normal((200, 3)) + 1) for _ in range(40)]

    spread = np.std([frechet_distance(x, y) for x, y in pairs], ddof=1)
    assert np.mean([frechet_error(x, y) for x, y in pairs]) == pytest.approx(spread, rel=0.35)
