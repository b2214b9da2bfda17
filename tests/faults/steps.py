"""Steps that say in a file that they ran, for drivers that are killed."""

import os
import time
from pathlib import Path

from components.runtime.crash_points import point
from components.step import step


def note(word: object) -> None:
    """Appends a word to the case's list of calls: one write, so that two processes do not mix theirs."""
    with (Path(os.environ["RAYFIELD_STORE"]).parent / "calls").open("a") as stream:
        stream.write(f"{word}\n")


@step
def slow(*, number: int, after: int = 0) -> int:
    """Takes a moment, in which others may come."""
    note(number)
    point("faults: a step works")
    time.sleep(0.05)
    return number


@step
def patient(*, number: int, after: int = 0) -> int:
    """Says which process it is, and works until it is let go."""
    note(f"{number}:{os.getpid()}:{os.getppid()}")
    point("faults: a patient step works")
    while not (Path(os.environ["RAYFIELD_STORE"]).parent / f"go-{number}").exists():
        time.sleep(0.02)
    return number
