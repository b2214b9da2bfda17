"""
Executors: whatever happens to a worker comes back as an outcome with its class; nothing is raised in the driver.
"""

from typing import Any

import pytest
import ray.exceptions

from pipelines.engine.cluster.jobs import Unreachable
from pipelines.engine.execution import executors
from pipelines.engine.execution.executors import Here, OnRay, _variables, quoted_python
from pipelines.engine.store.store import Store
from tests.pipelines.engine.execution.test_scheduler_loop import nodes_of
from tests.pipelines.engine.toys import broken, number


class Cluster:
    """Ray as the executor sees it, whose task ends with what it is told to."""

    exceptions = ray.exceptions

    def __init__(self, *ends: Any) -> None:
        self.ends, self.cancelled = list(ends), list[Any]()

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:num_returns], references[num_returns:]

    def get(self, reference: Any) -> Any:
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end

    def cancel(self, reference: Any, force: bool, recursive: bool) -> None:
        self.cancelled.append((reference, force, recursive))


def on(cluster: Cluster, **running: str) -> OnRay:
    executor = OnRay.__new__(OnRay)
    executor.ray, executor.running = cluster, dict(running)
    return executor


def test_a_step_that_ended_is_told_once():
    executor = on(Cluster({"ok": True}), reference="key")

    assert executor.ended(0.1) == {"key": {"ok": True}}
    assert executor.running == {}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ray.exceptions.WorkerCrashedError(), "preempted"),
        (ray.exceptions.NodeDiedError("the node is gone"), "preempted"),
        (ray.exceptions.OutOfMemoryError("killed by the memory monitor"), "memory"),
        (ray.exceptions.RuntimeEnvSetupError("no package"), "transient"),
        (ray.exceptions.RayTaskError("work", "traceback", SystemExit(3)), "code"),
    ],
)
def test_what_happened_to_a_worker_has_its_class(error, kind):
    outcome = on(Cluster(error), reference="key").ended(0.1)["key"]

    assert (outcome["ok"], outcome["kind"], outcome["code"]) == (False, kind, 1)
    assert len(outcome["error"].splitlines()) <= 1


def test_what_runs_is_cancelled_with_all_that_it_started():
    cluster = Cluster()
    on(cluster, one="a", two="b").cancel()

    assert cluster.cancelled == [("one", True, True), ("two", True, True)]


def broken_and_whole() -> None:
    broken(kind="bug")
    number(1)


def test_a_step_that_breaks_in_this_process_is_an_outcome_as_well(own_store):
    here, store = Here(), Store(str(own_store))
    for node in nodes_of(broken_and_whole):
        here.submit(node, "run", store.address)

    assert sorted(outcome["ok"] for outcome in here.ended(0).values()) == [False, True]
    assert here.ended(0) == {}


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_a_step_claims_what_its_own_process_takes(own, own_store):
    class Task:
        claimed: list[float] = []

        def options(self, num_cpus: float) -> "Task":
            self.claimed.append(num_cpus)
            return self

        def remote(self, *_: Any) -> str:
            return "reference"

    executor = on(Cluster())
    executor.task, executor.resources = Task(), {"CPU": 4.0}
    (node,) = nodes_of(lambda: number(1))
    executor.submit({**node, "resources": {"own": own}}, "run", str(own_store))

    assert Task.claimed[-1] == own
    assert executor.running == {"reference": node["key"]}


def test_what_ray_shows_to_whoever_asks_holds_no_secret(monkeypatch):
    monkeypatch.setenv("FSSPEC_S3", '{"key": "AKIA12345", "secret": "abc"}')
    monkeypatch.setenv("FSSPEC_GCS", '{"project": "shapes"}')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:wo/rd@mlflow")
    told = _variables()

    assert told["FSSPEC_GCS"] == '{"project": "shapes"}'
    assert {"FSSPEC_S3", "MLFLOW_TRACKING_URI"}.isdisjoint(told)


def test_workers_get_a_python_whose_path_a_shell_takes_for_one_word(monkeypatch):
    """Ray hands it to bash as it is: from an environment in a folder with a space no worker started."""
    monkeypatch.setattr(executors.sys, "executable", "/home/me/my work/.venv/bin/python")
    assert quoted_python() == {"py_executable": "'/home/me/my work/.venv/bin/python'"}

    monkeypatch.setattr(executors.sys, "executable", "/home/me/work/.venv/bin/python")
    assert quoted_python() == {}


def test_a_ray_that_does_not_come_up_on_a_busy_machine_is_one_line(monkeypatch):
    def late(**settings: Any) -> None:
        raise Exception(
            "The current node timed out during startup. This could happen because some of the raylet failed"
        )

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(Unreachable, match="Ray starts within 30 seconds, but on this machine it did not: .* Run again"):
        executors._join()
