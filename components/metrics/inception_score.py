"""
The Inception score, of any classifier's answers.

    exp( mean_x KL( p(y | x) || p(y) ) ),  from 1 to the number of classes

High where each picture is surely one thing, and all kinds of thing occur (Salimans et al. 2016, arXiv 1606.03498). It
never looks at the real pictures. From another classifier than Inception on ImageNet it is named `classifier_score`.
"""

# N pictures, K classes

import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlogy

from components.errors import DataError


def inception_score(probabilities: ArrayLike) -> float:
    """The score of the answers [N, K], each of which sums to 1."""
    p = np.asarray(probabilities, np.float64)
    if len(p) == 0 or (p < 0).any() or not np.allclose(p.sum(1), 1, atol=1e-4):
        raise DataError("Each row must be probabilities that sum to 1. Give the softmax, not the logits.")
    marginal = p.mean(0)
    divergence = (xlogy(p, p) - xlogy(p, np.where(marginal > 0, marginal, 1))).sum(1)  # p = 0 where marginal = 0
    return float(np.exp(divergence.mean()))


def inception_score_over_splits(probabilities: ArrayLike, *, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over equal parts, as papers report it; warns when parts are small for K."""
    p = np.asarray(probabilities, np.float64)
    if len(p) // splits < 10 * p.shape[1]:
        law = f"A split needs ten samples a class, {10 * p.shape[1]}, but gets {len(p) // splits}."
        warnings.warn(law + " Its score is too low.", stacklevel=2)
    scores = [inception_score(part) for part in np.array_split(p, splits)]
    return float(np.mean(scores)), float(np.std(scores))
