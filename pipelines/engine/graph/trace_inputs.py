"""
Inputs of a drawing besides the project's own code: the user's modules, files, folders and variables.

A remembered plan holds while all of it is as it was. What a pipeline asks of the clock, of a network or of another
program is not seen: a pipeline takes such values as parameters.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakSet

from components.runtime.redaction import is_secret
from pipelines.engine.caching.modules import ROOT, is_brought

HEARD = ("open", "os.listdir", "os.scandir", "ctypes.dlopen", "sqlite3.connect")
IMPORTING = "<frozen importlib"
PACKAGED = (".dist-info", ".egg-info")

Listens = Callable[[FrameType | None], bool]
"""whether what is asked for from this frame is noted"""


@dataclass
class Reading:
    """Inputs of the pipeline's own code while it drew; those of the engine and of the sources are in the keys."""

    paths: set[str] = field(default_factory=set)
    """as they were asked for: one that is not in full depends on the folder in which the command is given"""
    made: set[str] = field(default_factory=set)
    """what was written from its beginning meanwhile: to read that again is to read nothing new"""
    variables: set[str] = field(default_factory=set)
    is_asked: Listens = lambda frame: True
    """whether the code that asks is the one that is listened to"""
    reads: Listens = lambda frame: True
    """the same for variables"""
    threads: WeakSet[Any] = field(default_factory=WeakSet)
    """those that are listened to, whatever runs in them"""


_now: list[Reading] = []
"""the reading that goes on"""


@contextmanager
def reading(
    is_asked: Listens | None = None, reads: Listens | None = None, starts: Listens | None = None
) -> Iterator[Reading]:
    """Notes what is read meanwhile by the user's own code, or by the code that these tell."""
    asked, start = is_asked or _is_asked_by_the_user, threading.Thread.start
    found, kind = Reading(is_asked=asked, reads=reads or asked), os.environ.__class__

    def begin(thread: threading.Thread) -> None:
        if starts and starts(sys._getframe(1)):
            found.threads.add(thread)
        start(thread)

    _listen()
    _now.append(found)
    os.environ.__class__ = _Environment  # in place: modules may hold it by another name
    threading.Thread.start = begin  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        os.environ.__class__ = kind
        _now.remove(found)


@cache
def _listen() -> None:
    """Python keeps a hook for ever, so it is set once, by the first drawing, and is deaf between drawings."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _now or event not in HEARD:
        return
    path = "." if arguments[0] is None else arguments[0]
    flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
    if not isinstance(path, str | bytes | os.PathLike) or not _is_heard(sys._getframe(1)):
        return
    if flags & (os.O_WRONLY | os.O_CREAT):
        _now[-1].made |= {os.fsdecode(path)} if flags & os.O_TRUNC else set()
        return
    if os.fsdecode(path) in _now[-1].made:
        return
    if event != "ctypes.dlopen" or os.path.isabs(path):  # a system's library is found by its name
        _now[-1].paths.add(os.fsdecode(path))


def _is_heard(frame: FrameType | None) -> bool:
    # threading.current_thread() would make one for a thread that Python did not start
    thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]
    return _now[-1].is_asked(frame) or thread in _now[-1].threads


class _Environment(type(os.environ)):  # type: ignore[misc]
    """
    The environment, which notes the names that are asked for; not secrets, since even a digest tells of one.

    Whoever copies all of it, as a package does for each program that it starts, asks for none.
    """

    copying = (0, 0)
    """who copies all of it: the frame, and its instruction"""

    def __getitem__(self, name: str) -> str:
        caller = _caller()
        counts = _now and isinstance(name, str) and not is_secret(name) and _place(caller) != type(self).copying
        if counts and _now[-1].reads(caller):
            _now[-1].variables.add(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        type(self).copying = _place(_caller())
        yield from super().__iter__()


def _place(frame: FrameType | None) -> tuple[int, int]:
    return (id(frame), frame.f_lasti) if frame else (0, 0)


def _caller() -> FrameType | None:
    """Who asks for a variable, past what os.environ is made of."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in ("os", "_collections_abc", "collections.abc"):
        frame = frame.f_back
    return frame


def _is_asked_by_the_user(frame: FrameType | None) -> bool:
    """True if the first code on the way up that no package brought is the user's, and nothing is being imported."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(IMPORTING) or _is_ours(file):
            return False
        if not file.startswith("<") and not is_brought(file):
            return True
        frame = frame.f_back
    return False


@cache
def _is_ours(file: str) -> bool:
    """True for files of components/ and the engine: what these read is in the keys, or decides no plan."""
    return file.startswith((f"{ROOT / 'components'}{os.sep}", f"{ROOT / 'pipelines' / 'engine'}{os.sep}"))


def loaded(before: Container[str]) -> set[Path]:
    """The files of components/ that this process has imported, and of whatever else it imported since `before`."""
    held = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    kept = {name: file for name, file in held.items() if name not in before or name.startswith("components.")}
    own = [file for name, file in kept.items() if file and name.partition(".")[0] != "pipelines"]
    # some of a package's modules are made by hand, and name files that there are not
    return {Path(file) for file in own if os.path.isfile(file) and os.path.isabs(file) and not is_brought(file)}


def variables(names: Iterable[str]) -> dict[str, str]:
    """Variable -> digest of its value: what a plan keeps of the environment."""
    return {name: _digest(os.environ.get(name)) for name in sorted(names)}


def packages() -> str:
    """A digest of Python's version, and of the packages that the folders of its path say are installed there."""
    first: dict[str, str] = {}
    for folder in filter(_is_for_packages, dict.fromkeys(sys.path)):
        for entry in _listed(folder or "."):
            if entry.endswith(PACKAGED):
                first.setdefault(entry.partition("-")[0].partition(".")[0].lower(), entry)
    first.pop("rayfield", None)  # its code is in the plan by its files
    return _digest(repr((sys.version, sorted(first.items()))))


def _is_for_packages(folder: str) -> bool:
    """Ray puts a folder of its own on the path when it is imported: what lies there is not installed."""
    return os.path.basename(folder) in ("site-packages", "dist-packages") or not is_brought(folder)


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _digest(value: str | None) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()
