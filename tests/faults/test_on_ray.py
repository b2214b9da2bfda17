"""
Kills under a real Ray: of drivers, of workers, of the raylet; and calls between Ray's own processes that fail.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.monitoring.mlflow_sync import ledger_lines
from pipelines.engine.store.orphans import INTERRUPTED
from pipelines.engine.store.store import Store
from tests.faults.drivers import ended, on_ray, start

STEPS = 4
KILLS = 4  # of workers, and as many of drivers
TOY = f"""
from pipelines.engine.pipeline import pipeline
from tests.faults.steps import patient

@pipeline
def toy(steps: int = {STEPS}):
    last = patient(number=0)
    for number in range(1, steps):
        last = patient(number=number, after=last)
"""


@dataclass
class Toy:
    """A pipeline of steps that work until they are let go, and its drivers."""

    folder: Path
    server: Any
    settings: dict[str, str]
    drivers: list[Any] = field(default_factory=list)

    def drive(self, **more: str) -> Any:
        words = ["run", str(self.folder / "toy.py")]
        driver = start(self.server, on_ray, str(self.folder), len(self.drivers), words, {**self.settings, **more})
        self.drivers.append(driver)
        return driver

    def calls(self) -> list[tuple[int, int, int]]:
        """The number of each step that began, its process and that one's parent."""
        path = self.folder / "calls"
        lines = path.read_text().split() if path.exists() else []
        return [(int(a), int(b), int(c)) for a, b, c in (line.split(":") for line in lines)]

    def call(self, place: int) -> tuple[int, int, int]:
        """The call at a place, once it is made."""
        wait_for(lambda: len(self.calls()) > place, self.output)
        return self.calls()[place]

    def go(self, number: int) -> None:
        (self.folder / f"go-{number}").touch()

    def output(self) -> str:
        return "\n".join((self.folder / f"output-{n}").read_text()[-3000:] for n in range(len(self.drivers)))

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "store"))

    def lines(self) -> list[dict[str, Any]]:
        return [line for run, _ in self.store.runs() for line in ledger_lines(self.store, run)]


def wait_for(condition: Callable[[], bool], said: Callable[[], str] = str, seconds: float = 240.0) -> None:
    """Waits, on a machine that may have much else to do."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, said()
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process is no more; one that nobody has waited for yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def toy(tmp_path: Path, server: Any) -> Toy:
    (tmp_path / "toy.py").write_text(TOY)
    return Toy(tmp_path, server, {"RAYFIELD_STEPS": str(STEPS)})


@pytest.fixture
def shared(toy: Toy, ray_session: None) -> Toy:
    """On the Ray that all tests share."""
    import ray

    toy.settings["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    return toy


@pytest.mark.parametrize("after", [0.2, 1.0, 2.0, 3.0])
def test_sigterm_while_ray_starts_leaves_a_run_that_the_same_command_continues(toy, after):
    """Never Ray's own exit code, 15, which says that the run failed: 5, or the signal itself."""
    driver = toy.drive()
    wait_for(lambda: any(toy.store.runs()), toy.output)
    time.sleep(after)
    os.kill(driver.pid, signal.SIGTERM)

    assert ended(driver) in (INTERRUPTED, -signal.SIGTERM), toy.output()
    for each in range(STEPS):
        toy.go(each)
    assert ended(toy.drive()) == 0, toy.output()


def test_what_a_killed_driver_had_started_dies_with_it_and_the_next_one_goes_on(shared):
    driver = shared.drive()
    shared.go(0)
    number, worker, _ = shared.call(1)
    os.kill(driver.pid, signal.SIGKILL)

    assert number == 1
    assert ended(driver) == -signal.SIGKILL
    wait_for(lambda: gone(worker), lambda: f"the worker {worker} outlived its driver")
    for each in range(STEPS):
        shared.go(each)
    assert ended(shared.drive()) == 0, shared.output()
    assert [call[0] for call in shared.calls()] == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("seed", [0])
def test_workers_that_are_killed_are_replaced_and_nothing_finished_runs_again(shared, seed):
    """Which steps lose their worker, some of them twice, is drawn."""
    victims = sorted(random.Random(seed).choices(range(STEPS), k=KILLS))
    driver, place = shared.drive(), 0
    for number in range(STEPS):
        for _ in range(victims.count(number)):
            os.kill(shared.call(place)[1], signal.SIGKILL)
            place += 1
        shared.call(place)
        shared.go(number)
        place += 1

    assert ended(driver) == 0, shared.output()
    assert [call[0] for call in shared.calls()] == sorted([*range(STEPS), *victims])
    retries = [line for line in shared.lines() if line["status"] == "retry"]
    assert [line["kind"] for line in retries] == ["preempted"] * KILLS


def test_drivers_that_are_killed_again_and_again_get_there(shared):
    """Each is killed while it works at a step that is drawn; those before it are done."""
    for victim in sorted(random.Random(1).choices(range(STEPS), k=KILLS)):
        for number in range(victim):
            shared.go(number)
        before, driver = len(shared.calls()), shared.drive()
        wait_for(lambda: victim in [call[0] for call in shared.calls()[before:]], shared.output)  # noqa: B023
        os.kill(driver.pid, signal.SIGKILL)
        assert ended(driver) == -signal.SIGKILL
    for number in range(STEPS):
        shared.go(number)
    assert ended(shared.drive()) == 0, shared.output()
    made = [call[0] for call in shared.calls()]

    assert made == sorted(made)
    assert set(made) == set(range(STEPS))
    assert len(made) == STEPS + KILLS


def test_a_run_whose_raylet_is_killed_begins_another_ray_and_goes_on(toy):
    """Ray's driver would wait for ever for a raylet that is gone."""
    driver = toy.drive()
    toy.go(0)
    _, worker, raylet = toy.call(1)
    os.kill(raylet, signal.SIGKILL)
    wait_for(lambda: gone(worker), lambda: "a worker outlived its raylet")
    for number in range(STEPS):
        toy.go(number)

    assert ended(driver) == 0, toy.output()
    assert [call[0] for call in toy.calls()] == [0, 1, 1, 2, 3]
    assert "preempted" in [line.get("kind") for line in toy.lines()]


@pytest.mark.parametrize(
    "call", ["CoreWorkerService.grpc_client.PushTask", "NodeManagerService.grpc_client.ReturnWorkerLease"]
)
def test_calls_between_rays_processes_that_fail_lose_nothing(toy, call):
    """Ray's own fault injection: requests that never arrive, and answers that are lost after the work was done."""
    odds = {"num_failures": 3, "req_failure_prob": 40, "resp_failure_prob": 40, "in_flight_failure_prob": 0}
    for number in range(STEPS):
        toy.go(number)

    assert ended(toy.drive(RAY_testing_rpc_failure=json.dumps({call: odds}))) == 0, toy.output()
    assert {line["key"] for line in toy.lines() if line["status"] == "done"} == {
        name.removesuffix(".json") for name in toy.store.names("keys")
    }
    assert sorted({call[0] for call in toy.calls()}) == list(range(STEPS))
