"""
Where everything that is kept lies: files, on a disk or in a bucket.

    objects/ab/abcd...   bytes by their digest          keys/<key>.json   what a step made: the truth
    plans/<digest>.json  drawn graphs                   runs/<run>/       what happened, appended
    leases/<key>/<n>     who works on a key             scratch/<key>/    half-done work that survives a crash
    damaged/             what was found damaged, and notes of what was found missing
    mark                 tells this store from any other: a worker compares it with what its driver told it

A step commits by writing its objects, then creating its manifest if there is none. There is no database and no server.
Manifests, plans, records, and whatever steps say and print, have a seal, the digest of all that they say: one that a
disk has changed is none.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import RayfieldError
from components.runtime import filesystem
from components.runtime.filesystem import is_remote
from components.runtime.objects import File, digest_of, read_object, root, set_aside, where

COLLECTOR = "gc"
"""the name of the lease of a `gc`"""


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
        return filesystem.read(f"{self.address}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Puts bytes under a name, whatever was there."""
        with self._told(name):
            filesystem.write(f"{self.address}/{name}", data)

    def create(self, name: str, data: bytes) -> bool:
        """Puts bytes under a name that has none. False, and nothing is changed, if it has some."""
        with self._told(name):
            if not filesystem.creates_once(self.address) and self.read(name) is not None:
                return False
            return filesystem.create(f"{self.address}/{name}", data)

    def names(self, folder: str) -> list[str]:
        """The names directly under a folder."""
        return filesystem.names(f"{self.address}/{folder}")

    def delete(self, name: str) -> None:
        filesystem.delete(f"{self.address}/{name}")

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """An error in one line."""
        try:
            yield
        except PermissionError as error:
            raise StoreError(_permission(self.address, error)) from error
        except RayfieldError:
            raise
        except OSError as error:
            raise StoreError(_failed(self.address, name, error)) from error

    def open(self, file: File) -> bytes:
        """The bytes of an object, compared with its digest."""
        return read_object(self.address, file)

    # JSON by name

    def save(self, name: str, said: dict[str, Any]) -> None:
        """Writes what a name says, under a seal."""
        self.write(name, sealed(said))

    def load(self, name: str, parse: Callable[[bytes], Any] | None = None) -> Any:
        """The JSON of a name; None if there is nothing, or nothing that can be read: that is set aside."""
        found, broken = self.parsed(name, parse)
        if broken:
            set_aside(self.address, name, name.replace("/", "-"))
        return found

    def parsed(self, name: str, parse: Callable[[bytes], Any] | None = None) -> tuple[Any, bool]:
        """The JSON of a name, and whether it is there but cannot be read."""
        for _ in range(TRIES):
            data = self.read(name)
            if data is None:
                return None, False
            with suppress(ValueError):
                return (parse or unsealed_if_sealed)(data), False
        return None, True

    def manifest(self, key: str) -> dict[str, Any] | None:
        """The manifest of a key; None if there is none, or if an object of it is lost: then it is made anew."""
        found: dict[str, Any] | None = self.load(f"keys/{key}.json", unsealed)
        if found is None or all(map(self._has, named_objects(found))):
            return found
        self.delete(f"keys/{key}.json")
        return None

    def _has(self, file: File) -> bool:
        """True if an object is there. A bucket is asked only for those whose loss somebody noted: each asking costs."""
        if self.remote and file.digest not in _lost(self.address):
            return True
        found = filesystem.look(f"{self.address}/{where(file.digest)}")
        if found is not None and found.size != file.size:
            set_aside(self.address, where(file.digest), file.digest)
        return found is not None and found.size == file.size

    def look_again(self) -> None:
        """Forgets what this process last heard of lost objects."""
        _heard.pop(self.address, None)

    def commit(self, key: str, manifest: dict[str, Any]) -> bool:
        """Says what a key made. The first to say it is right."""
        said = sealed(manifest, indent=1)
        # a manifest that broke off is in the way: looking at it sets it aside
        return self.create(f"keys/{key}.json", said) or (
            self.manifest(key) is None and self.create(f"keys/{key}.json", said)
        )

    # Leases

    def lease(self, name: str, seconds: float = 60) -> "Lease | None":
        """
        The right to work on a key; None while a living owner has it.

        leases/<name>/<n> is created once by one owner. A listing may be old: it says only where to begin.
        """
        epoch = max([int(n) for n in self.names(f"leases/{name}") if n.isdigit()], default=0)
        own = Lease(self, name, epoch, seconds)
        while not self.create(own.path, own.said()):
            held, _ = self.parsed(own.path)
            if held and held.get("nonce") == own.nonce:
                break  # ours, though the answer said otherwise
            if held and not _free(held):
                return None
            own.epoch += 1  # what broke off is nobody's; it stays, or a late listing would lead another to its number
        return own

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Waits for the lease of a name, and holds it for what is inside: seconds of work, never minutes."""
        while (lease := self.lease(f"alone-{digest_of(name.encode())}")) is None:
            time.sleep(0.2)
        try:
            yield
        finally:
            lease.release()

    def held(self, name: str) -> bool:
        """True if a living owner has a right."""
        epochs = [int(n) for n in self.names(f"leases/{name}") if n.isdigit()]
        last, _ = self.parsed(f"leases/{name}/{max(epochs)}") if epochs else (None, False)
        return last is not None and not _free(last)

    # Runs

    def begin(self, run: str, record: dict[str, Any]) -> None:
        """
        Writes a run's record, and waits for a `gc` that may not have seen it.

        The run says what it needs and then looks for a gc; a gc takes its lease and then looks for runs: one of the
        two sees the other. Where the store cannot create once, no other run may be under way.
        """
        self.save(f"runs/{run}/run.json", record)
        while self.held(COLLECTOR):
            time.sleep(0.5)
        if filesystem.creates_once(self.address):
            return
        for name, other in self.runs():
            if name != run and other.get("ended") is None and self.held(f"run-{name}"):
                self.delete(f"runs/{run}/run.json")
                raise StoreError(
                    f"The store {self.address} cannot refuse to create what exists, so one run at a time may use it, "
                    f"and {name} does. Wait for it, or use a store with conditional writes, such as S3."
                )

    def record(self, run: str) -> dict[str, Any] | None:
        """A run's record; None if it has none, or none that can be read: that is set aside."""
        found: dict[str, Any] | None = self.load(f"runs/{run}/run.json", _record)
        return found

    def damaged_records(self) -> dict[str, str]:
        """Each run whose record was set aside, and what is to be said of it."""
        labels = [label for label in self.names("damaged") if label.startswith("runs-") and label.endswith("-run.json")]
        runs = [label.removeprefix("runs-").removesuffix("-run.json") for label in labels]
        return {
            run: f"The record of run {run} was damaged, and lies in {self.address}/damaged now. What its steps made is "
            "safe: run its pipeline again."
            for run in runs
        }

    def runs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every run's record, the newest first."""
        for name in sorted(self.names("runs"), reverse=True):
            record = self.record(name)
            if record:
                yield name, record


