"""
Files by their contents: the one place where bytes that steps make are kept.

An object lies in the store at objects/<two hex digits>/<digest>, on a disk or in a bucket (any fsspec address). A
`File` holds no path, so it means the same on a laptop and on a cluster; the store's address is in RAYFIELD_STORE.

What is read is compared with its digest. An object that differs is set aside in damaged/, and one that is gone is
noted there: the store then forgets what named it, and the next run makes it anew.
"""

import getpass
import hashlib
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from components.errors import DataError, RayfieldError, UsageError
from components.runtime import filesystem
from components.runtime.crash_points import point
from components.runtime.filesystem import is_remote, write_atomically

DEFAULT = ".rayfield"
"""the store where nobody named one"""
FRESH = 3600.0
"""seconds; `gc` spares young objects that no manifest names yet, so one that is kept again is made young again"""


class Damaged(DataError):
    """An object of the store that is not what was put there, or not there any more."""


@dataclass(frozen=True)
class File:
    """An object of the store, and the name that a person would give it."""

    name: str
    digest: str
    size: int

    def path(self) -> Path:
        """Where its bytes lie on this machine; those of a remote store are fetched once."""
        if not is_remote(root()):
            return self._own(Path(root()) / where(self.digest))
        cached = scratch_root() / "objects" / self.digest
        if not _is_whole(self.digest, cached):
            write_atomically(cached, self.read())
        return cached

    def read(self) -> bytes:
        """Its bytes, compared with its digest."""
        return read_object(root(), self)

    def _own(self, path: Path) -> Path:
        """A local object is hashed when a process opens it first, and when it has been written since."""
        if not path.exists():
            raise lost(root(), self, "is not in")
        if not _is_whole(self.digest, path):
            raise lost(root(), self, "was damaged in")
        return path


def read_object(store: str, file: File) -> bytes:
    """The bytes of an object of a store, compared with its digest."""
    for _ in range(3):  # what was damaged on the way is read again
        data = filesystem.read(f"{store}/{where(file.digest)}")
        if data is None or digest_of(data) == file.digest:
            break
    if data is None:
        raise lost(store, file, "is gone from")
    if digest_of(data) != file.digest:
        raise lost(store, file, "was damaged in")
    return data


def lost(store: str, file: File, what: str) -> Damaged:
    """The error of an object that is damaged or gone; it is set aside, so that whoever made it makes it anew."""
    with suppress(OSError):  # of a store that this process may only read
        set_aside(store, where(file.digest), file.digest)
    words = f"The object {file.digest} ({file.name}) {what} {store}."
    return Damaged(f"{words} Run the pipeline again to make it anew.")


_verified: dict[str, tuple[int, int, int]] = {}
"""path -> the size, the time and the number of a file when it was hashed"""


def _is_whole(digest: str, path: Path) -> bool:
    """True if a file of this machine has its digest: it is hashed once a process, and after each writing."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    stamp = found.st_size, found.st_mtime_ns, found.st_ino
    if _verified.get(str(path)) != stamp:
        if digest_of(path.read_bytes()) != digest:
            return False
        _verified[str(path)] = stamp
    return True


def set_aside(store: str, name: str, label: str) -> None:
    """Moves what is damaged to damaged/, where people may look at it; of what is gone a note stays there."""
    data = filesystem.read(f"{store}/{name}")
    if data is not None and digest_of(data) == label:
        return  # an object that another process has made anew meanwhile
    filesystem.write(f"{store}/damaged/{label}", data or b"")
    filesystem.delete(f"{store}/{name}")


def root() -> str:
    """The store's address: of RAYFIELD_STORE, or the default, made absolute."""
    return filesystem.absolute(os.environ.get("RAYFIELD_STORE") or DEFAULT)


@dataclass(frozen=True)
class Told:
    """A store, as one process tells another which one it means."""

    address: str
    mark: str
    """what lies there under the name `mark`"""
    teller: str


class Unseen(RayfieldError):
    """A process that does not see the store which it was told of: no attempt after this one would."""


def told() -> Told:
    """This process's store, for the workers that it starts."""
    return Told(root(), _mark(root()), _process())


