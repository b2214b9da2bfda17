"""
A folder of shapes: one sub-folder for each label, with OBJ, PLY, OFF, STL or GLB files at any depth below it.

    Folder(root="data/ModelNet10")      data/ModelNet10/chair/train/chair_0001.off has the label "chair"
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

from components import files, places
from components.decode import READERS, beside, decode
from components.errors import DataError
from components.mesh import Mesh
from components.source import Asset, Source, Unreadable, split_by_hash

VAL = 0.12


class Folder(Source):
    """Your own meshes."""

    root: str
    """the folder that has a sub-folder for each label"""
    fold: int = 0
    """which of the folds is the test set"""
    up: Literal["x", "y", "z"] = "y"
    """the files' axis that points up"""
    folds: int = 5
    """parts of each class, one of which is the test set"""

    def rows(self) -> list[Asset]:
        found = shapes(self.root)
        digests = {
            path: digest if self.up == "y" else f"{digest}-{self.up}"  # another axis makes another shape
            for path, digest in digests_of(Path(self.root), list(found.values())).items()
        }
        listed = [
            Asset(name, str(path), name.split("/")[0], "", digests[path], {"name": path.stem, "format": _kind(path)})
            for name, path in found.items()
        ]
        return split_by_hash(listed, fold=self.fold, folds=self.folds, val=VAL)

    def open(self, asset: Asset) -> Mesh:
        path = Path(self.root) / asset.id
        try:
            return replace(decode(path.read_bytes(), _kind(path), beside(path)), up=self.up)
        except OSError as error:
            raise Unreadable(f"the file cannot be read: {error.strerror or error}") from None

    def watch(self) -> Iterable[Path]:
        root = Path(self.root)
        return [root, *root.rglob("*")]


def shapes(root: str) -> dict[str, Path]:
    """The meshes below `root` by their path there, `chair/a.obj`; what is hidden (.name) is passed over."""
    folder = Path(root)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"--root is a folder of shapes, but {root or 'it'!r} {what}. Pass the folder itself.")
    paths = sorted(p for p in folder.rglob("*") if _kind(p) in READERS and p.is_file())
    found = {path.relative_to(folder): path for path in paths}
    found = {name: path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)}
    if not found:
        known = ", ".join(kind.upper() for kind in READERS)
        raise DataError(f"A folder of shapes has {known} files, but {root} has none. Pass another --root.")
    loose = [name for name in found if len(name.parts) == 1]
    if loose:
        law = "A folder of shapes has one sub-folder for each label"
        raise DataError(f"{law}, but {root} has {loose[0]} itself. Move it to {root}/<label>/{loose[0]}.")
    return {name.as_posix(): path for name, path in found.items()}


def digests_of(folder: Path, paths: list[Path]) -> dict[Path, str]:
    """
    The digest of each shape with its materials and pictures.

    They are read only where a size or a time of change is new: what was read is kept in listings/ of the store.
    """
    store = files.scratch_root() if places.is_remote(files.root()) else Path(files.root())
    listing = store / "listings" / f"{files.digest_of(str(folder.resolve()).encode())}.json"
    known: dict[str, _Entry] = json.loads(listing.read_bytes()) if listing.exists() else {}
    entries = {str(path): known.get(str(path)) for path in paths}
    now = {name: entry if entry and _is_current(entry) else _entry(Path(name)) for name, entry in entries.items()}
    if now != known:
        places.write_atomically(listing, json.dumps(now).encode())
    return {path: now[str(path)]["digest"] for path in paths}


class _Entry(TypedDict):
    """What the listing says of a shape: the stamps of the files that were read for it, and their digest."""

    stamps: dict[str, str]
    digest: str


def _is_current(entry: _Entry) -> bool:
    return all(_stamp(Path(name)) == stamp for name, stamp in entry["stamps"].items())


def _stamp(path: Path) -> str:
    """Empty where there is no file: one that appears later is news."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _entry(path: Path) -> _Entry:
    data = path.read_bytes()
    digest, stamps, near = hashlib.blake2b(data, digest_size=16), {str(path): _stamp(path)}, beside(path)
    waiting = re.findall(rb"^mtllib[ \t]+(.+?)\s*$", data, re.MULTILINE) if _kind(path) == "obj" else []
    for name in waiting:
        text = name.decode("utf-8", "replace")
        named = near(text) or b""
        waiting += re.findall(rb"^\s*map_Kd[ \t]+(?:.*[ \t])?(\S+)\s*$", named, re.MULTILINE)
        digest.update(named)
        stamps[str(path.parent / text)] = _stamp(path.parent / text)
    return {"stamps": stamps, "digest": digest.hexdigest()}


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
