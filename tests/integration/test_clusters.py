"""
A cluster of two nodes that asks for a token: jobs are submitted to it, workers and nodes of it are killed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load as load_tensors
from torch.testing import assert_close

from components.runtime import objects
from components.runtime.serialization import decode
from components.sources.folder import Folder
from components.steps.preprocess import preprocess
from components.steps.train import train
from pipelines.engine.execution.context import events
from pipelines.engine.store.store import Store
from tests.meshes import small_voxnet, write_shapes
from tests.patient import steady
from tests.two_nodes import python

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef" * 3
pytestmark = pytest.mark.services
TOY = '''
import time
from components.step import step
from pipelines.engine.pipeline import pipeline
from tests.pipelines.engine.toys import broken, number, total


@pipeline
def toy(value: int = 1, kind: str = "none"):
    """A sum."""
    if kind != "none":
        broken(kind=kind)
    total([number(value), number(7)])
'''
LONG = '''
from pipelines.engine.pipeline import pipeline
from tests.patient import patient, unhurried


@pipeline
def long(root: str, each: float = 0.0, rest: float = 0.0, steps: int = 6, workers: int | tuple[int, int] = 1):
    """A table and a training that take their time."""
    patient(unhurried(root, each=each), rest=rest, steps=steps, workers=workers)
'''
NETS = """
from torch import nn

from components.family import Classifier
from components.representations.points import Points
from widths import WIDTH


class MyNet(Classifier):
    @classmethod
    def tiny(cls):
        return cls(steps=4, batch=8, lr=1e-2)

    def representation(self):
        return Points(count=32)

    def network(self):
        return nn.Sequential(nn.Linear(3, WIDTH), nn.ReLU(), nn.Linear(WIDTH, self.classes))

    def logits(self, net, batch):
        return net(batch["points"]).mean(1)
"""
MINE = '''
from components.artifacts import Scores, at_least
from components.family import Family
from components.source import Source
from components.step import step
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from pipelines.engine.pipeline import pipeline


@step
def verdict(scores: Scores) -> str:
    return scores.name


@pipeline
def mine(source: Source = "folder", family: Family = "voxnet"):
    """A family of one's own, a source of one's own, and a step."""
    model = family.at("tiny")
    table = preprocess(source, [model.representation()])
    scores = evaluate(train(model, table, workers=1), table)
    verdict(scores)
    register(scores, name="on-two-nodes", gate=at_least(accuracy=0.0))
'''
SCANS = """
from components.sources.folder import Folder


class Scans(Folder):
    pass
"""


@dataclass
class TwoNodes:
    """The cluster, and the process that has it."""

    process: subprocess.Popen[str]
    words: Path
    """what it prints that nobody asked for"""
    said: dict[str, Any] = field(default_factory=dict)

    def order(self, word: str = "") -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        if word:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("::"):
                return dict(json.loads(line[2:]))
        raise AssertionError(self.words.read_text()[-3000:])

    def busy(self, title: str) -> list[psutil.Process]:
        """The processes of the other node that Ray gave such a title."""
        pids = [pid for node in self.order("processes")["processes"] for pid in node]
        return [one for pid in pids if (one := _process(pid)) and title in _title(one)]


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    words = tmp_path_factory.mktemp("cluster") / "stderr"
    environment = {**clean(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [python(), "-m", "tests.two_nodes"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words.open("w"),
        text=True,
    )
    nodes = TwoNodes(process, words)
    nodes.said = nodes.order()
    nodes.order("add")
    yield nodes
    process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()


def clean() -> dict[str, str]:
    """This process's environment without what it knows of any Ray."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**settings, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass
class Terminal:
    """Where somebody types: a shell with the token, and a store."""

    cluster: TwoNodes
    store: Store
    folder: Path

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        environment = {**clean(), "RAYFIELD_STORE": self.store.address, "RAY_AUTH_TOKEN": TOKEN, **variables}
        command = [sys.executable, "-m", "pipelines", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True)

    def rayfield(self, *words: str, **variables: str) -> tuple[int, str, str]:
        process = self.start(*words, **variables)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def submit(self, *words: str, **variables: str) -> tuple[int, dict[str, Any], str]:
        address = str(self.cluster.said["dashboard"])
        code, out, err = self.rayfield("submit", *words, "--address", address, "--json", **variables)
        return code, json.loads(out or "{}"), err

    def statuses(self, run: str) -> dict[str, str]:
        """How the steps ended that have."""
        lines = [self.store.load(f"runs/{run}/ledger/{n}") for n in self.store.names(f"runs/{run}/ledger")]
        return {line["title"]: line["status"] for line in lines if line["status"] not in ("running", "retry")}

    def record(self, run: str) -> dict[str, Any]:
        return dict(self.store.load(f"runs/{run}/run.json"))


