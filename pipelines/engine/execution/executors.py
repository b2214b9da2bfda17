"""
Where steps run: each under a supervising Ray task, or in this process.
"""

import logging
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from components.errors import UsageError
from components.runtime import objects
from components.runtime.redaction import holds_secret, redact
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.cluster.capacity import local_cpus, parted, silent
from pipelines.engine.cluster.jobs import Unreachable, enable_token
from pipelines.engine.execution.code_snapshot import CODE, OWN, PACKED
from pipelines.engine.execution.retry import kind_of
from pipelines.engine.execution.task import work
from pipelines.engine.monitoring.logs import rescue
from pipelines.engine.store.orphans import INTERRUPTED

# RAY_MLFLOW.md 8: what a local cluster is started with; whatever the user has set wins
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what workers print goes where the step's logs are read
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TQDM": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # tables that Ray Tune prints at verbose=0
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


DEAF = 5.0
"""seconds after SIGTERM or Ctrl-C that Ray may take to notice"""
LATE = "timed out during startup"
"""what Ray says, by an error without a class of its own, where its processes did not come up"""
LOOK = 5.0
"""seconds between two looks at whether Ray itself still lives"""


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

        self.ray = ray
        self.running: dict[Any, str] = {}
        self._begin()

    def _begin(self) -> None:
        connect()
        cluster = self.ray.cluster_resources()
        self.resources: Mapping[str, float] = {k: v for k, v in cluster.items() if k in ("CPU", "GPU")}
        self.task = self.ray.remote(max_retries=0)(work)
        self.node = self.ray.get_runtime_context().get_node_id()
        self.looked = time.monotonic()

    def submit(self, node: Mapping[str, Any], run: str, address: str) -> None:
        # a step whose work others do waits and takes no CPU; as many of the rest run at once as there are CPUs
        task = self.task.options(num_cpus=node["resources"].get("own", 0.0))
        objects.use(address)
        self.running[task.remote(dict(node), run, objects.told(), dict(self.resources))] = node["key"]

    def ended(self, seconds: float) -> dict[str, dict[str, Any]]:
        done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        if not done and time.monotonic() - self.looked > LOOK:
            self.looked = time.monotonic()
            if self._is_gone():
                return self._begin_anew()
        return {self.running.pop(reference): self._outcome(reference) for reference in done}

    def _is_gone(self) -> bool:
        """True if this process's own raylet has died: Ray would wait for it for ever."""
        return not any(node["NodeID"] == self.node and node["Alive"] for node in self.ray.nodes())

    def _begin_anew(self) -> dict[str, dict[str, Any]]:
        """Leaves the Ray that is gone for another; what ran there was taken away."""
        self.ray.shutdown()
        lost, self.running = list(self.running.values()), {}
        self._begin()
        words = "Ray's own process on this machine died"
        return {key: {"ok": False, "error": words, "kind": "preempted", "code": 1, "traceback": ""} for key in lost}

    def _outcome(self, reference: Any) -> dict[str, Any]:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            rescue()
            words = " ".join(str(error).split())[:500]
            return {"ok": False, "error": words, "kind": kind_of(error), "code": 1, "traceback": str(error)}

    def cancel(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=True, recursive=True)
        self.running.clear()


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS, or starts a local one."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    enable_token()
    check_head(os.environ.get("RAY_ADDRESS", ""))
    with _signals_end_it():
        _join()


def check_head(address: str) -> None:
    """Refuses a RAY_ADDRESS where no head answers."""
    if address in ("", "local"):
        return
    address = _found() if address == "auto" else address
    if parted(address) is None:
        raise UsageError(
            f"RAY_ADDRESS is where a cluster's head listens, such as head:6379, but got {redact(address)!r}. "
            "Set it so, or unset it to run here."
        )
    if why := silent(address):
        raise Unreachable(
            f"A Ray head must answer at RAY_ADDRESS, {address}, but {why}. Start it, correct the address, or unset "
            "RAY_ADDRESS to run here."
        )


def _found() -> str:
    """The head that "auto" stands for."""
    from ray._private.services import get_ray_address_from_environment

    try:
        return get_ray_address_from_environment("auto", None)
    except ConnectionError:
        raise Unreachable("No Ray runs on this machine, but RAY_ADDRESS is auto. Start one, or unset it.") from None


