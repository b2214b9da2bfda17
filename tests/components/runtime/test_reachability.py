"""
Reach: who does not answer is told from who does, before a client that would wait is asked.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from components.runtime import reachability
from components.runtime.reachability import refused, silent_grpc, silent_http

SETTINGS = bytes(3) + b"\x04" + bytes(5)


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """A port of this machine that takes connections, and answers the first words with these, or never."""
    held = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(1000)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "ANSWER", 0.2)


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_where_nobody_listens_everybody_says_so(nobody):
    assert refused("127.0.0.1", nobody) == "Connection refused"
    assert silent_http(f"http://me:word@127.0.0.1:{nobody}/health") == "Connection refused"
    assert silent_grpc("127.0.0.1", nobody) == "Connection refused"


@pytest.mark.parametrize(("host", "port"), [("no-such-host.invalid", 80), ("a..b", 80), ("127.0.0.1", 99999)])
def test_an_address_that_is_none_is_no_error_of_ours(host, port):
    assert refused(host, port)
    assert silent_grpc(host, port)
    assert silent_http(f"http://{host}:{port}")


def test_who_takes_a_connection_and_says_nothing_does_not_answer():
    with listener(None) as port:
        assert refused("127.0.0.1", port) == ""
        assert silent_http(f"http://127.0.0.1:{port}") == "it does not answer in time"
        assert silent_grpc("127.0.0.1", port) == "it does not answer in time"


@pytest.mark.parametrize("status", [b"200 OK", b"401 Unauthorized", b"500 Internal Server Error"])
def test_a_server_that_refuses_answers(status):
    with listener(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n") as port:
        assert silent_http(f"http://127.0.0.1:{port}/health") == ""
        assert silent_grpc("127.0.0.1", port) == "what answers there speaks no gRPC"


def test_a_server_of_another_language_is_no_http_server():
    with listener(SETTINGS) as port:
        assert silent_grpc("127.0.0.1", port) == ""
        assert silent_http(f"http://127.0.0.1:{port}")