@pytest.fixture
def terminal(cluster: TwoNodes, own_store: Path, tmp_path: Path, tracking: str) -> Terminal:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "long.py").write_text(LONG)
    return Terminal(cluster, Store(str(own_store)), tmp_path)


def until(true: Callable[[], Any], driver: subprocess.Popen[str] | None = None, seconds: float = 240) -> Any:
    """Waits for something to come true: a test that waits in vain, or for a driver that died, fails."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert driver is None or driver.poll() is None, driver.communicate()
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.2)
    return found


def test_a_cluster_takes_no_job_without_its_token(terminal):
    address = terminal.cluster.said["dashboard"]
    without = terminal.rayfield("submit", "toy.py", "--address", address, RAY_AUTH_TOKEN="")
    wrong = terminal.rayfield("submit", "toy.py", "--address", address, RAY_AUTH_TOKEN="f" * 48)

    assert [without[0], wrong[0]] == [2, 2]
    assert "takes no job without its token. Set RAY_AUTH_TOKEN" in without[2]
    assert "does not take this token" in wrong[2]
    assert len(without[2].splitlines()) == len(wrong[2].splitlines()) == 1
    assert terminal.store.names("runs") == []


def test_a_job_and_a_laptop_hit_what_the_other_made_and_secrets_stay_at_home(terminal, monkeypatch):
    code, submitted, said = terminal.submit("toy.py", "--value", "3", AWS_SECRET_ACCESS_KEY="dearest-secret")
    assert code == submitted["code"] == 0, said
    assert set(terminal.statuses(submitted["run"]).values()) == {"done"}
    assert "total" in said

    code, out, _ = terminal.rayfield("run", "toy.py", "--value", "3", "--json", RAY_AUTH_TOKEN="")
    assert {row["status"] for row in json.loads(out)} == {"cached"}

    address = terminal.cluster.said["gcs"]
    assert terminal.rayfield("run", "toy.py", "--value", "4", RAY_ADDRESS=address)[0] == 0
    code, again, _ = terminal.submit("toy.py", "--value", "4")
    assert set(terminal.statuses(again["run"]).values()) == {"cached"}

    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    shown = json.dumps(jobs_of(terminal))
    assert submitted["id"] in shown
    assert "dearest-secret" not in shown


def jobs_of(terminal: Terminal) -> Any:
    """What Ray shows of its jobs to whoever has the token."""
    import requests

    address = terminal.cluster.said["dashboard"]
    return requests.get(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).json()


def test_code_of_ones_own_runs_on_the_cluster_and_its_model_is_loaded_here(terminal):
    """Its workers lie on another node, and see neither the folder nor the copy of it on this machine."""
    for name, text in {"mine": MINE, "nets": NETS, "widths": "WIDTH = 8\n", "scans": SCANS}.items():
        (terminal.folder / f"{name}.py").write_text(text)
    root = write_shapes(terminal.folder / "shapes", each=8)
    words = ["mine.py", "--family", "nets.py:MyNet", "--source", "scans.py", "--root", str(root)]
    code, submitted, said = terminal.submit(*words)

    assert code == submitted["code"] == 0, said
    titles = ["preprocess", "train mynet", "evaluate mynet", "verdict mynet", "register on-two-nodes"]
    assert terminal.statuses(submitted["run"]) == dict.fromkeys(titles, "done")

    code, out, said = terminal.rayfield("run", *words, "--json", RAY_AUTH_TOKEN="")
    assert code == 0 and {row["status"] for row in json.loads(out)} == {"cached"}, said
    code, out, said = terminal.rayfield("predict", "models:/on-two-nodes@champion", str(root / "flat/3.obj"), "--json")
    assert code == 0 and {label for label, _ in json.loads(out)["answers"]} == {"flat", "long", "round"}, said


def test_the_code_of_a_failed_run_is_its_own_and_not_rays(terminal):
    code, submitted, said = terminal.submit("toy.py", "--kind", "usage")

    assert code == submitted["code"] == terminal.record(submitted["run"])["code"] == 2
    assert "a usage error" in said


def test_a_second_submit_attaches_and_stop_ends_what_then_continues(terminal):
    root = write_shapes(terminal.folder / "shapes", each=2)
    words = ["long.py", "--root", str(root), "--rest", "2", "--steps", "40"]
    _, first, _ = terminal.submit(*words, "--no-wait")
    _, second, said = terminal.submit(*words, "--no-wait")
    assert first["id"] == second["id"]
    assert "attached to" in said
    until(lambda: "unhurried" in terminal.statuses(first["run"]))

    code, answer, said = terminal.rayfield("stop", first["run"])
    assert code == 0 and "stopped" in answer, said
    assert terminal.record(first["run"])["code"] == 5

    _, third, _ = terminal.submit(*words, "--no-wait")
    assert third["id"] != first["id"]
    until(lambda: terminal.statuses(third["run"]).get("unhurried") == "cached")
    assert "stopped" in terminal.rayfield("stop", third["run"])[1]


def test_a_table_survives_its_workers_and_its_node(terminal):
    root = write_shapes(terminal.folder / "shapes", each=60)
    driver = terminal.start(
        "run",
        "long.py",
        "--root",
        str(root),
        "--each",
        "0.15",
        "--workers",
        "0",
        RAY_ADDRESS=terminal.cluster.said["gcs"],
    )
    for worker in until(lambda: terminal.cluster.busy("MapBatches"), driver):
        worker.kill()
    until(lambda: len(terminal.store.names("keys")) >= 2, driver)
    assert driver.poll() is None
    terminal.cluster.order("kill")
    assert not ended(terminal, "unhurried")
    terminal.cluster.order("add")

    assert driver.wait(240) == 0, driver.communicate()[1]
    table = made(terminal, "unhurried")
    here = preprocess(Folder(root=str(root)), [small_voxnet().representation()], on="here")
    assert here.sets == table.sets
    assert here.assets == table.assets


def test_a_training_survives_a_worker_and_its_node(terminal):
    root = write_shapes(terminal.folder / "shapes", each=4)
    words = ["--root", str(root), "--rest", "0.5", "--steps", "60", "--workers", "2"]
    driver = terminal.start("run", "long.py", *words, RAY_ADDRESS=terminal.cluster.said["gcs"])
    before = until(lambda: terminal.cluster.busy("RayTrainWorker") and saved(terminal), driver)
    terminal.cluster.busy("RayTrainWorker")[0].kill()
    until(lambda: saved(terminal) > before and terminal.cluster.busy("RayTrainWorker"), driver)
    assert driver.poll() is None
    terminal.cluster.order("kill")
    assert saved(terminal) < 50
    terminal.cluster.order("add")

    assert driver.wait(240) == 0, driver.communicate()[1]
    assert_same_as_alone(terminal, 60)


def test_an_elastic_training_goes_on_with_what_a_lost_node_leaves(terminal):
    """Two workers, then the one that the head has room for: the batches, and so the weights, stay what they were."""
    root = write_shapes(terminal.folder / "shapes", each=4)
    words = ["--root", str(root), "--rest", "0.5", "--steps", "60", "--workers", "1,2"]
    driver = terminal.start("run", "long.py", *words, RAY_ADDRESS=terminal.cluster.said["gcs"])
    until(lambda: terminal.cluster.busy("RayTrainWorker") and saved(terminal), driver)
    terminal.cluster.order("kill")
    try:
        assert saved(terminal) < 50
        assert driver.wait(240) == 0, driver.communicate()[1]
    finally:
        terminal.cluster.order("add")

    assert sizes(terminal) == [2, 1]
    assert_same_as_alone(terminal, 60)


def assert_same_as_alone(terminal: Terminal, steps: int) -> None:
    """That the only run's training has the weights of one in a single process."""
    objects.use(terminal.store.address)
    there, here = made(terminal, "patient"), train(steady(steps), made(terminal, "unhurried"), workers=0)
    assert_close(load_tensors(there.weights.read()), load_tensors(here.weights.read()), rtol=1e-4, atol=1e-5)


def sizes(terminal: Terminal) -> list[int]:
    """How many workers the only run's training had, one after the other."""
    run, record = next(iter(terminal.store.runs()))
    key = next(node["key"] for node in record["nodes"] if node["title"] == "patient")
    lines = [line for _, some in events(terminal.store, run, key, set()) for line in some if line["kind"] == "metrics"]
    said = sorted((line["time"], line["values"]["workers"]) for line in lines if "workers" in line["values"])
    return [size for size, _ in groupby(size for _, size in said)]


def saved(terminal: Terminal) -> int:
    """The update of the last checkpoint."""
    logs = [path.stem for path in Path(terminal.store.address).glob("scratch/*/log-*.json")]
    return max((int(stem.removeprefix("log-")) for stem in logs), default=0)


def ended(terminal: Terminal, title: str) -> bool:
    """Whether a step of the only run is over."""
    return title in terminal.statuses(next(iter(terminal.store.runs()))[0])


def made(terminal: Terminal, title: str) -> Any:
    """What a step of the only run made."""
    run, record = next(iter(terminal.store.runs()))
    key = next(node["key"] for node in record["nodes"] if node["title"] == title)
    manifest = terminal.store.manifest(key)
    assert manifest is not None, run
    return decode(manifest["result"])
