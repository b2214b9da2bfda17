"""
The runner: a failure stops what depends on it and nothing else, and nothing finished is done again.
"""

import errno
import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from components.runtime import objects
from components.runtime.objects import digest_of
from components.runtime.serialization import encode
from pipelines.engine.execution import scheduler_loop as runner_module
from pipelines.engine.execution.context import Running, events
from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import BUDGETS, POLL, Budget, Outcome, Runner
from pipelines.engine.execution.task import work
from pipelines.engine.graph.tracing import draw
from pipelines.engine.monitoring.logs import read
from pipelines.engine.monitoring.mlflow_sync import ledger_lines
from pipelines.engine.store.store import Store, owner
from tests.pipelines.engine.toys import bounds, broken, flaky, keeping, number, ran, sums, talk, total


class Time:
    """A clock that only waiting moves."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.seconds, self.meanwhile = 0.0, meanwhile

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.meanwhile()


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


def nodes_of(pipeline: Callable[..., None], **values: Any) -> list[dict[str, Any]]:
    return json.loads(json.dumps([asdict(node) for node in draw(pipeline, values, {}).nodes.values()]))


def execute(
    store: Store, nodes: list[dict[str, Any]], run: str = "run", executor: Any = Here, time: Time | None = None
) -> Outcome:
    time = time or Time()
    return Runner(store, run, nodes, executor, sleep=time.sleep, now=time.now)()


def by_title(nodes: list[dict[str, Any]], outcome: Outcome) -> dict[str, str]:
    return {node["title"]: outcome.status[node["key"]] for node in nodes}


def result(store: Store, node: dict[str, Any]) -> Any:
    return store.manifest(node["key"])["result"]


def ends(store: Store) -> list[dict[str, Any]]:
    """The lines of a run's ledger that say how an attempt ended."""
    return [line for line in ledger_lines(store, "run") if line["status"] != "running"]


