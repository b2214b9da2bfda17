"""
Files by their contents: the one place where bytes that steps make are kept.

An object lies in the store at objects/<two hex digits>/<digest>, on a disk or in a bucket (any fsspec address). A
`File` holds no path, so it means the same on a laptop and on a cluster; the store's address is in RAYFIELD_STORE.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from components.errors import DataError


@dataclass(frozen=True)
class File:
    """An object of the store, and the name that a person would give it."""

    name: str
    digest: str
    size: int

    def path(self) -> Path:
        """Where its bytes lie on this machine; those of a remote store are fetched once."""
        if not is_remote(root()):
            return _checked(self, Path(root()) / where(self.digest))
        cached = scratch_root() / "objects" / self.digest
        if not cached.exists():
            write_atomically(cached, self.read())
        return cached

    def read(self) -> bytes:
        """Its bytes, compared with its digest."""
        if not is_remote(root()):
            return self.path().read_bytes()
        import fsspec

        with fsspec.open(f"{root()}/{where(self.digest)}") as stream:
            data = stream.read()
        if digest_of(data) != self.digest:
            raise DataError(f"The object {self.digest} ({self.name}) of {root()} is damaged. Delete it and run again.")
        return data


_verified: set[str] = set()


def _checked(file: File, path: Path) -> Path:
    """A local object is hashed the first time that a process opens it."""
    if not path.exists():
        raise DataError(
            f"The object {file.digest} ({file.name}) is not in {root()}. Run the pipeline again to make it."
        )
    if file.digest not in _verified:
        if digest_of(path.read_bytes()) != file.digest:
            path.rename(path.with_suffix(".damaged"))
            raise DataError(
                f"The object {file.digest} ({file.name}) was damaged and is set aside. Run again to make it anew."
            )
        _verified.add(file.digest)
    return path


def root() -> str:
    """The store's address."""
    return os.environ.get("RAYFIELD_STORE", ".rayfield")


def use(address: str) -> None:
    """Makes a store this process's own: a worker is told where its driver's is."""
    os.environ["RAYFIELD_STORE"] = address


def read_address(address: str) -> bytes | None:
    """The bytes at a path or an fsspec address; None if there are none."""
    try:
        if not is_remote(address):
            return Path(address).read_bytes()
        import fsspec

        with fsspec.open(address) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def write_address(address: str, data: bytes) -> None:
    """Puts bytes at a path or an fsspec address, all of them or none."""
    if not is_remote(address):
        write_atomically(Path(address), data)
        return
    import fsspec

    system, path = fsspec.core.url_to_fs(address)
    system.pipe_file(path, data)


def tracking_uri() -> str:
    """Where MLflow is: MLFLOW_TRACKING_URI, or a database beside the local store."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    folder = Path(".rayfield" if is_remote(root()) else root()).resolve()
    return f"sqlite:///{folder}/mlflow.db"


def is_remote(address: str) -> bool:
    return "://" in address and not address.startswith("file://")


def scratch_root() -> Path:
    """A folder of this machine for what can be fetched or made again."""
    return Path(os.environ.get("RAYFIELD_CACHE", Path.home() / ".cache" / "rayfield"))


def where(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest}"


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def keep(name: str, data: bytes | Path) -> File:
    """Puts bytes, or a file's bytes, into the store. Doing it twice does it once."""
    data = data.read_bytes() if isinstance(data, Path) else data
    file = File(name, digest_of(data), len(data))
    address = f"{root()}/{where(file.digest)}"
    if is_remote(root()):
        import fsspec

        system, path = fsspec.core.url_to_fs(address)
        if not system.exists(path):
            system.pipe_file(path, data)
    elif not Path(address).exists():
        write_atomically(Path(address), data)
    return file


def write_atomically(path: Path, data: bytes) -> None:
    """All of the bytes or none: a reader never sees a part, and a crash leaves no part behind under that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
