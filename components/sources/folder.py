"""
A folder of shapes: one sub-folder for each label, with OBJ, PLY, OFF, STL or GLB files at any depth below it.

    Folder(root="data/ModelNet10")      data/ModelNet10/chair/train/chair_0001.off has the label "chair"
"""

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from components.constraints import AtLeast, Natural
from components.errors import DataError
from components.formats import glb, obj
from components.formats.decode import NO_FILE, READERS, decode, path_beside, read_file
from components.formats.mesh import Mesh
from components.formats.shared import Resolve
from components.runtime import filesystem, objects
from components.runtime.serialization import is_utf8
from components.source import Asset, Changed, Source, Unreadable, check_digest, split_by_hash

VAL = 0.12
YOUNG = 2_000_000_000
"""ns; a file that changed less than this before it was read may change again without another time of change"""
TRIES = 3
"""readings of a shape whose files change while they are read"""
SYSTEMS = "lost+found"
"""a folder that a file system keeps for itself, and shows to nobody"""


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
        named = {name: path for name, path in found.items() if is_utf8(name)}
        digests = digests_of(Path(self.root), list(named.values()))
        listed = [self._asset(name, path, digests[path]) for name, path in named.items() if path in digests]
        for name in map(_shown, found.keys() - named.keys()):
            listed.append(self._asset(name, Path(self.root) / name, _misnamed(name)))
        return split_by_hash(listed, fold=self.fold, folds=self.folds, val=VAL)

    def _asset(self, name: str, path: Path, content: str) -> Asset:
        attributes = {"name": path.stem, "format": _kind(path)}
        return Asset(name, str(path), name.split("/")[0], "", self._turned(content), attributes, content)

    def open(self, asset: Asset) -> Mesh:
        path = Path(self.root) / asset.id
        if asset.content == _misnamed(asset.id):
            raise Unreadable(f"A file's name is UTF-8, but {asset.id} is not. Rename it.")
        try:
            shape = Contents.of(path)
        except PermissionError as error:
            self._check(asset, _refused(path, error))
            raise Unreadable(f"{_name(path, error)} may not be read: {error.strerror}") from None
        self._check(asset, shape.digest() if shape else "")
        assert shape is not None  # no asset has the digest of nothing
        return replace(decode(shape.data, _kind(path), shape.others.__getitem__), up=self.up)

    def _turned(self, digest: str) -> str:
        """The digest of an asset whose files have this one: another axis makes another shape."""
        return digest if self.up == "y" else f"{digest}-{self.up}"

    def _check(self, asset: Asset, digest: str) -> None:
        try:
            check_digest(asset, self._turned(digest))
        except Changed:
            unlist(Path(self.root), Path(asset.uri))  # its stamps may be what they were
            raise

    def watch(self) -> Iterable[Path]:
        root = Path(self.root)
        return [root, *below(root)]


def below(root: Path) -> Iterator[Path]:
    """
    Every folder and file below `root`, also behind links, except those to a folder that they lie in themselves.

    Nothing is listed of hidden folders (.name). One that cannot be listed is an error: it may hold anything.
    """
    for name, folders, others in os.walk(root, onerror=_unlisted, followlinks=True):
        folder = Path(name)
        yield from (folder / other for other in [*folders, *others])
        seen = [other for other in folders if not other.startswith(".") and other != SYSTEMS]
        folders[:] = [other for other in seen if not _is_ring(folder / other)]


