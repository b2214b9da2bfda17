"""
Where steps run: each under a supervising Ray task, or in this process.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from components.secrets import is_secret, redact
from pipelines.engine.code import ROOT
from pipelines.engine.jobs import Unreachable, enable_token
from pipelines.engine.work import work

# RAY_MLFLOW.md 8: what a local cluster is started with; whatever the user has set wins
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TQDM": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # the driver of a job says some of what the job was told again
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PYTHONWARNINGS": "ignore",
    "OMP_WAIT_POLICY": "passive",  # idle threads of torch would spin on the cores that the kernels use
}


class Executor(Protocol):
    """Runs nodes and says which have ended."""

    resources: Mapping[str, float]

    def submit(self, node: Mapping[str, Any], run: str, address: str) -> None: ...

    def ended(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Key -> outcome of the nodes that ended, after waiting for at most so long."""

    def cancel(self) -> None: ...


class Here:
    """Runs a node at once, in this process: for tests, and for steps that need no cluster."""

    def __init__(self) -> None:
        self.resources: Mapping[str, float] = {"CPU": float(os.cpu_count() or 1)}
        self.outcomes: dict[str, dict[str, Any]] = {}

    def submit(self, node: Mapping[str, Any], run: str, address: str) -> None:
        self.outcomes[node["key"]] = work(node, run, address, self.resources)

    def ended(self, seconds: float) -> dict[str, dict[str, Any]]:
        outcomes, self.outcomes = self.outcomes, {}
        return outcomes

    def cancel(self) -> None:
        self.outcomes.clear()


class OnRay:
    """Runs each node under a Ray task of its own, on the cluster of RAY_ADDRESS or on one that it starts here."""

    def __init__(self) -> None:
        import ray

        connect()
        self.ray = ray
        self.resources: Mapping[str, float] = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")}
        # the supervisor waits and takes no CPU; the work inside asks for its own
        self.task = ray.remote(num_cpus=0, max_retries=0)(work)
        self.running: dict[Any, str] = {}

    def submit(self, node: Mapping[str, Any], run: str, address: str) -> None:
        self.running[self.task.remote(dict(node), run, address, dict(self.resources))] = node["key"]

    def ended(self, seconds: float) -> dict[str, dict[str, Any]]:
        done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        return {self.running.pop(reference): self._outcome(reference) for reference in done}

    def _outcome(self, reference: Any) -> dict[str, Any]:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            words = " ".join(str(error).split())[:500]
            return {"ok": False, "error": words, "kind": "preempted", "traceback": str(error)}

    def cancel(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=True, recursive=True)
        self.running.clear()


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS, or starts a local one."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    enable_token()
    import ray

    if ray.is_initialized():
        return
    passed = ("RAYFIELD_", "MLFLOW_", "AWS_", "FSSPEC_", "NUMBA_", "OMP_", *(n for n in SETTINGS))
    # Ray shows this to whoever asks. A Ray that is started here gives its workers the secrets of this process anyway,
    # and the nodes of a cluster have their own
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(passed) and not is_secret(name) and redact(value) == value
    }
    # Ray's workers get the driver's folder; the project's root must be on their path wherever the driver was started
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".rayfield" / "numba"))
    # "local", or Ray would join whatever cluster was last started on this machine, by whomever
    own = {"address": "local", "num_cpus": max(4, os.cpu_count() or 1), "include_dashboard": False}
    own = {} if os.environ.get("RAY_ADDRESS") else own
    ended_by = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            log_to_driver=bool(os.environ.get("RAYFIELD_DEBUG")),
            logging_level="ERROR",
            runtime_env={"env_vars": environment},
            configure_logging=False,
            **own,
        )
    except ConnectionError:
        raise Unreachable(
            f"No Ray that takes this token answers at RAY_ADDRESS, {os.environ.get('RAY_ADDRESS')}. Start it, name its "
            "token by RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or unset RAY_ADDRESS to run here."
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ended_by)  # Ray has set its own, which ends a driver with no word
    print_once(own)


def print_once(own: Mapping[str, Any]) -> None:
    where = "a local Ray was started" if own else f"joined Ray at {os.environ['RAY_ADDRESS']}"
    print(f"  {where}", file=sys.stderr)
