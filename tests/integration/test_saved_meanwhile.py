"""
A file that is saved while a run goes on is the next run's: processes that start late import what the run began with.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from tests.integration.anywhere import environment
from tests.meshes import write_shapes

MINE = '''
"""The same number for every shape, made by Ray Data."""

from components.source import Source
from components.steps.preprocess import preprocess
from pipelines.engine.pipeline import pipeline

from helper import Number


@pipeline
def mine(source: Source = "folder"):
    preprocess(source, [Number()], on="ray")
'''
HELPER = '''
import time

from components.representation import Column, Representation

FACTOR = 1


class Number(Representation):
    """A number that takes its time."""

    def columns(self):
        return {"number": Column((), "int64")}

    def rows(self, asset, generator):
        time.sleep(0.02)
        yield {"number": FACTOR}
'''


def numbers(store: Path) -> list[int]:
    """The numbers of every row of the one table in a store."""
    found = []
    for path in (store / "keys").glob("*.json"):
        result = json.loads(path.read_bytes()).get("result")
        if isinstance(result, dict) and result["@"] == "Shard" and result["rows"]:
            digest = result["rows"]["digest"]
            found += pq.read_table(store / "objects" / digest[:2] / digest)["number"].to_pylist()
    return found


def test_a_helper_that_is_saved_while_its_step_runs_changes_no_row_of_it(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "helper.py").write_text(HELPER)
    write_shapes(tmp_path / "shapes", each=60)
    words = [sys.executable, "-m", "pipelines", "run", "mine.py", "--root", "shapes", "--store", "store", "--json"]
    running = subprocess.Popen(
        words, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while running.poll() is None and not numbers(tmp_path / "store"):
        time.sleep(0.1)  # until the first shard is made, in the step's own process
    (tmp_path / "helper.py").write_text(HELPER.replace("FACTOR = 1", "FACTOR = 2"))
    said, errors = running.communicate(timeout=300)

    assert running.returncode == 0, errors
    assert set(numbers(tmp_path / "store")) == {1} and len(numbers(tmp_path / "store")) == 180
    (tmp_path / "helper.py").write_text(HELPER)
    again = subprocess.run(words, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=300)
    assert [row["status"] for row in json.loads(again.stdout)] == ["cached"], said
