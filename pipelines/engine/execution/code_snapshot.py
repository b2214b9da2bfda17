"""
The code that a run executes: a copy that is made when the run begins, and from which every process of it imports.

A file that is saved while a run goes on is the next run's. The copy lies in this machine's cache under the digest of
what it holds, so that runs of the same code share one. Of this project it holds what git tracks, modules that git has
not been told of, and what keys cover; of one's own code what keys cover.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.runtime.objects import digest_of, scratch_root
from components.runtime.user_code import importing
from pipelines.engine.caching.modules import LOCK, OURS, ROOT, files_of, path_of
from pipelines.engine.cluster.packaging import listed
from pipelines.engine.graph.plan_cache import Request, files_of_plan
from pipelines.engine.store.store import Store

CODE = "RAYFIELD_CODE"
"""the variable that tells where the run's code lies"""
PACKED = "RAYFIELD_PACKED"
"""set in a job, which executes the package that was sent with it: a copy already, on every node"""
OWN = "own"
"""the folder of a job in which a pipeline of one's own lies with what it imports from beside it"""
KEPT = 30 * 86400
"""seconds after its last run for which a copy is kept"""


def own_modules(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """The modules of one's own that steps use, and that are behind what they need, by their names."""
    return sorted({name for node in nodes for name in modules(node) if name.split(".")[0] not in OURS})


def modules(node: Mapping[str, Any]) -> list[str]:
    """The modules whose code is in a step's key: its own, and those behind what it needs, where a runner named them."""
    return list(dict.fromkeys([*node["modules"], *node.get("behind", ())]))


def take(request: Request, nodes: Iterable[Mapping[str, Any]], store: Store) -> Path:
    """
    Copies the code of a plan, and returns the folder.

    Raises DataError where a file is not what it was when the plan was drawn: its result would be kept under the key of
    other code.
    """
    drawn = files_of_plan(request, store)
    with importing(*request.own):
        found = files(list(nodes))
    held = {name: path.read_bytes() for name, path in found.items()}
    _same(found, held, drawn)
    digest = digest_of("".join(f"{name} {digest_of(data)}\n" for name, data in sorted(held.items())).encode())
    folder = scratch_root() / "code" / digest
    if not folder.is_dir():
        _write(folder, held)
    os.utime(folder)
    _forget_old(folder.parent)
    return folder


def files(nodes: list[Mapping[str, Any]]) -> dict[str, Path]:
    """Path in the copy -> file."""
    tracked = {ROOT / top / name for top in OURS for name in listed(ROOT / top)}
    # a module is imported before git is told of it; one that git ignores is its owner's alone, unless a key covers it
    new = {ROOT / top / name for top in OURS for name in listed(ROOT / top, new=True) if name.suffix == ".py"}
    keyed = {
        path for node in nodes for name in node["modules"] if name.split(".")[0] in OURS and (path := path_of(name))
    }
    ours = {path for path in tracked | new | keyed | {LOCK} if path.is_file() and "__pycache__" not in path.parts}
    return {**{path.relative_to(ROOT).as_posix(): path for path in ours}, **own_files(nodes)}


def own_files(nodes: Iterable[Mapping[str, Any]]) -> dict[str, Path]:
    """The files of one's own code by their place below a folder of Python's path, with what lies in their packages."""
    found: dict[str, Path] = {}
    for name in own_modules(nodes):
        if path := path_of(name):
            inner = (
                f"{name.replace('.', '/')}/__init__.py"
                if path.name == "__init__.py"
                else f"{name.replace('.', '/')}.py"
            )
            found[inner] = path
            top = path.parents[inner.count("/")]
            found |= {other: top / other for other in files_of(name) if (top / other).is_file()}
    return found


def _same(found: Mapping[str, Path], held: Mapping[str, bytes], drawn: Mapping[str, Any]) -> None:
    for name, path in found.items():
        stamp = drawn.get(os.path.relpath(path, ROOT))
        if stamp and digest_of(held[name]) != stamp[-1]:
            raise DataError(
                f"A run executes the code that its plan was drawn with, but {path} changed since then. "
                "Run again: the plan is drawn anew."
            )


def _write(folder: Path, held: Mapping[str, bytes]) -> None:
    """All of the files or none: another run may want the same copy in this moment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    for name, data in held.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_bytes(data)
    try:
        part.rename(folder)
    except OSError:  # the other run was first
        shutil.rmtree(part)


def _forget_old(folder: Path) -> None:
    for one in folder.iterdir():
        with suppress(OSError):  # another run does the same
            if time.time() - one.stat().st_mtime > KEPT:
                shutil.rmtree(one)
