"""
Output of steps, kept in the store: it outlives the process, the machine and the cluster.

The output of a process is turned to a file of its machine; a thread brings what is new to the store, line by line,
each with its time and without secrets. A file and not a pipe: C code that holds the interpreter's lock while it waits
for room in a pipe would wait for ever, and a process that dies at once leaves its last words in the file, for whoever
works on that machine next to bring in (`rescue`).
"""

import json
import logging
import os
import sys
import threading
import traceback
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import RayfieldError
from components.runtime.objects import scratch_root, write_atomically
from components.runtime.redaction import redact
from components.runtime.serialization import readable
from pipelines.engine.store.store import Store, _free, owner, sealed_lines, unsealed_lines

EVERY = 1.0  # seconds between visits to the store
PART = 64 * 1024  # characters after which a writer begins another object: until then it writes the same one anew
PARTS = 128  # of one writer
TAIL = 500  # lines that are kept of all that come after the last part

_lock = threading.Lock()
_writers: dict[tuple[str, str, str], "Writer"] = {}


@dataclass
class Writer:
    """Brings the lines of one process's file into a folder of the store."""

    store: Store
    folder: str
    """runs/<run>/logs/<key>"""
    name: str
    """step-0a1b2c3d"""
    raw: Path
    read: int = 0
    """bytes of the file that are in the store"""
    part: int = 0
    text: str = ""
    """of the part that is written now"""
    late: int = 0
    """lines that came after the last part"""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))
    """their end"""

    def bring(self, last: bool = False) -> bytes:
        """Brings what is new, whole lines only unless it is the `last` time; returns it."""
        with open(self.raw, "rb") as stream:
            stream.seek(self.read)
            data = stream.read()
        end = len(data) if last else data.rfind(b"\n") + 1
        if end:
            self._add(data[:end].decode(errors="replace").split("\n"))
        if last and self.tail:
            self._end()
        self.read += end
        if end:
            self._remember()
        return data[:end]

    def tell(self, text: str) -> None:
        """Adds a text that was not printed: a step's traceback, which the screen has in one line."""
        with suppress(OSError, RayfieldError):
            self._add(readable(text).splitlines())

    def _add(self, lines: list[str]) -> None:
        # of a line that was drawn over and over, as progress bars are, the last drawing is enough
        shown = [text for line in lines if (text := line.rstrip("\r").rpartition("\r")[2].rstrip())]
        stamped = [f"{_now()} {text}\n" for text in redact("\n".join(shown)).splitlines()]
        if self.part >= PARTS:
            self.late += len(stamped)
            self.tail.extend(stamped)
        elif stamped:
            self._write("".join(stamped))

    def _end(self) -> None:
        lost, lines = self.late - len(self.tail), "".join(self.tail)
        if lost:  # with the time of the line that follows it: readers sort by time
            lines = f"{lines.partition(' ')[0]} ... {lost} lines are left out here\n{lines}"
        self._write(lines)
        self.late = 0
        self.tail.clear()

    def _write(self, text: str) -> None:
        self.text += text
        self.store.write(f"{self.folder}/{self.name}-{self.part:04d}.txt", sealed_lines(self.text.encode()))
        if len(self.text) > PART:
            self.part, self.text = self.part + 1, ""

    def _remember(self) -> None:
        """Says beside the file whose it is and how far it was read: see `rescue`."""
        held = {"store": self.store.address, "folder": self.folder, "name": self.name, "owner": owner()}
        write_atomically(_beside(self.raw), json.dumps({**held, "read": self.read, "part": self.part}).encode())

    def forget(self) -> None:
        self.raw.unlink(missing_ok=True)
        _beside(self.raw).unlink(missing_ok=True)


