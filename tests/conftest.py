"""
What every test gets: a store of its own, an MLflow database that no two make, and no network beyond this machine.
"""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# set before torch is imported: threads that wait for each other take more time than these small networks do
os.environ.setdefault("OMP_NUM_THREADS", "1")
# kernels are compiled once for all tests: each has a cache of its own for everything else
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".rayfield" / "numba"))


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for the whole session: making one takes seconds of migrations."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tracking: str) -> Path:
    """The store of this test alone."""
    store = tmp_path / "store"
    monkeypatch.setenv("RAYFIELD_STORE", str(store))
    monkeypatch.setenv("RAYFIELD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("RAYFIELD_CODE", "")  # a run that another test began in this process has a copy of its own
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return store


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine and its own network is an error."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_near(address[0]):
            raise AssertionError(f"a test must not reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host in ("localhost", socket.gethostname())


@pytest.fixture(scope="session")
def ray_session(tracking: str) -> Iterator[None]:
    """A small Ray on this machine, set as the engine sets its own, that other processes may join."""
    from pipelines.engine.execution.executors import SETTINGS
    from tests.two_nodes import python

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": tracking}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", python())  # those who join quote no path of ours
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": environment},
        )
    yield
    ray.shutdown()
