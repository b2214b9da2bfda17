"""
Precision and recall of samples: are they good, and do they show all there is?

A set's manifold is the union of the balls around its points that reach their k-th neighbour. Precision is the share
of made samples inside the real manifold, recall the share of real ones inside the made manifold (Kynkaanniemi et al.
2019, arXiv 1904.06991). Density and coverage lean on real balls only, which outliers of the made set cannot widen
(Naeem et al. 2020, arXiv 2002.09797).
"""

# N real and M made samples, D features

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from components.errors import DataError


@dataclass(frozen=True)
class Coverage:
    """Shares from 0 to 1; density may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: ArrayLike, made: ArrayLike, *, neighbours: int = 3) -> Coverage:
    """All four, from features [N, D] and [M, D]."""
    real, made = np.asarray(real, np.float64), np.asarray(made, np.float64)
    if min(len(real), len(made)) <= neighbours:
        few = min(len(real), len(made))
        raise DataError(f"`neighbours` must be below the number of samples, but got {neighbours} and {few}.")
    between = cdist(real, made)  # [N, M]
    near_real = between <= _reach(real, neighbours)[:, None]
    near_made = between <= _reach(made, neighbours)[None]
    return Coverage(
        precision=float(near_real.any(0).mean()),
        recall=float(near_made.any(1).mean()),
        density=float(near_real.sum(0).mean() / neighbours),
        coverage=float(near_real.any(1).mean()),
    )


def _reach(points: NDArray[np.float64], neighbours: int) -> NDArray[np.float64]:
    """The distance of each point to its k-th neighbour, itself not counted, [N]."""
    return np.partition(cdist(points, points), neighbours, axis=1)[:, neighbours]