def _beside(raw: Path) -> Path:
    return raw.with_suffix(".json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


@contextmanager
def captured(store: Store, folder: str, name: str) -> Iterator[None]:
    """Keeps what this process prints inside; inside another such block there is nothing to do."""
    if not _lock.acquire(blocking=False):
        yield
        return
    try:
        rescue()
        writer = _writer(store, folder, name)
        try:
            with ExitStack() as stack:
                screen = stack.enter_context(_turned(writer.raw))
                stack.callback(_bring, writer, screen, True)
                stack.enter_context(_visits(writer, screen))
                stack.enter_context(_project_logger())
                yield
        except Exception:
            writer.tell(traceback.format_exc())
            raise
        finally:
            writer.forget()
    finally:
        _lock.release()


def _writer(store: Store, folder: str, name: str) -> Writer:
    """This process's writer of that name: one that worked for the step before goes on with its part."""
    place = scratch_root() / "logs"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    raw = place / f"{uuid.uuid4().hex}.raw"
    raw.touch(mode=0o600)
    fresh = Writer(store, folder, f"{name.replace(' ', '-')}-{uuid.uuid4().hex[:8]}", raw)
    writer = _writers.setdefault((store.address, folder, name), fresh)
    writer.raw, writer.read = raw, 0
    writer._remember()
    return writer


@contextmanager
def _turned(raw: Path) -> Iterator[int]:
    """Turns the output of this process, of its C code and of its children to a file. Gives what stderr was."""
    _flush()
    saved, target = (os.dup(1), os.dup(2)), os.open(raw, os.O_WRONLY | os.O_APPEND)
    os.dup2(target, 1), os.dup2(target, 2)
    try:
        with open(target, "a", encoding="utf-8", buffering=1, errors="backslashreplace") as stream:
            # a notebook's streams, and a test's, are not those of the process
            with redirect_stdout(stream), redirect_stderr(stream):
                yield saved[1]
            _flush()
    finally:
        os.dup2(saved[0], 1), os.dup2(saved[1], 2)
        for place in saved:
            os.close(place)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


@contextmanager
def _visits(writer: Writer, screen: int) -> Iterator[None]:
    """A thread that brings what is new every second."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(EVERY):
            _bring(writer, screen)

    thread = threading.Thread(target=work, daemon=True, name="logs")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bring(writer: Writer, screen: int, last: bool = False) -> None:
    _flush()
    # a store that does not answer stops no training: the lines wait in the file
    with suppress(OSError, RayfieldError):
        # what is a terminal here is a file of Ray's in a worker, which all of a machine may read
        os.write(screen, redact(writer.bring(last).decode(errors="replace")).encode())


@contextmanager
def _project_logger() -> Iterator[None]:
    """The logger of the project's own modules, from INFO on; Python prints the warnings of other packages."""
    logger, handler = logging.getLogger("components"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def rescue() -> None:
    """Brings in the last words of processes of this machine that died with their files unread."""
    for raw in (scratch_root() / "logs").glob("*.raw"):
        claimed = raw.with_suffix(f".{os.getpid()}")
        with suppress(OSError, RayfieldError, ValueError, KeyError):
            held = json.loads(_beside(raw).read_text(encoding="utf-8"))
            if not _free({**held["owner"], "until": float("inf")}):
                continue
            raw.rename(claimed)  # the first one to claim it brings it in
            store, part = Store(held["store"]), held["part"] + 1
            Writer(store, held["folder"], held["name"], claimed, held["read"], part).bring(last=True)
            claimed.unlink(missing_ok=True)
            _beside(raw).unlink(missing_ok=True)


# Reading


@dataclass(frozen=True, order=True)
class Line:
    """One line that a process printed for a step."""

    time: str
    """UTC, ISO 8601"""
    writer: str
    """step, worker 0, data, trial 03"""
    text: str


LOST = "... what was printed here is damaged in the store, and is left out"


def read(store: Store, run: str, key: str, seen: dict[str, int]) -> list[Line]:
    """The lines of a step that are not in `seen` (object -> characters) yet, in the order of their times."""
    folder, found = f"runs/{run}/logs/{key}", list[Line]()
    for name in store.names(folder):
        writer = name.rsplit("-", 2)[0].replace("-", " ")
        data, broken = store.parsed(f"{folder}/{name}", unsealed_lines)
        if broken:
            found += [Line("", writer, LOST)] if name not in seen else []
        text = (data or b"").decode()
        fresh, seen[name] = text[seen.get(name, 0) :], len(text)
        found += [Line(when, writer, words) for when, _, words in (line.partition(" ") for line in fresh.splitlines())]
    return sorted(found, key=lambda line: line.time)


def as_dict(line: Line) -> dict[str, Any]:
    return {"time": line.time, "writer": line.writer, "text": line.text}