@dataclass
class Lease:
    """A right that ends with its owner, or when it is not renewed."""

    store: Store
    name: str
    epoch: int
    seconds: float

    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)
    """tells this claim from any other, of the same process too"""

    @property
    def path(self) -> str:
        return f"leases/{self.name}/{self.epoch}"

    def said(self, until: float | None = None) -> bytes:
        until = time.time() + self.seconds if until is None else until
        return json.dumps({**owner(), "until": until, "nonce": self.nonce}).encode()

    def lasts(self) -> bool:
        """True if nobody else has had the right since."""
        return max([int(n) for n in self.store.names(f"leases/{self.name}") if n.isdigit()], default=-1) == self.epoch

    def renew(self) -> None:
        self.store.write(self.path, self.said())

    def release(self) -> None:
        self.store.write(self.path, self.said(0))


def owner() -> dict[str, Any]:
    """This process, told from any other that ever had its number."""
    return {**_machine(), "pid": os.getpid(), "start": _start(os.getpid())}


def _machine() -> dict[str, str]:
    """Where numbers of processes mean the same: containers of one name on one host have each their own."""
    space = Path("/proc/self/ns/pid")
    return {"host": os.uname().nodename, "boot": _boot(), "space": os.readlink(space) if space.exists() else ""}


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _start(pid: int) -> str:
    """When a process began, in ticks after the boot; nothing if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _free(lease: dict[str, Any]) -> bool:
    """True if a lease's owner is dead, or has let it run out."""
    if lease["until"] == 0:
        return True
    here = all(lease.get(name) == value for name, value in _machine().items())
    if here and lease["start"]:
        return _start(lease["pid"]) != lease["start"]
    return time.time() > lease["until"]


