"""
What steps make, beside the `Table`: small, typed, made of text and numbers.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from safetensors.torch import load as load_tensors
from torch import nn

from components.errors import UsageError
from components.family import Family
from components.representation import Representation
from components.runtime.files import File
from components.source import ASIDE, Source
from components.training import load_weights


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: the family that made it, what it reads, and its weights."""

    family: Family
    representation: Representation
    weights: File
    steps: int
    """updates that it took"""
    chosen: int
    """the update after which the kept weights were best on the validation split"""
    device: str
    parameters: int
    history: File | None = None
    """what each logged update said, as JSON lines"""
    diagnosis: tuple[str, ...] = ()
    """what the family says of its training curves"""

    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode."""
        net = self.family.network()
        load_weights(net, load_tensors(self.weights.read()))
        return net.eval()

    def curves(self) -> list[dict[str, float]]:
        """What was logged: a dict for each logged update, `step` among its names."""
        return [json.loads(line) for line in self.history.read().splitlines()] if self.history else []

    def describe(self) -> str:
        best = "" if self.chosen == self.steps else f", best at {self.chosen}"
        said = "".join(f"; {sentence}" for sentence in self.diagnosis)
        return f"{self.family.name}: {self.parameters:,} parameters, {self.steps} steps{best}, {self.device}{said}"


@dataclass(frozen=True)
class Scores:
    """How good a model is on the validation and the test split, and how sure that is."""

    name: str
    goal: str
    direction: str
    val: Mapping[str, float]
    test: Mapping[str, float]
    error: Mapping[str, float]
    """standard error of each test score: the delete-one-group jackknife"""
    count: int
    """test rows"""
    checkpoint: Checkpoint | None = None
    """None for a baseline"""
    assets: File | None = None
    """the listing whose splits were used: Parquet"""
    example: File | None = None
    """a question to the model: safetensors"""
    tested: File | None = None
    """the frozen list of the test rows' assets: JSON, [id, digest] each"""
    source: Source | None = field(default=None, metadata=ASIDE)
    """where those assets are read again, for a champion to be measured on them"""
    extractor: Checkpoint | None = None
    """whose features a generative family was judged by"""
    over: tuple[tuple[str, float], ...] = field(default=(), metadata=ASIDE)
    """the others that `best_of` compared it with, each with its validation score"""

    def text(self, score: str = "") -> str:
        """ "0.62 ± 0.05"."""
        name = score or self.goal
        error = f" ± {self.error[name]:.3f}" if name in self.error else ""
        return f"{self.test[name]:.3f}{error}"

    def describe(self) -> str:
        val = self.val.get(self.goal, np.nan)
        if self.over:
            return f"{self.name} (val {self.goal} {val:.3f}), over {', '.join(self._others(val))}"
        return f"{self.name}: {self.goal} {self.text()} on {self.count} test rows (val {val:.3f})"

    def _others(self, val: float) -> list[str]:
        """Those that it was chosen over; of equals `best_of` takes the first."""
        return [f"{name} {own:.3f}" + (" (a tie: the first)" if own == val else "") for name, own in self.over]


@dataclass(frozen=True)
class Gate:
    """What a model's test scores must reach to be a champion."""

    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)

    def failures(self, scores: Mapping[str, float]) -> list[str]:
        """Each threshold that is missed, in words."""
        low = [f"{n} is {scores[n]:.4g}, at least {v:g} is asked" for n, v in self.least.items() if not scores[n] >= v]
        high = [f"{n} is {scores[n]:.4g}, at most {v:g} is asked" for n, v in self.most.items() if not scores[n] <= v]
        return low + high

    def names(self) -> list[str]:
        return [*self.least, *self.most]


def at_least(**thresholds: float) -> Gate:
    """A gate of lower bounds: `at_least(accuracy=0.5)`."""
    return Gate(least=thresholds)


def at_most(**thresholds: float) -> Gate:
    """A gate of upper bounds: `at_most(kid=0.05)`."""
    return Gate(most=thresholds)


def model_name(name: str) -> str:
    """A name that a model can be registered by, as it is: a bad one is refused before anything is trained."""
    if not re.fullmatch(r"[\w .-]+", name):
        raise UsageError(f"A model's name is letters, digits, spaces, dots and dashes, but got {name!r}.")
    return name


@dataclass(frozen=True)
class Model:
    """A registered version, and what the gate said of it."""

    name: str
    version: str
    verdict: str
    """PROMOTE, HOLD or REJECT"""
    reasons: tuple[str, ...]
    uri: str
    key: str
    evidence: File | None = None
    """what the verdict rests on: JSON"""
    scores: File | None = None
    """the scores that it was registered with: JSON, for a later promotion to compare"""
    what: str = ""
    """its family, and how good it was: "pointnet, accuracy 0.705 ± 0.045" """

    def describe(self) -> str:
        of = f" ({self.what})" if self.what else ""
        alias = " became champion" if self.verdict == "PROMOTE" else f": {self.verdict} ({'; '.join(self.reasons)})"
        return f"{self.name} version {self.version}{of}{alias}"
