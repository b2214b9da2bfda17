"""
train: one loop, in this process; several workers and Ray Data are tests/integration's.
"""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load as load_tensors
from torch.testing import assert_close

from components.artifacts import Checkpoint
from components.errors import DataError, Infeasible, UsageError
from components.families.shapes.voxnet import VoxNet
from components.family import Family
from components.sources.folder import Folder
from components.step import Printing
from components.steps import train as module
from components.steps.preprocess import preprocess
from components.steps.ray_workers import check_workers
from components.steps.train import Log, train
from components.table import Table
from components.training.learner import Learner
from tests.meshes import small_pointnet, small_voxnet, write_shapes


def trained(family: Family, table: Table, context: Printing | None = None, **more: Any) -> Checkpoint:
    arguments = train.bind((family, table), {"workers": 0, **more})
    return train.run(arguments, context or Printing())


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_tensors(checkpoint.weights.read())


class Killed(BaseException):
    """Nobody catches it: the process is gone."""


class Dying(Printing):
    """Says what it is told until the update `at`."""

    at: int = 0

    def log(self, metrics: Any, step: int, *, trial: str = "") -> None:
        if step == self.at and "loss" in metrics:
            raise Killed
        super().log(metrics, step, trial=trial)


def dying(at: int, folder: Path) -> Dying:
    context = Dying(folder=str(folder))
    context.at = at
    return context


def test_a_checkpoint_holds_the_family_what_it_reads_and_the_weights(table):
    checkpoint = trained(small_pointnet(), table)
    net = checkpoint.network()

    assert checkpoint.family.labels == ("flat", "long", "round")
    assert replace(checkpoint.family, labels=(), classes=0) == small_pointnet()
    assert checkpoint.representation == small_pointnet().representation()
    assert checkpoint.steps == 12
    assert checkpoint.parameters == sum(p.numel() for p in net.parameters())
    assert not net.training


def test_what_was_logged_is_kept_with_the_checkpoint(table):
    curves = trained(small_pointnet(), table).curves()

    assert [line["step"] for line in curves if "loss" in line] == list(range(1, 13))
    assert {"val_accuracy", "val_loss"} <= set().union(*curves)


def test_training_twice_gives_the_same_weights(table):
    one, other = (trained(small_pointnet(), table) for _ in range(2))

    assert one.weights == other.weights


def test_another_seed_gives_other_weights(table):
    assert trained(small_pointnet(), table).weights != trained(small_pointnet(), table, Printing(seed=1)).weights


@pytest.mark.parametrize("at", [2, 7, 12])
def test_a_killed_training_continues_to_the_weights_of_an_undisturbed_one(table, tmp_path, monkeypatch, at):
    """The clock strikes at every update, so that the last checkpoint is one update old."""
    monkeypatch.setattr(module, "SAVE", 0.0)
    family = small_pointnet(dropout=0.3, ema=0.9)
    undisturbed = trained(family, table)
    with pytest.raises(Killed):
        trained(family, table, dying(at, tmp_path / "scratch"))
    context = Printing(folder=str(tmp_path / "scratch"))
    continued = trained(family, table, context)

    assert context.logged[0][0] == at
    assert_close(weights(continued), weights(undisturbed), rtol=0, atol=0)
    assert continued.chosen == undisturbed.chosen
    assert continued.curves() == undisturbed.curves()


def test_a_training_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(table, tmp_path, monkeypatch, capsys):
    """One bit of a weight: it would train on, to other weights."""
    monkeypatch.setattr(module, "SAVE", 0.0)
    undisturbed = trained(small_pointnet(), table)
    with pytest.raises(Killed):
        trained(small_pointnet(), table, dying(7, tmp_path))
    path = tmp_path / "state-6.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    context = Printing(folder=str(tmp_path))
    continued = trained(small_pointnet(), table, context)

    assert context.logged[0][0] == 6
    assert continued.weights == undisturbed.weights
    assert "update 6 is damaged and is not trained on: it goes on from that of update 5." in capsys.readouterr().out


def test_a_training_killed_before_its_first_checkpoint_begins_anew(table, tmp_path):
    undisturbed = trained(small_pointnet(), table)
    with pytest.raises(Killed):
        trained(small_pointnet(), table, dying(5, tmp_path / "scratch"))

    assert trained(small_pointnet(), table, Printing(folder=str(tmp_path / "scratch"))).weights == undisturbed.weights


def test_the_latest_weights_within_one_standard_error_of_the_best_are_kept(monkeypatch):
    """Of ten rows 4, 9, 8 and 2 are right: 8 is as good as 9 on so few, and comes later."""
    log = Log(Printing(), VoxNet(classes=2), 0)
    monkeypatch.setattr(module, "weights_of", lambda step: str(step).encode())
    for step, right in ((1, 4), (2, 9), (3, 8), (4, 2)):
        log.validate(step, [answered(n < right) for n in range(10)], step)

    assert log.chosen == 3
    assert log.best == b"3"
    assert log.best_score == 0.9


def test_weights_whose_score_is_no_number_are_not_kept_and_it_is_said(monkeypatch):
    """NaN that comes first was kept, and named the best, where no number followed."""
    log = Log(Printing(), VoxNet(classes=2), 0)
    monkeypatch.setattr(module, "weights_of", lambda step: str(step).encode())
    lost = [{**answered(True), "confusion": np.full((2, 2), np.nan)}] * 10
    log.validate(1, lost, 1)
    assert (log.best, log.chosen) == (None, 0)
    log.validate(2, [answered(True)] * 10, 2)
    log.validate(3, lost, 3)

    assert (log.best, log.chosen) == (b"2", 2)
    assert log.remarks() == ["accuracy on val was NaN at 2 of 3 validations"]


