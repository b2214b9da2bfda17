"""
train against a hand-written torch loop of the same model on the same batches. Target: 0.95 of its steps per second.

The two take turns step by step and the ratio is the median over pairs, in CPU time of one thread: a machine that others
use is faster at one moment than at the next, and medians of separate runs differ by more than what is looked for.
`train` is an update with its log. With --worker, also on one worker of Ray Train after its start.

`python -m tests.benchmarks.training [--family pointnet] [--worker]`
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from components.family import Family, find
from components.sources.furniture import Furniture
from components.step import Printing
from components.steps.preprocess import preprocess
from components.steps.train import Log, train
from components.table import Rows, Table
from components.training.learner import Learner, batch_index


class Stamps(Printing):
    """Writes down the CPU time at which each update was logged."""

    def log(self, metrics: Mapping[str, float], step: int, *, trial: str = "") -> None:
        if "loss" in metrics:
            with open(f"{self.scratch}/stamps.jsonl", "a") as lines:
                lines.write(f"{json.dumps(time.thread_time())}\n")

    def taken(self) -> np.ndarray:
        """Milliseconds from each update to the next."""
        stamps = [json.loads(line) for line in Path(f"{self.scratch}/stamps.jsonl").read_text().splitlines()]
        return 1e3 * np.diff(stamps)


def by_hand(family: Family, rows: Rows) -> Callable[[int], None]:
    """What a person would write: indices, a forward pass, a backward pass, a step."""
    torch.manual_seed(0)
    net = family.network()
    (optimizer,) = family.optimizers(net, family.phases()[0]).values()
    generator = torch.Generator().manual_seed(0)
    net.train()

    def run(step: int) -> None:
        index = torch.from_numpy(batch_index(len(rows), family.batch, 0, step))
        batch = {name: column[index] for name, column in rows.columns.items()}
        batch |= {"label": rows.label[index], "index": index, "row": torch.arange(len(index))}
        optimizer.zero_grad()
        loss, _ = family.loss(net, family.augment(batch, generator), generator)
        loss.backward()
        optimizer.step()

    return run


def by_train(family: Family, rows: Rows) -> Callable[[int], None]:
    """What a worker does for a step."""
    learner = Learner.begin(family, rows)
    log = Log(Printing(), family, 0)

    def run(step: int) -> None:
        log.update(step + 1, learner.update(step))

    return run


def timed(run: Callable[[int], None], step: int) -> float:
    began = time.thread_time()
    run(step)
    return 1e3 * (time.thread_time() - began)


def measured(name: str, steps: int, worker: bool) -> str:
    family = replace(find(name).tiny(), steps=steps)
    told = {"source": Furniture(), "representations": [family.representation()], "on": "here", "after": None}
    table = preprocess.run(told, Printing())
    rows = table.open(family.representation(), "train")
    kinds = {"by hand": by_hand(family.adapt(rows), rows), "train": by_train(family.adapt(rows), rows)}
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for step in range(steps):
        for kind in list(kinds)[:: 1 if step % 2 else -1]:
            taken[kind].append(timed(kinds[kind], step))
    ratio = np.median(np.array(taken["by hand"]) / np.array(taken["train"]))
    said = "   ".join(f"{kind} {np.median(own):6.2f} ms" for kind, own in taken.items())
    return f"{name:<10} {said}   ratio {ratio:.3f}" + (f"   {on_worker(family, table):6.2f} ms" if worker else "")


def on_worker(family: Family, table: Table) -> float:
    context = Stamps(resources={"CPU": 4})
    train.run(train.bind((family, table), {"workers": 1}), context)
    return float(np.median(context.taken()))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--family", default="voxnet,pointnet")
    words.add_argument("--steps", type=int, default=60, help="at most 200 [60]")
    words.add_argument("--worker", action="store_true", help="also on one worker of Ray Train")
    told = words.parse_args()
    torch.set_num_threads(1)
    print(f"CPU ms of a step, median of {told.steps}; the ratio is the median over pairs, target 0.95\n")
    for name in told.family.split(","):
        print(measured(name, told.steps, told.worker), flush=True)


if __name__ == "__main__":
    main()
