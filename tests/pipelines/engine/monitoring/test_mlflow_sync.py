"""
Tracking: MLflow gets everything once; a server that does not answer delays the log and stops nothing.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from components.runtime.objects import where
from components.steps.registry.versions import client
from pipelines.engine.execution import observed_inputs
from pipelines.engine.execution.context import handed_over
from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Runner
from pipelines.engine.monitoring import mlflow_sync as tracking
from pipelines.engine.monitoring.mlflow_sync import Sender, Tracker, finish_left, flatten
from pipelines.engine.monitoring.report import write_report
from pipelines.engine.store.orphans import hold, left, mark, tried
from pipelines.engine.store.store import Store, owner
from tests.pipelines.engine.execution.test_scheduler_loop import nodes_of
from tests.pipelines.engine.toys import broken, talk, total

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def store(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(tracking, "PAUSE", 0.05)
    return Store(str(own_store))


def recorded(store: Store, run: str, pipeline: Any, *, ended: bool = True, name: str = "toy") -> None:
    """A run as `running.execute` would leave it."""
    mark(store, run)
    nodes = nodes_of(pipeline)
    Runner(store, run, nodes, Here)()
    steps = [{"key": n["key"], "title": n["title"], "step": n["step"]} for n in nodes]
    record = {"pipeline": name, "title": run, "parameters": {"size": "tiny"}, "nodes": steps, "commit": "abc"}
    record |= {"started": time.time(), "owner": owner()} | ({"ended": time.time(), "code": 0} if ended else {})
    store.write(f"runs/{run}/run.json", json.dumps(record).encode())


def talking() -> None:
    talk()


def failing() -> None:
    total([broken()])


@pytest.fixture
def found(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The runs of this test's own experiment, by their names."""

    def search(name: str = request.node.name) -> dict[str, Any]:
        api = client()
        experiment = api.get_experiment_by_name(name)
        return {run.info.run_name: run for run in api.search_runs([experiment.experiment_id])} if experiment else {}

    yield search


def test_a_runs_report_is_among_its_artifacts(store, found, request):
    recorded(store, "run-1", talking, name=request.node.name)
    write_report(store, "run-1")
    Sender(store, "run-1").send()
    folder = Path(client().download_artifacts(found()["run-1"].info.run_id, ""))

    assert (folder / "report.html").read_bytes() == store.read("runs/run-1/report.html")


def test_a_run_its_steps_and_their_trials_are_three_generations(store, found, request):
    recorded(store, "run-1", talking, name=request.node.name)
    Sender(store, "run-1").send()
    runs = found()
    parent, step, trial = runs["run-1"], runs["talk"], runs["trial 01"]

    assert step.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.tags["mlflow.parentRunId"] == step.info.run_id
    assert parent.data.params == {"size": "tiny"}
    assert parent.data.tags["rayfield.commit"] == "abc"
    assert step.data.params == {"depth": "3", "nested.width": "4"}
    assert step.data.metrics["loss"] == 1.0
    assert trial.data.metrics["loss"] == 0.5
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert [f.path for f in client().list_artifacts(step.info.run_id, "files")] == ["files/words.txt"]


def test_what_was_sent_is_not_sent_again(store, found, request, monkeypatch):
    recorded(store, "run-1", talking, name=request.node.name)
    Sender(store, "run-1").send()
    before = {name: run.info.run_id for name, run in found().items()}
    monkeypatch.setattr(Sender, "_lines", _fail)
    monkeypatch.setattr(Sender, "_create", _fail)
    Sender(store, "run-1").send()
    history = client().get_metric_history(before["talk"], "loss")

    assert {name: run.info.run_id for name, run in found().items()} == before
    assert len(history) == 3


def test_nothing_says_running_for_ever(store, found, request):
    recorded(store, "run-1", failing, name=request.node.name)
    record = store.load("runs/run-1/run.json")
    store.write("runs/run-1/run.json", json.dumps({**record, "code": 1}).encode())
    Sender(store, "run-1").send()

    assert found()["run-1"].info.status == "FAILED"


