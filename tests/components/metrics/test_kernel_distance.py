import numpy as np
import pytest

from components.errors import DataError
from components.metrics.kernel_distance import blockwise_kernel_distance, kernel, kernel_distance


def pair(rows=20, dimensions=5, offset=0.0, seed=0):
    x, y = np.random.default_rng(seed).standard_normal((2, rows, dimensions))
    return x, y + offset


def slow_twin(x, y):
    """The definition, pair by pair."""

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    within_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    return within_x + within_y - 2 * np.mean([k(a, b) for a in x for b in y])


def slow_error(x, y):
    """Leaves out each sample in turn and starts again."""
    variance = 0.0
    for which, z in enumerate((x, y)):
        left = [np.delete(z, i, 0) for i in range(len(z))]
        values = np.array([slow_twin(*((part, y) if which == 0 else (x, part))) for part in left])
        variance += (len(z) - 1) / len(z) * ((values - values.mean()) ** 2).sum()
    return np.sqrt(variance)


def test_it_agrees_with_the_definition():
    x, y = pair(12)[0], pair(9)[1]

    assert kernel_distance(x, y).value == pytest.approx(slow_twin(x, y), rel=1e-12)


def test_its_error_agrees_with_leaving_out_each_sample():
    x, y = pair(10, offset=0.5)[0], pair(8, offset=0.5)[1]

    assert kernel_distance(x, y).error == pytest.approx(slow_error(x, y), rel=1e-9)


def test_it_is_symmetric():
    x, y = pair(offset=1.0)

    assert kernel_distance(x, y).value == pytest.approx(kernel_distance(y, x).value, rel=1e-10)


def test_it_has_no_bias():
    """The mean over resamples of one distribution is 0 within four standard errors, even for ten samples."""
    values = np.array([kernel_distance(*pair(10, seed=seed)).value for seed in range(1000)])

    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert (values < 0).any()


def test_the_biased_one_would_be_caught():
    """With the diagonal left in, the same test fails."""
    values = []
    for seed in range(1000):
        x, y = pair(10, seed=seed)
        values.append(kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())

    assert np.mean(values) > 4 * np.std(values) / np.sqrt(1000)


def test_its_error_is_about_the_spread_over_resamples():
    found = [kernel_distance(*pair(60, offset=0.7, seed=seed)) for seed in range(200)]

    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.2)


def test_it_grows_with_the_offset():
    values = [kernel_distance(*pair(200, offset=offset)).value for offset in (0.0, 0.5, 1.0, 2.0)]

    assert values == sorted(values)
    assert values[1] > 5 * abs(values[0])


def test_the_closed_form_for_constant_features():
    """With all x = 0 and all y = c, it is 1 + k(c, c) - 2."""
    x, y = np.zeros((5, 4)), np.full((6, 4), 2.0)

    assert kernel_distance(x, y).value == pytest.approx((4 + 1) ** 3 + 1 - 2)
    assert kernel_distance(x, y).error == pytest.approx(0, abs=1e-9)


def test_blocks_give_nearly_the_value_of_all_pairs():
    x, y = pair(600, offset=0.5)

    whole, blocks = kernel_distance(x, y), blockwise_kernel_distance(x, y, size=100)
    assert abs(blocks.value - whole.value) < 4 * blocks.error


def test_blocks_have_no_bias_and_an_honest_error():
    found = [blockwise_kernel_distance(*pair(60, seed=seed), size=10) for seed in range(300)]

    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(300)
    assert np.sqrt(np.mean([one.error**2 for one in found])) == pytest.approx(values.std(), rel=0.2)


def test_blocks_are_the_same_for_the_same_seed():
    x, y = pair(60)

    assert blockwise_kernel_distance(x, y, size=10) == blockwise_kernel_distance(x, y, size=10)
    assert blockwise_kernel_distance(x, y, size=10) != blockwise_kernel_distance(x, y, size=10, seed=1)


def test_two_samples_are_too_few():
    with pytest.raises(DataError, match="three samples"):
        kernel_distance(*pair(2))


def test_one_block_is_too_few():
    with pytest.raises(DataError, match="Two blocks of 15 samples"):
        blockwise_kernel_distance(*pair(20), size=15)
