"""
train against a hand-written torch loop of the same model on the same batches: steps per second. Target: 0.95 of it.

`python -m tests.benchmarks.training [--family pointnet]`
"""

import argparse
import time
from collections.abc import Callable

import torch

from components.family import find
from components.sources.furniture import Furniture
from components.step import Printing
from components.steps.preprocess import preprocess
from components.table import Rows
from components.training import Learner, batch_index

STEPS = 60


def by_hand(family: object, rows: Rows) -> Callable[[], None]:
    """What a person would write: indices, a forward pass, a backward pass, a step."""
    torch.manual_seed(0)
    net = family.network()
    (optimizer,) = family.optimizers(net, family.phases()[0]).values()
    generator = torch.Generator().manual_seed(0)
    net.train()
    step = 0

    def run() -> None:
        nonlocal step
        for _ in range(STEPS):
            index = torch.from_numpy(batch_index(len(rows), family.batch, 0, step))
            batch = {name: column[index] for name, column in rows.columns.items()}
            batch |= {"label": rows.label[index], "index": index, "row": torch.arange(len(index))}
            optimizer.zero_grad()
            loss, _ = family.loss(net, family.augment(batch, generator), generator)
            loss.backward()
            optimizer.step()
            step += 1

    return run


def by_learner(family: object, rows: Rows) -> Callable[[], None]:
    learner = Learner.begin(family, rows, seed=0)

    def run() -> None:
        for _ in learner.run(until=learner.state.step + STEPS):
            pass

    return run


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--family", default="voxnet,pointnet")
    torch.set_num_threads(1)
    print(f"{STEPS} steps a turn, turns alternate, best of 5; one thread\n")
    for name in words.parse_args().family.split(","):
        family = find(name).tiny()
        context = Printing()
        table = preprocess.run(
            {"source": Furniture(), "representations": [family.representation()], "on": "here"}, context
        )
        rows = table.open(family.representation(), "train")
        family = family.adapt(rows)
        runs = {"by hand": by_hand(family, rows), "train": by_learner(family, rows)}
        best = dict.fromkeys(runs, 0.0)
        for _ in range(5):
            for kind, run in runs.items():
                began = time.process_time()
                run()
                best[kind] = max(best[kind], STEPS / (time.process_time() - began))
        ratio = best["train"] / best["by hand"]
        print(
            f"{name:<10} by hand {best['by hand']:7.2f} steps/s   train {best['train']:7.2f}   "
            f"ratio {ratio:.3f} (target 0.95)"
        )


if __name__ == "__main__":
    main()
