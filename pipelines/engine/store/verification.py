"""
`rayfield verify`: reads all of a store, and compares it with the digests and seals that it was written under.

    objects          each with its digest, and each that a manifest names, which must be there
    keys, plans      each with its seal
    runs             the records, the ledgers, and what steps said and printed
    scratch          the checkpoints of trainings under way

What can be made anew is set aside, and the manifest that names it is forgotten: the next run makes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from components.runtime import filesystem
from components.runtime.objects import digest_of, set_aside
from components.training.checkpoint import LIST, damaged_files
from pipelines.engine.store.garbage_collection import files_of, many
from pipelines.engine.store.store import Store, named_objects, unsealed, unsealed_if_sealed, unsealed_lines

ANEW = "the next run makes it anew"
DRAWN = "the next run draws it anew"
LOST = "its lines are lost; the step's result is whole"
FORGOTTEN = "what it said is lost; the steps' results are whole"
EARLIER = "its training goes on from an earlier checkpoint, or begins anew"


@dataclass(frozen=True)
class Damage:
    """A file of the store that is not as it was written."""

    name: str
    """its place in the store"""
    what: str
    """what is wrong, and whose it is"""
    remedy: str


@dataclass
class Found:
    """The findings of a look at all of a store."""

    looked: int = 0
    """files"""
    damaged: list[Damage] = field(default_factory=list)


def verify(store: Store) -> Found:
    """Looks at every file that has a digest or a seal; sets aside, or forgets, what a run can make anew."""
    found = Found()
    store.look_again()
    keys = _names(store, "keys")
    broken, sizes = _objects(store, found)
    _manifests(store, found, keys, broken, sizes)
    _plans(store, found)
    _runs(store, found)
    _scratch(store, found)
    return found


def _names(store: Store, folder: str) -> list[str]:
    """The whole files under a folder; what is being written, or broke off, has no name yet."""
    return sorted(e.name for e in files_of(store, folder) if not e.name.rpartition("/")[2].startswith("."))


def _objects(store: Store, found: Found) -> tuple[set[str], dict[str, int]]:
    """The digests of the damaged objects, which are set aside, and the sizes of the whole ones."""
    names = _names(store, "objects")
    found.looked += len(names)
    sizes = dict(zip(names, many(partial(_size, store), names), strict=True))
    digests = {name: name.rpartition("/")[2] for name in names}
    broken = [name for name in names if sizes[name] == -1]
    for name in broken:
        set_aside(store.address, f"objects/{name}", digests[name])
    return {digests[name] for name in broken}, {digests[name]: size for name, size in sizes.items() if size >= 0}


def _size(store: Store, name: str) -> int:
    """The bytes of an object: -1 of one that is damaged, -2 of one that was removed meanwhile."""
    for _ in range(3):  # what was damaged on the way is read again
        data = store.read(f"objects/{name}")
        if data is None or digest_of(data) == name.rpartition("/")[2]:
            return -2 if data is None else len(data)
    return -1


def _manifests(store: Store, found: Found, keys: list[str], broken: set[str], sizes: dict[str, int]) -> None:
    """Forgets each manifest that is damaged, or that names an object which is damaged or gone."""
    found.looked += len(keys)
    unnamed = set(broken)
    for name, (manifest, bad) in zip(keys, many(lambda n: store.parsed(f"keys/{n}", unsealed), keys), strict=True):
        if bad:
            set_aside(store.address, f"keys/{name}", f"keys-{name}")
            found.damaged.append(Damage(f"keys/{name}", "the manifest is damaged", ANEW))
        for file in named_objects(manifest or {}):
            unnamed.discard(file.digest)
            if file.digest in broken or not _is_there(store, file, sizes):
                store.delete(f"keys/{name}")
                word = "damaged" if file.digest in broken else "gone"
                found.damaged.append(Damage(_place(file.digest), f"{file.name} of {_whose(manifest)} is {word}", ANEW))
    for digest in sorted(unnamed):
        found.damaged.append(Damage(_place(digest), "it is damaged, and no manifest names it", "no step needs it"))


def _is_there(store: Store, file: Any, sizes: dict[str, int]) -> bool:
    """True if an object is whole; one that was written after the look at all objects is looked for by its name."""
    if file.digest in sizes:
        return sizes[file.digest] == file.size
    return filesystem.look(f"{store.address}/{_place(file.digest)}") is not None


def _place(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest}"


def _whose(manifest: dict[str, Any]) -> str:
    """The step that made it, or the step of which it is a part."""
    return str(manifest.get("title") or f"a part of {manifest.get('part_of', 'a step')[:8]}")


def _plans(store: Store, found: Found) -> None:
    names = _names(store, "plans")
    found.looked += len(names)
    for name in names:
        if store.parsed(f"plans/{name}", unsealed)[1]:
            set_aside(store.address, f"plans/{name}", f"plans-{name}")
            found.damaged.append(Damage(f"plans/{name}", "the plan is damaged", DRAWN))


def _runs(store: Store, found: Found) -> None:
    """The records of runs, and what their steps said and printed: nothing makes these anew, so they stay."""
    names = [name for name in _names(store, "runs") if not name.endswith(".html")]
    found.looked += len(names)
    broken = many(lambda name: store.parsed(f"runs/{name}", _parser(name))[1], names)
    for name in (name for name, bad in zip(names, broken, strict=True) if bad):
        lines = name.endswith((".jsonl", ".txt"))
        what = "what a step said or printed" if lines else "a record of the run"
        found.damaged.append(Damage(f"runs/{name}", f"{what} is damaged", LOST if lines else FORGOTTEN))


def _parser(name: str) -> Any:
    return unsealed_if_sealed if name.endswith(".json") else unsealed_lines


def _scratch(store: Store, found: Found) -> None:
    for folder, names in _trainings(store):
        found.looked += len(names)
        for name in damaged_files(f"{store.address}/{folder}", names):
            found.damaged.append(Damage(f"{folder}/{name}", "a checkpoint is damaged", EARLIER))


def _trainings(store: Store) -> Iterator[tuple[str, list[str]]]:
    """The folders of trainings under way, each with its files' names."""
    for name in _names(store, "scratch"):
        key, _, file = name.partition("/")
        if file == LIST:
            yield f"scratch/{key}", store.names(f"scratch/{key}")
