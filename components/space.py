"""
The words of a search space.

    def space(self): return {"lr": space.loguniform(1e-4, 1e-2), "batch": space.choice(16, 32, 64)}

A domain turns a number in [0, 1) into a value, so that one point of a Sobol sequence is one trial.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Uniform:
    """Any number from `low` to `high`."""

    low: float
    high: float

    def at(self, u: float) -> float:
        return self.low + u * (self.high - self.low)


@dataclass(frozen=True)
class LogUniform:
    """Any number from `low` to `high`, each factor of ten as likely as the next."""

    low: float
    high: float

    def at(self, u: float) -> float:
        return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def at(self, u: float) -> int:
        return self.low + int(u * (self.high - self.low + 1))


@dataclass(frozen=True)
class Choice:
    """One of `values`."""

    values: tuple[Any, ...]

    def at(self, u: float) -> Any:
        return self.values[int(u * len(self.values))]


Domain = Uniform | LogUniform | Integer | Choice


def uniform(low: float, high: float) -> Uniform:
    _ordered(low, high)
    return Uniform(low, high)


def loguniform(low: float, high: float) -> LogUniform:
    _ordered(low, high)
    if low <= 0:
        raise ValueError(f"the low end of a loguniform must be above 0, but got {low}")
    return LogUniform(low, high)


def integer(low: int, high: int) -> Integer:
    _ordered(low, high)
    return Integer(low, high)


def choice(*values: Any) -> Choice:
    if not values:
        raise ValueError("a choice needs a value to choose, but got none")
    return Choice(values)


def _ordered(low: float, high: float) -> None:
    if not low <= high:
        raise ValueError(f"`low <= high` must hold, but got (low={low}, high={high})")
