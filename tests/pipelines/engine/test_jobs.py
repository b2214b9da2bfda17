"""
Jobs: a cluster that does not answer is said in one line, at once. What one answers: tests/integration/test_clusters.py.
"""

import os
import socket

import pytest

from pipelines.engine.jobs import Jobs, Unreachable, enable_token


def test_a_cluster_that_is_gone_is_said_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(Unreachable, match="does not answer") as said:
            Jobs.at(address)
    assert address in str(said.value) and "\n" not in str(said.value)


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
