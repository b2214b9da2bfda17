"""
The words of a range: what a number may be, said once, in its type.

    lr: Positive = 1e-3
    size: Annotated[int, AtLeast(11)] = 128

Families, sources, representations and steps refuse any other number when they are made: while a pipeline is drawn.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class AtLeast:
    low: float

    def holds(self, value: float) -> bool:
        return value >= self.low

    def __str__(self) -> str:
        return f"at least {self.low}"


@dataclass(frozen=True)
class Above:
    low: float

    def holds(self, value: float) -> bool:
        return value > self.low

    def __str__(self) -> str:
        return f"above {self.low}"


@dataclass(frozen=True)
class Between:
    """Both ends included."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


Positive = Annotated[float, Above(0)]
NotNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, Between(0, 1)]
Count = Annotated[int, AtLeast(1)]
Natural = Annotated[int, AtLeast(0)]
Seed = Annotated[int, Between(0, 2**32 - 1)]
"""what NumPy's, torch's and scikit-learn's generators all take"""