def test_a_server_that_does_not_answer_stops_nothing_and_gets_the_log_at_the_next_run(
    store, found, request, monkeypatch, tracking
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(store, "run-1")
    tracker.start()
    recorded(store, "run-1", talking, name=request.node.name)
    problem = tracker.finish()

    assert "waits in the store" in problem
    assert len(problem.splitlines()) == 1
    assert all(store.manifest(node["key"]) for node in store.load("runs/run-1/run.json")["nodes"])

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    assert found() == {}
    following = Tracker(store, "run-2")
    following.start()
    recorded(store, "run-2", talking, name=request.node.name)

    assert following.finish() == ""
    assert found()["talk"].data.metrics["loss"] == 1.0
    assert found()["run-1"].info.status == "FINISHED"


def died(store: Store, run: str) -> None:
    """Leaves the lease of a driver that is no more."""
    store.write(f"leases/run-{run}/0", json.dumps({**owner(), "start": "1", "until": 9e12}).encode())


def test_a_run_whose_driver_was_killed_is_ended_by_the_next(store, found, request):
    recorded(store, "run-1", talking, name=request.node.name, ended=False)
    died(store, "run-1")
    finish_left(store, own="run-2")

    assert store.load("runs/run-1/run.json")["code"] == 5
    assert found()["run-1"].info.status == "KILLED"
    assert store.names("open") == []


def test_a_run_that_another_driver_still_sends_is_left_to_it(store, found, request):
    recorded(store, "run-1", talking, name=request.node.name, ended=False)
    lease = hold(store, "run-1")
    finish_left(store, own="run-2")

    assert found() == {}
    assert "ended" not in store.load("runs/run-1/run.json")
    lease.release()
    finish_left(store, own="run-2")
    assert found()["run-1"].info.status == "KILLED"


def test_a_driver_that_died_before_its_record_leaves_nothing_open(store):
    mark(store, "run-1")
    finish_left(store)

    assert store.names("open") == []


def test_a_run_that_was_sent_is_not_looked_at_again(store, monkeypatch):
    recorded(store, "run-1", talking)
    tracker = Tracker(store, "run-1")
    assert tracker.finish() == ""
    monkeypatch.setattr(tracking, "Sender", _fail)

    finish_left(store)


def test_a_quick_look_for_the_dead_leaves_out_what_waits_for_mlflow(store):
    recorded(store, "ended", talking)
    tried(store, "ended")
    recorded(store, "dead", talking, ended=False)
    recorded(store, "dead before it sent", talking)

    assert list(left(store, dead=True)) == ["dead", "dead before it sent"]
    assert list(left(store)) == ["dead", "dead before it sent", "ended"]
    assert list(left(store, own="dead")) == ["dead before it sent", "ended"]


def test_an_mlflow_run_that_was_made_and_not_written_down_is_found_and_not_made_twice(store, found, request):
    recorded(store, "run-1", talking, name=request.node.name)
    Sender(store, "run-1").send()
    before = {name: run.info.run_id for name, run in found().items()}
    store.delete("runs/run-1/mlflow.json")
    Sender(store, "run-1").send()
    api = client()
    experiment = api.get_experiment_by_name(request.node.name).experiment_id

    assert {run.info.run_id for run in api.search_runs([experiment])} == set(before.values())
    assert len(api.get_metric_history(before["talk"], "loss")) == 3
    assert found()["talk"].data.params == {"depth": "3", "nested.width": "4"}


def test_a_run_that_was_closed_for_dead_and_is_continued_under_its_name_runs_again(store, found, request):
    recorded(store, "run-1", talking, name=request.node.name, ended=False)
    finish_left(store)
    statuses = [found()["run-1"].info.status]
    recorded(store, "run-1", talking, name=request.node.name, ended=False)
    Sender(store, "run-1").send()
    statuses.append(found()["run-1"].info.status)
    recorded(store, "run-1", talking, name=request.node.name)
    Sender(store, "run-1").send()

    assert [*statuses, found()["run-1"].info.status] == ["KILLED", "RUNNING", "FINISHED"]
    assert found()["talk"].info.status == "FINISHED"


def test_what_a_step_said_last_is_sent_before_its_run_is_closed(store, found, request):
    """Its lines are there before its end is: so its end is read first."""
    recorded(store, "run-1", talking, name=request.node.name, ended=False)
    last = f"runs/run-1/ledger/{store.names('runs/run-1/ledger')[-1]}"
    line = store.read(last)
    store.delete(last)
    sender, step = Sender(store, "run-1"), Sender._step

    def say_more_and_end(node: Any) -> None:
        step(sender, node)
        late = {"time": 1.0, "kind": "metrics", "step": 9, "trial": "", "values": {"late": 1.0}}
        store.write(f"runs/run-1/events/{node['key']}/late.jsonl", json.dumps(late).encode())
        store.write(last, line)

    sender._step = say_more_and_end  # type: ignore[method-assign]
    sender.send()
    sender.send()

    assert found()["talk"].data.metrics["late"] == 1.0


def _fail(*_: Any) -> None:
    raise AssertionError("it was sent already")


def test_nested_parameters_become_dotted_names():
    given = {"family": {"@": "components.families.shapes.voxnet:VoxNet", "lr": 0.1, "falls": (1, 2)}, "trials": 4}

    assert dict(flatten(given)) == {
        "family.kind": "VoxNet",
        "family.lr": 0.1,
        "family.falls": (1, 2),
        "trials": 4,
    }


def test_a_figure_that_is_damaged_holds_up_nothing_else(store, found, request):
    """The run that makes it anew sends it: this one would be tried again by every run to come."""
    recorded(store, "run-1", talking, name=request.node.name)
    (named,) = handed_over(store, "run-1", nodes_of(talking)[0]["key"])
    store.write(where(named["digest"]), b"damaged")
    Sender(store, "run-1").send()
    step = found()["talk"]

    assert step.data.metrics["loss"] == 1.0
    assert client().list_artifacts(step.info.run_id, "files") == []
    assert {run.info.status for run in found().values()} == {"FINISHED"}


def test_what_a_step_read_that_is_in_no_key_is_among_its_notes(store, found, request):
    with patch.object(observed_inputs, "_strange", lambda paths, node, arguments: ["/etc/words"]):
        recorded(store, "run-1", talking, name=request.node.name)
    Sender(store, "run-1").send()

    assert found()["talk"].data.params["also read"] == "/etc/words"
