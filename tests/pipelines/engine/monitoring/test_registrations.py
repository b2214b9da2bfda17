"""
A registration is kept where it is registered: in the MLflow of now, which no key knows.
"""

import json
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from components.steps.registry.versions import client, ensure
from pipelines.cli.main import main
from pipelines.engine.execution import driver
from pipelines.engine.execution.executors import Here
from pipelines.engine.monitoring.registrations import Standing, described, standing
from tests.pipelines.engine.toys import keyed, ran

ENROLLING = '''
from pipelines.engine.pipeline import pipeline
from tests.pipelines.engine.toys import enrolled, number


@pipeline
def enrolling(name: str = "toy"):
    """A number and a registered version."""
    number(1)
    enrolled(name=name)
'''


@pytest.fixture
def name() -> str:
    return f"toy-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def result(name: str) -> dict[str, Any]:
    """What registering a version gave, which is champion."""
    api = client()
    ensure(api, name)
    made = api.create_model_version(name, "mlflow-artifacts:/nothing", tags=keyed("one"))
    api.set_registered_model_alias(name, "champion", made.version)
    return {"name": name, "version": str(made.version), "key": "one", "verdict": "PROMOTE", "reasons": []}


# Where MLflow is a database


def test_a_version_is_there_under_its_name_its_number_and_its_key(result):
    assert standing(result) == Standing(True, result["version"])
    for field, other in (("name", "another"), ("version", "7"), ("key", "two")):
        assert standing({**result, field: other}).there is False


def test_a_version_that_was_deleted_is_not_there(result):
    client().delete_model_version(result["name"], result["version"])

    assert standing(result) == Standing(False, None)


def test_the_champion_is_the_one_of_now(result):
    api = client()
    later = str(api.create_model_version(result["name"], "mlflow-artifacts:/nothing").version)
    api.set_registered_model_alias(result["name"], "champion", later)

    assert standing(result) == Standing(True, later)


def test_nothing_is_in_a_database_that_is_not_there_or_that_nobody_has_used(result, monkeypatch, tmp_path):
    (tmp_path / "empty.db").touch()
    for path in ("nowhere.db", "empty.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / path}")
        assert standing(result) == Standing(False)
    assert not (tmp_path / "nowhere.db").exists()


def test_a_database_that_cannot_be_read_does_not_answer(result, monkeypatch, tmp_path):
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'broken.db'}")

    assert standing(result).there is None
    assert "not a database" in standing(result).problem


# Where it is a server

Answers = Callable[[str], tuple[int, dict[str, Any]]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of MLflow's two answers; `said` has what it is asked and by whom."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            one.said.append((self.path, self.headers.get("Authorization")))
            code, answer = one.answers(self.path)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    one: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.said = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{one.server_port}/base/")
    thread = threading.Thread(target=one.serve_forever)
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


def has(version: dict[str, Any], champion: str | None) -> Answers:
    def answers(path: str) -> tuple[int, dict[str, Any]]:
        if "/model-versions/get" in path:
            return 200, {"model_version": version}
        if champion is None:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "alias champion not found."}
        return 200, {"model_version": {"version": champion}}

    return answers


ASKED = {"name": "a toy", "version": "2", "key": "one"}
WHOLE = {"version": "2", "status": "READY", "tags": [{"key": "rayfield.key", "value": "one"}]}


def test_a_server_is_asked_for_the_version_and_for_the_champion(server):
    server.answers = has(WHOLE, "2")

    assert standing(ASKED) == Standing(True, "2")
    assert [path for path, _ in server.said] == [
        "/base/api/2.0/mlflow/model-versions/get?name=a+toy&version=2",
        "/base/api/2.0/mlflow/registered-models/alias?name=a+toy&alias=champion",
    ]


@pytest.mark.parametrize("change", [{"tags": []}, {"status": "PENDING_REGISTRATION"}])
def test_what_a_server_has_of_another_key_or_half_is_not_there(server, change):
    server.answers = has({**WHOLE, **change}, None)

    assert standing(ASKED) == Standing(False, None)


def test_what_a_server_does_not_know_is_not_there(server):
    server.answers = lambda path: (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})

    assert standing(ASKED) == Standing(False, None)


@pytest.mark.parametrize("code", [401, 404, 500])
def test_a_server_that_refuses_or_is_none_of_mlflows_does_not_answer(server, code):
    server.answers = lambda path: (code, {"error": "something"})

    assert standing(ASKED).there is None
    assert str(code) in standing(ASKED).problem


