"""
The one training loop of all families: torch alone, on one process or on several that average their gradients.

A batch of a step depends on (seed, step) only; worker r of W takes its rows r::W. So one worker and several see the
same batches, and a loop that continues from a checkpoint sees the batches that it would have seen.
"""

# N rows of the split, W workers

import copy
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from components.errors import DataError, OutOfMemory
from components.family import Batch, Family, Phase, State
from components.metrics.paired import jackknife
from components.runtime.filesystem import write_atomically
from components.table import Rows
from components.training import microbatch


@dataclass(frozen=True)
class World:
    """The place of this process among the workers."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "World":
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()


@dataclass
class Learner:
    """
    A family, a split and a state: everything that an update needs.

        learner = Learner.begin(family, rows, seed=0)
        for logged in learner.run(until=100): ...
        totals = evaluate(family, learner.best_net, held_out)
    """

    family: Family
    rows: Rows
    seed: int
    state: State
    world: World = field(default_factory=World)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    feed: Iterator[Batch] | None = None
    """batches from elsewhere, this worker's part of each; by default they are cut from `rows`"""

    @classmethod
    def begin(
        cls,
        family: Family,
        rows: Rows,
        *,
        seed: int = 0,
        world: World | None = None,
        device: torch.device | str = "cpu",
        start: Mapping[str, Tensor] | None = None,
    ) -> "Learner":
        """A learner before its first update; `start` gives the network another checkpoint's weights."""
        device = torch.device(device)
        torch.manual_seed(seed)
        net = family.network().to(device)
        rows = rows.to(device)
        generator = torch.Generator(device).manual_seed(seed)
        family.initialize(net, rows, generator)
        if start is not None:
            load_weights(net, start)
        phase = phases(family)[0]
        state = State(net, {}, phase, 0, generator)
        if family.ema:
            state.average = copy.deepcopy(net).requires_grad_(False)
        learner = cls(family, rows, seed, state, world or World.here(), device)
        learner._optimize(phase)
        return learner

    @property
    def best_net(self) -> nn.Module:
        """The network to judge and to keep: the averaged one where there is one."""
        return self.state.average if self.state.average is not None else self.state.net

    def run(self, until: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Updates up to step `until` (all by default), yielding what each of them logs."""
        for step in range(self.state.step, self.family.steps if until is None else until):
            yield self.update(step)

    def update(self, step: int) -> dict[str, Tensor]:
        """The update with the number `step`."""
        self.state.step = step
        phase = phase_at(self.family, step)
        if phase != self.state.phase:
            self._optimize(phase)
        self._schedule(step)
        self.state.net.train()
        logged = self._fitting(step, self.batch(step))
        self._average()
        self.state.step = step + 1
        return logged

    def _fitting(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Update on a batch, and return what it logs; pieces are halved until they fit, and stay so from then on."""
        while True:
            try:
                return self._updated(step, batch)
            except microbatch.TooLarge:
                self.state.pieces *= 2
            except (RuntimeError, MemoryError) as error:
                if not microbatch.ran_out(error):
                    raise
                break
            microbatch.release()
        # past the except: what the failed pass held is free only when its traceback is gone
        raise self._too_large(step, batch)

    def _updated(self, step: int, batch: Batch) -> dict[str, Tensor]:
        self._seed(step)
        batch = self.family.augment(batch, self.state.generator)
        mixed = self.family.mixed and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            return self.family.update(self.state, batch)

    def _too_large(self, step: int, batch: Batch) -> OutOfMemory:
        """The error that names the batch which would have fitted: found by trying, since this training is over."""
        family, size = self.family, self.state.phase.batch or self.family.batch
        workers, self.world = self.world.size, World()  # the others wait in an update: no averaging
        rows = len(batch["row"]) // 2
        while rows:
            microbatch.release()
            try:
                self._updated(step, microbatch.cut(batch, torch.arange(rows, device=batch["row"].device)))
                break
            except (RuntimeError, MemoryError) as error:
                if not microbatch.ran_out(error):
                    raise
            rows //= 2
        if not rows:
            return OutOfMemory(
                f"A row of {family.name} must fit in memory, but one alone does not. "
                "Take a smaller network, or a machine with more memory."
            )
        return OutOfMemory(
            f"A batch of {family.name} must fit in memory, for cutting it would change the result, but {size} rows do "
            f"not fit and {rows * workers} do. Pass --set {family.name}.batch={rows * workers}."
        )

    def batch(self, step: int) -> Batch:
        """This worker's rows of the global batch of a step."""
        if self.feed is not None:
            return next(self.feed)
        size = self.state.phase.batch or self.family.batch
        index = batch_index(len(self.rows), size, self.seed, step)
        mine = np.arange(self.world.rank, size, self.world.size)
        return self.rows.batch(index[mine], row=mine, columns=self.state.phase.columns)

    def _seed(self, step: int) -> None:
        mixed = int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        self.state.generator.manual_seed(mixed)
        torch.manual_seed(mixed + self.world.rank)  # dropout: each worker its own

    def _optimize(self, phase: Phase) -> None:
        self.state.phase = phase
        self.state.optimizers = self.family.optimizers(self.state.net, phase)
        for optimizer in self.state.optimizers.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
            optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if self.world.size > 1:
            average_gradients(gradients, self._share())
        if self.family.clip:
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], self.family.clip)

    def _share(self) -> float:
        """The part of the global batch that is this worker's."""
        size = self.state.phase.batch or self.family.batch
        return len(range(self.world.rank, size, self.world.size)) / size

    def _schedule(self, step: int) -> None:
        for name, optimizer in self.state.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self.family.schedule(group.get("name", name), step)

    @torch.no_grad()
    def _average(self) -> None:
        if self.state.average is None:
            return
        # a fresh average carries the first random weights for long: it begins shorter
        keep = min(self.family.ema, (1 + self.state.step) / (10 + self.state.step))
        ours, theirs = self.state.average, self.state.net
        for mean, value in zip(ours.parameters(), theirs.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)
        for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
            mine.copy_(other)

    # Checkpoints

    def save(self, path: Path) -> None:
        """Writes everything that the next update depends on."""
        write_atomically(path, self.dump())

    def dump(self) -> bytes:
        tensors: dict[str, Tensor] = {}
        plain = {
            "step": self.state.step,
            "phase": self.state.phase.name,
            "pieces": self.state.pieces,
            "optimizers": _flatten({n: o.state_dict() for n, o in self.state.optimizers.items()}, "optimizer", tensors),
            "memory": _flatten(self.state.memory, "memory", tensors),
            "net": _flatten(dict(self.state.net.state_dict()), "net", tensors),
        }
        if self.state.average is not None:
            plain["average"] = _flatten(dict(self.state.average.state_dict()), "average", tensors)
        return save_tensors(tensors, {"state": json.dumps(plain)})

    def load(self, data: bytes) -> None:
        """Continues from `dump`: each parameter gets its stored size first, then optimizers are built and loaded."""
        tensors = {name: tensor.to(self.device) for name, tensor in load_tensors(data).items()}
        plain = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["state"])
        load_weights(self.state.net, _unflatten(plain["net"], tensors))
        if self.state.average is not None:
            load_weights(self.state.average, _unflatten(plain["average"], tensors))
        self.state.memory = _unflatten(plain["memory"], tensors)
        self.state.step, self.state.pieces = plain["step"], plain["pieces"]
        self._optimize(next(p for p in phases(self.family) if p.name == plain["phase"]))
        for name, stored in _unflatten(plain["optimizers"], tensors).items():
            self.state.optimizers[name].load_state_dict(_with_integer_keys(stored))


