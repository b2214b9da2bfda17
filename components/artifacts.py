"""
The artifacts that steps make, beside the `Table`: small, typed, made of text and numbers.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan, nan

from safetensors.torch import load as load_tensors
from torch import nn

from components.errors import UsageError
from components.family import Family
from components.representation import Representation
from components.runtime.objects import File
from components.source import ASIDE, Source
from components.training.learner import load_weights


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
    seen: File | None = None
    """the contents of the assets that it was trained and chosen on: JSON, see steps/registry/training_data.py"""

    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode."""
        net = self.family.network()
        load_weights(net, load_tensors(self.weights.read()))
        return net.eval()

    def curves(self) -> list[dict[str, float]]:
        """The logged values: a dict for each logged update, `step` among its names."""
        return [json.loads(line) for line in self.history.read().splitlines()] if self.history else []

    def describe(self) -> str:
        best = "" if self.chosen == self.steps else f", best at {self.chosen}"
        said = "".join(f"; {sentence}" for sentence in self.diagnosis)
        return f"{self.family.name}: {self.parameters:,} parameters, {self.steps} steps{best}, {self.device}{said}"


@dataclass(frozen=True)
class Rival:
    """A model that `best_of` did not take."""

    name: str
    value: float
    """its goal on val"""
    difference: float
    """of the chosen one's goal less its own"""
    error: float
    """the difference's standard error, over the same assets where it may be; NaN where it is not known"""
    tie: bool
    """whether it is within one standard error of the best"""

    def describe(self) -> str:
        """ "voxnet 0.714 (a tie: +0.000 ± 0.061, with no fewer parameters)"."""
        if isnan(self.value):
            return f"{self.name} nan (no number, so it cannot win)"
        error = "" if isnan(self.error) else f" ± {self.error:.3f}"
        tie = f" (a tie: {self.difference:+.3f}{error}, with no fewer parameters)" if self.tie else ""
        return f"{self.name} {self.value:.3f}{tie}"


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
    unlearned: Mapping[str, int] = field(default_factory=dict)
    """classes that training never had, and how many assets of val and test are of each: they count as wrong"""
    left_out: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """split -> the goal without each part of its assets in turn: what two models' difference is as sure as"""
    parts: Mapping[str, str] = field(default_factory=dict)
    """split -> digest of those parts: the same where two models were scored on the same assets"""
    over: tuple[Rival, ...] = field(default=(), metadata=ASIDE)
    """the others that `best_of` compared it with"""

    def value(self, split: str) -> float:
        """The goal on a split; NaN where it is not known."""
        return getattr(self, split).get(self.goal, nan)

    def text(self, score: str = "") -> str:
        """ "0.62 ± 0.05"."""
        name = score or self.goal
        error = f" ± {self.error[name]:.3f}" if name in self.error else ""
        return f"{self.test[name]:.3f}{error}"

    def describe(self) -> str:
        val = self.value("val")
        if self.over:
            return f"{self.name} (val {self.goal} {val:.3f}), over {', '.join(r.describe() for r in self.over)}"
        said = f"{self.name}: {self.goal} {self.text()} on {self.count} test rows (val {val:.3f})"
        names = ", ".join(f"{label} ({count})" for label, count in self.unlearned.items())
        return f"{said}; never learned, so counted as wrong: {names}" if names else said


@dataclass(frozen=True)
class Gate:
    """The test scores that a model must reach to be a champion."""

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
