"""
The kernel distance of two sets of features: the squared maximum mean discrepancy with a cubic kernel.

    k(x, y) = (x . y / D + 1)^3
    d = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

Binkowski et al. 2018, arXiv 1801.01401. It has no bias at any sample size (and so may be negative), which the Frechet
distance has: the one to use with few samples. Named after what made the features: kid_random, kid_effl0.
"""

# N and M samples, D features

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class _Sums:
    """Row sums of the three kernel matrices, of which the estimate and its jackknife are made."""

    own: Floats
    """of k(x_i, x_j), j != i, [N]"""
    cross: Floats
    """of k(x_i, y_j), [N]"""
    other: Floats
    """of k(y_i, y_j), j != i, [M]"""
    back: Floats
    """of k(y_i, x_j), [M]"""


def kernel_distance(x: ArrayLike, y: ArrayLike) -> Estimate:
    """
    The distance over all pairs of [N, D] and [M, D], and its standard error by the delete-one jackknife.

    The error takes rows for independent; where several are views of one shape, leave out whole shapes instead
    (`components.training.learner.standard_error`). Costs N^2 D: use `blockwise_kernel_distance` beyond some thousands.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    if min(n, m) < 3:
        raise DataError(f"A kernel distance needs three samples on each side at least, but got {min(n, m)}.")
    sums = _sums(x, y)
    own, other, cross = sums.own.sum(), sums.other.sum(), sums.cross.sum()
    value = _combine(own, other, cross, n, m)
    without_x = _combine(own - 2 * sums.own, other, cross - sums.cross, n - 1, m)
    without_y = _combine(own, other - 2 * sums.other, cross - sums.back, n, m - 1)
    return Estimate(float(value), float(np.sqrt(_jackknife(without_x) + _jackknife(without_y))))


def blockwise_kernel_distance(x: ArrayLike, y: ArrayLike, *, size: int = 1000, seed: int = 0) -> Estimate:
    """
    The mean over disjoint blocks of `size` samples of each side, and the standard error of that mean.

    Rows are shuffled first. The literature draws 100 subsets that overlap; their spread is not a standard error.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    blocks = min(len(x), len(y)) // size
    if blocks < 2:
        raise DataError(f"Two blocks of {size} samples are needed, but there are {min(len(x), len(y))} samples.")
    generator = np.random.default_rng(seed)
    parts = [z[generator.permutation(len(z))[: blocks * size]].reshape(blocks, size, -1) for z in (x, y)]
    values = np.array([_value(one, two) for one, two in zip(*parts, strict=True)])
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(blocks)))


def kernel(x: Floats, y: Floats) -> Floats:
    """k of each pair, [N, M]."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _value(x: Floats, y: Floats) -> float:
    sums = _sums(x, y)
    return float(_combine(sums.own.sum(), sums.other.sum(), sums.cross.sum(), len(x), len(y)))


def _sums(x: Floats, y: Floats) -> _Sums:
    own, other, cross = kernel(x, x), kernel(y, y), kernel(x, y)
    return _Sums(own.sum(1) - np.diag(own), cross.sum(1), other.sum(1) - np.diag(other), cross.sum(0))


def _combine(own: Floats, other: Floats, cross: Floats, n: int, m: int) -> Floats:
    return own / (n * (n - 1)) + other / (m * (m - 1)) - 2 * cross / (n * m)


def _jackknife(values: Floats) -> float:
    """The variance that the values without one sample each give."""
    return (len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()
