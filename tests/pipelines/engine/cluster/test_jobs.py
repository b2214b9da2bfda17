"""
Jobs: a cluster that does not answer is said in one line, at once. What one answers: tests/integration/test_clusters.py.
"""

import importlib.metadata
import os
import platform
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.errors import RayfieldError, UsageError
from pipelines.engine.cluster import jobs as module
from pipelines.engine.cluster.jobs import Jobs, Unreachable, enable_token


def test_a_cluster_that_is_gone_is_said_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(Unreachable, match="does not answer") as said:
            Jobs.at(address)
    assert address in str(said.value) and "\n" not in str(said.value)


@pytest.mark.parametrize("address", ["notaurl", "http://head:port"])
def test_an_address_that_is_none_is_said_in_one_line(address):
    with pytest.raises(UsageError, match=f"--address is a cluster's dashboard, but got '{address}'"):
        Jobs.at(address)


def test_an_address_with_a_password_is_refused_before_anybody_is_asked():
    """It would stand in the record of the run."""
    with pytest.raises(UsageError, match="--address is written .* holds a secret. Set RAY_AUTH_TOKEN"):
        Jobs.at("http://me:word@127.0.0.1:9")


class Head:
    """What Ray's client asks of a cluster whose agents come late."""

    def __init__(self, late: int) -> None:
        self.late, self.asked, self.jobs = late, 0, {}

    def submit_job(self, *, submission_id: str, entrypoint: str, runtime_env: dict) -> None:
        self.asked += 1
        if self.asked <= self.late:
            raise RuntimeError(
                "Request failed with status code 500: No available agent to submit job, please try later.."
            )
        self.jobs[submission_id] = "PENDING"

    def _do_request(self, verb: str, path: str, *, timeout: float) -> SimpleNamespace:
        status = self.jobs.get(path.removeprefix("/api/jobs/"))
        code = 200 if status else 404
        return SimpleNamespace(status_code=code, ok=code == 200, text="", json=lambda: {"status": status})


@pytest.fixture
def hurry(monkeypatch):
    """Seconds that pass at once."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))


def test_a_cluster_whose_agents_come_late_is_waited_for(hurry):
    head = Head(late=3)
    Jobs("http://head:8265", head).submit("a", "true", Path("a.zip"), {})
    Jobs("http://head:8265", head).submit("a", "true", Path("a.zip"), {})

    assert (head.asked, head.jobs) == (4, {"a": "PENDING"})


def test_a_cluster_without_agents_says_what_to_do(hurry):
    with pytest.raises(RayfieldError, match="start the head with --dashboard-agent-listen-port=0"):
        Jobs("http://head:8265", Head(late=1000)).submit("a", "true", Path("a.zip"), {})


def test_a_cluster_with_other_versions_is_told_from_one_with_the_same(monkeypatch):
    class Versions:
        said = {"pythonVersion": platform.python_version(), "rayVersion": importlib.metadata.version("ray")}

        def _do_request(self, *_: str, timeout: float) -> SimpleNamespace:
            return SimpleNamespace(status_code=200, ok=True, text="", json=lambda: {"data": self.said})

    jobs = Jobs("http://head:8265", Versions())
    same = jobs.mismatch()
    Versions.said = {**Versions.said, "rayVersion": "2.1.0"}

    assert same == ""
    assert jobs.mismatch().startswith(f"Ray 2.1.0 there, {importlib.metadata.version('ray')} here: neither side finds")


def test_a_token_that_is_named_is_sent(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/secrets/ray")

    enable_token()

    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_what_the_user_said_of_tokens_stands(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 48)

    enable_token()

    assert os.environ["RAY_AUTH_MODE"] == "disabled"