def test_the_best_weights_so_far_outlive_a_restart(table, tmp_path):
    family = small_voxnet().adapt(table.open(small_voxnet().representation(), "train"))
    learner = Learner.begin(family, table.open(family.representation(), "train"))
    learner.update(0)
    log = Log(Printing(folder=str(tmp_path)), family, 0, [{"step": 1, "loss": 2.0}], b"weights", 0.75, 1)
    log.save(learner)
    other = Learner.begin(family, learner.rows)
    resumed = Log.resume(Printing(folder=str(tmp_path)), family, other)

    assert (resumed.best, resumed.best_score, resumed.chosen) == (b"weights", 0.75, 1)
    assert resumed.lines == log.lines
    assert other.state.step == 1


def answered(right: bool) -> dict[str, Any]:
    return {"confusion": np.array([[right, not right], [0, 0]], float), "loss": 1.0, "count": 1}


def test_a_training_begins_from_another_checkpoint(table):
    first = trained(small_pointnet(), table)
    second = trained(small_pointnet(steps=1, lr=1e-9), table, start=first)

    for name, _ in first.network().named_parameters():
        assert_close(weights(second)[name], weights(first)[name], rtol=0, atol=1e-6)


def test_a_loss_that_is_not_a_number_ends_the_training_with_its_step(table):
    with pytest.raises(DataError, match=r"of voxnet is not a number at step \d+. Lower lr, or set clip."):
        trained(small_voxnet(lr=1e30, steps=30, optimizer="sgd"), table)


class Heavy(VoxNet):
    """Three rows of a batch fit in memory."""

    def loss(self, net: Any, batch: Any, generator: torch.Generator) -> Any:
        if len(batch["row"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(net, batch, generator)


def test_a_batch_that_was_cut_is_noted_and_said_with_the_checkpoint(table):
    light, context = small_voxnet(dropout=0.0), Printing()
    heavy = Heavy(**{one.name: getattr(light, one.name) for one in fields(light)})
    cut, whole = trained(heavy, table, context), trained(light, table)

    assert_close(weights(cut), weights(whole), rtol=1e-5, atol=1e-6)
    assert context.notes["pieces"] == 4
    assert "memory ran out, so each batch was cut into 4 pieces, with the same result" in cut.describe()
    assert "memory" not in whole.describe()


# Bad input


def test_a_table_without_the_familys_set_is_refused(table):
    with pytest.raises(UsageError, match=r"This table has no Points\(count=65"):
        trained(small_pointnet(stored=65), table)


def test_one_class_alone_is_refused(tmp_path):
    root = write_shapes(tmp_path / "one", each=6, labels=("flat",))
    table = preprocess(Folder(root=str(root)), [small_pointnet().representation()], on="here")

    with pytest.raises(UsageError, match=r"at least two classes, but the training split has \['flat'\]"):
        trained(small_pointnet(), table)


@pytest.mark.parametrize("memory", [1.0, 1e18], ids=["on the disk", "in memory"])
def test_the_weights_do_not_depend_on_the_memory_of_the_machine(table, monkeypatch, memory):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=memory))
    context = Printing()
    made = train.run(train.bind((small_pointnet(), table), {"workers": 0}), context)

    assert context.notes["feed"] == ("stream" if memory == 1 else "indexed")
    assert made.weights == trained(small_pointnet(), table, feed="indexed").weights


def test_how_a_training_is_fed_is_in_no_key():
    assert "feed" in train.aside


@pytest.mark.parametrize("workers", [(3, 2), (0, 2), -1])
def test_a_number_of_workers_that_makes_no_sense_is_refused(table, workers):
    with pytest.raises(UsageError, match="is a number, or the least and the most as in 1,4, but got"):
        trained(small_pointnet(), table, workers=workers)


def test_more_workers_than_the_cluster_could_ever_seat_are_refused(table):
    with pytest.raises(Infeasible, match=r"8 workers take 8 CPUs and loading data takes 1 more, but the cluster has 1"):
        trained(small_pointnet(), table, workers=8)


@pytest.mark.parametrize(
    ("workers", "gpus", "resources"),
    [
        (4, 0, {"CPU": 4}),
        (1, 1, {"CPU": 4}),
        (2, 1, {"CPU": 8, "GPU": 1}),
        (0, 1, {"CPU": 1}),
        ((4, 8), 0, {"CPU": 4}),
    ],
    ids=["no CPU for the data", "no GPU", "too few GPUs", "no GPU here", "no room for the least"],
)
def test_what_could_never_be_scheduled_is_infeasible(workers, gpus, resources):
    with pytest.raises(Infeasible) as caught:
        check_workers(workers, gpus, resources)

    assert caught.value.code == 4


@pytest.mark.parametrize(
    ("workers", "gpus", "resources"),
    [(3, 0, {"CPU": 4}), (1, 0, {"CPU": 1}), (2, 0.5, {"CPU": 4, "GPU": 1}), ((1, 8), 0, {"CPU": 2})],
)
def test_what_fits_is_let_through(workers, gpus, resources):
    check_workers(workers, gpus, resources)
