"""
What does not answer, or cannot be read, is named in one line with what to do; and a command that waits ends when told.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = '''
from pipelines.engine.pipeline import pipeline
from tests.pipelines.engine.toys import number


@pipeline
def toy():
    """A toy."""
    number(1)
'''


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


@pytest.fixture
def toy(tmp_path: Path) -> str:
    (tmp_path / "toy.py").write_text(PIPELINE)
    return str(tmp_path / "toy.py")


def begin(words: list[str], **variables: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true", **variables}
    command = [sys.executable, "-m", "pipelines", *words]
    return subprocess.Popen(command, cwd="/", env=environment, stderr=subprocess.PIPE, text=True)


def ended(words: list[str], **variables: str) -> tuple[int, str]:
    """The exit code of a command, and the one line that it ended with."""
    process = begin(words, **variables)
    _, stderr = process.communicate(timeout=300)
    assert "Traceback" not in stderr
    return process.returncode, stderr.splitlines()[-1]


# A Ray head


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("127.0.0.1:{nobody}", 1, "must answer at RAY_ADDRESS, {address}, but Connection refused. Start it, correct"),
        ("127.0.0.1:{silent}", 1, "must answer at RAY_ADDRESS, {address}, but it does not answer in time."),
        ("ray://127.0.0.1:{nobody}", 1, "must answer at RAY_ADDRESS, {address}, but Connection refused."),
        ("no-such-host.invalid:6379", 1, "must answer at RAY_ADDRESS, {address}, but"),
        ("head", 2, "RAY_ADDRESS is where a cluster's head listens, such as head:6379, but got 'head'."),
        ("http://127.0.0.1:8265", 2, "RAY_ADDRESS is where a cluster's head listens, such as head:6379"),
    ],
    ids=["down", "silent", "client down", "no such host", "no port", "a dashboard"],
)
def test_a_head_that_does_not_answer_is_named_before_anything_is_written(
    toy, nobody, silent, own_store, address, code, words
):
    address = address.format(nobody=nobody, silent=silent)
    end = ended(["run", toy], RAY_ADDRESS=address)

    assert end[0] == code
    assert words.format(address=address) in end[1]
    assert not (own_store / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_head_that_falls_silent_while_it_is_joined_lets_every_signal_through(silent, number):
    """Ray's C++ asks it for minutes, and Python's own handlers wait for that."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pipelines.engine.execution import executors\n"
        "executors.check_head = lambda address: print('asks', flush=True)\n"
        "executors.connect()\n"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": f"127.0.0.1:{silent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asks\n"
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(6)  # it is inside Ray now
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 5
    assert "Interrupted: Ray did not answer. The same command continues." in stderr


# MLflow


@pytest.mark.parametrize(
    ("uri", "code", "words"),
    [
        ("foo://bar", 2, "MLflow is at an address such as http://host:5000"),
        ("mlruns", 2, "but MLFLOW_TRACKING_URI is mlruns. Set another, or unset it"),
        ("http://127.0.0.1:{nobody}", 1, "does not answer: Connection refused. Run again when it does."),
        ("http://127.0.0.1:{silent}", 1, "does not answer: it does not answer in time. Run again when it does."),
        ("postgresql://me:planted@127.0.0.1:{nobody}/x", 1, "MLflow at postgresql://***@127.0.0.1"),
    ],
    ids=["no scheme", "a folder", "down", "silent", "a database that is down"],
)
def test_mlflow_that_does_not_answer_is_named(nobody, silent, uri, code, words):
    end = ended(["models", "list"], MLFLOW_TRACKING_URI=uri.format(nobody=nobody, silent=silent))

    assert end[0] == code
    assert words in end[1]
    assert "planted" not in end[1]


def test_where_mlflow_could_never_be_no_run_begins(toy, own_store):
    code, line = ended(["run", toy], MLFLOW_TRACKING_URI="foo://bar")

    assert code == 2
    assert "but MLFLOW_TRACKING_URI is foo://bar. Set another, or unset it" in line
    assert not (own_store / "runs").exists()


@pytest.mark.parametrize("bytes_", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000], ids=["text", "pages"])
def test_a_database_that_is_damaged_is_named(tmp_path, bytes_):
    (tmp_path / "mlflow.db").write_bytes(bytes_)
    code, line = ended(["models", "list"], MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")

    assert code == 1
    assert f"MLflow's database must be one of SQLite, but {tmp_path}/mlflow.db is not: " in line
    assert "move it away" in line


# Stores


@pytest.mark.parametrize(
    ("store", "code", "words"),
    [
        ("ftp://127.0.0.1:{nobody}/x", 5, "ftp://127.0.0.1:{nobody} must answer, but Connection refused. Run again"),
        ("ftp://127.0.0.1:{silent}/x", 5, "ftp://127.0.0.1:{silent} must answer, but it does not answer in time."),
        ("ftp://no-such-host.invalid/x", 5, "ftp://no-such-host.invalid must answer, but"),
        ("hdfs://127.0.0.1:{nobody}/x", 5, "hdfs://127.0.0.1:{nobody} must answer, but Connection refused."),
        ("hdfs://127.0.0.1:{silent}/x", 1, "hdfs://127.0.0.1:{silent} must open the store"),
        ("webhdfs://127.0.0.1:{nobody}/x", 5, "webhdfs://127.0.0.1:{nobody} must answer, but Connection refused."),
        ("webhdfs://127.0.0.1:{silent}/x", 5, "webhdfs://127.0.0.1:{silent} must answer, but it does not answer"),
        ("sftp://127.0.0.1:{silent}/x", 2, "/x needs a package that is not here: SFTPFileSystem requires"),
        ("http://127.0.0.1:{nobody}/x", 5, "http://127.0.0.1:{nobody} must answer, but Connection refused."),
        ("http://127.0.0.1:{silent}/x", 5, "http://127.0.0.1:{silent} must answer, but it does not answer"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) and "://" in value else "",
)
def test_a_store_that_does_not_answer_is_named(nobody, silent, store, code, words):
    end = ended(["runs", "--store", store.format(nobody=nobody, silent=silent)])

    assert words.format(nobody=nobody, silent=silent) in end[1]
    assert end[0] == code


@pytest.mark.parametrize("port", ["nobody", "silent"])
def test_a_bucket_whose_server_does_not_answer_is_named(nobody, silent, port):
    endpoint = f"http://127.0.0.1:{nobody if port == 'nobody' else silent}"
    keys = {"AWS_ACCESS_KEY_ID": "own-key", "AWS_SECRET_ACCESS_KEY": "own-secret", "AWS_ENDPOINT_URL": endpoint}
    code, line = ended(["run", "quickstart", "--store", "s3://bucket/rayfield"], **keys)

    assert code == 5
    assert "s3://bucket must answer, but" in line and "Run again when it does" in line


# Records


@pytest.mark.parametrize("data", [b"\x00\xff", b"{", b"[]", b'"words"'])
@pytest.mark.parametrize("command", ["show", "logs", "report", "status"])
def test_a_record_that_is_damaged_is_named(own_store, data, command):
    from click.testing import CliRunner

    from pipelines.cli.main import main

    (own_store / "runs" / "a").mkdir(parents=True)
    (own_store / "runs" / "a" / "run.json").write_bytes(data)
    result = CliRunner().invoke(main, [command, "a"], catch_exceptions=False)
    listed = CliRunner().invoke(main, ["runs"], catch_exceptions=False)

    said = f"The record of run a was damaged, and lies in {own_store}/damaged now. What its steps made is safe: "
    assert result.exit_code == 1
    assert result.stderr == f"rayfield: {said}run its pipeline again.\n"
    assert listed.exit_code == 0
    assert said in listed.stderr