def use(store: str | Told) -> None:
    """Makes a store this process's own, whatever its folder will be; one that it was told of must be the same here."""
    address = filesystem.absolute(store if isinstance(store, str) else store.address)
    os.environ["RAYFIELD_STORE"] = address
    if not isinstance(store, str) and _marks.get(address) != store.mark:
        _check_same(store)
        _marks[address] = store.mark


_marks: dict[str, str] = {}


def _mark(address: str) -> str:
    """The mark that tells a store from any other, made by the first who asks."""
    if address not in _marks or filesystem.read(f"{address}/mark") is None:
        made = uuid.uuid4().hex.encode()
        if filesystem.creates_once(address):
            filesystem.create(f"{address}/mark", made)
        elif filesystem.read(f"{address}/mark") is None:
            filesystem.write(f"{address}/mark", made)
        _marks[address] = (filesystem.read(f"{address}/mark") or made).decode()
    return _marks[address]


def _check_same(store: Told) -> None:
    try:
        found = filesystem.read(f"{store.address}/mark")
        why = "has no such store" if found is None else "has another store"
    except PermissionError:
        found, why = None, "may not read it"
    if found != store.mark.encode():
        raise Unseen(
            f"A worker must see its driver's store, but {store.address} is of {store.teller}, and {_process()} {why} "
            "there. Pass a --store that both reach: a folder that every machine mounts at that path, or "
            "s3://BUCKET/rayfield."
        )


def _process() -> str:
    """This process, as people know it: user, host and folder."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no names
        user = str(os.getuid())
    return f"{user} on {os.uname().nodename} in {os.getcwd()}"


def tracking_uri() -> str:
    """Where MLflow is: MLFLOW_TRACKING_URI, or a database beside the local store."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        path = database(uri)
        return uri if path is None or ":////" in uri else _of_database(path)
    return _of_database(Path(filesystem.absolute(DEFAULT if is_remote(root()) else root())) / "mlflow.db")


_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///(?P<path>[^?]+)(\?.*)?")


def database(uri: str) -> Path | None:
    """The file of an MLflow that is an SQLite database; None for a server, and for a database in memory."""
    found = _SQLITE.fullmatch(uri)
    return None if found is None or found["path"] == ":memory:" else Path(unquote(found["path"])).absolute()


def _of_database(path: Path) -> str:
    """The address of an SQLite database; `?` and `%` mean something else there."""
    quoted = str(path).replace("%", "%25").replace("?", "%3F")
    # MLflow makes the folder of a sqlite:/// address, and forgets to unquote it; not so if the driver is named
    return f"sqlite{'' if quoted == str(path) else '+pysqlite'}:///{quoted}"


def scratch_root() -> Path:
    """A folder of this machine for what can be fetched or made again: RAYFIELD_CACHE, or one of the user's own."""
    if own := os.environ.get("RAYFIELD_CACHE"):
        return Path(own)
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without a name, and HOME unset
        home = Path("/nonexistent")
    # a home may be read-only, as services' are; a name of one's own, for others may write there too
    return home / ".cache" / "rayfield" if os.access(home, os.W_OK) else _temporary()


def _temporary() -> Path:
    """A folder that nobody else may write into."""
    import tempfile  # with what it imports: commands that only read go without it

    folder = Path(tempfile.gettempdir()) / f"rayfield-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UsageError(
            f"{folder} must be this user's own, but is another's. Set RAYFIELD_CACHE to a folder of yours."
        )
    return folder


def where(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest}"


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def keep(name: str, data: bytes | Path) -> File:
    """Puts bytes, or a file's bytes, into the store. Doing it twice does it once."""
    data = data.read_bytes() if isinstance(data, Path) else data
    file = File(name, digest_of(data), len(data))
    point("files: before an object")
    address = f"{root()}/{where(file.digest)}"
    for _ in range(3):  # an object of another size is a write that broke off
        found = filesystem.look(address)
        if found and found.size == file.size:
            if time.time() - found.when > FRESH:
                filesystem.touch(address, data)
            return file
        filesystem.write(address, data)
        point("files: an object is kept, nothing names it")
        if not is_remote(address):
            return file
    raise Damaged(f"{root()} must hold what is written to it, but cuts {name} short. Run `rayfield doctor`.")
