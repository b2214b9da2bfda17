"""
A file system that fails as servers and networks do: at any call, in any way, decided by a seed.

    error      the call did nothing and says so
    late       the call worked, and its answer was lost
    partial    a write left the first half of the bytes, and says that it failed
    cut        a read gave the first half of the bytes, and says nothing
    flipped    a read gave other bytes, and says nothing
    stale      a listing is as it was before the last changes
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

READS = ("error", "late", "cut", "flipped")
WRITES = ("error", "late", "partial")
LISTINGS = ("error", "stale")


class Faulty(MemoryFileSystem):
    """A bucket in memory behind a bad network: faulty://name/..."""

    protocol = "faulty"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    random = random.Random(0)
    rate = 0.0
    script: list[str] = []
    """faults to come, one a call, instead of chance: "" is none"""
    happened: list[str] = []
    listings: dict[str, Any] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + str(path).removeprefix("faulty://").strip("/") if str(path).strip("/") else ""

    @classmethod
    @contextmanager
    def weather(cls, seed: int, rate: float) -> Iterator[None]:
        """Faults by chance while this lasts."""
        cls.random, cls.rate = random.Random(seed), rate
        try:
            yield
        finally:
            cls.rate = 0.0

    @classmethod
    def clear(cls) -> None:
        for held in (cls.store, cls.script, cls.happened, cls.listings):
            held.clear()

    def _fault(self, kinds: tuple[str, ...]) -> str:
        if self.script:
            fault = self.script.pop(0)
        else:
            fault = self.random.choice(kinds) if self.random.random() < self.rate else ""
        if fault:
            self.happened.append(fault)
        if fault == "error":
            raise ConnectionError("the connection was reset")
        return fault

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        fault = self._fault(READS)
        data = super().cat_file(path, start, end, **kwargs)
        if fault == "late":
            raise TimeoutError("the answer took too long")
        if fault == "cut":
            return data[: len(data) // 2]
        return bytes([data[0] ^ 1]) + data[1:] if fault == "flipped" and data else data

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        fault = self._fault(WRITES)
        # asked of the memory itself: `exists` would meet faults of its own, and take them for a no
        if mode == "create" and self._strip_protocol(path) in self.store:
            raise FileExistsError(path)
        super().pipe_file(path, value[: len(value) // 2] if fault == "partial" else value, **kwargs)
        if fault:
            raise TimeoutError("the answer took too long")

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        if self._fault(("error", "late")) == "late":
            raise TimeoutError("the answer took too long")
        return super().info(path, **kwargs)

    def rm_file(self, path: str) -> None:
        fault = self._fault(("error", "late"))
        self.store.pop(self._strip_protocol(path), None)
        if fault:
            raise TimeoutError("the answer took too long")

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        fault = self._fault(LISTINGS)
        try:
            found = super().ls(path, detail=detail, **kwargs)
        except FileNotFoundError:
            found = []
        if fault != "stale":
            self.listings[path] = found
        return self.listings.get(path, [])
