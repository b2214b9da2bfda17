"""
Places where the process may be killed: tests arm one and look at what the next run makes of it.

    RAYFIELD_CRASH_AT="runner: lease held"       dies there as by kill -9, the first time
    RAYFIELD_CRASH_AT="train: updated:7"         the seventh time that this process comes by
    RAYFIELD_CRASH_AT="*:120"                    at the 120th point of any name
    RAYFIELD_CRASH_ONCE=PATH                     of several processes the first to arrive dies, and leaves this file

An unarmed point costs one look at the environment, a microsecond.
"""

import os
import signal
from collections import Counter

_met: Counter[str] = Counter()


def point(name: str) -> None:
    """The process dies here if this point is armed."""
    if armed := os.environ.get("RAYFIELD_CRASH_AT"):
        _meet(name, armed)


def _meet(name: str, armed: str) -> None:
    wanted, _, turn = armed.rpartition(":") if armed.rpartition(":")[2].isdigit() else (armed, "", "1")
    if wanted in (name, "*"):
        _met[wanted] += 1
        if _met[wanted] == int(turn) and _first():
            os.kill(os.getpid(), signal.SIGKILL)


def _first() -> bool:
    """True if no other process has died here: one that is started anew would die again and again."""
    path = os.environ.get("RAYFIELD_CRASH_ONCE")
    if not path:
        return True
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
