"""
The training loop: batches that depend on (seed, step) alone, and learners that continue as if nothing had happened.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from components.errors import DataError
from components.family import Family, Phase
from components.table import Rows
from components.training.learner import (
    Clock,
    Learner,
    World,
    add,
    average_gradients,
    batch_index,
    batches,
    evaluate,
    groups,
    load_weights,
    parameter_count,
    phase_at,
    phases,
    standard_error,
)
from tests.support import learn_together


class Line(Family):
    """y = ax + b, in two phases."""

    steps: int = 20
    batch: int = 4
    lr: float = 0.1

    def network(self) -> nn.Module:
        return nn.Linear(1, 1)

    def phases(self) -> list[Phase]:
        return [Phase("coarse", self.steps // 2), Phase("fine", self.steps - self.steps // 2, batch=6)]

    def schedule(self, group: str, step: int) -> float:
        return 1 - step / self.steps

    def loss(self, net: nn.Module, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict]:
        noise = 0.01 * torch.randn(32, generator=generator)[batch["row"]]
        return (net(batch["x"][:, None])[:, 0] - batch["y"] + noise).square().mean(), {}


def rows(count: int = 10) -> Rows:
    x = torch.linspace(-1, 1, count)
    return Rows({"x": x, "y": 2 * x + 1}, [str(n) for n in range(count)], torch.zeros(count, dtype=torch.int64), ())


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.state.net.state_dict().items()}


def finished(learner: Learner, until: int | None = None) -> Learner:
    for _ in learner.run(until):
        pass
    return learner


# Batches


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
@settings(deadline=None)
def test_a_pass_over_the_data_meets_every_row_once(count, size, seed):
    drawn = np.concatenate([batch_index(count, size, seed, step) for step in range(-(-3 * count // size))])[: 3 * count]

    for one in drawn.reshape(3, count):
        assert sorted(one) == list(range(count))


def test_each_pass_has_an_order_of_its_own():
    first, second = (batch_index(50, 50, 0, step).tolist() for step in (0, 1))

    assert first != second
    assert sorted(first) == sorted(second)


def test_a_batch_depends_on_the_seed_and_the_step_alone():
    assert batch_index(50, 8, 0, 3).tolist() == batch_index(50, 8, 0, 3).tolist()
    assert batch_index(50, 8, 0, 3).tolist() != batch_index(50, 8, 1, 3).tolist()
    assert batch_index(50, 8, 0, 3).tolist() != batch_index(50, 8, 0, 4).tolist()


def test_a_split_without_rows_is_refused():
    with pytest.raises(DataError, match="A training split must have rows, but it has none"):
        batch_index(0, 8, 0, 0)


@given(st.integers(1, 5))
@settings(deadline=None)
def test_the_workers_share_a_global_batch_out(size):
    learners = [Learner.begin(Line(), rows(), world=World(rank, size)) for rank in range(size)]
    whole = Learner.begin(Line(), rows()).batch(3)
    parts = [learner.batch(3) for learner in learners]
    place = torch.cat([part["row"] for part in parts])

    assert sorted(place.tolist()) == list(range(4))
    assert torch.cat([part["index"] for part in parts])[place.argsort()].tolist() == whole["index"].tolist()


def test_groups_of_rows_are_cut_without_a_rest():
    assert [len(part) for part in batches(10, 4)] == [4, 4, 2]
    assert [part.tolist() for part in batches([5, 6, 7], 2)] == [[5, 6], [7]]


# Updates


def test_a_learner_learns():
    learner = finished(Learner.begin(Line(steps=200), rows()))
    totals = evaluate(learner.family, learner.best_net, rows())

    assert learner.family.score(totals)["loss"] < 0.01


def test_three_workers_learn_what_one_learns():
    family = replace(Line(), batch=5)
    (alone,) = learn_together(family, rows(), size=1, updates=15)
    together = learn_together(family, rows(), size=3, updates=15)

    for learner in together:
        assert_close(weights(learner), weights(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", [1, 9, 10, 11, 19])
def test_a_learner_that_continues_ends_where_an_undisturbed_one_does(at):
    family = replace(Line(), ema=0.9)
    whole = finished(Learner.begin(family, rows()))
    state = finished(Learner.begin(family, rows()), at).dump()
    other = Learner.begin(family, rows())
    other.load(state)
    finished(other)

    assert other.dump() == whole.dump()
    assert_close(other.best_net.state_dict(), whole.best_net.state_dict(), rtol=0, atol=0)


def test_another_seed_learns_something_else():
    one, other = (weights(finished(Learner.begin(Line(), rows(), seed=seed))) for seed in (0, 1))

    assert not torch.equal(one["weight"], other["weight"])


def test_an_optimizer_is_made_anew_at_each_phase_and_its_rate_follows_the_schedule():
    learner = finished(Learner.begin(Line(), rows()), 10)
    first = learner.state.optimizers["main"]
    learner.update(10)

    assert learner.state.phase.name == "fine"
    assert learner.state.optimizers["main"] is not first
    assert learner.state.optimizers["main"].param_groups[0]["lr"] == pytest.approx(0.05)
    assert len(learner.batch(10)["row"]) == 6


def test_gradients_are_clipped_to_the_largest_norm():
    learner = Learner.begin(replace(Line(), clip=1e-3), rows())
    learner.update(0)

    norm = torch.cat([p.grad.flatten() for p in learner.state.net.parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_an_average_begins_short_and_follows_the_network():
    learner = Learner.begin(replace(Line(), ema=0.999), rows())
    before = weights(learner)["weight"]
    learner.update(0)
    after, mean = weights(learner)["weight"], learner.best_net.weight.detach()

    assert_close(mean, before * 0.1 + after * 0.9)


def test_phases_must_add_up():
    family = Line()
    object.__setattr__(family, "steps", 20)
    assert [phase.name for phase in phases(family)] == ["coarse", "fine"]
    assert [phase_at(family, step).name for step in (0, 9, 10, 19)] == ["coarse", "coarse", "fine", "fine"]

    class Short(Line):
        def phases(self) -> list[Phase]:
            return [Phase("one", 3)]

    with pytest.raises(DataError, match="must add up to `steps`, but got 3 and 20"):
        phases(Short())


def test_a_gradient_is_the_mean_over_rows_and_not_over_workers(monkeypatch):
    """Workers of unequal parts: each adds its mean by its share of the batch."""
    parts = [torch.tensor([1.0]), torch.tensor([4.0])]
    sums = [parts[0] * 2 / 3, parts[1] / 3]
    monkeypatch.setattr("components.training.learner.dist.all_reduce", lambda flat: flat.copy_(sum(sums)))
    average_gradients([parts[0]], 2 / 3)

    assert parts[0].item() == pytest.approx(2.0)


def work(rank: int, size: int, folder: Path) -> None:
    """One process of gloo: it learns its rows, and leaves what it has learned."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    learner = finished(Learner.begin(replace(Line(), batch=5, clip=0.5, ema=0.9), rows()))
    dist.destroy_process_group()
    learner.save(folder / f"{rank}.safetensors")


