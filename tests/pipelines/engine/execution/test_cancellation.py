"""
Stopping: a mark in the store ends the driver as a signal would.
"""

import signal
import threading
import time
from pathlib import Path

import pytest

from components.errors import RayfieldError
from pipelines.engine.execution import cancellation
from pipelines.engine.execution.cancellation import ask, stoppable
from pipelines.engine.store.store import Store


@pytest.fixture
def store(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cancellation, "LOOK", 0.01)
    previous = signal.signal(signal.SIGTERM, interrupt)
    yield Store(str(own_store))
    signal.signal(signal.SIGTERM, previous)


def test_whoever_asks_ends_the_run_and_no_other(store):
    with pytest.raises(KeyboardInterrupt), stoppable(store, "one"):
        ask(store, "one")
        time.sleep(30)
    with stoppable(store, "two"):
        time.sleep(0.1)


def test_a_store_that_does_not_answer_stops_nothing(store, monkeypatch):
    looks: list[str] = []

    def fail(self: Store, name: str) -> bytes:
        looks.append(name)
        raise RayfieldError("the store is away")

    monkeypatch.setattr(Store, "read", fail)

    with stoppable(store, "one"):
        time.sleep(0.1)

    assert len(looks) > 1  # it looked again, and the run went on


def test_nobody_looks_any_more_once_the_run_is_over(store):
    with stoppable(store, "one"):
        pass

    assert "stop" not in [thread.name for thread in threading.enumerate()]
