"""
A run from its plan to its end: its name, its record, and who writes it when several drivers or a second one have it.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from components.errors import UsageError
from pipelines.cli.main import main
from pipelines.engine.execution import cancellation, driver
from pipelines.engine.execution.driver import run_name
from pipelines.engine.execution.executors import Here
from pipelines.engine.graph.plan_cache import Request
from pipelines.engine.monitoring.mlflow_sync import ledger_lines
from pipelines.engine.store.orphans import hold
from pipelines.engine.store.store import Store, owner
from tests.pipelines.engine.toys import ran

TOY = '''
from pipelines.engine.pipeline import pipeline
from tests.pipelines.engine.toys import number, total, broken

@pipeline
def toy(breaks: bool = False):
    """Numbers."""
    numbers = [number(1), number(2)]
    total(numbers + [broken()] if breaks else numbers)
'''


class Silent:
    """A tracker that MLflow never hears of."""

    began: list[str] = []

    def __init__(self, store: Store, run: str) -> None:
        self.run = run

    def start(self) -> None:
        self.began.append(self.run)

    def finish(self) -> str:
        return ""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(driver, "OnRay", Here)
    monkeypatch.setattr(driver, "Tracker", Silent)
    monkeypatch.setattr(Silent, "began", [])
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path / "toy.py"


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


def run(toy: Path, *words: str) -> int:
    return CliRunner().invoke(main, ["run", str(toy), "--json", *words], catch_exceptions=False).exit_code


def request_for(path: Path) -> Request:
    return Request(path, {}, {}, {})


def test_a_run_is_named_after_its_time_and_what_was_asked_for(toy):
    assert run_name(request_for(toy))[16:20] == request_for(toy).digest()[:4]
    assert run_name(request_for(toy)).startswith("20")


def test_the_environment_names_a_run(toy, store, monkeypatch):
    monkeypatch.setenv("RAYFIELD_RUN", "20260101-nightly.7")

    assert run(toy) == 0
    assert [name for name, _ in store.runs()] == ["20260101-nightly.7"]


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", "a/b"])
def test_a_name_that_is_no_file_name_is_refused(toy, monkeypatch, name):
    monkeypatch.setenv("RAYFIELD_RUN", name)

    with pytest.raises(UsageError, match="letters, digits"):
        run_name(request_for(toy))


def test_a_driver_that_is_started_again_goes_on_with_its_run(toy, store, monkeypatch):
    monkeypatch.setenv("RAYFIELD_RUN", "one")
    assert run(toy, "--breaks", "true") == 1
    ended = store.load("runs/one/run.json")
    unended = {name: value for name, value in ended.items() if name not in ("ended", "code")}
    store.write("runs/one/run.json", json.dumps({**unended, "title": "the first title"}).encode())
    assert run(toy, "--breaks", "true") == 1
    record = store.load("runs/one/run.json")

    assert record["title"] == "the first title"
    assert record["started"] == ended["started"]
    assert record["code"] == 1
    assert Silent.began == ["one", "one"]
    assert len(list(store.runs())) == 1


def test_a_mark_that_was_meant_for_a_driver_that_died_stops_not_the_next(toy, store, monkeypatch):
    monkeypatch.setenv("RAYFIELD_RUN", "one")
    monkeypatch.setattr(cancellation, "LOOK", 0.01)
    store.write("runs/one/run.json", json.dumps({"started": 1.0, "owner": owner()}).encode())
    cancellation.ask(store, "one")
    go = driver.Runner.__call__
    monkeypatch.setattr(driver.Runner, "__call__", lambda self: time.sleep(0.5) or go(self))

    assert run(toy) == 0


def test_the_ledger_of_a_run_that_goes_on_is_appended_to(toy, store, monkeypatch):
    monkeypatch.setenv("RAYFIELD_RUN", "one")
    run(toy, "--breaks", "true")
    first = [line["status"] for line in ledger_lines(store, "one") if line["status"] != "running"]
    run(toy, "--breaks", "true")
    lines = [line["status"] for line in ledger_lines(store, "one") if line["status"] != "running"]

    assert sorted(first) == ["done", "done", "failed", "skipped"]
    assert lines[:4] == first
    assert sorted(lines[4:]) == ["done", "done", "failed", "skipped"]


def test_a_driver_whose_steps_are_all_kept_ends_the_run_that_it_was_given(toy, store, monkeypatch):
    assert run(toy) == 0
    monkeypatch.setenv("RAYFIELD_RUN", "one")
    assert run(toy) == 0

    assert store.load("runs/one/run.json")["code"] == 0
    assert ran("total") == 1


def test_a_second_driver_of_a_run_works_beside_the_first_and_leaves_the_record_to_it(toy, store, monkeypatch):
    monkeypatch.setenv("RAYFIELD_RUN", "one")
    lease = hold(store, "one")
    store.write("runs/one/run.json", b'{"title": "the first one\'s", "started": 1.0}')
    finish = driver.Runner.__call__

    def beside(self: Any) -> Any:
        assert self.held == []
        return finish(self)

    monkeypatch.setattr(driver.Runner, "__call__", beside)

    assert run(toy) == 0
    assert Silent.began == []
    assert store.load("runs/one/run.json") == {"title": "the first one's", "started": 1.0}
    lease.release()


def test_a_second_driver_ends_the_run_if_the_first_died_meanwhile(toy, store, monkeypatch):
    monkeypatch.setenv("RAYFIELD_RUN", "one")
    lease = hold(store, "one")
    store.write("runs/one/run.json", b'{"title": "the first one\'s", "started": 1.0}')
    finish = driver.Runner.__call__

    def first_dies(self: Any) -> Any:
        outcome = finish(self)
        lease.release()
        return outcome

    monkeypatch.setattr(driver.Runner, "__call__", first_dies)

    assert run(toy) == 0
    assert store.load("runs/one/run.json")["code"] == 0


def test_a_run_lets_its_lease_go(toy, store, monkeypatch):
    monkeypatch.setenv("RAYFIELD_RUN", "one")
    run(toy)

    assert hold(store, "one") is not None


def test_stdout_is_for_the_json_alone(capfd):
    with driver._clean_stdout():
        os.write(1, b"a library's greeting\n")
    print("[]")
    out, err = capfd.readouterr()

    assert out == "[]\n" and err == "a library's greeting\n"
