"""
A whole pipeline as a team runs it: its store in S3, MLflow's server on PostgreSQL with its artifacts in S3 too.

Both servers are killed while it runs, and come back. The driver is a process of its own, as a user's is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from components.runtime import filesystem
from components.runtime.objects import digest_of, where
from components.runtime.serialization import decode
from pipelines.engine.execution.context import events
from pipelines.engine.store.garbage_collection import files_of
from pipelines.engine.store.store import Store
from tests.meshes import write_shapes
from tests.services.servers import Mlflow, Seaweed, wait_until

pytestmark = pytest.mark.services

ROOT = Path(__file__).resolve().parents[2]
MINE = '''
from components.artifacts import at_least
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline
from tests.meshes import small_pointnet


@pipeline
def whole(source: Source = "folder", steps: int = 2000):
    """The whole way."""
    family = small_pointnet(steps=steps)
    table = preprocess(source, [family.representation()], on="here")
    best = tune(small_pointnet(steps=20), table, trials=2)
    short = evaluate(train(best, table, workers=0), table)
    scores = evaluate(train(family, table, workers=1), table, on="here")
    register(scores, name="whole", gate=at_least(accuracy=0.3))
'''


class Ran(NamedTuple):
    """A run that has ended."""

    said: str
    rows: list[dict[str, Any]]
    store: Store
    runs: list[str]
    words: list[str]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def ran(seaweed: Seaweed, mlflow: Mlflow, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The pipeline, run through two outages."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "whole.py").write_text(MINE)
    write_shapes(folder / "shapes", each=8)
    store = Store("s3://rayfield/whole")
    words = [str(folder / "whole.py"), "--source", "folder", "--root", str(folder / "shapes"), "--store", store.address]
    environment = {**os.environ, **seaweed.client(), **mlflow.client(), "RAYFIELD_CACHE": str(folder / "cache")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("RAY_ADDRESS", None)
    with (folder / "err").open("w") as err, (folder / "out").open("w") as out:
        driver = subprocess.Popen(command("run", words), cwd=ROOT, env=environment, stdout=out, stderr=err)
        try:
            outages(store, seaweed, mlflow, driver)
            code = driver.wait(timeout=900)
        finally:
            driver.kill()
            print((folder / "err").read_text())  # pytest shows it if something went wrong
    said, rows = (folder / "err").read_text(), json.loads((folder / "out").read_text())
    if code:  # MLflow came back later than `register` waits for it: the same command continues
        assert [row["step"] for row in rows if row["status"] == "failed"] == ["register whole"], said
        again = subprocess.run(
            command("run", words), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        code, rows = again.returncode, json.loads(again.stdout)
        assert code == 0, again.stderr
        assert {row["status"] for row in rows[:-1]} == {"cached"}
    return Ran(said, rows, store, store.names("runs"), words, environment)


def command(verb: str, words: list[str]) -> list[str]:
    return [sys.executable, "-m", "pipelines", verb, *words, "--json"]


def outages(store: Store, seaweed: Seaweed, mlflow: Mlflow, driver: "subprocess.Popen[bytes]") -> None:
    """Kills S3 while the long training logs, and MLflow when that goes on again."""

    def logged() -> int:
        """The last step that the long training has said."""
        assert driver.poll() is None, "the pipeline ended before the outages"
        runs = store.names("runs")
        nodes = store.load(f"runs/{runs[0]}/run.json")["nodes"] if runs else []
        trains = [n["key"] for n in nodes if n["step"].endswith(":train")]
        steps = [line.get("step", 0) for k in trains for _, ls in events(store, runs[0], k, set()) for line in ls]
        return max(steps, default=0)

    wait_until(lambda: logged() > 100, seconds=900)
    seaweed.kill()
    seaweed.start()
    before = logged()
    wait_until(lambda: logged() > before)
    mlflow.kill()
    between = logged()
    wait_until(lambda: logged() > between)
    mlflow.start()


def test_every_step_was_done(ran):
    assert {row["status"] for row in ran.rows} <= {"done", "cached"}
    assert [row["step"] for row in ran.rows][-1] == "register whole"


def test_every_object_that_a_manifest_names_is_whole(ran):
    from pipelines.engine.store.store import named_objects

    for row in ran.rows:
        for file in named_objects(ran.store.manifest(row["key"])):
            data = filesystem.read(f"{ran.store.address}/{where(file.digest)}")
            assert data is not None and digest_of(data) == file.digest
    assert ran.store.names("damaged") == []


def test_the_user_was_told_of_the_outage(ran):
    assert "does not answer; it is asked again" in ran.said or "MLflow" in ran.said


def test_the_same_again_does_nothing_and_says_the_same(ran):
    again = subprocess.run(
        command("run", ran.words), cwd=ROOT, env=ran.environment, capture_output=True, text=True, timeout=100
    )

    assert again.returncode == 0, again.stderr
    rows = json.loads(again.stdout)
    assert {row["status"] for row in rows} == {"cached"}
    assert [row["key"] for row in rows] == [row["key"] for row in ran.rows]
    assert ran.store.names("runs") == ran.runs


@pytest.fixture
def api(ran: Ran, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in mlflow.client().items():
        monkeypatch.setenv(name, value)
    from components.steps.registry.versions import client

    return client()


def test_one_version_is_registered_and_is_the_champion(ran, api):
    versions = api.search_model_versions("name = 'whole'")
    champion = api.get_model_version_by_alias("whole", "champion")

    assert [v.version for v in versions] == [champion.version] == ["1"]
    assert champion.tags["rayfield.key"] == ran.rows[-1]["result"]["key"]


def test_mlflow_has_all_that_was_logged(ran, api):
    """What it did not take while it was away was sent afterwards: no step twice, none missing."""
    found = api.search_runs([api.get_experiment_by_name("whole").experiment_id], max_results=100)
    assert "RUNNING" not in {run.info.status for run in found}
    node = next(row for row in ran.rows if row["step"].startswith("train") and row["result"]["steps"] == 2000)
    (step,) = [
        run
        for run in found
        if run.data.tags.get("rayfield.key") == node["key"] and run.data.tags["mlflow.runName"] == node["step"]
    ]
    said = [line["step"] for _, lines in events(ran.store, ran.runs[0], node["key"], set()) for line in lines
            if line["kind"] == "metrics" and "loss" in line["values"]]  # fmt: skip

    assert sorted(m.step for m in api.get_metric_history(step.info.run_id, "loss")) == sorted(said)
    assert len(said) == len(set(said)) > 100


def test_a_server_without_the_password_says_nothing(mlflow):
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{mlflow.url}/api/2.0/mlflow/experiments/get?experiment_id=0")
    assert refused.value.code == 401


def test_the_registered_model_answers_from_a_machine_with_nothing_but_the_server(ran, api, monkeypatch, tmp_path):
    """Its artifacts come through MLflow's server: the client has no key of the bucket."""
    from components.steps.registry.versions import registered

    for name in Seaweed(tmp_path).client():
        monkeypatch.delenv(name, raising=False)
    family, _, folder = registered("models:/whole@champion")

    assert family.name == "pointnet"
    assert (folder / "model.safetensors").stat().st_size > 1000
    checkpoint = decode(next(row["result"] for row in ran.rows if row["step"].startswith("train")))
    assert checkpoint.family.name == "pointnet"


def test_gc_leaves_the_run_and_takes_its_half_done_work(ran):
    collected = subprocess.run(
        [sys.executable, "-m", "pipelines", "gc", "--store", ran.store.address, "--json"],
        cwd=ROOT,
        env=ran.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert collected.returncode == 0, collected.stderr
    assert json.loads(collected.stdout)["scratch"]["files"] > 0
    assert list(files_of(ran.store, "scratch")) == []
    assert all(ran.store.manifest(row["key"]) for row in ran.rows)
