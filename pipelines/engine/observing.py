"""
What a step opened, imported and read from the environment that no key holds.

Keys are computed from the text of the code: what it reads by names that are made while it runs cannot be seen there. It
is seen here, in the step's own process, and named in the step's manifest; a strict step fails on it.
"""

import collections.abc
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from components.runtime.files import root, scratch_root
from components.runtime.places import is_remote
from components.source import Source
from pipelines.engine import code
from pipelines.engine.fingerprint import is_in_no_key
from pipelines.engine.reading import IMPORTING, reading

PLACES = ("RAYFIELD_", "MLFLOW_", "RAY_", "AWS_", "FSSPEC_", "NUMBA_", "OMP_")
"""variables that say where things are and how fast they go, never what a result is"""
MAPPINGS = ("<frozen os>", "<frozen _collections_abc>", os.__file__, collections.abc.Mapping.get.__code__.co_filename)
"""through which the environment is asked"""
CARRIERS = ("ray", "mlflow")
"""packages that carry work from here to there, and read what they need for that"""


@dataclass
class Observed:
    """What a step read that is in no key."""

    also: list[str] = field(default_factory=list)
    """such as "/etc/words", "the variable WORDS", "the module helpers" """


@contextmanager
def observing(node: Mapping[str, Any], arguments: Any) -> Iterator[Observed]:
    """Notes what a step's own code reads meanwhile, less what its key holds."""
    seen, before = Observed(), set(sys.modules)
    with reading(_is_of_the_step, _is_the_step) as found:
        yield seen
    paths = {os.path.abspath(path) for path in found.paths}
    seen.also += sorted(_strange(paths, node, arguments))
    seen.also += sorted(f"the variable {name}" for name in found.variables if not name.startswith(PLACES))
    seen.also += sorted(f"the module {name}" for name in _modules(node, set(sys.modules) - before))


def _is_of_the_step(frame: FrameType | None) -> bool:
    """Whether the first code on the way up that no package brought is in the step's key."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(IMPORTING) or _is_left_out(file):
            return False
        if not file.startswith("<") and not _is_brought(file):
            return True
        frame = frame.f_back
    return False


def _is_the_step(frame: FrameType | None) -> bool:
    """Whether the step's own code asks, and not a library that looks for its own settings."""
    while frame is not None and frame.f_code.co_filename.startswith(MAPPINGS):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith("<"):  # Python's own, such as what finds a home folder
        return False
    if _is_left_out(frame.f_code.co_filename) or _is_brought(frame.f_code.co_filename):
        return False
    return any(_is_environment(name, frame) for name in frame.f_code.co_names)


def _is_environment(name: str, frame: FrameType) -> bool:
    """Whether a name stands for the environment: code that calls a library in C, which has no frame, has none."""
    value = frame.f_globals.get(name)
    return name in ("environ", "getenv") or value is os.environ or value is os.getenv


@cache
def _is_left_out(file: str) -> bool:
    """Whether a file moves bytes, draws or runs steps: what it reads is compared with digests, or decides no result."""
    if any(f"{os.sep}{name}{os.sep}" in file for name in CARRIERS) and code.is_brought(file):
        return True
    if not file.startswith(tuple(f"{code.ROOT / top}{os.sep}" for top in code.OURS)):
        return False
    return is_in_no_key(".".join(Path(file).relative_to(code.ROOT).with_suffix("").parts))


def _is_brought(file: str) -> bool:
    ours = file.startswith(tuple(f"{code.ROOT / top}{os.sep}" for top in code.OURS))
    return not ours and code.is_brought(file)


def _strange(paths: Iterable[str], node: Mapping[str, Any], arguments: Any) -> list[str]:
    """Those of some paths that neither the key nor the engine answers for."""
    data = {str(code.data_path(name[5:])) for name in node["ingredients"]["code"] if name.startswith("data ")}
    near = tuple(_near())
    data |= {os.path.abspath(folder) for folder in sys.path}  # what is installed is listed, by numba for one
    paths = [path for path in paths if not path.endswith(".py") and "__pycache__" not in Path(path).parts]
    left = [path for path in paths if path not in data and not path.startswith(near)]
    if not left:
        return []
    watched = {os.path.abspath(path) for source in _sources(arguments) for path in source.watch()}
    folders = tuple(f"{path}{os.sep}" for path in watched if os.path.isdir(path))
    return [path for path in left if path not in watched and not path.startswith(folders or ("\0",))]


def _near() -> Iterator[str]:
    """Folders whose files no result depends on, or that are compared with digests."""
    yield from ("/proc/", "/sys/", "/dev/")
    for folder in (scratch_root(), Path(tempfile.gettempdir()), Path(sys.prefix), Path(sys.base_prefix)):
        yield f"{folder}{os.sep}"
    if not is_remote(root()):
        yield f"{os.path.abspath(root().removeprefix('file://'))}{os.sep}"


def _sources(value: Any) -> Iterator[Source]:
    from pipelines.engine.drawing import parts

    yield from parts(value, Source)


def _modules(node: Mapping[str, Any], loaded: Iterable[str]) -> Iterator[str]:
    """Modules that may be edited, that were imported meanwhile, and whose code no key holds."""
    known = set(node["modules"])
    held = {code.path_of(name) for name in known}  # MLflow imports the file that serves a model under a name of its own
    for name in loaded:
        path = None if name in known or is_in_no_key(name) else code.path_of(name)
        if path is not None and path not in held and not _is_brought(str(path)):
            yield name
