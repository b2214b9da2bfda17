"""
train: a family and a table to a checkpoint, on Ray Train.

Every worker runs the loop of training/learner.py on its rows of the global batches. Rank 0 writes checkpoints to the
step's scratch as its clock tells it, so that a killed training loses no more than one interval; it keeps the latest
weights that are as good as the best on the validation split, within its standard error.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from components.artifacts import Checkpoint
from components.errors import DataError, UsageError
from components.family import Family
from components.runtime import objects
from components.runtime.crash_points import point
from components.runtime.objects import keep
from components.step import Context, step
from components.steps import stream
from components.steps.preprocess import Streamed, Work
from components.steps.ray_workers import Workers, check_workers, on_workers
from components.steps.registry.training_data import seen
from components.steps.stream import Feed
from components.table import Rows, Table
from components.training.checkpoint import Checkpoints
from components.training.learner import Clock, Learner, World, evaluate, groups, joined, parameter_count, standard_error

SAVE = 30.0  # seconds between checkpoints
VALIDATIONS = 10  # times that the validation split is scored on the way
PARTS = 10  # of the validation split, from which its standard error is read
LINES = 200  # updates that are logged


@step(aside=("feed", "workers", "gpus"), spreads=True, strict=True)
def train(
    family: Family,
    table: Table | Streamed,
    *,
    start: Checkpoint | None = None,
    feed: Literal["auto", "indexed", "stream"] = "auto",
    workers: Workers = 1,
    gpus: float | None = None,
    context: Context,
) -> Checkpoint:
    """
    Trains a family on the training split of a table, or of a `preprocess.stream` while its shards are made.

    `start` begins from another checkpoint's weights. `workers` and `gpus` (of each worker) are Ray Train's;
    `workers=0` trains in this process, `workers=(1, 4)` on as many as there is room for. `feed` is "indexed", from
    memory, or "stream", from the disk of each machine; "auto" streams what would take more than a quarter of the
    memory. They give the same rows in the same order. A source is followed as its shards are made, and from the second
    pass on fed like a table.
    """
    gpus = gpus if gpus is not None else float(bool(context.resources.get("GPU", 0)))
    check_workers(workers, gpus, context.resources)
    data = _work(family, table, context) if isinstance(table, Streamed) else table
    streamed = feed == "stream" or (feed == "auto" and stream.too_large(data, family, context))
    if streamed:
        stream.check(family.representation())
    context.note({"family": family, "workers": workers, "feed": "stream" if streamed else "indexed"})
    making = stream.making(data, workers, context) if isinstance(data, Work) else nullcontext("")
    with making as over:
        task = Training(family, Feed(data, streamed, context, over), start, context, SAVE)
        made = on_workers(
            run_worker,
            {"task": task},
            workers=workers,
            gpus=gpus,
            scratch=context.scratch,
        )
    if not isinstance(made, Checkpoint):
        raise DataError("Ray Train ended without a checkpoint. `rayfield logs` has the workers' words.")
    return made


def _work(family: Family, streamed: Streamed, context: Context) -> Work:
    """The shards that a stream has to make; the first is made at once: it compiles the kernels, and tells the size."""
    if streamed.representation != family.representation():
        raise UsageError(f"{family.name} learns from {family.representation()}, but got {streamed.representation}.")
    work = Work.of(streamed.source, [streamed.representation], context)
    stream.first_rows(work, context)
    return work


def run_worker(config: Mapping[str, Any]) -> Checkpoint:
    """The loop of each worker of Ray Train."""
    from ray.train import get_context
    from ray.train.torch import get_device

    objects.use(config["store"])
    task: Training = config["task"]
    with task.context.working(f"worker {get_context().get_world_rank()}", config["gpus"]):
        return task.run(get_device())


@dataclass
class Training:
    """One worker's part of a training."""

    family: Family
    feed: Feed
    start: Checkpoint | None
    context: Context
    save: float = SAVE
    """seconds between checkpoints"""
    log: "Log" = field(init=False)

    def run(self, device: torch.device) -> Checkpoint:
        """Trains to the end, from the last checkpoint if there is one."""
        world = World.here()
        rows = self.feed.rows(self.family)
        family = self.family.adapt(rows)
        weights = load_tensors(self.start.weights.read()) if self.start else None
        learner = Learner.begin(family, rows, seed=self.context.seed, world=world, device=device, start=weights)
        self.log = Log.resume(self.context, family, learner)
        if dist.is_initialized() and not world.rank:
            self.context.log({"workers": world.size}, learner.state.step)  # an elastic group begins anew with others
        self.feed.start(learner)
        self._loop(learner)
        if world.size > 1:
            dist.barrier()
        return self._checkpoint(learner, device)

    def _loop(self, learner: Learner) -> None:
        family, clock = learner.family, Clock(self.save)
        validations = {round(family.steps * (n + 1) / VALIDATIONS) for n in range(VALIDATIONS)}
        point("train: before its first update")
        for logged in learner.run():
            point("train: updated")
            step = learner.state.step
            self.log.update(step, logged)
            self.log.cut(learner.state.pieces)
            if step in validations and family.quiet(step) and self.feed.may_judge(learner):
                held = self.feed.held(learner)
                self.log.validate(step, parts_over_workers(learner, held), learner)
                self.log.watch(step, learner, held)
                point("train: validated")
            if learner.world.rank == 0 and clock.struck():
                self.log.save(learner)

    def _checkpoint(self, learner: Learner, device: torch.device) -> Checkpoint:
        family, log = learner.family, self.log
        weights = log.best or weights_of(learner)
        point("train: at the end, no weights kept")
        log.finish(learner)
        return Checkpoint(
            family=family,
            representation=self.feed.adapted(family),
            weights=keep(f"{family.name}.safetensors", weights),
            steps=family.steps,
            chosen=log.chosen or family.steps,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            parameters=parameter_count(learner.state.net),
            history=keep("history.jsonl", "".join(json.dumps(line) + "\n" for line in log.lines).encode()),
            diagnosis=(*family.diagnose(curves_of(log.lines)), *log.remarks()),
            seen=seen(self.feed.table(), family.representation(), self.start),
        )


