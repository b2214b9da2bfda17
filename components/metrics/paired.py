"""
How sure a difference between two models is: the delete-one jackknife over parts of the data that both answered.

What is hard for one model is hard for the other, so a difference is surer than either score. A score need not be a mean
over rows: each part is left out in turn and the score taken anew. A bootstrap would draw rows twice, which a kernel
distance or a rank among neighbours takes for closeness.

Plain numbers alone: the end of a run compares with neither NumPy nor torch.
"""

from collections.abc import Mapping, Sequence
from math import hypot, isnan, nan, sqrt
from typing import Any


def jackknife(left_out: Sequence[float]) -> float:
    """The standard error of a score, from the scores without one part each (Efron and Stein, 1981); NaN of none."""
    count = len(left_out)
    if count < 2:
        return nan
    mean = sum(left_out) / count
    return sqrt((count - 1) / count * sum((value - mean) ** 2 for value in left_out))


def paired_error(one: Sequence[float], other: Sequence[float]) -> float:
    """The standard error of a difference of two scores, whose parts are the same."""
    return jackknife([a - b for a, b in zip(one, other, strict=True)])


def difference(one: Mapping[str, Any], other: Mapping[str, Any], split: str) -> tuple[float, float]:
    """
    The goal of `one` less that of `other` on a split, and its standard error; both are `Scores` as mappings.

    Where the parts are not the same, the errors add up as those of independent samples; where none are known, NaN.
    """
    goal = one["goal"]
    value = one[split].get(goal, nan) - other[split].get(goal, nan)
    own, theirs = one["left_out"].get(split, ()), other["left_out"].get(split, ())
    if own and one["parts"].get(split) == other["parts"].get(split):
        return value, paired_error(own, theirs)
    return value, hypot(jackknife(own), jackknife(theirs))


def surpasses(value: float, error: float, direction: str) -> bool:
    """True if a difference favours the first by more than its standard error; a NaN favours nobody."""
    gain = value if direction == "max" else -value
    return gain > (0.0 if isnan(error) else error)
