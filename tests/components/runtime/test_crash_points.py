"""
Crash points: an armed one kills as kill -9 does, any other does nothing.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from components.runtime.crash_points import point
for n in range(3):
    point("one")
    print("one", n, flush=True)
    point("two: after one")
    print("two", n, flush=True)
"""


def run(monkeypatch: pytest.MonkeyPatch, **settings: str) -> tuple[int, int]:
    """How the script ended, and how many lines it said before."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=root)
    return ended.returncode, len(ended.stdout.splitlines())


def test_a_point_that_is_not_armed_does_nothing(monkeypatch):
    assert run(monkeypatch) == (0, 6)
    assert run(monkeypatch, RAYFIELD_CRASH_AT="another") == (0, 6)


@pytest.mark.parametrize(
    ("armed", "lines"),
    [("one", 0), ("one:1", 0), ("one:3", 4), ("two: after one", 1), ("two: after one:2", 3), ("*:4", 3)],
)
def test_an_armed_point_kills_at_its_turn(monkeypatch, armed, lines):
    assert run(monkeypatch, RAYFIELD_CRASH_AT=armed) == (-9, lines)


def test_a_turn_that_never_comes_kills_nobody(monkeypatch):
    assert run(monkeypatch, RAYFIELD_CRASH_AT="one:4") == (0, 6)


def test_of_several_processes_the_first_to_arrive_dies(monkeypatch, tmp_path):
    settings = {"RAYFIELD_CRASH_AT": "one", "RAYFIELD_CRASH_ONCE": str(tmp_path / "died")}

    assert run(monkeypatch, **settings) == (-9, 0)
    assert run(monkeypatch, **settings) == (0, 6)