@dataclass
class Log:
    """Rank 0's memory of a training: its curves, the best weights so far, and where both are saved."""

    context: Context
    family: Family
    rank: int
    lines: list[dict[str, float]] = field(default_factory=list)
    best: bytes | None = None
    best_score: float = float("nan")
    chosen: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    pieces: int = 1
    """that a batch was cut into, where memory ran out"""
    saved: Checkpoints = field(init=False)

    def __post_init__(self) -> None:
        self.saved = Checkpoints(self.context.scratch)

    @classmethod
    def resume(cls, context: Context, family: Family, learner: Learner) -> "Log":
        """Loads the last whole checkpoint of the step's scratch into the learner, if there is one."""
        log = cls(context, family, learner.world.rank)
        parts = log.saved.latest(learner.world)
        if parts is None:
            return log
        learner.load(parts["state"])
        said = json.loads(parts["log"])
        log.lines, log.chosen = said["lines"], said["chosen"]
        log.best_score = said["best_score"] if said["best_score"] is not None else float("nan")
        log.best = parts.get("best")
        return log

    def update(self, step: int, logged: Mapping[str, Tensor]) -> None:
        """Adds one update; every so often their means are logged."""
        if self.rank:
            return
        for name, value in logged.items():
            value = torch.as_tensor(value).detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1
        every = max(1, self.family.steps // LINES)
        if step % every == 0 or step == self.family.steps:
            means = {name: float(total) / self.count for name, total in self.sums.items()}
            self.context.log(means, step)
            self.context.progress(step, self.family.steps, "steps")
            self.lines.append({"step": step, **means})
            self.sums, self.count = {}, 0
            self._check(means, step)

    def cut(self, pieces: int) -> None:
        """Says that memory ran out, once for each number of pieces."""
        if pieces != self.pieces:
            self.pieces = pieces
            self.context.note({"pieces": pieces})

    def remarks(self) -> list[str]:
        """Remarks for a reader of the checkpoint on the machine, and on the scores that it was chosen by."""
        said, goal = [], self.family.goal.name
        scores = [line[f"val_{goal}"] for line in self.lines if f"val_{goal}" in line]
        if lost := sum(score != score for score in scores):
            said.append(f"{goal} on val was NaN at {lost} of {len(scores)} validations")
        if self.pieces > 1:
            said.append(f"memory ran out, so each batch was cut into {self.pieces} pieces, with the same result")
        return said

    def _check(self, means: Mapping[str, float], step: int) -> None:
        bad = [name for name, value in means.items() if value != value]
        if bad:
            raise DataError(f"{bad[0]} of {self.family.name} is not a number at step {step}. Lower lr, or set clip.")

    def validate(self, step: int, parts: list[dict[str, Any]], learner: Learner) -> None:
        """
        Logs a validation score, and keeps the latest weights that are within one standard error of the best.

        A validation split is small: its very best moment is chance as much as skill (Breiman et al. 1984, section 3.4).
        """
        if self.rank:
            return
        family, goal = self.family, self.family.goal
        score = family.score(joined(parts))
        self.context.log({f"val_{name}": value for name, value in score.items()}, step)
        self.lines.append({"step": step, **{f"val_{name}": value for name, value in score.items()}})
        value, error = score[goal.name], standard_error(family, parts).get(goal.name, 0.0)
        if value != value:  # it could only be kept for want of another
            return
        slack = 0.0 if error != error else error if goal.direction == "max" else -error
        if self.best is None or goal.better(value + slack, self.best_score) or value == self.best_score:
            self.best, self.chosen = weights_of(learner), step
        if self.best_score != self.best_score or goal.better(value, self.best_score):
            self.best_score = value

    def watch(self, step: int, learner: Learner, held: Rows) -> None:
        """Draws the figures that the family wants seen over time."""
        if self.rank or not self.family.watched:
            return
        with torch.no_grad():
            drawn = self.family.figures(learner.best_net.eval(), held.batch(range(min(64, len(held)))))
        for name in self.family.watched:
            self.context.figure(name, drawn[name], step=step)

    def save(self, learner: Learner) -> None:
        """Writes what a restart needs."""
        if self.rank:
            return
        step = learner.state.step
        score = None if self.best_score != self.best_score else self.best_score
        said = {"lines": self.lines, "chosen": self.chosen, "best_score": score}
        best = {"best": (f"best-{self.chosen}.safetensors", self.best)} if self.best else {}
        log = {"log": (f"log-{step}.json", json.dumps(said).encode())}
        self.saved.add(step, {**best, **log, "state": (f"state-{step}.safetensors", learner.dump())})

    def finish(self, learner: Learner) -> None:
        """Keeps the files that a person takes away."""
        if not self.rank:
            for name, data in self.family.files(learner.best_net).items():
                self.context.file(name, data)
            self.context.flush()


def curves_of(lines: list[dict[str, float]]) -> dict[str, list[float]]:
    """Name -> the values that were logged, in order; what validation said is not among them."""
    curves: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and not name.startswith("val_"):
                curves.setdefault(name, []).append(value)
    return curves


def parts_over_workers(learner: Learner, rows: Rows) -> list[dict[str, Any]]:
    """The totals of disjoint parts of a split, of which each worker measures some."""
    world, family = learner.world, learner.family
    parts = groups(rows, PARTS)
    own = {
        n: evaluate(family, learner.best_net, rows, index=parts[n]) for n in range(world.rank, len(parts), world.size)
    }
    if world.size == 1:
        return list(own.values())
    gathered: list[Any] = [None] * world.size
    dist.all_gather_object(gathered, own)
    found = {n: part for parts in gathered for n, part in parts.items()}
    return [found[n] for n in sorted(found)]


def weights_of(learner: Learner) -> bytes:
    """The weights to keep, as a safetensors file."""
    return save_tensors({n: v.detach().cpu().contiguous().clone() for n, v in learner.best_net.state_dict().items()})
