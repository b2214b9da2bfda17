"""
A run with nothing to do: CPU seconds of the all-cached quickstart (target 0.4) and of `rayfield --help` (target 0.3).

Needs a store in which quickstart has run: `python -m tests.benchmarks.cached --store .rayfield`
"""

import argparse
import os
import resource
import subprocess
import sys

PEERS = "joblib 0.2, Kedro 0.8, DVC 1.4, ZenML 8.4, Prefect 13 CPU s on twenty trivial steps, measured elsewhere"


def cpu(command: list[str]) -> float:
    """The least CPU seconds of five calls."""
    found = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--store", default=os.environ.get("RAYFIELD_STORE", ".rayfield"))
    store = words.parse_args().store
    rayfield = [sys.executable, "-m", "pipelines"]
    print(f"rayfield --help              {cpu([*rayfield, '--help']):.3f} CPU s (target 0.3; DVC 0.28, Kedro 0.74)")
    print(
        f"rayfield run quickstart      {cpu([*rayfield, 'run', 'quickstart', '--store', store]):.3f} CPU s, all cached"
    )
    print(f"                             (target 0.4; {PEERS})")


if __name__ == "__main__":
    main()
