"""
Seconds from a submission to its first step: `rayfield submit` against a bare Ray job that runs one task.

Both on one cluster of this machine, in turn. `python -m tests.benchmarks.submission`
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from components.step import step
from tests.two_nodes import python

ROOT = Path(__file__).resolve().parents[2]
BARE = """
import time, ray
ray.init(logging_level="ERROR", log_to_driver=False)
ray.get(ray.remote(num_cpus=0)(lambda: open({mark!r}, "w").write(str(time.time()))).remote())
"""
PIPELINE = """
from pipelines.engine.pipeline import pipeline
from tests.benchmarks.submission import first


@pipeline
def submission(mark: str = "", turn: int = 0):
    'One step.'
    first(mark=mark, turn=turn)
"""


@step
def first(*, mark: str, turn: int) -> float:
    """Says when it began."""
    now = time.time()
    Path(mark).write_text(str(now))
    return now


def cluster() -> tuple[subprocess.Popen[str], str]:
    """The tests' cluster, and the address of its dashboard."""
    process = subprocess.Popen(
        [python(), "-m", "tests.two_nodes"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout
    said = next(line for line in process.stdout if line.startswith("::"))
    return process, json.loads(said[2:])["dashboard"]


def bare(address: str, folder: Path, turn: int) -> tuple[float, float]:
    """Seconds until the task of a bare job runs, and until the job has ended."""
    from ray.job_submission import JobSubmissionClient

    work, mark = folder / f"bare-{turn}", folder / f"bare-{turn}.time"
    work.mkdir()
    (work / "main.py").write_text(BARE.format(mark=str(mark)))
    client = JobSubmissionClient(address)
    began = time.time()
    name = client.submit_job(entrypoint=f"{python()} main.py", runtime_env={"working_dir": str(work)})
    while client.get_job_status(name) in ("PENDING", "RUNNING"):
        time.sleep(0.2)
    return float(mark.read_text()) - began, time.time() - began


def ours(address: str, folder: Path, turn: int) -> tuple[float, float]:
    """The same for `rayfield submit`, from before Python starts."""
    mark = folder / f"ours-{turn}.time"
    words = ["submit", str(folder / "submission.py"), "--mark", str(mark), "--turn", str(turn), "--address", address]
    began = time.time()
    command = [sys.executable, "-m", "pipelines", *words, "--store", str(folder / "store")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return float(mark.read_text()) - began, time.time() - began


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--turns", type=int, default=5)
    turns = words.parse_args().turns
    # one token for both sides, and no warning about it
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 3, "RAY_USAGE_STATS_ENABLED": "0"}
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    (folder / "submission.py").write_text(PIPELINE)
    process, address = cluster()
    found: dict[str, list[Any]] = {"bare": [], "ours": []}
    try:
        for turn in range(turns + 1):  # the first of each warms the disk, and is left out
            for name, work in (("bare", bare), ("ours", ours)):
                found[name].append(work(address, folder, turn))
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait(60)
        shutil.rmtree(folder)
    medians = {}
    for name, title in (("bare", "bare Ray job"), ("ours", "rayfield submit")):
        first, end = zip(*found[name][1:], strict=True)
        medians[name] = statistics.median(first)
        spread = f"{min(first):.1f} to {max(first):.1f}"
        print(
            f"{title:<16} {medians[name]:6.1f} s to the first step ({spread}), {statistics.median(end):.1f} to the end"
        )
    print(f"\nratio            {medians['ours'] / medians['bare']:6.2f}, the median of {turns} turns")


if __name__ == "__main__":
    main()
