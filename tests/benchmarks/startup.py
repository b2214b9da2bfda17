"""
From `make quickstart`, after the installation, to the first training step: how long, and where the time goes.

Each row is what lies between two moments: wall seconds, and CPU seconds of the whole tree of processes, those included
that other branches of the pipeline start meanwhile. The last moment is the first update of a trial or of a training, as
its worker stamps it; then the run is interrupted. The imports below are paid by every process that needs them.

    python -m tests.benchmarks.startup
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.processes import Sampler

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = (
    ("a local Ray was started", "make, Python, the pipeline drawn, Ray's start"),
    ("> preprocess", "the first step is handed out"),
    ("+ preprocess", "preprocess: workers' start, kernels compiled, 446 shapes"),
    ("> tune pointnet", "the search is handed out"),
)
LAST = "workers' start, to the first update of one"
IMPORTS = ("components.steps.train", "torch", "ray.train", "mlflow")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Sampler() as sampler:
        rows = list(moments(Path(folder), sampler))
    print(f"{'':60}{'wall s':>8}{'CPU s':>8}")
    before = (0.0, 0.0)
    for name, wall, cpu in rows:
        print(f"{name:60}{wall - before[0]:8.2f}{cpu - before[1]:8.2f}")
        before = (wall, cpu)
    print(f"{'from make to the first training step':60}{before[0]:8.2f}{before[1]:8.2f}")
    for name in IMPORTS:
        print(f"{f'import {name}, in a process of its own':60}{'':8}{imported(name):8.2f}")


def moments(folder: Path, sampler: Sampler) -> Iterator[tuple[str, float, float]]:
    """What was done, wall and CPU seconds since `make` began."""
    environment = {**os.environ, "RAYFIELD_STORE": str(folder / "store"), "RAYFIELD_CACHE": str(folder / "cache")}
    began = time.time()
    process = subprocess.Popen(
        ["make", "quickstart"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        for words, name in MOMENTS:
            said(process, words)
            yield name, time.time() - began, sampler.cpu
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        while (first := first_update(folder / "store")) is None:
            assert process.poll() is None, "quickstart ended before it trained"
            time.sleep(0.1)
        yield LAST, first - began, sampler.cpu
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(120)


def said(process: "subprocess.Popen[str]", words: str) -> None:
    """Waits until a line has these words."""
    assert process.stderr is not None
    if not any(words in line for line in process.stderr):
        sys.exit(f"quickstart ended before it said {words!r}")


def first_update(store: Path) -> float | None:
    """When the first loss was logged, if any was."""
    lines = (line for path in store.glob("runs/*/events/*/*.jsonl") for line in path.read_text("utf-8").splitlines())
    logged = (json.loads(line) for line in lines)
    return min((line["time"] for line in logged if "loss" in line.get("values", {})), default=None)


def imported(name: str) -> float:
    """CPU seconds of a process that imports a module, less those of one that imports nothing."""

    def cpu(code: str) -> float:
        with Sampler(every=0.02) as sampler:
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        return sampler.cpu

    return cpu(f"import {name}") - cpu("")


if __name__ == "__main__":
    main()
