"""
The services, each started once for all tests that need it, and torn down with its data.
"""

import os
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.services.servers import Mlflow, Postgres, Seaweed, Server
from tests.services.servers import bucket as make_bucket


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows beside a failure what the servers said: the client often knows only that something went wrong there."""
    report = yield
    if report.failed:
        for server in (value for value in item.funcargs.values() if isinstance(value, Server)):
            report.sections.append((f"the last words of {type(server).__name__}", server.last_words()))
    return report


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own user may enter: pytest's are closed to others."""
    with tempfile.TemporaryDirectory(prefix="rayfield-services-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def seaweed(folder: Path) -> Iterator[Seaweed]:
    server = Seaweed(folder / "s3")
    try:
        server.start()
        os.environ.update(server.client())
        make_bucket("rayfield")
        make_bucket("mlflow")
        yield server
    finally:
        server.kill()
        for name in server.client():
            os.environ.pop(name, None)


@pytest.fixture(scope="session")
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder / "postgres")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def mlflow(folder: Path, seaweed: Seaweed, postgres: Postgres) -> Iterator[Mlflow]:
    server = Mlflow(folder / "mlflow", database=postgres.uri, artifacts="s3://mlflow/artifacts", s3=seaweed.client())
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a store of this test alone, in a bucket of a real S3 server."""
    address = f"s3://rayfield/{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("RAYFIELD_STORE", address)
    return address
