"""
Observe what a step opens, imports and reads from the environment that no key holds.

Keys are computed from the text of the code: what it reads by names that are made while it runs cannot be seen there. It
is seen here, in the step's own process, and named in the step's manifest; a strict step fails on it.
"""

import mimetypes
import os
import shutil
import sys
import tempfile
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType
from typing import Any

from components.runtime.filesystem import is_remote
from components.runtime.objects import root, scratch_root
from components.source import Source
from pipelines.engine.caching import modules as code
from pipelines.engine.caching.fingerprint import is_in_no_key
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.execution.code_snapshot import modules
from pipelines.engine.graph.trace_inputs import IMPORTING, reading

PLACES = ("RAYFIELD_", "MLFLOW_", "RAY_", "AWS_", "FSSPEC_", "NUMBA_", "OMP_", "ARROW_", "PYARROW_")
"""variables that say where things are and how fast they go, never what a result is"""
LOOKING = os.path.dirname(metadata.__file__)
"""Python's own code that looks for what is installed: versions are in keys"""
STANDARD = os.path.dirname(os.__file__)
"""where Python's own modules lie, and below it what is installed"""
CARRIERS = ("ray", "mlflow")
"""packages that carry work from here to there, and read what they need for that"""
REMOVING = {one.__code__ for name, one in vars(shutil).items() if "rmtree" in name and hasattr(one, "__code__")}
"""what lists a folder to remove it"""


@dataclass
class Observed:
    """Inputs of a step that are in no key."""

    also: list[str] = field(default_factory=list)
    """such as "/etc/words", "the variable WORDS", "the module helpers" """
    arguments: Any = ()
    """of the step: the files of its sources are in its key"""


@contextmanager
def observing(node: Mapping[str, Any], bring: Callable[[], None]) -> Iterator[Observed]:
    """
    Notes what a step's own code reads meanwhile, less what its key holds; and while `bring` imports it.

    In this process and in the threads that the code itself starts. What its workers read, or another program, is not
    seen; nor what is asked in C, of a network, of Ray and MLflow, or in the folder for temporary files.
    """
    seen = Observed()
    with reading(_is_of_the_import, _asks, _starts) as early:
        bring()
    before = set(sys.modules)
    with reading(_is_of_the_step, _asks, _starts) as found:
        yield seen
    found.paths |= early.paths
    found.variables |= early.variables
    loaded = sorted(_modules(node, set(sys.modules) - before))
    paths = {os.path.abspath(_source_of(path)) for path in found.paths} - {str(code.path_of(name)) for name in loaded}
    seen.also += sorted(_strange(paths, node, seen.arguments))
    seen.also += sorted(f"the variable {name}" for name in found.variables if not name.startswith(PLACES))
    seen.also += [f"the module {name}" for name in loaded]


def _source_of(path: str) -> str:
    """The source of what was compiled: Python reads the one or the other."""
    return source_from_cache(path) if path.endswith(".pyc") and "__pycache__" in path else path


def _is_of_the_import(frame: FrameType | None) -> bool:
    """True if the step's code reads a file when it is imported; modules that it imports then are in its key."""
    return frame is not None and frame.f_code.co_name != "get_data" and _is_of_the_step(frame)


def _is_of_the_step(frame: FrameType | None) -> bool:
    """True if the first code on the way up that no package brought is in the step's key."""
    loads = frame is not None and frame.f_code.co_name == "get_data"  # of a file; to look for one is not to read it
    while frame is not None:
        file = frame.f_code.co_filename
        if (
            (file.startswith(IMPORTING) and not loads)
            or file.startswith(LOOKING)
            or _is_left_out(file)
            or frame.f_code in REMOVING
        ):
            return False
        if not file.startswith("<") and not _is_brought(file):
            return True
        frame = frame.f_back
    return False


def _starts(frame: FrameType | None) -> bool:
    """True if the step's code itself starts a thread, if by Python's own pools; a package's threads are its own."""
    while frame is not None and not _is_own(frame):
        file = frame.f_code.co_filename
        if not file.startswith("<") and ("site-packages" in file or not file.startswith(STANDARD)):
            return False
        frame = frame.f_back
    return frame is not None