def _unlisted(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise DataError(
            f"Every folder below --root must be one that may be listed, but {error.filename} is not: {error.strerror}. "
            "Allow it, or move it elsewhere."
        ) from None
    if error.errno not in NO_FILE:  # it is gone by now
        raise error


def _is_ring(path: Path) -> bool:
    """True if a link leads to a folder that is above it, on the way that was walked or on the disk."""
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


@dataclass(frozen=True)
class Contents:
    """The bytes of a shape's file, and of every file that it names: None for one that is not there."""

    data: bytes
    others: dict[str, bytes | None]

    @classmethod
    def of(cls, path: Path, read: Callable[[Path], bytes | None] = read_file) -> "Contents | None":
        """The contents of `path` and of the files that it names; None if there is no such file."""
        data = read(path)
        return None if data is None else cls(data, named(data, _kind(path), lambda name: read(path_beside(path, name))))

    def digest(self) -> str:
        """Of a file that names no other, the digest of its bytes."""
        own = objects.digest_of(self.data)
        others = [
            f"{name} {'absent' if data is None else objects.digest_of(data)}" for name, data in self.others.items()
        ]
        return objects.digest_of("\n".join([own, *others]).encode()) if others else own


def _shown(name: str) -> str:
    """A file's name that is not UTF-8, as people can read it: chair/\\xff.obj."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _misnamed(shown: str) -> str:
    """The digest of a file whose name is not UTF-8: nothing of it is read."""
    return objects.digest_of(f"{shown}: not UTF-8".encode())


def _refused(path: Path, error: PermissionError) -> str:
    """The digest of a shape of which a file may not be read: not that of the shape, whatever it is."""
    return objects.digest_of(f"{_name(path, error)}: {errno.errorcode[error.errno or errno.EACCES]}".encode())


def _name(path: Path, error: PermissionError) -> str:
    """The file that may not be read, as it is called from the folder of the shape."""
    return os.path.relpath(error.filename or path, path.parent)


def digests_of(folder: Path, paths: list[Path]) -> dict[Path, str]:
    """
    The digest of each shape with its materials and pictures; none of one that is gone by now.

    They are read only where a size or a time of change is new: what was read is kept in listings/ of the store.
    """
    known = _listing(folder)
    entries = {str(path): known.get(str(path)) for path in paths}
    now = {name: entry if entry and _is_current(entry) else _entry(Path(name)) for name, entry in entries.items()}
    found = {name: entry for name, entry in now.items() if entry}
    if found != known:
        _keep_listing(folder, found)
    return {Path(name): entry["digest"] for name, entry in found.items()}


def unlist(folder: Path, path: Path) -> None:
    """Has a shape read again by the next listing."""
    known = _listing(folder)
    if known.pop(str(path), None):
        _keep_listing(folder, known)


Stamp = list[int] | None
"""size, times of change of contents and of anything, and number of a file; None where there is none: one that appears
later is news"""


class _Entry(TypedDict):
    """A shape in the kept listing: the stamps of the files that were read for it, and their digest."""

    stamps: dict[str, Stamp]
    """an empty one is no file's: it is read again"""
    digest: str


def _listing(folder: Path) -> dict[str, _Entry]:
    file = _listing_file(folder)
    found: dict[str, _Entry] = json.loads(file.read_bytes()) if file.exists() else {}
    return found


def _keep_listing(folder: Path, entries: dict[str, _Entry]) -> None:
    with suppress(OSError):  # of one who may only read the store: it saves time, and decides nothing
        filesystem.write_atomically(_listing_file(folder), json.dumps(entries).encode())


def _listing_file(folder: Path) -> Path:
    store = objects.scratch_root() if filesystem.is_remote(objects.root()) else Path(objects.root())
    return store / "listings" / f"{objects.digest_of(os.fsencode(folder.resolve()))}.json"


def _is_current(entry: _Entry) -> bool:
    try:
        return all(_stamp(Path(name)) == stamp for name, stamp in entry["stamps"].items())
    except OSError:  # it is met again where the file is read
        return False


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except ValueError:
        return None
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _entry(path: Path) -> _Entry | None:
    """The entry of a shape for the listing; None if it is gone by now."""
    for _ in range(TRIES):
        now, stamps = time.time_ns(), dict[str, Stamp]()

        def read(file: Path, stamps: dict[str, Stamp] = stamps) -> bytes | None:
            stamps.setdefault(str(file), _stamp(file))
            return read_file(file)

        try:
            shape = Contents.of(path, read)
        except PermissionError as error:
            return {"stamps": {str(path): []}, "digest": _refused(path, error)}  # a permission may come without a stamp
        if shape is None:
            return None
        entry: _Entry = {"stamps": stamps, "digest": shape.digest()}
        if _is_current(entry):
            return {**entry, "stamps": {name: [] if _is_young(stamp, now) else stamp for name, stamp in stamps.items()}}
    raise Changed(
        f"What is listed lies still, but {path} changes while it is read. Run again when nothing writes to it."
    )


def _is_young(stamp: Stamp, now: int) -> bool:
    return stamp is not None and stamp[2] > now - YOUNG


def named(data: bytes, kind: str, resolve: Resolve) -> dict[str, bytes | None]:
    """Every other file that a decoder would open for a shape, with its bytes."""
    found: dict[str, bytes | None] = {}
    if kind == "glb":
        return {name: resolve(name) for name in glb.names(data)}
    if kind != "obj" or b"mtllib" not in data:  # looking for its lines takes as long as decoding
        return found
    for name, library in obj.libraries(obj.names(data), resolve).items():
        found[name] = library
        for picture in obj.pictures(library or b""):
            found[picture] = resolve(picture)
    return found


def _kind(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
