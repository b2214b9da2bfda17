"""
The model family: one file, one frozen dataclass, whose fields are the hyperparameters.

    class PointNet(Classifier):
        points: int = 1024
        \"\"\"points drawn from each shape\"\"\"

        def representation(self): return Points(count=self.points)
        def network(self): return Net(self.classes)
        def loss(self, net, batch, generator): ...

One file, one frozen dataclass: the object that the command line fills, Tune changes with `dataclasses.replace`,
MLflow logs and Ray pickles. Nothing is remembered on it; what changes during training is in a `State`.
"""

# B rows of a batch, K classes

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, dataclass_transform

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.constraints import Count, Natural, NotNegative, Positive, Share
from components.errors import UsageError, nearest
from components.parameters import check_fields, read
from components.representation import Representation
from components.runtime.user_code import WRITTEN, class_in
from components.search_space import Domain, loguniform
from components.table import Rows
from components.training.microbatch import gradients

Batch = dict[str, Any]
Picture = Any  # uint8 [H, W, 3], or a matplotlib Figure


@dataclass(frozen=True)
class Goal:
    """The score to choose by, and whether more of it is better ("max") or less ("min")."""

    name: str
    direction: str

    def better(self, one: float, other: float) -> bool:
        """True if `one` is to be preferred; a number always is to NaN."""
        if one != one or other != other:
            return one == one
        return one > other if self.direction == "max" else one < other

    def rank(self, value: float) -> float:
        """A key to sort scores by, the best first; NaN is the last."""
        if value != value:
            return float("inf")
        return -value if self.direction == "max" else value


@dataclass(frozen=True)
class Phase:
    """A stretch of training: a resolution, a frame, a pre-training. Optimizers are made anew at each."""

    name: str
    steps: int
    batch: int | None = None
    """rows of a global batch; None is the family's"""
    columns: tuple[str, ...] | None = None
    """the columns that this phase reads; None is all"""


@dataclass
class State:
    """All that changes while a family learns, and all that a checkpoint holds."""

    net: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    phase: Phase
    step: int
    """updates done before this one, over all phases"""
    generator: torch.Generator
    """seeded anew for every step from (seed, step): the same on each worker, and after a restart"""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """saved with the checkpoint: image pools, Gibbs chains, density statistics"""
    average: nn.Module | None = None
    """the averaged network, where the family sets `ema`"""
    pieces: int = 1
    """parts that a worker's rows are cut into for a pass: more than one where memory ran out"""


