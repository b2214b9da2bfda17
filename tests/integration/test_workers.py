"""
Workers that do not see what their driver sees, on a real Ray: said once, with both sides, and checked by the doctor.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from components.errors import RayfieldError
from components.runtime import objects
from components.steps.ray_workers import on_workers, probe, probe_worker
from pipelines import doctor
from pipelines.engine.cluster.capacity import silent
from pipelines.engine.execution.retry import kind_of, ours
from pipelines.engine.execution.task import work
from pipelines.engine.graph.tracing import draw
from pipelines.engine.store.store import Store
from tests.pipelines.engine.toys import leave, told_to_end


@pytest.fixture
def unseen(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> objects.Told:
    """What a driver of another machine would tell, at the same path."""
    told = replace(objects.told(), mark="another", teller="ada on laptop in /home/ada")
    monkeypatch.setattr(objects, "told", lambda: told)
    return told


def test_a_head_that_runs_answers(ray_session):
    assert silent(ray.get_runtime_context().gcs_address) == ""


def test_the_doctor_has_a_task_and_a_training_read_and_write_the_store(ray_session, own_store):
    ok, found = doctor._workers(Store(str(own_store)))

    assert ok
    assert found == f"a Ray task and a worker of Ray Train on {os.uname().nodename} read and wrote {own_store}"
    assert not list(own_store.glob("scratch/doctor*"))


def test_the_doctor_finds_workers_that_see_another_store(ray_session, own_store, unseen):
    with pytest.raises(objects.Unseen, match=f"{own_store} is of ada on laptop in /home/ada, and .* has another store"):
        doctor._workers(Store(str(own_store)))


def test_a_worker_of_a_training_says_so_once(ray_session, own_store, unseen):
    with pytest.raises(objects.Unseen, match="ada on laptop in /home/ada"):
        on_workers(probe_worker, {"name": "a"}, workers=1, gpus=0, scratch=f"{own_store}/scratch/unseen")
    assert not (own_store / "a").exists()


def test_a_task_says_so_in_one_line(ray_session, unseen):
    with pytest.raises(objects.Unseen) as error:
        ray.get(ray.remote(max_retries=0)(probe).remote(unseen, "a"))
    assert str(ours(error.value)).startswith("A worker must see its driver's store, but")


def test_a_step_that_does_not_see_its_store_is_not_tried_again(unseen, monkeypatch):
    monkeypatch.setattr(objects, "_marks", {})
    node: dict[str, Any] = {"key": "k"}
    outcome = work(node, "run", unseen, {})

    assert (outcome["ok"], outcome["kind"]) == (False, "user")
    assert outcome["error"].startswith("A worker must see its driver's store, but")


def worked(pipeline: Callable[[], None], store: str) -> dict[str, Any]:
    (node,) = draw(pipeline, {}, {}).nodes.values()
    node = json.loads(json.dumps(asdict(node)))
    return ray.get(ray.remote(max_retries=0)(work).remote(node, "run", store, {"CPU": 1}))


def test_a_step_that_calls_exit_fails_with_its_words_and_its_worker_lives(ray_session, own_store):
    outcome = worked(leave, str(own_store))

    assert (outcome["ok"], outcome["kind"]) == (False, "user")
    assert outcome["error"].startswith("Step leave ends by returning or raising, but called sys.exit(3).")


def test_a_step_whose_worker_is_told_to_end_was_taken_away(ray_session, own_store):
    with pytest.raises(ray.exceptions.WorkerCrashedError) as error:
        worked(told_to_end, str(own_store))

    assert kind_of(error.value) == "preempted"


def exiting(config: Mapping[str, Any]) -> None:
    sys.exit(3)


def test_a_worker_of_a_training_that_calls_exit_is_not_tried_again(ray_session, own_store):
    with pytest.raises(RayfieldError, match=r"Work in a group of workers ends by .* but called sys.exit\(3\)"):
        on_workers(exiting, {}, workers=1, gpus=0, scratch=f"{own_store}/scratch/exiting")
