"""
Eight drivers that begin at once do the work once, and a driver whose neighbour is killed does the rest.
"""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.store.store import Store
from tests.faults.drivers import alone, ended, start

DRIVERS = 8
TOY = """
from pipelines.engine.pipeline import pipeline
from tests.faults.steps import slow

@pipeline
def toy(steps: int = 6):
    last = slow(number=0)
    for number in range(1, steps):
        last = slow(number=number, after=last)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path


def together(server: Any, folder: Path, **settings: str) -> list[int]:
    """Starts all drivers, lets them go at the same moment, and returns how they ended."""
    settings["FAULTS_BEGIN"] = str(time.time() + 1.0)
    words = ["run", str(folder / "toy.py")]
    drivers = [start(server, alone, str(folder), number, words, settings) for number in range(DRIVERS)]
    return [ended(driver) for driver in drivers]


def calls(folder: Path) -> list[str]:
    return sorted((folder / "calls").read_text().split())


def test_eight_drivers_of_eight_runs_do_the_work_once(server, toy):
    assert together(server, toy) == [0] * DRIVERS
    assert calls(toy) == [str(number) for number in range(6)]

    records = [record for _, record in Store(str(toy / "store")).runs()]
    assert records  # a driver that came when all was done made none
    assert {record["code"] for record in records} == {0}


def test_eight_drivers_of_one_run_do_the_work_once_and_leave_one_record(server, toy):
    assert together(server, toy, RAYFIELD_RUN="one") == [0] * DRIVERS
    assert calls(toy) == [str(number) for number in range(6)]

    ((name, record),) = Store(str(toy / "store")).runs()
    assert (name, record["code"]) == ("one", 0)


def test_those_who_wait_take_over_from_the_one_that_is_killed(server, toy):
    """The driver that works at the third step is killed; of the seven that wait one does it again, and it alone."""
    words = ["run", str(toy / "toy.py")]
    once = {"RAYFIELD_CRASH_AT": "faults: a step works:3", "RAYFIELD_CRASH_ONCE": str(toy / "died")}
    drivers = [start(server, alone, str(toy), number, words, once) for number in range(DRIVERS)]
    codes = sorted(ended(driver) for driver in drivers)

    assert codes == [-signal.SIGKILL] + [0] * (DRIVERS - 1)
    assert len(calls(toy)) == 7
    assert len(set(calls(toy))) == 6


def test_what_a_dead_owner_held_is_taken_at_once_however_long_its_lease_lasts(server, toy):
    words = ["run", str(toy / "toy.py")]
    assert ended(start(server, alone, str(toy), 0, words, {"RAYFIELD_CRASH_AT": "runner: lease held:2"})) == -9
    for path in (toy / "store" / "leases").glob("*/*"):
        lease = json.loads(path.read_text())
        if lease["until"]:
            path.write_text(json.dumps({**lease, "until": time.time() + 3600}))

    assert ended(start(server, alone, str(toy), 1, words, {}), 60.0) == 0
    assert calls(toy) == [str(number) for number in range(6)]