SEAL = b'{"seal": "'
TRIES = 5
"""readings of what cannot be understood: it may have been cut short on the way, and be whole where it lies"""
NOTED = 30.0
"""seconds for which a process believes what it last heard of lost objects"""
_heard: dict[str, tuple[float, frozenset[str]]] = {}


def _lost(address: str) -> frozenset[str]:
    """The digests of objects that somebody found damaged or missing."""
    when, found = _heard.get(address, (-NOTED, frozenset()))
    if time.monotonic() - when > NOTED:
        found = frozenset(filesystem.names(f"{address}/damaged"))
        _heard[address] = time.monotonic(), found
    return found


def _record(data: bytes) -> dict[str, Any]:
    """A run's record; a ValueError if it is none."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("a run's record is an object of JSON")
    return found


def sealed(said: dict[str, Any], indent: int | None = None) -> bytes:
    """JSON that begins with the digest of the rest."""
    body = json.dumps(said, indent=indent).encode()
    return _seal(body) + body[1:]


def unsealed(data: bytes) -> dict[str, Any]:
    """The contents behind a seal; a ValueError if they are not what was sealed."""
    body = b"{" + data[len(_seal(b"")) :]
    if not data.startswith(_seal(body)):
        raise ValueError("what is read must be as it was sealed")
    found: dict[str, Any] = json.loads(body)
    return found


def unsealed_if_sealed(data: bytes) -> Any:
    """Parsed JSON; a ValueError if it has a seal and is not as it was sealed."""
    return unsealed(data) if data.startswith(SEAL) else json.loads(data)


def sealed_lines(lines: bytes) -> bytes:
    """Lines, after a first one that is their seal."""
    return b'%s%s"}\n%s' % (SEAL, digest_of(lines).encode(), lines)


def unsealed_lines(data: bytes) -> bytes:
    """The lines that were sealed, or that never were; a ValueError if they are not what was sealed."""
    head, _, lines = data.partition(b"\n")
    if not head.startswith(b"{") or len(head) != len(sealed_lines(b"")) - 1:
        return data
    if sealed_lines(lines) != data:
        raise ValueError("what is read must be as it was sealed")
    return lines


def _seal(body: bytes) -> bytes:
    return b'%s%s",' % (SEAL, digest_of(body).encode())


def named_objects(value: Any) -> Iterator[File]:
    """Every file that a manifest names."""
    if isinstance(value, dict):
        if str(value.get("@")).rpartition(":")[2] == "File":
            yield File(value["name"], value["digest"], value["size"])
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from named_objects(inner)


def _permission(address: str, error: OSError) -> str:
    return f"The store {address} must be writable, but {error.strerror or error}. Pass --store, or set RAYFIELD_STORE."


def _failed(address: str, name: str, error: OSError) -> str:
    if error.errno == 28:
        return f"The store {address} is full: {name} was not written, and what was finished before is safe. Make room."
    return f"The store {address} did not take {name}: {error}."
