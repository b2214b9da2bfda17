"""
Logs: what a step prints is read after its process is gone, whoever printed it, and without secrets.
"""

import itertools
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import pytest

from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Runner
from pipelines.engine.monitoring import logs
from pipelines.engine.monitoring.logs import captured, read
from pipelines.engine.store.store import Store
from tests.pipelines.engine.execution.test_scheduler_loop import nodes_of
from tests.pipelines.engine.toys import broken, number

ROOT = Path(__file__).resolve().parents[4]
FOLDER = "runs/run/logs/key"


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


def words(store: Store, key: str = "key") -> list[str]:
    return [line.text for line in read(store, "run", key, {})]


def in_another_process(store: Store, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code inside a capture, in a process of its own."""
    whole = (
        "import ctypes, logging, os, signal, subprocess, sys, time, warnings\n"
        "from pipelines.engine.monitoring import logs\nfrom pipelines.engine.store.store import Store\n"
        f"logs.EVERY = 0.02\nwith logs.captured(Store({store.address!r}), {FOLDER!r}, 'worker 1'):\n"
    ) + "".join(f"    {line}\n" for line in code.splitlines())
    # the engine silences warnings for Ray's workers, and so for the tests that come after one that connected
    words = [sys.executable, "-W", "default", "-c", whole]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_way_of_printing_is_kept(store):
    in_another_process(
        store,
        "print('by print')\n"
        "print('by stderr', file=sys.stderr)\n"
        "os.write(1, b'by the system\\n')\n"
        "subprocess.run(['echo', 'by a child'])\n"
        "logging.getLogger('components.steps').info('by the project')\n"
        "logging.getLogger('other').warning('by a package')\n"
        "warnings.warn('by a warning')",
    )

    said = words(store)
    for way in ("print", "stderr", "the system", "a child", "the project", "a package", "a warning"):
        assert any(f"by {way}" in line for line in said), way
    assert "INFO components.steps: by the project" in said


def test_the_terminal_still_sees_it_and_stdout_stays_clean(store):
    ended = in_another_process(store, "print('words')")

    assert ended.stdout == ""
    assert ended.stderr == "words\n"


def test_lines_say_who_printed_them_and_come_in_order(store):
    in_another_process(store, "print('first')\ntime.sleep(0.1)\nprint('second')")
    lines = read(store, "run", "key", {})

    assert [line.text for line in lines] == ["first", "second"]
    assert {line.writer for line in lines} == {"worker 1"}
    assert lines[0].time < lines[1].time


@pytest.mark.parametrize("death", ["os._exit(9)", "os.kill(os.getpid(), signal.SIGKILL)", "ctypes.string_at(0)"])
def test_the_last_words_of_a_process_that_died_are_brought_in_by_the_next(store, death):
    in_another_process(store, f"logs.EVERY = 1e9\nprint('last words', flush=True)\n{death}")
    before = words(store)
    with captured(store, "runs/run/logs/other", "step"):
        pass

    assert "last words" in words(store)
    assert words(store).count("last words") == 1
    assert "last words" not in before
    assert not list((Path(os.environ["RAYFIELD_CACHE"]) / "logs").glob("*"))


def test_what_was_read_before_a_death_is_not_brought_in_twice(store):
    in_another_process(store, "print('early', flush=True)\ntime.sleep(0.3)\nprint('late', flush=True)\nos._exit(9)")
    logs.rescue()

    assert words(store) == ["early", "late"]


def test_the_words_of_a_process_that_lives_are_left_to_it(store):
    with captured(store, FOLDER, "step"):
        print("mine")
        logs.rescue()
        assert words(store) == []

    assert words(store) == ["mine"]


def test_secrets_are_kept_out(store, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")
    with captured(store, FOLDER, "step"):
        print("to postgresql://me:hunter2hunter2@host/db with hunter2hunter2")

    assert words(store) == ["to postgresql://***@host/db with ***"]


def test_of_a_bar_that_is_drawn_over_and_over_only_the_last_is_kept(store):
    with captured(store, FOLDER, "step"):
        print("\r 1%\r 50%\r100%")
        print("\n\n")

    assert words(store) == ["100%"]


def test_captures_inside_each_other_are_one(store):
    with captured(store, FOLDER, "outer"), captured(store, FOLDER, "inner"):
        print("words")

    assert [(line.writer, line.text) for line in read(store, "run", "key", {})] == [("outer", "words")]


def test_a_reader_who_follows_gets_each_line_once(store, monkeypatch):
    monkeypatch.setattr(logs, "EVERY", 0.01)
    seen: dict[str, int] = {}
    found, brought = [], threading.Event()
    monkeypatch.setattr(logs.Writer, "_remember", lambda self: brought.set())
    with captured(store, FOLDER, "step"):
        for n in range(3):
            brought.clear()
            print(n)
            brought.wait(10)
            found += read(store, "run", "key", seen)
    found += read(store, "run", "key", seen)

    assert [line.text for line in found] == ["0", "1", "2"]


@pytest.fixture
def writer(store, monkeypatch):
    """One that keeps three parts of 100 characters each, which four lines fill, and the last five of what follows."""
    clock = itertools.count()
    monkeypatch.setattr(logs, "_now", lambda: f"2026-01-01T00:00:00.{next(clock):03d}Z")
    monkeypatch.setattr(logs, "PART", 100)
    monkeypatch.setattr(logs, "PARTS", 3)
    raw = Path(os.environ["RAYFIELD_CACHE"]) / "raw.raw"
    raw.parent.mkdir(parents=True)
    raw.touch()
    return logs.Writer(store, FOLDER, "step-0a", raw, tail=deque(maxlen=5))


def print_lines(writer: logs.Writer, count: int) -> None:
    for n in range(count):
        with writer.raw.open("a") as stream:
            stream.write(f"line {n}\n")
        writer.bring(last=n == count - 1)


def test_a_writer_begins_another_object_when_one_is_full_and_then_keeps_its_end(store, writer):
    print_lines(writer, 40)

    assert words(store) == [
        *(f"line {n}" for n in range(12)),
        "... 23 lines are left out here",
        *(f"line {n}" for n in range(35, 40)),
    ]


def test_nothing_is_said_to_be_left_out_where_the_end_holds_it_all(store, writer):
    print_lines(writer, 17)

    assert words(store) == [f"line {n}" for n in range(17)]


def test_a_store_that_does_not_answer_stops_nothing(store, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("gone")

    with captured(store, FOLDER, "step"):
        monkeypatch.setattr(Store, "write", refuse)
        print("words")


def test_a_line_that_has_not_ended_waits(store):
    raw = Path(os.environ["RAYFIELD_CACHE"]) / "raw.raw"
    raw.parent.mkdir(parents=True)
    raw.write_text("whole\npart")
    writer = logs.Writer(store, FOLDER, "step-0a", raw)
    writer.bring()
    first = words(store)
    raw.write_text("whole\npartly\n")
    writer.bring()

    assert first == ["whole"]
    assert words(store) == ["whole", "partly"]


def test_the_streams_and_loggers_are_as_they_were_afterwards(store, capfd):
    out, level = sys.stdout, logging.getLogger("components").level
    with captured(store, FOLDER, "step"):
        assert sys.stdout is not out
    os.write(1, b"after\n")

    assert sys.stdout is out
    assert logging.getLogger("components").level == level
    assert capfd.readouterr().out == "after\n"


def test_a_step_of_a_run_has_its_traceback_in_its_logs(store):
    nodes = nodes_of(lambda: broken(of=number(1)))
    Runner(store, "run", nodes, Here)()

    said = words(store, nodes[-1]["key"])
    assert said[0].startswith("Traceback")
    assert said[-2:] == ["components.errors.DataError: a data error of two", "lines"]


def test_a_text_that_utf_8_cannot_hold_is_told_readably(store):
    with pytest.raises(ValueError, match="no file"), captured(store, FOLDER, "step"):
        raise ValueError("no file \udcff")

    assert words(store)[-1] == r"ValueError: no file \udcff"
