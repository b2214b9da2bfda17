"""
Forecasts: what a plan would cost by what it cost before, and the refusal of what could never be scheduled.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from components.errors import Infeasible
from components.families.shapes.pointnet import PointNet
from components.steps.ray_workers import check_workers
from components.steps.train import train
from pipelines.engine.cluster import capacity as cluster_module
from pipelines.engine.cluster.capacity import Cluster, cluster, local_cpus
from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Runner
from pipelines.engine.graph import dry_run as module
from pipelines.engine.graph.dry_run import check, forecast, size_of
from pipelines.engine.graph.plan_cache import statuses
from pipelines.engine.store.store import Store
from tests.pipelines.engine.execution.test_scheduler_loop import nodes_of
from tests.pipelines.engine.toys import keeping, number, sums

FOUR = Cluster("four", ({"CPU": 4.0, "GPU": 0.0},))


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of four CPUs."""
    monkeypatch.setattr(module, "cluster", lambda: FOUR)


def finished(store: Store, pipeline: Callable[..., None], **values: Any) -> None:
    nodes = nodes_of(pipeline, **values)
    Runner(store, "first", nodes, Here)()
    store.write("runs/first/run.json", json.dumps({"nodes": nodes}).encode())


def seen(store: Store, pipeline: Callable[..., None], **values: Any) -> module.Forecast:
    nodes = nodes_of(pipeline, **values)
    return forecast(nodes, statuses(nodes, store), store)


def training(workers: Any = 1, gpus: float | None = None) -> Callable[[], None]:
    return lambda: train(PointNet.tiny(), number(1), workers=workers, gpus=gpus)


# Costs


def test_what_never_ran_costs_what_nobody_knows(store, four):
    found = seen(store, sums)

    assert {row["seconds"] for row in found.steps} == {None}
    assert found.total("seconds") == (0, 4)
    assert found.free and found.free > 0


def test_what_ran_with_other_parameters_costs_what_it_cost_then(store, four):
    finished(store, sums, values=(1, 2), extra=3)
    found = seen(store, sums, values=(1, 2), extra=4)

    assert [row["action"] for row in found.steps] == ["keep", "keep", "run", "run"]
    assert [row["why"] for row in found.steps] == ["", "", "parameter value 3 -> 4", "needs number"]
    assert found.total("seconds")[1] == 0


def test_the_bytes_of_a_step_are_those_of_the_files_of_its_result(store, four):
    finished(store, lambda: keeping())
    nodes = nodes_of(lambda: keeping())
    manifest = store.manifest(nodes[0]["key"])

    assert size_of(manifest["result"]) == len(b"words")
    assert size_of([{"a": manifest["result"]}, [manifest["result"]], 3, "x"]) == 2 * len(b"words")


def test_a_plan_with_nothing_to_run_asks_for_no_cluster(store, monkeypatch):
    finished(store, sums)

    def no_cluster() -> Cluster:
        raise AssertionError("nothing would run")

    monkeypatch.setattr(module, "cluster", no_cluster)
    found = seen(store, sums)

    assert found.where is None
    assert found.said()["run"] == 0


# Feasibility


@pytest.mark.parametrize(
    ("workers", "gpus", "there"),
    [
        (4, 0.0, FOUR),
        ((4, 8), 0.0, FOUR),
        (1, 1.0, FOUR),
        (0, 1.0, FOUR),
        (3, None, Cluster("", ({"CPU": 8.0, "GPU": 2.0},))),
        (1, 2.0, Cluster("", ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}))),
        (3, 2.0, Cluster("", ({"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 3.0}))),
    ],
    ids=["no CPU for the data", "the least of some", "no GPU", "no GPU here", "GPUs", "one machine", "pieces"],
)
def test_a_plan_refuses_what_its_step_would_refuse_in_the_same_words(store, monkeypatch, workers, gpus, there):
    monkeypatch.setattr(module, "cluster", lambda: there)
    nodes = nodes_of(training(workers, gpus))
    with pytest.raises(Infeasible) as of_step:
        check_workers(workers, gpus, there.resources, there.machines)
    with pytest.raises(Infeasible) as of_plan:
        check(nodes, statuses(nodes, store))

    assert str(of_plan.value) == f"train pointnet could never be scheduled. {of_step.value}"
    assert of_plan.value.code == 4
    assert forecast(nodes, statuses(nodes, store), store).refused == [str(of_plan.value)]


@pytest.mark.parametrize(
    ("workers", "gpus", "there"),
    [
        (3, None, FOUR),
        ((3, 64), None, FOUR),
        (0, None, FOUR),
        (2, 1.0, Cluster("", ({"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}))),
        (64, 8.0, Cluster("somewhere", ())),
    ],
    ids=["leaves one", "grows later", "none", "one each", "a cluster that does not say"],
)
def test_what_could_be_scheduled_is_let_through(store, monkeypatch, workers, gpus, there):
    monkeypatch.setattr(module, "cluster", lambda: there)
    nodes = nodes_of(training(workers, gpus))

    check(nodes, statuses(nodes, store))


def test_the_numbers_of_a_refusal_add_up(store, four):
    nodes = nodes_of(training(4))
    with pytest.raises(Infeasible) as caught:
        check(nodes, statuses(nodes, store))

    assert "4 workers take 4 CPUs and loading data takes 1 more, but the cluster has 4." in str(caught.value)
    assert "Ask for --workers 3." in str(caught.value)


def test_what_is_kept_is_not_refused(store, four):
    nodes = nodes_of(training(64))

    check(nodes, {node["key"]: {"result": 1} for node in nodes})


# What there is


def test_without_an_address_it_is_what_a_local_ray_is_started_with(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    assert cluster().where == "this machine"
    assert cluster().resources["CPU"] == local_cpus() >= 4


def test_few_cores_are_not_said_to_be_the_cpus_that_ray_is_given(monkeypatch):
    """Ray is started with four CPUs on fewer cores."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module, "_cards", lambda: 0)
    monkeypatch.setattr(cluster_module.os, "cpu_count", lambda: 2)
    few = cluster().describe()
    monkeypatch.setattr(cluster_module.os, "cpu_count", lambda: 16)

    assert few == "this machine: 2 cores, on which Ray may place work for 4 CPU"
    assert cluster().describe() == "this machine: 16 CPU"


def test_a_cluster_that_does_not_answer_is_unknown(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", address)

        assert cluster() == Cluster(address, ())
        assert address in cluster().describe() and "unknown" in cluster().describe()


def test_a_running_ray_is_asked_by_its_address_and_says_what_it_says_to_those_who_joined(ray_session):
    asked = cluster_module._asked(ray.get_runtime_context().gcs_address)

    assert asked == cluster().machines
    assert cluster().resources["CPU"] == ray.cluster_resources()["CPU"]