def test_a_run_ends_where_its_interruption_was_lost_on_the_way(store):
    def check() -> None:
        if ran("number 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(store, "run", nodes_of(sums, values=(1, 2), extra=4), Here, check=check)()
    assert not ran("total")


def test_every_step_is_run_once_and_its_result_is_kept(store):
    nodes = nodes_of(sums, values=(1, 2), extra=4)
    outcome = execute(store, nodes)

    assert outcome.ok
    assert set(outcome.status.values()) == {"done"}
    assert result(store, nodes[-1]) == 7
    assert ran("number 1") == ran("number 2") == ran("total") == 1


def test_a_finished_step_is_never_run_again(store):
    nodes = nodes_of(sums)
    execute(store, nodes, "first")

    def no_executor() -> Here:
        raise AssertionError("an all-cached run needs no executor")

    outcome = execute(store, nodes, "second", no_executor)

    assert set(outcome.status.values()) == {"cached"}
    assert ran("total") == 1


def test_a_changed_parameter_runs_only_what_depends_on_it(store):
    execute(store, nodes_of(sums, values=(1, 2), extra=3), "first")
    nodes = nodes_of(sums, values=(1, 2), extra=4)
    outcome = execute(store, nodes, "second")

    assert list(outcome.status.values()).count("cached") == 2
    assert ran("number 1") == 1
    assert ran("number 4") == 1
    assert ran("total") == 2


def branches(kind: str = "data") -> None:
    """Two branches, of which one breaks."""
    failed = broken(kind=kind)
    total([failed, number(1)])
    bounds([number(2), number(3)])


def test_a_failed_branch_skips_what_depends_on_it_and_nothing_else(store):
    nodes = nodes_of(branches)
    outcome = execute(store, nodes)

    assert not outcome.ok
    assert by_title(nodes, outcome) == {
        "broken": "failed",
        "number": "done",
        "total": "skipped",
        "bounds": "done",
    }
    assert ran("total") == 0
    assert ran("number 1") == ran("number 3") == 1


def test_what_depends_on_what_was_skipped_is_skipped_as_well(store):
    def pipeline():
        total([total([total([broken()])])])

    nodes = nodes_of(pipeline)

    assert list(execute(store, nodes).status.values()) == ["failed", "skipped", "skipped", "skipped"]


def test_a_second_run_continues_where_the_first_one_failed(store, monkeypatch):
    nodes = nodes_of(branches)
    execute(store, nodes, "first")
    monkeypatch.setattr(broken, "function", lambda of, kind: 41)
    outcome = execute(store, nodes, "second")

    assert outcome.ok
    assert by_title(nodes, outcome) == {"broken": "done", "number": "cached", "total": "done", "bounds": "cached"}
    assert [result(store, node) for node in nodes if node["title"] == "total"] == [42]


def test_the_error_of_a_step_is_one_line_and_its_traceback_is_kept(store):
    nodes = nodes_of(branches)
    outcome = execute(store, nodes)
    (error,) = outcome.errors.values()
    (line,) = [line for line in ledger_lines(store, "run") if line["status"] == "failed"]

    assert error["error"] == "a data error of two lines"
    assert error["kind"] == line["kind"] == "data"
    assert line["error"] == "a data error of two lines"
    assert "toys.py" in line["traceback"]


@pytest.mark.parametrize("kind", ["data", "usage", "infeasible", "bug"])
def test_an_error_that_is_nobodys_luck_is_never_tried_again(store, kind):
    execute(store, nodes_of(branches, kind=kind))

    assert ran("broken") == 1


@pytest.mark.parametrize(("kind", "code"), [("data", 1), ("usage", 2), ("infeasible", 4), ("bug", 1)])
def test_an_error_brings_its_exit_code(store, kind, code):
    (error,) = execute(store, nodes_of(branches, kind=kind)).errors.values()

    assert error["code"] == code


def test_a_transient_error_is_tried_again(store):
    nodes = nodes_of(_flaky, failures=2)
    outcome = execute(store, nodes)

    assert outcome.ok
    assert result(store, nodes[0]) == 3


def test_a_transient_error_that_stays_ends_the_step_when_its_budget_is_spent(store):
    outcome = execute(store, nodes_of(_flaky, failures=99))

    assert not outcome.ok
    assert ran("flaky") == 1 + BUDGETS["transient"].retries


def test_every_retry_is_in_the_ledger_with_its_class_its_error_and_its_wait(store):
    execute(store, nodes_of(_flaky, failures=2))
    first, second, last = ends(store)

    assert [line["status"] for line in (first, second, last)] == ["retry", "retry", "done"]
    assert [line["attempts"] for line in (first, second, last)] == [1, 2, 3]
    assert first["kind"] == "transient"
    assert first["error"] == "ConnectionError: the network is gone"
    assert "toys.py" in first["traceback"]


def test_a_retry_waits_for_what_the_ledger_says(store):
    """Full jitter from a generator of the run, the key and the retry: known beforehand, and unlike any other's."""
    nodes, time = nodes_of(_flaky, failures=3), Time()
    execute(store, nodes, time=time)
    waits = [line["wait"] for line in ledger_lines(store, "run") if line["status"] == "retry"]
    budget, key = BUDGETS["transient"], nodes[0]["key"]
    chances = [random.Random(f"run/{key}/transient/{retry}").random() for retry in (1, 2, 3)]

    assert waits == [round(chance * budget.first * 2**n, 3) for n, chance in enumerate(chances)]
    assert sum(waits) <= time.seconds <= sum(waits) + 3 * POLL


def test_backoff_doubles_up_to_its_most():
    budget = Budget(retries=9, first=2.0, most=10.0)

    assert [budget.wait(retry, 1.0) for retry in (1, 2, 3, 4, 60)] == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert budget.wait(3, 0.0) == 0.0


class Unlucky(Here):
    """Ends a step with errors of these classes, one after another, before it does the work."""

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self.kinds = list(kinds)

    def submit(self, node: Any, run: str, address: str) -> None:
        if not self.kinds:
            return super().submit(node, run, address)
        kind = self.kinds.pop(0)
        self.outcomes[node["key"]] = {"ok": False, "error": kind, "kind": kind, "code": 1, "traceback": ""}


@pytest.mark.parametrize("kind", sorted(BUDGETS))
def test_each_class_of_error_has_a_budget_of_its_own(store, kind):
    """As many errors of each other class as those allow take nothing from it."""
    others = [other for other, budget in BUDGETS.items() if other != kind for _ in range(budget.retries)]
    own = [kind] * BUDGETS[kind].retries
    nodes = nodes_of(_one)

    assert execute(store, nodes, "enough", lambda: Unlucky(*others, *own)).ok
    store.delete(f"keys/{nodes[0]['key']}.json")
    assert not execute(store, nodes, "too many", lambda: Unlucky(*others, *own, kind)).ok


@pytest.mark.parametrize("kind", ["user", "data", "code", "a class that nobody knows"])
def test_an_error_without_a_budget_ends_the_step_at_once(store, kind):
    unlucky = Unlucky(kind)

    assert not execute(store, nodes_of(_one), executor=lambda: unlucky).ok
    assert unlucky.kinds == []
    assert [line["status"] for line in ends(store)] == ["failed"]


def test_a_step_that_waits_for_its_retry_says_why_and_holds_up_no_other(store):
    def pipeline():
        flaky(failures=1)
        number(1)

    began: list[str] = []

    class Watcher:
        def began(self, node):
            began.append(node["title"])

        def said(self, node, lines): ...

        def retried(self, node, error, wait):
            began.append(f"again: {error}")

        def ended(self, node, status, manifest, error): ...

    time = Time()
    Runner(store, "run", nodes_of(pipeline), Here, [Watcher()], sleep=time.sleep, now=time.now)()

    assert began == ["flaky", "number", "again: ConnectionError: the network is gone", "flaky"]


def _flaky(failures: int) -> None:
    flaky(failures=failures)


class Slow(Here):
    """Has at most one node end at a time, in the reverse of the order in which they began."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def ended(self, seconds: float) -> dict[str, dict[str, Any]]:
        self.most = max(self.most, len(self.outcomes))
        return dict([self.outcomes.popitem()]) if self.outcomes else {}


def test_branches_that_do_not_depend_on_each_other_run_side_by_side(store):
    slow = Slow()
    nodes = nodes_of(sums, values=(1, 2, 3), extra=4)
    outcome = execute(store, nodes, executor=lambda: slow)

    assert outcome.ok
    assert slow.most == 4
    assert result(store, nodes[-1]) == 10


def test_a_step_of_several_outputs_hands_on_each_by_its_name(store):
    def pipeline():
        low, high = bounds([number(1), number(5)])
        total([high, high, low])

    nodes = nodes_of(pipeline)
    execute(store, nodes)

    assert result(store, nodes[-1]) == 11


def test_a_step_that_another_driver_works_on_is_waited_for(store):
    nodes = nodes_of(_one)
    (node,) = nodes
    other = store.lease(node["key"])

    def finish() -> None:
        work(node, "other", store.address, {"CPU": 1})
        other.release()

    outcome = execute(store, nodes, time=Time(finish))

    assert outcome.status == {node["key"]: "cached"}
    assert ran("number 1") == 1


def test_a_step_that_another_driver_ended_between_two_looks_is_not_run_again(store, monkeypatch):
    nodes = nodes_of(_one)
    lease = Store.lease

    def finish_first(self: Store, name: str, *more: Any) -> Any:
        monkeypatch.setattr(Store, "lease", lease)
        work(nodes[0], "other", store.address, {"CPU": 1})
        return lease(self, name, *more)

    monkeypatch.setattr(Store, "lease", finish_first)

    assert execute(store, nodes).status == {nodes[0]["key"]: "cached"}
    assert ran("number 1") == 1


def test_leases_are_renewed_while_a_step_works_and_the_runs_own_with_them(store):
    nodes, time, renewed = nodes_of(_one), Time(), []

    class Long(Here):
        def ended(self, seconds: float) -> dict[str, dict[str, Any]]:
            time.seconds += seconds
            return super().ended(seconds) if time.seconds > 3.5 * runner_module.RENEW else {}

    class Counted:
        def renew(self) -> None:
            renewed.append(time.seconds)

    runner = Runner(store, "run", nodes, Long, held=[Counted()], sleep=time.sleep, now=time.now)  # type: ignore[list-item]

    assert runner().ok
    assert len(renewed) == 3


def _one() -> None:
    number(1)


def test_a_step_whose_driver_died_is_taken_over(store):
    nodes = nodes_of(_one)
    dead = {**owner(), "start": "1", "until": 9e12}
    store.write(f"leases/{nodes[0]['key']}/0", json.dumps(dead).encode())

    assert execute(store, nodes).ok


def test_an_interrupted_run_lets_its_leases_go(store):
    class Interrupting(Here):
        def submit(self, node: Any, run: str, address: str) -> None:
            raise KeyboardInterrupt

    nodes = nodes_of(_one)
    runner = Runner(store, "run", nodes, Interrupting)
    with pytest.raises(KeyboardInterrupt):
        runner()
    runner.cancel()

    assert execute(store, nodes, "again").ok


def test_a_step_whose_object_is_damaged_is_made_again(store):
    """Set aside by whoever reads it; the next run makes it anew, and then what failed for want of it."""
    nodes = nodes_of(_kept)
    first = execute(store, nodes, "first")
    file = result(store, nodes[0])
    path = Path(store.address) / objects.where(file["digest"])
    path.unlink()
    second = execute(store, nodes, "second")

    assert first.ok and second.ok
    assert set(second.status.values()) == {"done"}
    assert path.exists()


def _kept() -> None:
    keeping()


def test_watchers_are_told_of_every_step(store):
    heard: list[tuple[str, str]] = []

    class Watcher:
        def began(self, node):
            heard.append(("began", node["title"]))

        def said(self, node, lines):
            heard.extend((line["kind"], node["title"]) for line in lines)

        def ended(self, node, status, manifest, error):
            heard.append((status, node["title"]))

    Runner(store, "run", nodes_of(_talk), Here, [Watcher()])()

    assert heard[0] == ("began", "talk")
    assert heard[-1] == ("done", "talk")
    assert {"params", "metrics", "progress", "file"} <= {kind for kind, _ in heard}


def _talk() -> None:
    talk()


# One node


def test_a_full_disk_in_the_middle_of_a_step_is_told_as_such(store, monkeypatch):
    (node,) = nodes_of(_talk)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    outcome = work(node, "run", store.address, {"CPU": 1})

    assert not outcome["ok"]
    assert "full" in outcome["error"]
    assert len(outcome["error"].splitlines()) == 1


def test_a_manifest_says_what_went_into_the_key(store):
    (node,) = nodes_of(_one)
    work(node, "run", store.address, {"CPU": 1})
    manifest = store.manifest(node["key"])

    assert manifest["ingredients"] == node["ingredients"]
    assert manifest["run"] == "run"
    assert manifest["cost"]["seconds"] >= 0


# What a step says


def context(store: Store, key: str = "k", **kwargs: Any) -> Running:
    return Running(store, "run", key, (("components.steps.train", "train"),), 0, {"CPU": 1}, **kwargs)


def said(store: Store) -> list[dict[str, Any]]:
    return [line for _, lines in events(store, "run", "k", set()) for line in lines]


def test_lines_wait_until_they_are_flushed(store):
    one = context(store)
    one.log({"loss": 1.0}, 0)
    assert said(store) == []
    one.flush()

    (line,) = said(store)
    assert (line["kind"], line["values"], line["step"]) == ("metrics", {"loss": 1.0}, 0)


def test_what_a_step_logs_is_in_its_logs_too(store):
    """A training prints nothing of itself, and people look for how it goes in `rayfield logs`."""
    one = context(store)
    with one.working("worker 0"):
        one.log({"loss": 1.23456, "accuracy": 0.5}, 40)
        one.log({"val_loss": 2.0}, 40, trial="03")

    found = [(line.writer, line.text) for line in read(store, "run", "k", {})]
    assert found == [("worker 0", "step 40  loss 1.235  accuracy 0.5"), ("worker 0", "trial 03  step 40  val_loss 2")]


def test_of_several_lines_of_progress_the_last_is_kept(store):
    one = context(store)
    for done in range(4):
        one.progress(done, 4)
    one.flush()

    assert [line["done"] for line in said(store)] == [3]


def test_a_copy_in_another_process_never_writes_the_same_file(store):
    import pickle

    one = context(store)
    one.log({"loss": 1.0}, 0)
    pickled = pickle.dumps(one)
    copies = [pickle.loads(pickled) for _ in range(2)]
    for step, copy in enumerate(copies, start=1):
        copy.log({"loss": 2.0}, step)
    for each in (one, *copies):
        each.flush()

    assert sorted(line["step"] for line in said(store)) == [0, 1, 2]


def test_scratch_is_named_by_the_key_and_the_same_in_the_next_run(store):
    assert context(store).scratch == context(store).scratch
    assert context(store).scratch.endswith("scratch/k")
    assert context(store, "other").scratch != context(store).scratch


def test_the_key_of_a_part_holds_the_code_the_parts_and_the_seed(store):
    one = context(store)

    assert one.key(trial=1) == context(store, "another").key(trial=1)
    assert one.key(trial=1) != one.key(trial=2)
    assert one.key(trial=1) != Running(store, "run", "k", (("components.steps.train", "train"),), 1, {}).key(trial=1)
    assert one.key(trial=1) != Running(store, "run", "k", (("components.steps.tune", "tune"),), 0, {}).key(trial=1)


def test_a_part_is_remembered_by_its_key(store):
    one = context(store)
    assert one.recall("part") is None
    file = objects.keep("words", b"words")
    one.remember("part", file)

    assert one.recall("part") == file
    assert encode(file)["digest"] == digest_of(b"words")


def test_a_step_whose_input_was_lost_meanwhile_has_it_made_anew(store):
    """Between the look at what is made and the step's own: a reader elsewhere has set an object of it aside."""
    lost: list[str] = []

    class Losing(Here):
        def submit(self, node: Any, run: str, address: str) -> None:
            if node["needs"] and not lost:
                lost.append(node["needs"][0])
                store.delete(f"keys/{lost[0]}.json")
            super().submit(node, run, address)

    nodes = nodes_of(sums, values=(1, 2), extra=4)
    outcome = execute(store, nodes, executor=Losing)

    assert outcome.ok
    assert result(store, nodes[-1]) == 7
    assert [line["kind"] for line in ends(store) if line["status"] == "retry"] == ["damaged"]


def test_a_step_is_told_the_modules_behind_what_it_needs(store):
    """A checkpoint brings its family along: its code is in the key of the training, and runs wherever it is asked."""
    told: dict[str, list[str]] = {}

    class Noting(Here):
        def submit(self, node, run, address):
            told[node["title"]] = node["behind"]
            super().submit(node, run, address)

    nodes = [
        {**node, "modules": [*node["modules"], f"of_{node['title']}"]}
        for node in nodes_of(lambda: total([total([number(1)])]))
    ]
    Runner(store, "run", nodes, Noting)()

    assert "of_number" in told["total"] and "of_total" in told["total"]
    assert told["number"] == []
