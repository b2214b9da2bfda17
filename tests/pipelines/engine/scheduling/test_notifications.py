"""
Telling people: what a command and an address get, how often is tried, and that nothing of it fails a run.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipelines.engine.scheduling import notifications

FACTS = {"text": "nightly: failed", "run": "r1", "code": 1, "ended": None}


class Listener:
    """A web address that answers as it is told."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.heard = list(answers), []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.heard.append((self.path, self.headers["Content-Type"], json.loads(body)))
                self.send_response(listener.answers.pop(0) if listener.answers else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listen() -> Iterator[type[Listener]]:
    made: list[Listener] = []

    def start(*answers: int) -> Listener:
        made.append(Listener(*answers))
        return made[-1]

    yield start
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def test_a_command_gets_the_facts_in_its_environment(tmp_path):
    out = tmp_path / "out"

    assert notifications.tell(f'echo "$RAYFIELD_RUN $RAYFIELD_CODE [$RAYFIELD_ENDED]" > {out}', FACTS) == ""
    assert out.read_text() == "r1 1 []\n"


def test_a_command_that_fails_is_told_with_its_last_line():
    assert notifications.tell("echo one >&2; echo two >&2; exit 7", FACTS).endswith("ended with 7: two")


def test_a_command_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(notifications, "COMMAND_SECONDS", 0.2)

    assert "TimeoutExpired" in notifications.tell("exec sleep 60", FACTS)


def test_an_address_gets_the_facts_as_json(listen):
    there = listen()

    assert notifications.tell(there.address, FACTS) == ""
    assert there.heard == [("/secret", "application/json", FACTS)]


def test_an_address_may_come_from_the_environment(listen, monkeypatch):
    there = listen()
    monkeypatch.setenv("HOOK", there.address)

    assert notifications.tell("$HOOK", FACTS) == ""
    assert len(there.heard) == 1


@pytest.mark.parametrize("hook", ["$NO_HOOK", "${NO_HOOK}"])
def test_a_hook_that_is_not_set_is_said(monkeypatch, hook):
    """A shell would run nothing, and end well."""
    monkeypatch.delenv("NO_HOOK", raising=False)

    assert notifications.tell(hook, FACTS) == f"{hook} is not set where the scheduler runs"


def test_what_went_wrong_with_a_command_is_told_without_its_secret(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "planted-1")

    assert notifications.tell("echo $MY_TOKEN >&2; exit 7", FACTS).endswith("ended with 7: ***")


@pytest.mark.parametrize("answers, tries, told", [((503, 429), 3, ""), ((500,) * 3, 3, "500"), ((404,), 1, "404")])
def test_what_may_pass_is_tried_again(listen, answers, tries, told):
    there, pauses = listen(*answers), []
    problem = notifications.tell(there.address, FACTS, pauses.append)

    assert len(there.heard) == tries
    assert pauses == [2.0, 4.0][: tries - 1]
    assert problem.endswith(told) and bool(problem) == bool(told)
    assert "secret" not in problem


def test_nobody_there_is_no_error(listen):
    there = listen()
    there.server.shutdown()
    there.server.server_close()
    problem = notifications.tell(there.address, FACTS, lambda _: None)

    assert "did not answer" in problem and "secret" not in problem


def test_what_is_printed_of_an_address_is_its_host():
    assert notifications.shown("https://user:pass@hooks.example/services/T0/B0?key=1") == "https://hooks.example/..."
    assert notifications.shown("mail -s failed me") == "mail -s failed me"
    assert notifications.shown("curl -H 'Authorization: Bearer abc' h") == "curl -H 'Authorization: Bearer ***' h"