def test_a_server_that_is_down_does_not_answer(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    assert standing(ASKED).there is None


def test_a_server_is_told_who_asks(server, monkeypatch):
    server.answers = has(WHOLE, "2")
    address = f"http://reader:w%40rd@127.0.0.1:{server.server_port}"
    for variables in (
        {"MLFLOW_TRACKING_URI": address},
        {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "word"},
        {"MLFLOW_TRACKING_TOKEN": "token"},
    ):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        standing(ASKED)

    assert [who for _, who in server.said[::2]] == ["Basic cmVhZGVyOndAcmQ=", "Basic bWU6d29yZA==", "Bearer token"]


def test_whatever_else_mlflow_lies_in_is_asked_through_its_client(result, monkeypatch):
    """An address of another kind, and one that needs more than a header: the client's own ways are followed."""
    found = client()
    monkeypatch.setattr("components.steps.registry.versions.client", lambda: found)
    for uri in ("postgresql://host/mlflow", "https://host"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_TRACKING_AWS_SIGV4", "true")

        assert standing(result) == Standing(True, result["version"])
        assert standing({**result, "key": "two"}).there is False


# What is said


@pytest.mark.parametrize(
    ("verdict", "now", "words"),
    [
        ("PROMOTE", Standing(True, "1"), "toy version 1 (net) is champion"),
        ("PROMOTE", Standing(True, "3"), "toy version 1 (net) became champion, and version 3 is now"),
        ("PROMOTE", Standing(True), "toy version 1 (net) became champion, and none is now"),
        ("PROMOTE", Standing(None), "toy version 1 (net) became champion; MLflow does not answer now"),
        ("HOLD", Standing(True, "3"), "toy version 1 (net): HOLD (worse)"),
        ("HOLD", Standing(True, "1"), "toy version 1 (net): HOLD (worse), and is champion now"),
    ],
)
def test_a_version_is_said_to_be_champion_when_it_is(verdict, now, words):
    held = {"name": "toy", "version": "1", "verdict": verdict, "reasons": ["worse"], "what": "net"}

    assert described(held, now) == words


# Whole runs


@pytest.fixture
def enroll(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> Callable[..., Result]:
    monkeypatch.setattr(driver, "OnRay", Here)
    monkeypatch.setattr(driver.Tracker, "start", lambda self: None)
    monkeypatch.setattr(driver.Tracker, "finish", lambda self: "")
    path = tmp_path / "enrolling.py"
    path.write_text(ENROLLING)
    return lambda *words, word="run": CliRunner().invoke(main, [word, str(path), "--name", name, *words])


def test_a_kept_registration_is_made_anew_in_another_mlflow(enroll, name, monkeypatch, tmp_path, tracking):
    assert enroll().exit_code == 0
    assert ran(f"enrolled {name}") == 1
    shutil.copy(tracking.removeprefix("sqlite:///"), tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    client().delete_registered_model(name)

    planned = json.loads(enroll("--json", word="plan").stdout)
    again = enroll()

    assert [row["action"] for row in planned["steps"]] == ["keep", "run"]
    assert (
        f"{name} version 1 is not in MLflow at sqlite:///{tmp_path / 'other.db'}: it is registered anew."
        in again.stderr
    )
    assert f"{name} version 1 (toy) is champion" in again.stdout
    assert ran(f"enrolled {name}") == 2
    assert ran("number 1") == 1
    assert str(client().get_model_version_by_alias(name, "champion").version) == "1"


def test_a_registration_that_is_there_is_kept_and_its_champion_is_the_one_of_now(enroll, name):
    assert f"{name} version 1 (toy) is champion" in enroll().stdout
    later = client().create_model_version(name, "mlflow-artifacts:/nothing")
    client().set_registered_model_alias(name, "champion", later.version)
    again = enroll()

    assert again.exit_code == 0
    assert ran(f"enrolled {name}") == 1
    assert f"{name} version 1 (toy) became champion, and version 2 is now" in again.stdout
    assert f"rayfield models promote {name} 1 --force" in again.stderr
    assert [row.get("standing", {}).get("champion") for row in json.loads(enroll("--json").stdout)] == [None, "2"]


def test_nobody_is_said_to_be_champion_where_mlflow_does_not_answer(enroll, name, monkeypatch):
    enroll()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    again = enroll()

    assert again.exit_code == 0
    assert ran(f"enrolled {name}") == 1
    assert "MLflow does not answer, so nobody knows what is champion" in again.stderr
    assert "is champion" not in again.stdout


def test_a_run_with_nothing_to_do_asks_without_importing_mlflow(enroll, name, monkeypatch):
    enroll()
    for module in ("mlflow", "components.steps.registry.versions"):
        monkeypatch.setitem(sys.modules, module, None)

    assert f"{name} version 1 (toy) is champion" in enroll().stdout
