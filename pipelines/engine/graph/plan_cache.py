"""
Plans: a drawing with its keys, remembered so that a run with nothing to do imports nothing.

plans/<digest of the command>.json holds the nodes and what decided them: the project's files, the modules that lie
beside the pipeline or on Python's path, the packages, the data files that the listings came from, and what the pipeline
itself read while it drew. While none of these has changed the plan is known.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.runtime.crash_points import point
from components.runtime.user_code import importing, is_own, written
from pipelines.engine.caching.modules import (
    LOCK,
    OURS,
    ROOT,
    Module,
    closure,
    data_path,
    found_now,
    hold,
    module,
    paths_of,
    unchanging,
)
from pipelines.engine.graph.trace_inputs import loaded, packages, reading, variables
from pipelines.engine.store.store import Store, StoreError, sealed, unsealed

if TYPE_CHECKING:  # an all-cached run draws nothing
    from pipelines.engine.graph.tracing import Node

REFUSED = 3
"""the exit code of a gate that said no"""


@dataclass(frozen=True)
class Request:
    """Everything on the command line that decides a plan."""

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

    @property
    def own(self) -> list[Path]:
        """The files of one's own code that it names: the pipeline's, and those of families and sources."""
        named = (path.resolve() for text in self.texts.values() for path in written(text))
        return [path for path in dict.fromkeys((self.pipeline, *named)) if is_own(path)]

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
    held = store.load(f"plans/{request.digest()}.json", unsealed)
    with importing(*request.own):
        return _unfolded(held) if held is not None and _holds(held) else None


def files_of_plan(request: Request, store: Store) -> dict[str, Any]:
    """Path from the project's root -> [size, time, digest] of every file that decided a remembered plan."""
    held = store.load(f"plans/{request.digest()}.json", unsealed) or {}
    return dict(held.get("files", {}))


def _holds(held: Mapping[str, Any]) -> bool:
    """True if everything that decided a plan is as it was."""
    return (
        held.get("packages") == packages()  # a plan of before this was kept is drawn anew
        and all(_same(path, stamp) for path, stamp in held["files"].items())
        and all(_whole_stamp(path) == stamp for path, stamp in held["watch"].items())
        and not any(path.is_file() for name in held["absent"] for path in paths_of(name))
        and all(found_now(name) == found for name, found in held["found"].items())
        and variables(held["variables"]) == held["variables"]
    )


