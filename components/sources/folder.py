"""
A folder of shapes: one sub-folder for each label, with OBJ, PLY, OFF, STL or GLB files at any depth below it.

    Folder(root="data/ModelNet10")      data/ModelNet10/chair/train/chair_0001.off has the label "chair"
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from components.decode import READERS, beside, decode
from components.decoders import glb, obj
from components.decoders.shared import Resolve
from components.errors import DataError
from components.mesh import Mesh
from components.ranges import AtLeast, Natural
from components.runtime import files, places
from components.source import Asset, Source, Unreadable, split_by_hash

VAL = 0.12


class Folder(Source):
    """Your own meshes."""

    root: str
    """the folder that has a sub-folder for each label"""
    fold: Natural = 0
    """which of the folds is the test set"""
    up: Literal["x", "y", "z"] = "y"
    """the files' axis that points up"""
    folds: Annotated[int, AtLeast(2)] = 5
    """parts of each class, one of which is the test set; under 20 files of a class, a new one may move others"""

    def rows(self) -> list[Asset]:
        found = shapes(self.root)
        digests = digests_of(Path(self.root), list(found.values()))
        listed = [self._asset(name, path, digests[path]) for name, path in found.items()]
        return split_by_hash(listed, fold=self.fold, folds=self.folds, val=VAL)

    def _asset(self, name: str, path: Path, content: str) -> Asset:
        digest = content if self.up == "y" else f"{content}-{self.up}"  # another axis makes another shape
        attributes = {"name": path.stem, "format": _kind(path)}
        return Asset(name, str(path), name.split("/")[0], "", digest, attributes, content)

    def open(self, asset: Asset) -> Mesh:
        path = Path(self.root) / asset.id
        try:
            return replace(decode(path.read_bytes(), _kind(path), beside(path)), up=self.up)
        except OSError as error:
            raise Unreadable(f"the file cannot be read: {error.strerror or error}") from None

    def watch(self) -> Iterable[Path]:
        root = Path(self.root)
        return [root, *below(root)]


def below(root: Path) -> Iterator[Path]:
    """Every folder and file below `root`, also behind links, except those to a folder that they lie in themselves."""
    for name, folders, others in os.walk(root, followlinks=True):
        folder = Path(name)
        yield from (folder / other for other in [*folders, *others])
        folders[:] = [other for other in folders if not _is_ring(folder / other)]


def _is_ring(path: Path) -> bool:
    """Whether a link leads to a folder that is above it, on the way that was walked or on the disk."""
    if not path.is_symlink():
        return False
    target = path.resolve()
    return any(above.resolve().is_relative_to(target) for above in path.parents)


def shapes(root: str) -> dict[str, Path]:
    """The meshes below `root` by their path there, `chair/a.obj`; what is hidden (.name) is passed over."""
    folder = Path(root)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"--root is a folder of shapes, but {root or 'it'!r} {what}. Pass the folder itself.")
    paths = sorted(p for p in below(folder) if _kind(p) in READERS and p.is_file())
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
    except (OSError, ValueError):
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _entry(path: Path) -> _Entry:
    read = _bytes(path)
    # what cannot be read is listed as if it had no bytes, and is looked at again: a new permission changes no stamp
    digest, stamps = hashlib.blake2b(read or b"", digest_size=16), {str(path): "" if read is None else _stamp(path)}
    for name, contents in named(read or b"", _kind(path), beside(path)).items():
        digest.update(contents or b"")
        other = path.parent / name.replace("\\", "/")
        stamps[str(other)] = "" if contents is None else _stamp(other)
    return {"stamps": stamps, "digest": digest.hexdigest()}


def _bytes(path: Path) -> bytes | None:
    """None where they cannot be read: opening the asset says why, and that sets aside this one alone."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def named(data: bytes, kind: str, resolve: Resolve) -> dict[str, bytes | None]:
    """Every other file that a decoder would open for a shape, with its bytes."""
    found: dict[str, bytes | None] = {}
    if kind == "glb":
        return {name: resolve(name) for name in glb.names(data)}
    for name, library in obj.libraries(obj.names(data), resolve).items() if kind == "obj" else ():
        found[name] = library
        for picture in obj.pictures(library or b""):
            found[picture] = resolve(picture)
    return found


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