def phases(family: Family) -> list[Phase]:
    """The family's phases, whose steps must add up."""
    found = list(family.phases())
    total = sum(phase.steps for phase in found)
    if total != family.steps:
        raise DataError(f"The phases of {family.name} must add up to `steps`, but got {total} and {family.steps}.")
    return found


def phase_at(family: Family, step: int) -> Phase:
    """The phase that an update belongs to."""
    for phase in phases(family):
        if step < phase.steps:
            return phase
        step -= phase.steps
    raise ValueError(f"`step < {family.steps}` must hold, but got {step + family.steps}")


def batch_index(rows: int, size: int, seed: int, step: int) -> np.ndarray:
    """
    Which rows the global batch of a step holds, [size].

    Permutations of the split, one after another, cut into batches: a function of (seed, step) alone.
    """
    if rows == 0:
        raise DataError("A training split must have rows, but it has none. Give it more data, or another split.")
    first = step * size
    passes = range(first // rows, (first + size - 1) // rows + 1)
    order = np.concatenate([np.random.default_rng([seed, n]).permutation(rows) for n in passes])
    begin = first - passes[0] * rows
    return order[begin : begin + size]


def average_gradients(gradients: list[Tensor], share: float) -> None:
    """Replaces each worker's gradients by those of the whole batch; `share` is this worker's part of it."""
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients]) * share
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def evaluate(family: Family, net: nn.Module, rows: Rows, *, batch: int = 64, index: Any = None) -> dict[str, Any]:
    """The totals of a split, or of the rows `index` of it."""
    totals: dict[str, Any] = {}
    for part in batches(len(rows) if index is None else index, batch):
        totals = add(totals, measure(family, net, rows.batch(part)))
    return totals