def _unfolded(held: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a plan; many share their code, so a plan's file has it once, with the modules that it imports."""
    for node in held["nodes"]:
        shared = held["code"][node["ingredients"]["code"]]
        node["ingredients"]["code"], node["modules"] = shared["code"], shared["modules"]
    return held["nodes"]


def _folded(found: Iterable["Node"]) -> dict[str, Any]:
    """`nodes`, and the `code` that they refer to by its place there."""
    codes: dict[str, dict[str, Any]] = {}
    places: dict[int, int] = {}
    nodes = []
    for node in found:
        code = node.ingredients["code"]
        place = places.setdefault(id(code), len(places))  # a drawing reads the code of each set of modules once
        codes[str(place)] = {"code": code, "modules": node.modules}
        own = {name: value for name, value in vars(node).items() if name != "modules"}
        nodes.append({**own, "ingredients": {**node.ingredients, "code": str(place)}})
    return {"nodes": nodes, "code": codes}


def _same(path: str, stamp: list[Any] | None) -> bool:
    """True if a project file has the bytes that it had: by its stamp, and by its contents where that differs."""
    full = ROOT / path
    if stamp is None:
        return not full.exists()
    *whole, digest = stamp
    return _whole_stamp(str(full)) == whole or (full.exists() and _contents(full) == digest)


def _contents(path: Path) -> str:
    data = path.read_bytes()
    hold(path, data)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def drawn(request: Request, store: Store) -> list[dict[str, Any]]:
    """Draws the pipeline, and remembers its plan."""
    from components.source import Source
    from pipelines.engine import pipeline
    from pipelines.engine.graph.tracing import draw

    before, began = set(sys.modules), time.time_ns()
    with importing(*request.own), unchanging():
        with reading() as seen:
            function = pipeline.load(request.pipeline)
            values = pipeline.values(function, request.texts, request.source)
            graph = draw(function, values, request.settings)
        modules = {name for node in graph.nodes.values() for name in node.modules}
        given = [value for value in values.values() if isinstance(value, Source)]
        watch = {str(path) for source in [*given, *graph.sources.values()] for path in source.watch()} | seen.paths
        own = module(request.pipeline.stem, request.pipeline)
        # families and sources are found by name as well: no import of the pipeline shows those
        read = closure([*own.imports, *modules, "pipelines.engine.graph.tracing"])
        held = {
            "packages": packages(),
            "watch": {path: _settled(path, began) for path in sorted(watch)},
            "variables": variables(seen.variables),
            **_imported(request, [own, *read], loaded(before), _data(graph.nodes.values())),
            **_folded(graph.nodes.values()),
        }
    said = sealed(held)
    point("plans: drawn, not remembered")
    with suppress(StoreError):  # who may only read a store draws each time; to run, it must be writable
        store.write(f"plans/{request.digest()}.json", said)
        point("plans: remembered")
        _list_definitions(graph.listings, store)
    return _unfolded(unsealed(said))


def _list_definitions(listings: Mapping[str, Any], store: Store) -> None:
    """Keeps what each code consists of, once for each of its digests: `explain` names what changed by them."""
    known = set(store.names("code"))
    for digest, listing in listings.items():
        if f"{digest}.json" not in known:
            store.write(f"code/{digest}.json", json.dumps(listing).encode())


def _imported(request: Request, read: Sequence[Module], more: Iterable[Path], data: Iterable[str]) -> dict[str, Any]:
    """Modules that the imports of a drawing found, in the project and outside it, and names that they did not find."""
    known = {one.path for one in read}
    texts = [*read, *(module(path.stem, path) for path in more if path.suffix == ".py" and str(path) not in known)]
    steps = [one for one in texts if not one.name.startswith("pipelines.engine")]
    tops = {name.partition(".")[0] for one in steps for name in (*one.packages, *one.imports)}
    # what lies in this project is known by its files
    outside = {name for name in tops - {*OURS} if not (ROOT / name).is_dir()}
    return {
        "files": _files(request, read, more, data),
        "absent": sorted({name for one in texts for name in one.absent}),
        "found": {name: found_now(name) for name in sorted(outside)},
    }


def _files(
    request: Request, read: Iterable[Module], more: Iterable[Path], data: Iterable[str]
) -> dict[str, list[Any] | None]:
    """Every file that the pipeline and its steps' parts import, their data files, and the locked versions."""
    paths = {Path(m.path) for m in read} | {data_path(name) for name in data}
    return {os.path.relpath(p, ROOT): _content_stamp(p) for p in {*paths, *more, request.pipeline, LOCK}}


def _data(nodes: Iterable["Node"]) -> set[str]:
    """The data files that are in the keys of some steps."""
    return {name.removeprefix("data ") for one in nodes for name in one.ingredients["code"] if name.startswith("data ")}


def _whole_stamp(path: str) -> list[int] | None:
    """All that tells a file, or a folder, from what it was."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _settled(path: str, began: int) -> list[int] | None:
    """The stamp of what was listed; none that could ever hold where it changed since the drawing began."""
    stamp = _whole_stamp(path)
    return [-1] if stamp and stamp[2] >= began else stamp


def _content_stamp(path: Path) -> list[Any] | None:
    return [*(_whole_stamp(str(path)) or []), _contents(path)] if path.exists() else None


def verdict(manifests: Mapping[str, Mapping[str, Any] | None]) -> int:
    """The exit code of a finished plan: not 0 if a gate said no."""
    results = [manifest["result"] for manifest in manifests.values() if manifest]
    said = [result["verdict"] for result in results if isinstance(result, Mapping) and "verdict" in result]
    return REFUSED if "REJECT" in said else 0


def statuses(found: Iterable[Mapping[str, Any]], store: Store) -> dict[str, dict[str, Any] | None]:
    """Key -> manifest, or None where the step must run."""
    return {node["key"]: store.manifest(node["key"]) for node in found}
