"""
The Frechet distance: between two sets of features, each thought of as a Gaussian.

    d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

Heusel et al. 2017, arXiv 1706.08500. The number is named after what made the features, fd_random or fd_effl0; it is
the FID only with Inception's pool3 features. Between two samples of one distribution it is not 0 but falls with 1/N:
never compare it across sample sizes. `scipy.linalg.sqrtm` is not used: it is slow, gives imaginary parts, and SciPy
1.18 took away the argument that others call it with.
"""

# N and M samples, D features

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.errors import DataError

Floats = NDArray[np.float64]
Few = Literal["refuse", "warn"]


@dataclass(frozen=True)
class Moments:
    """A count and two sums over features, in float64. They add up: over batches, shards and workers."""

    count: int
    total: Floats
    """sum of the features, [D]"""
    outer: Floats
    """sum of their outer products, [D, D]"""

    @classmethod
    def of(cls, features: ArrayLike) -> "Moments":
        """Those of the features [N, D]."""
        x = np.asarray(features, np.float64)
        return cls(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Floats:
        """The mean, [D]."""
        return self.total / self.count

    @property
    def covariance(self) -> Floats:
        """The unbiased covariance, [D, D]."""
        return (self.outer - np.outer(self.total, self.mean)) / (self.count - 1)


def frechet_distance(x: ArrayLike, y: ArrayLike, *, few: Few = "refuse") -> float:
    """
    The squared Frechet distance of two sets of features, [N, D] and [M, D].

    With no more samples than features a covariance lacks rank, and such distances can be put in order at best. That
    is refused with a DataError; with `few="warn"` it is computed, by the singular values of an N x M matrix.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    _check(min(len(x), len(y)), x.shape[1], few)
    if max(len(x), len(y)) <= x.shape[1]:
        return _distance_by_samples(x, y)
    return gaussian_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))


def distance_of_moments(one: Moments, other: Moments, *, few: Few = "refuse") -> float:
    """The same from sums, which lose digits where a mean is far larger than its deviation."""
    _check(min(one.count, other.count), len(one.total), few)
    return gaussian_distance(one.mean, one.covariance, other.mean, other.covariance)


def gaussian_distance(mean: ArrayLike, covariance: ArrayLike, mean2: ArrayLike, covariance2: ArrayLike) -> float:
    """The squared Frechet distance of two Gaussians, by two symmetric eigenvalue problems."""
    one, two = np.atleast_2d(covariance), np.atleast_2d(covariance2)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    offset = np.atleast_1d(mean) - np.atleast_1d(mean2)
    return float(offset @ offset + np.trace(one) + np.trace(two) - 2 * cross)


def frechet_error(x: ArrayLike, y: ArrayLike, *, groups: int = 10, few: Few = "refuse") -> float:
    """
    The standard error of `frechet_distance`: the jackknife that leaves out one of `groups` parts at a time.

    Rows n, n + groups, ... make part n. It says nothing of the bias, which is as large at equal N for all models.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    left = [_without(x, part, groups) for part in range(groups)], [_without(y, part, groups) for part in range(groups)]
    values = np.array([frechet_distance(a, b, few=few) for a, b in zip(*left, strict=True)])
    return float(np.sqrt((groups - 1) / groups * ((values - values.mean()) ** 2).sum()))


def _distance_by_samples(x: Floats, y: Floats) -> float:
    """With X = (x - m) / sqrt(N - 1) and Y likewise, tr (S1 S2)^(1/2) is the nuclear norm of X Y^T: exact for N < D."""
    offset = x.mean(0) - y.mean(0)
    one, two = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    cross = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    return float(offset @ offset + (one**2).sum() + (two**2).sum() - 2 * cross)


def _check(samples: int, dimensions: int, few: Few) -> None:
    if samples < 2:
        raise DataError(f"A Frechet distance needs two samples on each side at least, but got {samples}.")
    if samples > dimensions:
        return
    law = f"A Frechet distance needs more samples than features, but got {samples} samples of {dimensions} features."
    if few == "refuse":
        raise DataError(law + " Take more samples, or the kernel distance, which has no bias.")
    warnings.warn(law + " Its value means nothing beside one at another number of samples.", stacklevel=3)


def _without(x: Floats, part: int, groups: int) -> Floats:
    return x[np.arange(len(x)) % groups != part]
