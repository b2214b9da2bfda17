"""
Batches that do not fit in memory: cut into pieces where that changes nothing, refused with what would fit elsewhere.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from components.errors import OutOfMemory
from components.family import Batch, Family, State
from components.table import Rows
from components.training import microbatch
from components.training.learner import Learner, World


class Small(Family):
    """A line under noise whose loss fits so many rows of a batch, and no more."""

    batch: int = 16
    steps: int = 6
    lr: float = 0.1
    fits: int = 16
    """rows that fit in memory"""
    norm: bool = False
    """whether rows see each other"""

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4) if self.norm else nn.Tanh(), nn.Linear(4, 1))

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        return {**batch, "x": batch["x"] + 0.1 * torch.randn(self.batch, 2, generator=generator)[batch["row"]]}

    def loss(self, net: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        noise = torch.randn(self.batch, generator=generator)[batch["row"]]
        error = net(batch["x"])[:, 0] - batch["y"] + 0.1 * noise
        if len(error) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        values, offsets = batch["words"]
        return error.square().mean() + 0 * values.sum(), {"words": offsets.diff().float().mean()}


class Contrastive(Small):
    """Its rows are compared with each other."""

    separable = False


class OwnUpdate(Small):
    """It writes an update of its own."""

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        state.optimizers["main"].zero_grad()
        loss, _ = self.loss(state.net, batch, state.generator)
        loss.backward()
        state.optimizers["main"].step()
        return {"loss": loss.detach()}


def rows(count: int = 40) -> Rows:
    x = torch.linspace(-1, 1, 2 * count).view(count, 2)
    words = torch.arange(count * 3), torch.arange(count + 1) * 3
    columns = {"x": x, "y": x.sum(1), "words": words}
    return Rows(columns, [str(n) for n in range(count)], torch.zeros(count, dtype=torch.int64), ())


def learned(family: Family, updates: int = 6, world: World | None = None) -> tuple[Learner, list[dict[str, Tensor]]]:
    learner = Learner.begin(family, rows(), world=world)
    return learner, list(learner.run(updates))


def weights(learner: Learner) -> dict[str, Tensor]:
    return dict(learner.state.net.state_dict())


# What may be cut


@pytest.mark.parametrize(("fits", "count"), [(16, 1), (15, 2), (8, 2), (7, 4), (3, 8), (1, 16)])
def test_a_batch_that_does_not_fit_is_cut_and_the_numbers_stay(fits, count):
    whole, logged = learned(Small())
    cut, also_logged = learned(Small(fits=fits))

    assert cut.state.pieces == count
    assert_close(weights(cut), weights(whole), rtol=1e-5, atol=1e-6)
    assert_close(also_logged, logged, rtol=1e-5, atol=1e-6)


def test_pieces_of_unequal_size_weigh_what_they_hold():
    whole, _ = learned(Small(batch=11))
    cut, _ = learned(Small(batch=11, fits=3))

    assert [len(part) for part in torch.arange(11).chunk(cut.state.pieces)] == [3, 3, 3, 2]
    assert_close(weights(cut), weights(whole), rtol=1e-5, atol=1e-6)


def test_chance_goes_on_as_if_nothing_had_been_cut():
    whole, _ = learned(Small())
    cut, _ = learned(Small(fits=4))

    assert torch.equal(cut.state.generator.get_state(), whole.state.generator.get_state())


def test_it_is_tried_once_and_not_at_every_update_nor_after_a_restart(monkeypatch):
    learner, _ = learned(Small(fits=4), 1)
    tries = []
    monkeypatch.setattr(microbatch, "release", lambda: tries.append(learner.state.step))
    learner.update(1)
    other = Learner.begin(Small(fits=4), rows())
    other.load(learner.dump())
    other.update(2)

    assert tries == []
    assert other.state.pieces == 4


def test_the_part_of_one_worker_is_cut_by_itself():
    """Its gradients are those of its whole part, so the others need not know."""
    learner = Learner.begin(Small(), rows(), world=World(1, 3))
    batch = learner.batch(0)
    family = replace(Small(), fits=2)
    wanted = microbatch.gradients(Small(), learner.state, batch)
    gradients = [p.grad.clone() for p in learner.state.net.parameters()]
    learner.state.net.zero_grad()
    learner.state.pieces = 4
    learner.state.generator.manual_seed(0)

    assert_close(microbatch.gradients(family, learner.state, batch), wanted, rtol=1e-5, atol=1e-6)
    assert_close([p.grad for p in learner.state.net.parameters()], gradients, rtol=1e-5, atol=1e-6)


def test_a_row_that_does_not_fit_alone_is_said_to_be_too_large():
    with pytest.raises(OutOfMemory, match=r"A row of small must fit in memory, but one alone does not."):
        learned(Small(fits=0))


# What may not


@pytest.mark.parametrize(
    "family",
    [Small(norm=True, fits=5), Contrastive(fits=5), OwnUpdate(fits=5)],
    ids=["BatchNorm", "rows that see each other", "an update of its own"],
)
def test_where_cutting_would_change_the_result_the_error_names_the_batch_that_fits(family):
    with pytest.raises(
        OutOfMemory, match=rf"but 16 rows do not fit and 4 do. Pass --set {family.name}.batch=4."
    ) as caught:
        learned(family)

    assert isinstance(caught.value, MemoryError)  # by which the runner knows that trying again is no use
    assert "\n" not in str(caught.value)


def test_the_batch_that_fits_is_that_of_all_workers_together():
    """A worker of two holds eight rows of sixteen; four fit it, so eight fit both."""
    with pytest.raises(OutOfMemory, match="16 rows do not fit and 8 do"):
        learned(Small(norm=True, fits=5), world=World(0, 2))


def test_normalisation_that_learns_no_more_may_be_cut():
    learner = Learner.begin(Small(norm=True, fits=5), rows())
    learner.state.net.eval()

    assert microbatch.may_cut(learner.family, learner.state.net)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_an_error_of_another_kind_is_left_as_it_is(error, monkeypatch):
    def loss(self: Small, *_: Any) -> Any:
        raise error

    monkeypatch.setattr(Small, "loss", loss)
    with pytest.raises(type(error)) as caught:
        learned(Small())

    assert caught.value is error


# Real memory


class Wide(Small):
    """A loss that takes 4 MiB for each row."""

    def loss(self, net: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return net(batch["x"]).repeat(1, 2**20).square().mean(), {}


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """This process may take so many bytes more than it has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_batch_that_the_allocator_refuses_is_cut():
    """16 rows take 64 MiB at once, and again for their squares; there are 96."""
    whole, _ = learned(Wide(), 2)
    with at_most(96 * 2**20):
        cut, _ = learned(Wide(), 2)

    assert cut.state.pieces > 1
    assert_close(weights(cut), weights(whole), rtol=1e-5, atol=1e-6)
