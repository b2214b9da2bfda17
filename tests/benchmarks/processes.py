"""
CPU seconds of a process and of everything it started, Ray's daemons and workers included.

Ray's raylet does not wait for its children, so rusage of the driver misses two fifths: a sampler reads /proc instead.
"""

import os
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class Sampler:
    """Sums the CPU of all processes of this session's tree, by their largest reading, while it is open."""

    def __init__(self, every: float = 0.05) -> None:
        self.every, self.seen, self.peak = every, {}, 0
        self.own = 0.0
        """CPU seconds of the sampler itself, which counts itself among the rest"""
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Sampler":
        self.before = _tree()
        self.began = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self._read()
        self.wall = time.monotonic() - self.began

    def _watch(self) -> None:
        while not self.stop.wait(self.every):
            self._read()
            self.own = time.thread_time()

    def _read(self) -> None:
        now = _tree()
        for pid, (cpu, _) in now.items():
            self.seen[pid] = max(self.seen.get(pid, 0.0), cpu)
        self.peak = max(self.peak, sum(memory for _, memory in now.values()))

    @property
    def cpu(self) -> float:
        """CPU seconds spent while it was open."""
        return sum(cpu - self.before.get(pid, (0.0, 0))[0] for pid, cpu in self.seen.items()) - self.own


def _tree() -> dict[str, tuple[float, int]]:
    """pid and start -> (CPU seconds, resident bytes) of this process, its descendants and Ray's daemons."""
    parents, found = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            pages = int((folder / "statm").read_text().split()[1])
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        cpu = (int(fields[11]) + int(fields[12])) / TICK
        found[int(folder.name)] = (f"{folder.name}/{fields[19]}", cpu, pages * 4096)
    own = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in own} - own
        grown = bool(more)
        own |= more
    return {found[pid][0]: found[pid][1:] for pid in own}
