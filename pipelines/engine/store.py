"""
Where everything that is kept lies: files, on a disk or in a bucket.

    objects/ab/abcd...   bytes by their digest          keys/<key>.json   what a step made: the truth
    plans/<digest>.json  drawn graphs                   runs/<run>/       what happened, appended
    leases/<key>.<n>     who works on a key             scratch/<key>/    half-done work that survives a crash

A step commits by writing its objects, then creating its manifest if there is none. There is no database and no server.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import RayfieldError
from components.files import is_remote, root, where, write_atomically


class StoreError(RayfieldError):
    """The store cannot be read or written."""


@dataclass(frozen=True)
class Store:
    """A store by its address: a folder, or any fsspec address such as s3://bucket/rayfield."""

    address: str

    @classmethod
    def here(cls) -> "Store":
        """The store that RAYFIELD_STORE names, .rayfield by default."""
        return cls(root())

    @property
    def remote(self) -> bool:
        return is_remote(self.address)

    # Bytes by name

    def read(self, name: str) -> bytes | None:
        """The bytes under a name; None if there are none."""
        try:
            if not self.remote:
                return (Path(self.address) / name).read_bytes()
            system, base = self._system()
            return bytes(system.cat_file(f"{base}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Puts bytes under a name, whatever was there."""
        try:
            if not self.remote:
                write_atomically(Path(self.address) / name, data)
            else:
                system, base = self._system()
                system.pipe_file(f"{base}/{name}", data)
        except PermissionError as error:
            raise StoreError(_permission(self.address, error)) from error
        except OSError as error:
            raise StoreError(_failed(self.address, name, error)) from error

    def create(self, name: str, data: bytes) -> bool:
        """Puts bytes under a name that has none. False, and nothing is changed, if it has some."""
        try:
            return self._create_remote(name, data) if self.remote else self._create_local(name, data)
        except FileExistsError:
            return False
        except PermissionError as error:
            raise StoreError(_permission(self.address, error)) from error
        except OSError as error:
            raise StoreError(_failed(self.address, name, error)) from error

    def _create_local(self, name: str, data: bytes) -> bool:
        path = Path(self.address) / name
        temporary = path.with_name(f".part-{os.getpid()}-{time.monotonic_ns()}")
        write_atomically(temporary, data)
        try:
            os.link(temporary, path)  # a link fails if the name is taken, and shows all of the bytes or none
        finally:
            temporary.unlink()
        return True

    def _create_remote(self, name: str, data: bytes) -> bool:
        system, base = self._system()
        try:
            system.pipe_file(f"{base}/{name}", data, mode="create")
        except OSError as error:
            if error.errno == 22 or isinstance(error, FileExistsError):  # SeaweedFS: failed precondition
                return False
            raise
        return True

    def names(self, folder: str) -> list[str]:
        """The names directly under a folder."""
        if not self.remote:
            path = Path(self.address) / folder
            return sorted(p.name for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else []
        system, base = self._system()
        try:
            found = system.ls(f"{base}/{folder}", detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def delete(self, name: str) -> None:
        if not self.remote:
            (Path(self.address) / name).unlink(missing_ok=True)
            return
        system, base = self._system()
        if system.exists(f"{base}/{name}"):
            system.rm_file(f"{base}/{name}")

    def _system(self) -> tuple[Any, str]:
        import fsspec

        system, base = fsspec.core.url_to_fs(self.address)
        return system, base

    # JSON by name

    def load(self, name: str) -> Any:
        data = self.read(name)
        return None if data is None else json.loads(data)

    def manifest(self, key: str) -> dict[str, Any] | None:
        """What a key made; None if nothing has, or if an object of it is gone: then it is forgotten and made anew."""
        found = self.load(f"keys/{key}.json")
        if found is None or self.remote or all((Path(self.address) / where(d)).exists() for d in _objects(found)):
            return found
        self.delete(f"keys/{key}.json")
        return None

    def commit(self, key: str, manifest: dict[str, Any]) -> bool:
        """Says what a key made. The first to say it is right."""
        return self.create(f"keys/{key}.json", json.dumps(manifest, indent=1).encode())

    # Leases

    def lease(self, name: str, seconds: float = 60) -> "Lease | None":
        """The right to work on a key; None while a living owner has it."""
        last = self._last_lease(name)
        if last and not _free(last[1]):
            return None
        epoch = last[0] + 1 if last else 0
        own = json.dumps({**owner(), "until": time.time() + seconds}).encode()
        return Lease(self, name, epoch, seconds) if self.create(f"leases/{name}.{epoch}", own) else None

    def _last_lease(self, name: str) -> tuple[int, dict[str, Any]] | None:
        epochs = [int(n.rpartition(".")[2]) for n in self.names("leases") if n.rpartition(".")[0] == name]
        held = self.load(f"leases/{name}.{max(epochs)}") if epochs else None
        return (max(epochs), held) if held else None

    def runs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every run's record, the newest first."""
        for name in sorted(self.names("runs"), reverse=True):
            record = self.load(f"runs/{name}/run.json")
            if record:
                yield name, record


@dataclass
class Lease:
    """A right that ends with its owner, or when it is not renewed."""

    store: Store
    name: str
    epoch: int
    seconds: float

    @property
    def path(self) -> str:
        return f"leases/{self.name}.{self.epoch}"

    def renew(self) -> None:
        self.store.write(self.path, json.dumps({**owner(), "until": time.time() + self.seconds}).encode())

    def release(self) -> None:
        self.store.write(self.path, json.dumps({**owner(), "until": 0}).encode())


def owner() -> dict[str, Any]:
    """This process, told from any other that ever had its number."""
    return {"host": os.uname().nodename, "boot": _boot(), "pid": os.getpid(), "start": _start(os.getpid())}


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _start(pid: int) -> str:
    """When a process began, in ticks after the boot; nothing if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _free(lease: dict[str, Any]) -> bool:
    """Whether a lease's owner is dead, or has let it run out."""
    if lease["until"] == 0:
        return True
    here = lease["host"] == os.uname().nodename and lease["boot"] == _boot() and bool(lease["start"])
    if here:
        return _start(lease["pid"]) != lease["start"]
    return time.time() > lease["until"]


def _objects(value: Any) -> Iterator[str]:
    """The digest of every file that a manifest names."""
    if isinstance(value, dict):
        if value.get("@") == "components.files:File":
            yield value["digest"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _permission(address: str, error: OSError) -> str:
    return f"The store {address} must be writable, but {error.strerror or error}. Pass --store, or set RAYFIELD_STORE."


def _failed(address: str, name: str, error: OSError) -> str:
    if error.errno == 28:
        return f"The store {address} is full: {name} was not written, and what was finished before is safe. Make room."
    return f"The store {address} did not take {name}: {error}."