def measure(family: Family, net: nn.Module, batch: Batch) -> dict[str, Any]:
    """One batch's part of the totals."""
    net.eval()
    with torch.no_grad():
        return {name: _plain(value) for name, value in family.metrics(net, batch).items()}


def batches(index: Any, size: int) -> Iterator[np.ndarray]:
    index = np.arange(index) if isinstance(index, int) else np.asarray(index)
    for start in range(0, len(index), size):
        yield index[start : start + size]


def groups(rows: Rows, count: int) -> list[np.ndarray]:
    """
    The rows of a split in up to `count` parts of whole assets: views of one asset are no samples of their own.

    Where there is one asset alone, its rows are the sample.
    """
    _, asset = np.unique(rows.ids, return_inverse=True)  # [N]
    unit = asset if len(rows) and asset.any() else np.arange(len(rows))
    units = int(unit.max(initial=-1)) + 1
    sizes = [len(part) for part in np.array_split(np.arange(units), min(count, units))]
    part = np.repeat(np.arange(len(sizes)), sizes)[unit]  # [N]
    return np.split(part.argsort(kind="stable"), np.bincount(part, minlength=len(sizes)).cumsum()[:-1])


def add(totals: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Sums of numbers and arrays, lists joined."""
    return {name: value if name not in totals else totals[name] + value for name, value in more.items()}


def standard_error(family: Family, parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """
    How much each score would vary with another sample of the data: the delete-one jackknife over parts of a split.

    Efron and Stein, 1981. `parts` are the totals of disjoint groups of rows.
    """
    return {name: jackknife(values) for name, values in left_out(family, parts).items()}


def left_out(family: Family, parts: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, ...]]:
    """Each score without each of the parts in turn; nothing where there is one part only."""
    if len(parts) < 2:
        return {}
    scores = [family.score(joined([*parts[:out], *parts[out + 1 :]])) for out in range(len(parts))]
    return {name: tuple(float(score[name]) for score in scores) for name in scores[0]}


def joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The totals of parts as one."""
    totals: dict[str, Any] = {}
    for part in parts:
        totals = add(totals, part)
    return totals


def load_weights(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives each parameter and buffer its stored size, then its stored values: some families change their number."""
    for name, value in weights.items():
        module = net.get_submodule(name.rpartition(".")[0])
        own = getattr(module, name.rpartition(".")[2])
        if own.shape != value.shape:
            own.data = torch.empty_like(value, dtype=own.dtype, device=own.device)
    net.load_state_dict(dict(weights))


def parameter_count(net: nn.Module) -> int:
    """All parameters, frozen ones included."""
    return sum(p.numel() for p in net.parameters())


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item() if value.ndim == 0 else value.cpu().numpy()
    return value


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The same nest with each tensor moved to `tensors` and its name left in its place."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": {str(k): _flatten(v, f"{path}/{k}", tensors) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(v, f"{path}/{n}", tensors) for n, v in enumerate(value)]}
    return {"value": value}


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {k: _unflatten(v, tensors) for k, v in inner.items()}
    return [_unflatten(v, tensors) for v in inner] if kind == "list" else inner


def _with_integer_keys(stored: dict[str, Any]) -> dict[str, Any]:
    """torch numbers the parameters of an optimizer; JSON made words of those numbers."""
    return {**stored, "state": {int(k): v for k, v in stored["state"].items()}}


class Clock:
    """Says every so many seconds that it is time: when to save, when to report."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def struck(self) -> bool:
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True
