"""
What several tests need: a few real shapes, rows of them in memory, and workers without processes.
"""

import threading
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.errors import UsageError
from components.family import Family
from components.formats.mesh import Mesh
from components.representation import Representation
from components.source import Asset
from components.table import Rows
from components.training.learner import Learner, World

CLASSES = 4


@lru_cache(maxsize=1)
def shapes(count: int = 12) -> tuple[tuple[Asset, Mesh], ...]:
    """`count` of the bundled shapes, as many of each of four classes: the ones with the fewest faces among a few."""
    from components.sources.furniture import Furniture

    source = Furniture()
    assets = sorted(source.rows(), key=lambda asset: asset.id)
    labels = sorted({asset.label for asset in assets})[:CLASSES]
    chosen = []
    for label in labels:
        some = [(a, source.open(a)) for a in assets if a.label == label][:8]
        chosen += sorted(some, key=lambda pair: len(pair[1].faces))[: count // CLASSES]
    return tuple(chosen)


def adapted(family: Family) -> tuple[Family, Rows]:
    """A family and a few rows that it is adapted to: of all shapes, or of one where it learns one scene."""
    representation = family.representation()
    try:
        rows = rows_of(fewer(representation))
        return family.adapt(rows), rows
    except UsageError:
        rows = rows_of(representation, count=1)
        return family.adapt(rows), rows


def fewer(representation: Representation) -> Representation:
    """The same with a few views of each shape, where it has views."""
    return replace(representation, count=2) if representation.name == "views" else representation


@lru_cache(maxsize=64)
def rows_of(representation: Representation, count: int = 12) -> Rows:
    """Rows of a representation in memory: of the bundled shapes, or of made-up vectors where no shape gives them."""
    if representation.name == "features":
        return blobs()
    pairs = shapes()[:count]
    adapted = representation.adapt([mesh for _, mesh in pairs])
    found = []
    for asset, mesh in pairs:
        found += [(asset, row) for row in adapted.rows(mesh, adapted.generator(0, asset.id))]
    columns = {
        name: ragged([row[name] for _, row in found])
        if None in column.shape
        else stacked([row[name] for _, row in found])
        for name, column in adapted.columns().items()
    }
    labels = tuple(sorted({asset.label for asset, _ in pairs}))
    label = torch.tensor([labels.index(asset.label) for asset, _ in found])
    return Rows(columns, [asset.id for asset, _ in found], label, labels, adapted)


def stacked(arrays: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(array) for array in arrays]))


def ragged(arrays: list[Any]) -> tuple[Tensor, Tensor]:
    offsets = np.cumsum([0] + [len(array) for array in arrays])
    return torch.from_numpy(np.concatenate(arrays)), torch.from_numpy(offsets)


def blobs(count: int = 60, dim: int = 8) -> Rows:
    """Vectors in four groups that overlap a little."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(count) % CLASSES
    centres = 2 * torch.randn(CLASSES, dim, generator=generator)
    vectors = centres[label] + torch.randn(count, dim, generator=generator)
    return Rows({"features": vectors}, [f"blob {n}" for n in range(count)], label, ("a", "b", "c", "d"))


def doubled(rows: Rows) -> Rows:
    """The same rows with every floating column in double precision."""

    def double(column: Any) -> Any:
        if isinstance(column, tuple):
            return double(column[0]), column[1]
        return column.double() if column.is_floating_point() else column

    return replace(rows, columns={name: double(column) for name, column in rows.columns.items()})


def without_chance(net: nn.Module) -> None:
    """Switches dropout off, and keeps normalisation in evaluation mode whatever `train()` says."""
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]


def begin(family: Family, rows: Rows, seed: int = 0, world: World | None = None) -> Learner:
    """A learner of a family that is already adapted."""
    return Learner.begin(family, rows, seed=seed, world=world or World())


def learn_together(family: Family, rows: Rows, *, size: int, updates: int, state: bytes | None = None) -> list[Learner]:
    """
    As many learners as workers, from the beginning or from a saved state, after some updates without chance.

    They are threads, whose `all_reduce` adds as gloo does. Threads start at once where processes take seconds to
    import torch, and the loop cannot tell: workers meet in `all_reduce` alone. All begin before one of them moves on,
    for first weights come from torch's one seed.
    """
    learners = [begin(family, rows, world=World(rank, size)) for rank in range(size)]
    for learner in learners:
        if state is not None:
            learner.load(state)
    barrier, parts, errors = threading.Barrier(size), {}, []

    def all_reduce(tensor: Tensor) -> None:
        parts[threading.current_thread().name] = tensor.clone()
        barrier.wait(60)
        total = sum(parts[name] for name in sorted(parts))
        barrier.wait(60)
        tensor.copy_(total)

    def learn(learner: Learner) -> None:
        try:
            without_chance(learner.state.net)
            for _ in learner.run(updates):
                pass
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=learn, args=(one,), name=f"worker {one.world.rank}") for one in learners]
    with patch.object(dist, "all_reduce", all_reduce):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
    return learners