def _asks(frame: FrameType | None) -> bool:
    """True if the step's code itself asks for a variable: a package asks to know how it works here."""
    return frame is not None and _is_own(frame) and any(_is_environment(name, frame) for name in frame.f_code.co_names)


def _is_own(frame: FrameType) -> bool:
    """True if the code itself is the step's."""
    file = frame.f_code.co_filename
    return not file.startswith("<") and not _is_brought(file) and _is_of_the_step(frame)


def _is_environment(name: str, frame: FrameType) -> bool:
    """True if a name stands for the environment: code that calls a library in C, which has no frame, has none."""
    value = frame.f_globals.get(name)
    handed = any(one is os.environ or one is os.getenv for one in frame.f_locals.values())
    return handed or name in ("environ", "getenv") or value is os.environ or value is os.getenv


@cache
def _is_left_out(file: str) -> bool:
    """True for files that move bytes, draw or run steps: their reads are compared with digests, or decide nothing."""
    if any(f"{os.sep}{name}{os.sep}" in file for name in CARRIERS) and code.is_brought(file):
        return True
    if not file.startswith(tuple(f"{ROOT / top}{os.sep}" for top in code.OURS)):
        return False
    return is_in_no_key(".".join(Path(file).relative_to(ROOT).with_suffix("").parts))


def _is_brought(file: str) -> bool:
    ours = file.startswith(tuple(f"{ROOT / top}{os.sep}" for top in code.OURS))
    return not ours and code.is_brought(file)


def _strange(paths: Iterable[str], node: Mapping[str, Any], arguments: Any) -> list[str]:
    """Those of some paths that neither the key nor the engine answers for."""
    data = set()
    for name in (one.removeprefix("data ") for one in node["ingredients"]["code"] if one.startswith("data ")):
        data |= {str(code.data_path(name)), *(os.path.abspath(os.path.join(folder, name)) for folder in sys.path)}
    # what is installed is listed, by numba for one
    data |= {folder for folder in map(os.path.abspath, sys.path) if code.is_brought(folder + os.sep)}
    near = tuple(_near())
    names = {*modules(node), *code.OURS}
    known = data | {str(path) for name in names if (path := code.path_of(name))}
    left = [path for path in paths if not (path in known or _is_near(path, near) or _name(Path(path)) in names)]
    if not left:
        return []
    watched = {os.path.abspath(path) for source in _sources(arguments) for path in source.watch()}
    folders = tuple(f"{path}{os.sep}" for path in watched if os.path.isdir(path))
    return [path for path in left if path not in watched and not path.startswith(folders or ("\0",))]


def _is_near(path: str, near: tuple[str, ...]) -> bool:
    if "__pycache__" in path or code.is_brought(path):  # what numba compiled, and what a version stands for
        return True
    is_code = path.startswith(f"{ROOT}{os.sep}") and is_in_no_key(_name(Path(path)))
    return is_code or (path.startswith(near) and not path.startswith(f"{scratch_root() / 'code'}{os.sep}"))


def _near() -> Iterator[str]:
    """Folders whose files no result depends on, or that are compared with digests."""
    yield from ("/proc/", "/sys/", "/dev/")
    # the tables of a system, which Python's own modules look things up in
    yield from (*(f"{folder}{os.sep}" for folder in zoneinfo.TZPATH), *map(str, mimetypes.knownfiles))
    for folder in (scratch_root(), Path(tempfile.gettempdir()), Path(sys.prefix), Path(sys.base_prefix)):
        yield f"{folder}{os.sep}"
    if not is_remote(root()):
        yield f"{os.path.abspath(root().removeprefix('file://'))}{os.sep}"


def _sources(value: Any) -> Iterator[Source]:
    from pipelines.engine.graph.tracing import parts

    yield from parts(value, Source)


def _modules(node: Mapping[str, Any], loaded: Iterable[str]) -> Iterator[str]:
    """Modules that may be edited, that were imported meanwhile, and whose code no key holds."""
    known = set(modules(node))
    for name in loaded:
        path = None if name in known or is_in_no_key(name) else code.path_of(name)
        if path is not None and not _is_brought(str(path)) and _name(path) not in known:
            yield name


def _name(path: Path) -> str:
    """The module of a file of this project, whatever it was imported as."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts) if path.is_relative_to(ROOT) else ""
