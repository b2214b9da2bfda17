"""
Submissions: what is handed over, what is attached to, and what the record says when the cluster cannot.
"""

import json
import shlex
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.errors import UsageError
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.cluster import submissions
from pipelines.engine.cluster.jobs import Jobs, Unreachable
from pipelines.engine.cluster.submissions import Submission, follow, settle, stop, submit
from pipelines.engine.graph.plan_cache import Request
from pipelines.engine.store.store import Store, owner

MINE = ROOT / "pipelines" / "quickstart.py"


@dataclass
class Cluster:
    """A cluster in memory: it takes every job, and its jobs do nothing."""

    address: str = "http://head:8265"
    local: bool = True
    gone: bool = False
    states: dict[str, str] = field(default_factory=dict)
    taken: list[dict[str, Any]] = field(default_factory=list)
    words: str = ""

    def _answer(self) -> None:
        if self.gone:
            raise Unreachable("nobody answers")

    def is_here(self) -> bool:
        return self.local

    def submit(self, name: str, entrypoint: str, package: Path, variables: dict[str, str]) -> None:
        self._answer()
        held = zipfile.ZipFile(package).namelist()
        self.taken.append({"words": shlex.split(entrypoint), "files": held, "variables": variables})
        self.states[name] = "RUNNING"

    def state(self, name: str) -> str | None:
        self._answer()
        return self.states.get(name)

    def message(self, name: str) -> str:
        return "Job entrypoint command failed with exit code 1."

    def output(self, name: str) -> str:
        self._answer()
        return self.words

    def stop(self, name: str) -> None:
        self._answer()
        self.states[name] = "STOPPED"


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()

    def at(address: str) -> Cluster:
        found._answer()
        return found

    monkeypatch.setattr(Jobs, "at", at)
    monkeypatch.setattr(submissions, "PAUSE", 0.01)
    monkeypatch.setattr(submissions, "LATE", 0.02)
    monkeypatch.setattr(submissions, "SILENT", 0.05)
    return found


def request(path: Path = MINE, source: dict[str, str] | None = None, **texts: str) -> Request:
    return Request(path, texts, {"pointnet": {"lr": "3e-4"}}, source or {})


def handed(store: Store, cluster: Cluster) -> Submission:
    return submit(request(seed="1"), [], store, cluster)[0]  # type: ignore[arg-type]


def record(store: Store, run: str) -> dict[str, Any]:
    return dict(store.load(f"runs/{run}/run.json"))


def finish(store: Store, run: str, code: int) -> None:
    """As the job's driver does."""
    store.write(f"runs/{run}/run.json", json.dumps({**record(store, run), "ended": 1.0, "code": code}).encode())


def test_the_job_repeats_the_command_in_the_project_as_it_is_unpacked_there(store, cluster):
    found = handed(store, cluster)

    taken = cluster.taken[0]
    assert taken["words"][1:] == [
        *("-m", "pipelines", "run", "pipelines/quickstart.py"),
        *("--seed=1", "--set", "pointnet.lr=3e-4"),
    ]
    assert {"pipelines/quickstart.py", "components/step.py"} <= set(taken["files"])
    assert taken["variables"]["RAYFIELD_RUN"] == found.run
    assert taken["variables"]["RAYFIELD_STORE"] == store.address


