"""
The words of a search space.

    def space(self): return {"lr": search_space.loguniform(1e-4, 1e-2), "batch": search_space.choice(16, 32, 64)}

A domain turns a number in [0, 1) into a value, so that one point of a Sobol sequence is one trial: `at(u)` is any of
its values, `near(value, u)` one within a quarter of its range from another.
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

    def near(self, value: float, u: float) -> float:
        return self.at(_around((value - self.low) / (self.high - self.low or 1), u))


@dataclass(frozen=True)
class LogUniform:
    """Any number from `low` to `high`, each factor of ten as likely as the next."""

    low: float
    high: float

    def at(self, u: float) -> float:
        return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))

    def near(self, value: float, u: float) -> float:
        share = math.log(max(value, self.low) / self.low) / (math.log(self.high / self.low) or 1)
        return self.at(_around(share, u))


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def at(self, u: float) -> int:
        return self.low + int(u * (self.high - self.low + 1))

    def near(self, value: int, u: float) -> int:
        share = _around((value - self.low + 0.5) / (self.high - self.low + 1), u)
        return min(self.high, self.at(share))


@dataclass(frozen=True)
class Choice:
    """One of `values`."""

    values: tuple[Any, ...]

    def at(self, u: float) -> Any:
        return self.values[int(u * len(self.values))]

    def near(self, value: Any, u: float) -> Any:
        """The value itself for half of the points."""
        return value if u < 0.5 else self.at(2 * u - 1)


Domain = Uniform | LogUniform | Integer | Choice


def _around(share: float, u: float) -> float:
    """A share of a range, a quarter of it to either side at most."""
    return min(1.0, max(0.0, share + (u - 0.5) / 2))


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
