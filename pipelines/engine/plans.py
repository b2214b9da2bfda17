"""
Plans: a drawing with its keys, remembered so that a run with nothing to do imports nothing.

plans/<digest of the command>.json holds the nodes, the project files that decided them, and the data files that the
listings came from. While none of these has changed the plan is known.
"""

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.crash import point
from pipelines.engine.code import ROOT, closure, data_path
from pipelines.engine.store import Store

LOCK = ROOT / "constraints.txt"
REFUSED = 3
"""the exit code of a gate that said no"""
PACKAGES = sysconfig.get_path("purelib")
"""a folder that changes when a package is installed"""


@dataclass(frozen=True)
class Request:
    """What was asked for: everything on the command line that decides a plan."""

    pipeline: Path
    texts: Mapping[str, str]
    """--name value"""
    settings: Mapping[str, Mapping[str, str]]
    """--set family.field=value"""
    source: Mapping[str, str]
    """fields of the source"""

    @property
    def name(self) -> str:
        return self.pipeline.stem

    def digest(self) -> str:
        inside = self.pipeline.is_relative_to(ROOT)
        place = str(self.pipeline.relative_to(ROOT) if inside else self.pipeline)
        told = [
            place,
            sorted(self.texts.items()),
            json.dumps(self.settings, sort_keys=True),
            sorted(self.source.items()),
        ]
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    def said(self) -> dict[str, Any]:
        """The parameters as people wrote them."""
        sets = {f"{family}.{field}": v for family, own in self.settings.items() for field, v in own.items()}
        return {**self.texts, **self.source, **sets}


def nodes(request: Request, store: Store) -> list[dict[str, Any]]:
    """The nodes of a request: remembered, or drawn anew."""
    return remembered(request, store) or drawn(request, store)


def remembered(request: Request, store: Store) -> list[dict[str, Any]] | None:
    """The remembered nodes, if nothing that decided them has changed."""
    held = store.load(f"plans/{request.digest()}.json")
    if held is None or not all(_same(path, stamp) for path, stamp in held["files"].items()):
        return None
    if any(_stamp(path) != stamp for path, stamp in held["watch"].items()):
        return None
    return held["nodes"]


def _same(path: str, stamp: list[Any]) -> bool:
    """Whether a project file has the bytes that it had: by its stamp, and by its contents where that differs."""
    size, time, digest = stamp
    full = ROOT / path
    return _stamp(str(full)) == [size, time] or (full.exists() and _contents(full) == digest)


def _stamp(path: str) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _contents(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def drawn(request: Request, store: Store) -> list[dict[str, Any]]:
    """Draws the pipeline, and remembers its plan."""
    from components.source import Source
    from pipelines.engine import pipeline
    from pipelines.engine.drawing import draw

    function = pipeline.load(request.pipeline)
    values = pipeline.values(function, request.texts, request.source)
    graph = draw(function, values, request.settings)
    found = [asdict(node) for node in graph.nodes.values()]
    watch = [path for value in values.values() if isinstance(value, Source) for path in value.watch()]
    held = {
        "files": _files(request, {name for node in found for name in node["modules"]}),
        "watch": {str(p): _stamp(str(p)) for p in [*watch, PACKAGES]},
        "nodes": found,
    }
    point("plans: drawn, not remembered")
    store.write(f"plans/{request.digest()}.json", json.dumps(held).encode())
    point("plans: remembered")
    return json.loads(json.dumps(found))


def _files(request: Request, modules: Iterable[str]) -> dict[str, list[Any]]:
    """Every project file that the pipeline and its steps' parts import, their data files, and the locked versions."""
    # families and sources are found by name as well: no import shows those
    read = closure([*_imports(request.pipeline), *modules, "pipelines.engine.drawing"])
    paths = {Path(m.path) for m in read} | {data_path(r) for m in read for r in m.resources} | {request.pipeline, LOCK}
    return {os.path.relpath(p, ROOT): [*(_stamp(str(p)) or []), _contents(p)] for p in paths if p.exists()}


def _imports(path: Path) -> Iterable[str]:
    from pipelines.engine.code import module

    return module(path.stem, path).imports


def verdict(manifests: Mapping[str, Mapping[str, Any] | None]) -> int:
    """The exit code of a finished plan: not 0 if a gate said no."""
    results = [manifest["result"] for manifest in manifests.values() if manifest]
    said = [result["verdict"] for result in results if isinstance(result, Mapping) and "verdict" in result]
    return REFUSED if "REJECT" in said else 0


def statuses(found: Iterable[Mapping[str, Any]], store: Store) -> dict[str, dict[str, Any] | None]:
    """Key -> manifest, or None where the step must run."""
    return {node["key"]: store.manifest(node["key"]) for node in found}
