"""
train against a hand-written torch loop of the same model on the same batches. Target: 0.95 of its steps per second.

CPU milliseconds of a step, one thread, the median over all steps; the two take turns, since a machine that others use
is faster at one moment than at the next. `train` is the whole step with its log, in this process and, with --worker,
on one worker of Ray Train after its start; what it takes to judge the validation split is no step.

`python -m tests.benchmarks.training [--family pointnet] [--worker]`
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from components.family import Family, find
from components.sources.furniture import Furniture
from components.step import Printing
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Rows, Table
from components.training import batch_index

STEPS = 60
TURNS = 5


class Stamps(Printing):
    """Writes down the CPU time at which each update was logged."""

    def log(self, metrics: Mapping[str, float], step: int, *, trial: str = "") -> None:
        if "loss" in metrics:
            with open(f"{self.scratch}/stamps.jsonl", "a") as lines:
                lines.write(f"{json.dumps(time.process_time())}\n")

    def taken(self) -> np.ndarray:
        """Milliseconds from each update to the next."""
        stamps = [json.loads(line) for line in Path(f"{self.scratch}/stamps.jsonl").read_text().splitlines()]
        return 1e3 * np.diff(stamps)


def by_hand(family: Family, rows: Rows) -> np.ndarray:
    """What a person would write: indices, a forward pass, a backward pass, a step."""
    torch.manual_seed(0)
    net = family.network()
    (optimizer,) = family.optimizers(net, family.phases()[0]).values()
    generator = torch.Generator().manual_seed(0)
    net.train()
    stamps = []
    for step in range(STEPS):
        index = torch.from_numpy(batch_index(len(rows), family.batch, 0, step))
        batch = {name: column[index] for name, column in rows.columns.items()}
        batch |= {"label": rows.label[index], "index": index, "row": torch.arange(len(index))}
        optimizer.zero_grad()
        loss, _ = family.loss(net, family.augment(batch, generator), generator)
        loss.backward()
        optimizer.step()
        stamps.append(time.process_time())
    return 1e3 * np.diff(stamps)


def by_train(family: Family, table: Table, workers: int) -> np.ndarray:
    context = Stamps(resources={"CPU": 4})
    train.run(train.bind((family, table), {"workers": workers}), context)
    return context.taken()


def measured(name: str, worker: bool) -> str:
    family = replace(find(name).tiny(), steps=STEPS)
    arguments = {"source": Furniture(), "representations": [family.representation()], "on": "here", "after": None}
    table = preprocess.run(arguments, Printing())
    rows = table.open(family.representation(), "train")
    kinds = {"by hand": lambda: by_hand(family.adapt(rows), rows), "train": lambda: by_train(family, table, 0)}
    if worker:
        kinds["one worker"] = lambda: by_train(family, table, 1)
    taken: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for turn in range(TURNS):
        for kind in list(kinds)[:: 1 if turn % 2 else -1]:
            taken[kind].append(kinds[kind]())
    medians = {kind: float(np.median(np.concatenate(parts))) for kind, parts in taken.items()}
    said = "   ".join(f"{kind} {ms:6.2f} ms ({medians['by hand'] / ms:.3f})" for kind, ms in medians.items())
    return f"{name:<10} {said}"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--family", default="voxnet,pointnet")
    words.add_argument("--worker", action="store_true", help="also on one worker of Ray Train")
    told = words.parse_args()
    torch.set_num_threads(1)
    print(f"CPU ms of a step, median of {TURNS} x {STEPS}; in brackets the share of the hand-written loop's speed")
    for name in told.family.split(","):
        print(measured(name, told.worker), flush=True)


if __name__ == "__main__":
    main()