def test_two_processes_of_gloo_learn_what_one_learns(tmp_path):
    """Three rows and two, averaged by real collectives; clipped after they were."""
    family = replace(Line(), batch=5, clip=0.5, ema=0.9)
    alone = finished(Learner.begin(family, rows()))
    torch.multiprocessing.spawn(work, (2, tmp_path), nprocs=2)
    together = [Learner.begin(family, rows()) for _ in range(2)]
    for rank, learner in enumerate(together):
        learner.load((tmp_path / f"{rank}.safetensors").read_bytes())

    for learner in together:
        assert learner.state.step == family.steps
        assert_close(weights(learner), weights(alone), rtol=1e-5, atol=1e-6)
        assert_close(learner.best_net.state_dict(), alone.best_net.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", [1, 9, 13])
def test_a_training_goes_on_with_another_number_of_workers(at):
    """Batches are global, so a group that lost a worker ends where it would have ended."""
    family = replace(Line(), batch=5, ema=0.9)
    (alone,) = learn_together(family, rows(), size=1, updates=20)
    before = learn_together(family, rows(), size=3, updates=at)[0].dump()
    after = learn_together(family, rows(), size=2, updates=20, state=before)

    for learner in after:
        assert_close(weights(learner), weights(alone), rtol=1e-5, atol=1e-6)


# Weights and totals


def test_weights_of_another_size_are_taken_with_their_size():
    """Gaussians change their number."""
    net = nn.Linear(2, 3)
    load_weights(net, {"weight": torch.ones(5, 2), "bias": torch.zeros(5)})

    assert net.weight.shape == (5, 2)
    assert parameter_count(net) == 15


def test_weights_of_another_network_are_refused():
    with pytest.raises((RuntimeError, AttributeError)):
        load_weights(nn.Linear(2, 3), {"elsewhere.weight": torch.ones(5, 2)})


def named(*ids: str) -> Rows:
    return Rows({}, list(ids), torch.zeros(len(ids), dtype=torch.int64), ("a",))


def test_parts_of_a_split_are_whole_assets():
    """Views of one shape in two parts would make the parts alike, and a standard error too small."""
    rows = named(*(f"{n:02}" for n in range(7) for _ in range(3)))

    assert [part.tolist() for part in groups(rows, 3)] == [[*range(9)], [*range(9, 15)], [*range(15, 21)]]
    assert [len(part) for part in groups(rows, 20)] == [3] * 7


def test_parts_of_a_split_with_a_row_for_each_asset_are_those_of_its_rows():
    rows = named(*(f"{n:02}" for n in range(23)))
    for count in (1, 5, 20, 40):
        expected = np.array_split(np.arange(23), min(count, 23))
        assert [part.tolist() for part in groups(rows, count)] == [part.tolist() for part in expected]


def test_parts_of_a_single_asset_are_those_of_its_rows():
    assert [part.tolist() for part in groups(named(*"aaaaa"), 2)] == [[0, 1, 2], [3, 4]]


def test_totals_add_numbers_and_arrays_and_join_lists():
    one = {"loss": 1.0, "hits": np.array([1, 2]), "pairs": [(1, 2)]}
    total = add(add({}, one), one)

    assert total["loss"] == 2.0
    assert total["hits"].tolist() == [2, 4]
    assert total["pairs"] == [(1, 2), (1, 2)]


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """For a mean the two are the same: Efron and Stein 1981."""
    losses = np.random.default_rng(0).normal(size=50)
    found = standard_error(Line(), [{"loss": loss, "count": 1} for loss in losses])

    assert found["loss"] == pytest.approx(losses.std(ddof=1) / np.sqrt(50))
    assert standard_error(Line(), [{"loss": 1.0, "count": 1}]) == {}


def test_a_clock_strikes_when_its_time_is_over():
    assert Clock(0).struck()
    assert not Clock(3600).struck()