def test_a_pipeline_of_ones_own_goes_along(store, cluster, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("from pipelines.engine.pipeline import pipeline\n\n@pipeline\ndef mine():\n    '''Mine.'''\n")

    submit(request(mine), [], store, cluster)

    assert "own/mine.py" in cluster.taken[0]["files"]
    assert cluster.taken[0]["words"][4] == "own/mine.py"


def test_families_and_sources_of_ones_own_go_along_and_are_named_where_they_lie_there(store, cluster, tmp_path):
    for name in ("nets.py", "beside_it.py"):
        (tmp_path / name).write_text("import beside_it\n" if name == "nets.py" else "")

    submit(request(family=f"{tmp_path}/nets.py:MyNet,voxnet"), [], store, cluster)

    taken = cluster.taken[0]
    assert taken["words"][4:6] == ["pipelines/quickstart.py", "--family=own/nets.py:MyNet,voxnet"]
    assert {"own/nets.py", "own/beside_it.py"} <= set(taken["files"])


def test_what_it_imports_from_beside_it_goes_along_and_nothing_else(store, cluster, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from pipelines.engine.pipeline import pipeline\nimport helpers.deep\n\n@pipeline\ndef mine():\n    pass\n"
    )
    for name, text in {
        "helpers/__init__.py": "",
        "helpers/deep.py": "from .near import Y\nfrom alone import Z\n",
        "helpers/near.py": "",
        "helpers/other.py": "",
        "alone.py": "import json\n",
        "stranger.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    submit(request(mine), [], store, cluster)

    packed = {name for name in cluster.taken[0]["files"] if name.startswith("own/")}
    helpers = {f"own/helpers/{name}.py" for name in ("__init__", "deep", "near")}
    assert packed == {"own/mine.py", "own/alone.py"} | helpers


def test_no_secret_is_told_unless_it_is_named(store, cluster, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dearest-secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3:9000")
    handed(store, cluster)
    submit(request(seed="2"), [], store, cluster, ["AWS_SECRET_ACCESS_KEY"])

    told = [taken["variables"] for taken in cluster.taken]
    assert "dearest-secret" not in json.dumps(told[0])
    assert told[0]["AWS_ENDPOINT_URL"] == "http://s3:9000"
    assert told[1]["AWS_SECRET_ACCESS_KEY"] == "dearest-secret"


def test_a_variable_that_is_not_set_cannot_be_passed_on(store, cluster):
    with pytest.raises(UsageError, match="NOBODY_SET_THIS is not set"):
        submit(request(), [], store, cluster, ["NOBODY_SET_THIS"])


def test_a_tracking_address_with_a_password_is_refused(store, cluster, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:dearest@mlflow.lab")

    with pytest.raises(UsageError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        handed(store, cluster)
    assert "dearest" not in str(refused.value)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"store": None}, "A store is shared with the cluster"),
        ({"tracking": "sqlite:///here.db"}, "MLflow is shared with the cluster"),
        ({"root": "."}, "lies on this machine"),
    ],
)
def test_what_only_this_machine_has_is_refused_for_a_cluster_elsewhere(cluster, store, monkeypatch, what, said):
    cluster.local = False
    monkeypatch.setenv("MLFLOW_TRACKING_URI", what.get("tracking", "https://mlflow.lab"))
    place = store if "store" in what else Store("memory://shared")
    source = {"root": what["root"]} if "root" in what else {}

    with pytest.raises(UsageError, match=said):
        submit(request(source=source), [], place, cluster)
    assert cluster.taken == []


def test_a_path_of_the_source_is_told_in_full(store, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()

    submit(request(source={"root": "shapes"}), [], store, cluster)

    assert f"--root={tmp_path / 'shapes'}" in cluster.taken[0]["words"]


def test_the_same_request_attaches_while_it_is_at_work(store, cluster):
    first = handed(store, cluster)

    assert submit(request(seed="1"), [], store, cluster) == (first, True)
    assert submit(request(seed="2"), [], store, cluster)[1] is False
    assert len(cluster.taken) == 2


def test_a_request_whose_job_died_is_submitted_anew_and_its_run_is_ended(store, cluster):
    first = handed(store, cluster)
    cluster.states[first.id], cluster.words = "FAILED", "Traceback\nModuleNotFoundError: No module named 'ray'\n"

    second, attached = submit(request(seed="1"), [], store, cluster)

    assert not attached and second.id != first.id
    assert record(store, first.run)["code"] == 1
    assert "No module named 'ray'" in record(store, first.run)["error"]


def test_a_job_that_was_not_taken_leaves_no_run_at_work(store, cluster):
    cluster.gone = True
    with pytest.raises(Unreachable):
        handed(store, cluster)

    assert [held["code"] for _, held in store.runs()] == [1]


def test_what_the_driver_wrote_is_not_written_over(store, cluster):
    found = handed(store, cluster)
    finish(store, found.run, 3)
    cluster.states[found.id] = "FAILED"

    assert settle(store, found.run, record(store, found.run))["code"] == 3
    assert follow(store, found, cluster) == 3


def test_who_follows_a_job_that_never_began_is_told_why(store, cluster, capsys):
    found = handed(store, cluster)
    cluster.states[found.id] = "FAILED"

    assert follow(store, found, cluster) == 1
    assert "failed with exit code 1" in capsys.readouterr().err


def test_who_follows_a_job_that_was_killed_reads_its_last_lines_once(store, cluster, capsys):
    found = handed(store, cluster)
    cluster.states[found.id], cluster.words = "FAILED", "step 1 of 3\n"

    assert follow(store, found, cluster) == 1
    assert capsys.readouterr().err == "step 1 of 3\nJob entrypoint command failed with exit code 1.\n"


def test_a_record_is_read_though_the_cluster_is_gone(store, cluster):
    found = handed(store, cluster)
    cluster.gone = True

    assert settle(store, found.run, record(store, found.run)) == record(store, found.run)
    with pytest.raises(Unreachable, match="has not ended. Submit again"):
        follow(store, found, cluster)
    finish(store, found.run, 0)
    assert follow(store, found, cluster) == 0


def test_no_process_of_this_machine_owns_a_run_before_its_driver_does(store, cluster):
    from pipelines.engine.store.store import _free

    held = record(store, handed(store, cluster).run)

    assert not _free({**held["owner"], "until": held["started"] + 60})


def test_stop_asks_first_and_then_ends_the_job(store, cluster):
    found = handed(store, cluster)

    assert stop(store, found.run, seconds=0.05) == "stopped"
    assert store.read(f"runs/{found.run}/stop.json")
    assert cluster.states[found.id] == "STOPPED"
    assert record(store, found.run)["code"] == 5
    assert stop(store, found.run) == "has ended already"


def test_stop_works_when_the_cluster_is_gone(store, cluster):
    found = handed(store, cluster)
    cluster.gone = True

    assert "does not answer" in stop(store, found.run, seconds=0.05)
    assert record(store, found.run)["code"] == 5


def test_stop_ends_at_once_a_run_whose_driver_died_and_leaves_no_mark_for_the_next(store):
    store.begin("dead", {"pipeline": "toy", "nodes": [], "started": 1.0, "owner": {**owner(), "start": "0"}})

    assert stop(store, "dead", seconds=0) == "had lost its driver, and is marked as interrupted"
    assert record(store, "dead")["code"] == 5
    assert store.read("runs/dead/stop.json") is None


def test_stop_of_no_run_says_so(store):
    with pytest.raises(UsageError, match="rayfield status"):
        stop(store, "nothing")
