"""
The store as it grows: 1,000 to 10,000 artifacts kept, committed, looked up, leased and collected.

    python -m tests.benchmarks.store           on disk, beside a plain loop of file writes
    python -m tests.benchmarks.store --s3      in a bucket of a SeaweedFS that it starts, beside a plain loop of uploads

An artifact is a step's: one object of 1 KiB, one manifest that names it. Numbers are milliseconds an artifact; what
matters is that they do not grow with the store.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from components.runtime import filesystem
from components.runtime.objects import digest_of, keep
from components.runtime.serialization import encode
from pipelines.engine.store.garbage_collection import Keeping, collect
from pipelines.engine.store.store import Store, owner

SIZES = (1000, 2000, 5000, 10000)
PROBES = 500
"""artifacts that an operation is timed on at each size"""


def data(n: int) -> bytes:
    return f"artifact {n} ".encode() * 80


def key(n: int) -> str:
    return digest_of(f"key {n}".encode())


def timed(call: Callable[[int], object], numbers: range) -> float:
    """Milliseconds a call."""
    began = time.perf_counter()
    for n in numbers:
        call(n)
    return (time.perf_counter() - began) / len(numbers) * 1000


def put(store: Store, n: int) -> None:
    file = keep(f"{n}.bin", data(n))
    assert store.commit(key(n), {"result": encode(file), "key": key(n)})


def plain(address: str, n: int) -> None:
    """What a loop without a store would do: the same two files, under their names."""
    if filesystem.is_remote(address):
        system, path = filesystem._system(f"{address}/plain/{n}")
        system.pipe_file(path, data(n))
        system.pipe_file(f"{path}.json", b"{}" * 100)
    else:
        folder = Path(address) / "plain"
        folder.mkdir(parents=True, exist_ok=True)
        for name, what in ((f"{n}", data(n)), (f"{n}.json", b"{}" * 100)):
            with (folder / name).open("wb") as stream:
                stream.write(what)
                stream.flush()
                os.fsync(stream.fileno())


def begin(store: Store, run: str, numbers: range) -> None:
    nodes = [{"key": key(n), "title": str(n), "step": "toy"} for n in numbers]
    record = {"pipeline": "bench", "nodes": nodes, "started": time.time(), "owner": owner(), "tracked": True}
    store.begin(run, {**record, "ended": time.time()})


def main(address: str) -> None:
    os.environ["RAYFIELD_STORE"] = address
    store = Store(address)
    print(f"{'artifacts':>9} {'plain':>8} {'put':>8} {'look up':>8} {'again':>8} {'lease':>8}   ms each")
    last = 0
    for size in SIZES:
        middle = range(last, size - PROBES)
        for n in middle:
            put(store, n)
        probe = range(size - PROBES, size)
        row = [timed(lambda n: plain(address, n), probe), timed(lambda n: put(store, n), probe)]
        row += [timed(lambda n: store.manifest(key(n)), probe), timed(lambda n: keep(f"{n}.bin", data(n)), probe)]
        row.append(timed(lambda n: store.lease(key(n)), probe[:100]))
        print(f"{size:>9,} " + " ".join(f"{value:8.2f}" for value in row), flush=True)
        last = size
    half = SIZES[-1] // 2
    begin(store, "1", range(SIZES[-1]))
    begin(store, "2", range(half))
    for keeping, what in ((Keeping(), "nothing to remove"), (Keeping(last=1), "a half to remove")):
        began = time.perf_counter()
        found = collect(store, keeping)
        seconds = time.perf_counter() - began
        files = sum(sums["files"] for sums in found.values())
        print(f"gc of {SIZES[-1]:,} artifacts, {what}: {seconds:.1f} s, {files:,} files removed")
    assert store.manifest(key(0)) is not None and store.manifest(key(SIZES[-1] - 1)) is None


def in_bucket(folder: Path) -> None:
    from tests.services.servers import Seaweed, bucket

    server = Seaweed(folder / "s3")
    try:
        server.start()
        os.environ.update(server.client())
        bucket("bench")
        main("s3://bench/store")
    finally:
        server.kill()


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="rayfield-bench-"))
    try:
        in_bucket(folder) if "--s3" in sys.argv else main(str(folder / "store"))
    finally:
        shutil.rmtree(folder)