Settings = Mapping[str, Mapping[str, str]]
_overrides: ContextVar[tuple[Settings, set[tuple[str, str]]] | None] = ContextVar("overrides", default=None)


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family. Its fields are the hyperparameters, each with a docstring of its unit and range."""

    lr: Positive = 1e-3
    """learning rate, above 0"""
    batch: Count = 32
    """rows of an update, over all workers together, at least 1"""
    steps: Count = 1000
    """updates in all: the only unit of budgets and schedules"""
    clip: NotNegative = 0.0
    """largest norm of a gradient; 0 leaves gradients as they are"""
    ema: Share = 0.0
    """share of the averaged network that an update keeps, 0 to 1; 0 keeps no average"""

    goal: ClassVar[Goal] = Goal("loss", "min")
    scores: ClassVar[tuple[str, ...]] = ("loss",)
    """the names that `score` gives: a gate may ask for these"""
    cost: ClassVar[str] = ""
    """the score that the goal is bought with, if there is one: the number of Gaussians; a search is drawn against it"""
    watched: ClassVar[tuple[str, ...]] = ()
    """the figures that are drawn while it learns, as often as it is validated: samples over time"""
    one_asset: ClassVar[bool] = False
    """whether it learns one asset by itself, so that assets fan out over the cluster"""
    separable: ClassVar[bool] = True
    """whether `loss` is a mean over rows that do not see each other, so that a batch may be cut to fit in memory"""
    mixed: ClassVar[bool] = False
    """whether its updates may run in bfloat16 where the device is a GPU"""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        settings, met = _overrides.get() or ({}, set())
        for name, text in settings.get(self.name, {}).items():
            object.__setattr__(self, name, read_field(type(self), name, text))
            met.add((self.name, name))
        check_fields(self, f"{self.name}.{{}}", f"Pass --set {self.name}.{{}}=...")

    # What it is

    @property
    def name(self) -> str:
        """The file's name, which is the family's name everywhere; of one's own the class's, in lower case."""
        return _name_of(type(self))

    @classmethod
    def at(cls, size: str) -> Self:
        """The preset called `size`."""
        if size not in cls.sizes():
            known = " or ".join(cls.sizes())
            raise UsageError(
                f"`size` of {cls.__name__} must be {known}, but got {size!r}." + nearest(size, cls.sizes())
            )
        return getattr(cls, size)()

    @classmethod
    def sizes(cls) -> list[str]:
        """The presets: every classmethod of the family's own that takes nothing."""
        own = (n for c in cls.__mro__ if c not in (Family, Classifier, object) for n in vars(c))
        found = {n for n in own if isinstance(inspect.getattr_static(cls, n), classmethod) and not n.startswith("_")}
        return sorted(found, key=lambda n: (n != "tiny", n))

    @classmethod
    def tiny(cls) -> Self:
        """The same architecture, small enough to learn in a CPU minute or two."""
        raise TypeError(f"{cls.__name__} must define tiny()")

    @classmethod
    def paper(cls) -> Self:
        """The paper's exact size."""
        raise TypeError(f"{cls.__name__} must define paper()")

    # What it learns from

    def representation(self) -> Representation:
        """The set of a table that it reads."""
        raise TypeError(f"{type(self).__name__} must define representation()")

    def adapt(self, rows: Rows) -> Self:
        """A copy with the fields that only the training split knows: classes, number of codes, points."""
        return self

    # How it learns

    def network(self) -> nn.Module:
        """The network, from the fields alone: no data and no numpy, so that it builds on the meta device."""
        raise TypeError(f"{type(self).__name__} must define network()")

    def initialize(self, net: nn.Module, rows: Rows, generator: torch.Generator) -> None:
        """First values that come from data: Gaussians from points, an embedding from its principal axes."""

    def phases(self) -> Sequence[Phase]:
        """The stretches of training, in order. Their steps add up to `steps`."""
        return [Phase("train", self.steps)]

    def optimizers(self, net: nn.Module, phase: Phase) -> dict[str, torch.optim.Optimizer]:
        """Name -> optimizer. Before each of its steps gradients are averaged over workers, then clipped."""
        return {"main": torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=1e-4)}

    def schedule(self, group: str, step: int) -> float:
        """Multiplier of the learning rate at `step`; `group` is a parameter group's name, or its optimizer's."""
        return 1.0

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """
        Training-time chance, on the device.

        Draw for the whole global batch and take `[batch["row"]]` of it: then every worker count sees one draw.
        """
        return batch

    def loss(self, net: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar that is a mean over rows, and the parts of it worth logging."""
        raise TypeError(f"{type(self).__name__} must define loss() or update()")

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """One optimisation step on an augmented batch; what it returns is logged."""
        (optimizer,) = state.optimizers.values()
        optimizer.zero_grad()
        logged = gradients(self, state, batch)
        optimizer.step()
        return logged

    # How well it learned

    def metrics(self, net: nn.Module, batch: Batch) -> dict[str, Any]:
        """Totals that add up over batches and workers: numbers and arrays are summed, lists joined."""
        count = len(batch["index"])
        loss, _ = self.loss(net, batch, torch.Generator(batch["index"].device).manual_seed(0))
        return {"loss": loss.detach().double() * count, "count": count}

    def score(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Scores from those totals; by default each total over the count."""
        return {name: float(total / totals["count"]) for name, total in totals.items() if name != "count"}

    def diagnose(self, curves: Mapping[str, Sequence[float]]) -> list[str]:
        """Faults of the curves that `update` logged, a sentence each; nothing by default."""
        return []

    # What it answers

    def judged_by(self, family: "Family", net: nn.Module) -> Any:
        """Scores of `evaluate` when it is given another checkpoint, whose features compare made with real rows."""
        raise UsageError(f"{self.name} makes nothing that features could judge: leave `extractor` out.")

    def predict(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Answers of the registered model: name -> [B, ...]."""
        raise TypeError(f"{type(self).__name__} must define predict()")

    def features(self, net: nn.Module, batch: Batch) -> Tensor:
        """A vector for each row, [B, D]: what another model may learn from."""
        raise UsageError(f"{self.name} has no features: choose a family that has, such as pointnet or voxnet.")

    def example(self, rows: Rows) -> Batch:
        """A question to put to the registered model: two rows by default."""
        return rows.batch(np.arange(min(2, len(rows))))

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        """Figures of the network and its answers."""
        return {}

    def files(self, net: nn.Module) -> dict[str, bytes]:
        """Files to take away: name -> contents."""
        return {}

    # How it is tuned

    def quiet(self, step: int) -> bool:
        """True if a score taken after `step` updates is fair; not just after an opacity reset, say."""
        return True

    def shortened(self, steps: int) -> Self:
        """
        The same training in fewer updates, its schedules shrunk along: what a search compares its trials by.

        A training that is cut on its way would be judged before its learning rate has fallen. A family whose schedule
        counts updates, not shares of them, shrinks that as well; `steps` may be more than was asked for.
        """
        return replace(self, steps=steps, ema=self.ema ** (self.steps / steps))

    def space(self) -> dict[str, Domain]:
        """
        Field -> domain.

        No field that `representation()` reads: tuning one of those is a loop in a pipeline. None that changes what the
        goal measures: scores of two values would not compare.
        """
        return {"lr": loguniform(self.lr / 10, self.lr * 10)}


class Classifier(Family):
    """The members that families which name a class share."""

    classes: Natural = 0
    """number of classes; 0 is read from the training split"""
    labels: tuple[str, ...] = ()
    """names of the classes, in the order of the logits"""
    smoothing: Share = 0.0
    """label smoothing, 0 to 1"""

    goal: ClassVar[Goal] = Goal("accuracy", "max")
    scores: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy", "loss")

    def adapt(self, rows: Rows) -> Self:
        if len(rows.labels) < 2:
            raise UsageError(
                f"A classifier needs at least two classes, but the training split has {list(rows.labels)}. "
                "Give each class a folder of its own."
            )
        return replace(self, classes=len(rows.labels), labels=tuple(rows.labels))

    def logits(self, net: nn.Module, batch: Batch) -> Tensor:
        """The network's answer for each class, [B, K]."""
        raise TypeError(f"{type(self).__name__} must define logits()")

    def loss(self, net: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.logits(net, batch)
        loss = F.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing)
        return loss, {"accuracy": (largest(logits) == batch["label"]).float().mean().detach()}

    def metrics(self, net: nn.Module, batch: Batch) -> dict[str, Any]:
        """`confusion` [K + 1, K] has truth in rows, the last of which is for the labels that training never had, -1."""
        logits, truth = self.logits(net, batch), batch["label"]
        row, answer = torch.where(truth < 0, self.classes, truth), largest(logits)
        counted = torch.where(answer < 0, torch.nan, torch.ones_like(truth, dtype=torch.float64))
        confusion = torch.zeros(self.classes + 1, self.classes, dtype=torch.float64, device=logits.device)
        confusion.index_put_((row, answer.clamp(min=0)), counted, accumulate=True)
        loss = F.cross_entropy(logits.double(), truth, reduction="sum", ignore_index=-1)
        return {"confusion": confusion.cpu().numpy(), "loss": float(loss), "count": len(truth)}

    def score(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """
        Accuracy, its mean over the classes that occur, and the mean cross-entropy; NaN where a logit is.

        What is of a class that training never had is wrong. It has no cross-entropy, which would be infinite.
        """
        confusion = np.asarray(totals["confusion"])
        known = confusion[: confusion.shape[1]].sum()
        return {**accuracies(confusion), "loss": float(totals["loss"] / known) if known else float("nan")}

    def named(self, label: int) -> str:
        """A class's name as figures write it; -1 is none that was learned."""
        return "never learned" if label < 0 else self.labels[label] if self.labels else str(label)

    def row_names(self) -> list[str]:
        """The names of the rows of `confusion`."""
        return [self.named(label) for label in (*range(self.classes), -1)]

    def predict(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """`probabilities` [B, K] in the order of `labels`, and `label` [B], the place of the largest; -1 of NaN."""
        probabilities = self.logits(net, batch).softmax(1)
        return {"probabilities": probabilities, "label": largest(probabilities)}

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        from components.plotting.figures import confusion_matrix

        return {"confusion": confusion_matrix(self.metrics(net, batch)["confusion"], self.row_names())}


def accuracies(confusion: np.ndarray) -> dict[str, float]:
    """
    Accuracy, and its mean over the classes that occur: rows behind the answers' are always wrong, as one class.

    A NaN anywhere, which stands for an answer of NaN, makes both NaN.
    """
    support = confusion.sum(1)
    right = np.append(np.diag(confusion), np.zeros(len(confusion) - confusion.shape[1]))
    right = np.where(np.isnan(support), np.nan, right)
    recall = right[support != 0] / support[support != 0]
    return {"accuracy": float(right.sum() / support.sum()), "balanced_accuracy": float(recall.mean())}


def largest(values: Tensor) -> Tensor:
    """The place of the largest of each row [B, K], [B]; -1 where a value is NaN, which `argmax` takes for the most."""
    return torch.where(values.isnan().any(1), -1, values.argmax(1))


# Finding one by its name


def names() -> list[str]:
    """Every family: the files of components/families, whatever chapter's folder they lie in."""
    return sorted(_modules())


def _modules() -> dict[str, str]:
    """Family -> its module."""
    import components.families as folder

    found = pkgutil.walk_packages(folder.__path__, f"{folder.__name__}.")
    return {one.name.rpartition(".")[2]: one.name for one in found if not one.ispkg}


def find(name: str) -> type[Family]:
    """The family whose file is called `name`; one's own is PATH.py, or PATH.py:Name where the file has several."""
    if WRITTEN.fullmatch(name):
        return class_in(name, Family, "family", "families")
    modules = _modules()
    if name not in modules:
        known = f"{nearest(name, modules)} `rayfield families` lists all; your own is PATH.py."
        raise UsageError(f"No family {name!r}.{known}")
    module = importlib.import_module(modules[name])
    own = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Family)]
    (family,) = [c for c in own if c.__module__ == module.__name__]
    return family


def called(name: str) -> type[Family]:
    """The family of a name: of this project's, or of those of one's own that this process has imported."""
    waiting = [Family]
    while waiting:
        family = waiting.pop()
        waiting += family.__subclasses__()
        if _name_of(family) == name and family.__module__ in sys.modules:
            return family
    return find(name)


def _name_of(cls: type[Family]) -> str:
    folder, _, stem = cls.__module__.rpartition(".")
    return stem if folder.startswith("components.families") else cls.__name__.lower()


def read_field(family: type[Family], name: str, text: str) -> Any:
    """The value that `text` gives to a field, by the field's annotation."""
    known = {f.name: f.type for f in fields(family)}  # type: ignore[arg-type]
    where = _name_of(family)
    if name not in known:
        raise UsageError(f"Family {where!r} has no field {name!r}.{nearest(name, list(known))}")
    return read(text, known[name], f"{where}.{name}")


@contextmanager
def overriding(settings: Settings) -> Any:
    """While it is open, every instance that is built takes these values; yields the set of those that were taken."""
    met: set[tuple[str, str]] = set()
    token = _overrides.set((settings, met))
    try:
        yield met
    finally:
        _overrides.reset(token)