def _join() -> None:
    import ray

    if ray.is_initialized():
        return
    # it says at each start that a token is asked for: what a user can do about tokens is in our own errors
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # "local", or Ray would join whatever cluster was last started on this machine, by whomever
    own = {"address": "local", "num_cpus": local_cpus(), "include_dashboard": False}
    own = {} if os.environ.get("RAY_ADDRESS") else own
    try:
        ray.init(
            log_to_driver=bool(os.environ.get("RAYFIELD_DEBUG")),
            logging_level="ERROR",
            runtime_env={"env_vars": _variables(), **_sent(own), **(quoted_python() if own else {})},
            job_config=_copy_first(),
            configure_logging=False,
            **own,
        )
    except ConnectionError:
        raise Unreachable(
            f"No Ray that takes this token answers at RAY_ADDRESS, {os.environ.get('RAY_ADDRESS')}. Start it, name its "
            "token by RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or unset RAY_ADDRESS to run here."
        ) from None
    except Exception as error:
        if LATE not in str(error):
            raise
        raise Unreachable(
            "Ray starts within 30 seconds, but on this machine it did not: other programs take its processors. "
            "Run again when they are done."
        ) from None
    _print_where(own)


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """
    Lets this process's own handler have a SIGTERM while Ray starts, and once more when it has.

    Ray's handlers end the process their own way, with exit code 15 or a dump; and an exception that a handler raises
    may be lost among Ray's callbacks and imports.
    """
    ours, install, came = signal.getsignal(signal.SIGTERM), signal.signal, list[int]()
    if ours is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def noted(number: int, frame: Any) -> None:
        came.append(number)
        if callable(ours):
            ours(number, frame)
        else:  # to end at once is what the system does by default
            install(number, ours)
            signal.raise_signal(number)

    def others(number: int, handler: Any) -> Any:
        return ours if number == signal.SIGTERM else install(number, handler)

    install(signal.SIGTERM, noted)
    signal.signal = others  # type: ignore[assignment]
    try:
        with _ended_if_deaf((signal.SIGTERM, signal.SIGINT)):
            yield
    finally:
        signal.signal = install
        install(signal.SIGTERM, ours)
    if came:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def _ended_if_deaf(numbers: Collection[int]) -> Iterator[None]:
    """
    Ends this process some seconds after one of these signals, if what is inside does not end by itself.

    Python's handlers wait while Ray's C++ waits for a head that went away; the file that signals are noted in does not.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def watch() -> None:
        while (said := os.read(heard, 1)) and said[0] not in numbers:
            pass
        if said and not select.select([over], [], [], DEAF)[0]:
            os.write(2, b"  Interrupted: Ray did not answer. The same command continues.\n")
            os._exit(INTERRUPTED)

    over, end = os.pipe()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(end)
        os.close(told)
        watcher.join()
        os.close(heard)
        os.close(over)


def _variables() -> dict[str, str]:
    """
    Variables of this process's environment that the workers are told.

    Ray shows it to whoever asks. A Ray that is started here gives its workers the secrets of this process anyway, and
    the nodes of a cluster have their own.
    """
    passed = ("RAYFIELD_", "MLFLOW_", "AWS_", "FSSPEC_", "NUMBA_", "OMP_", *SETTINGS)
    found = {
        name: value for name, value in os.environ.items() if name.startswith(passed) and not holds_secret(name, value)
    }
    # workers import the run's own copy of the code, whatever is saved meanwhile, wherever the driver was started
    code = os.environ.get(CODE) or str(ROOT)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [code, *_own(), os.environ.get("PYTHONPATH", "")]))
    found.setdefault("NUMBA_CACHE_DIR", str(objects.scratch_root() / "numba"))
    return found


def _copy_first() -> Any:
    """
    Has workers look for modules in the run's copy before the folder that the driver was started in.

    Ray puts that folder in front of all that PYTHONPATH names: a file that is saved there while a run goes on would be
    imported by every worker that starts later.
    """
    from ray.job_config import JobConfig

    class CopyFirst(JobConfig):
        def _serialize(self) -> Any:
            if code := os.environ.get(CODE):
                self._py_driver_sys_path.append(code)  # each is put before those named earlier
            return super()._serialize()

    return CopyFirst()


def quoted_python() -> dict[str, str]:
    """
    This Python for the workers of a Ray that is started here, where a shell would take its path for several words.

    Ray hands the path to bash without quotes: no worker starts from an environment in a folder with a space.
    """
    quoted = shlex.quote(sys.executable)
    return {} if quoted == sys.executable else {"py_executable": quoted}


def _sent(own: Mapping[str, Any]) -> dict[str, str]:
    """The code, where other machines have to be sent it; a job was sent its own."""
    code = os.environ.get(CODE)
    return {"working_dir": code} if code and not own and not os.environ.get(PACKED) else {}


def _own() -> list[str]:
    """The folder of a job in which a pipeline of one's own lies."""
    return [str(ROOT / OWN)] if os.environ.get(PACKED) and (ROOT / OWN).is_dir() else []


def _print_where(own: Mapping[str, Any]) -> None:
    where = "a local Ray was started" if own else f"joined Ray at {os.environ['RAY_ADDRESS']}"
    print(f"  {where}", file=sys.stderr)
