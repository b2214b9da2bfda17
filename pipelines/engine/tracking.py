"""
MLflow: a pipeline's run with its steps as children and trials as grandchildren.

One thread of the driver sends what the steps wrote to the store. Whatever MLflow did not take stays there with a mark
of how far it got, and the next run sends the rest: a tracking server that is down delays the log and stops nothing.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.files import File
from components.plain import decode
from components.secrets import redacted
from components.steps.register import client, experiment
from pipelines.engine.code import ROOT
from pipelines.engine.context import events
from pipelines.engine.store import Store, _free

BATCH = 500  # metrics of one request; MLflow takes 1,000
PAUSE = 2.0


def commit() -> str:
    """The git commit of the project, with "+" where files differ from it."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()


@dataclass
class Ledger:
    """What MLflow has taken of one run: kept in the store, so that another process can go on."""

    store: Store
    run: str
    ids: dict[str, str] = field(default_factory=dict)
    """"" or a step's key or key/trial -> MLflow run id"""
    sent: dict[str, int] = field(default_factory=dict)
    """event file -> lines sent"""
    closed: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, store: Store, run: str) -> "Ledger":
        held = store.load(f"runs/{run}/mlflow.json") or {}
        return cls(store, run, held.get("ids", {}), held.get("sent", {}), held.get("closed", []))

    def save(self) -> None:
        held = {"ids": self.ids, "sent": self.sent, "closed": self.closed}
        self.store.write(f"runs/{self.run}/mlflow.json", json.dumps(held).encode())


@dataclass
class Sender:
    """Brings MLflow up to date with one run's files."""

    store: Store
    run: str
    api: Any = None
    ledger: Ledger = field(init=False)
    experiment_id: str = ""

    def __post_init__(self) -> None:
        self.ledger = Ledger.of(self.store, self.run)

    def send(self) -> None:
        """Sends what has not been sent; whatever it raises, what was sent is marked."""
        record = self.store.load(f"runs/{self.run}/run.json")
        if record is None:
            return
        try:
            self.api = self.api or client()
            self.experiment_id = self.experiment_id or experiment(self.api, record["pipeline"])
            tags = {"rayfield.run": self.run, "rayfield.commit": record["commit"]}
            self._begin("", record["title"], None, tags, record["parameters"])
            for node in record["nodes"]:
                self._step(node)
            self._close(record)
        finally:
            self.ledger.save()

    def _begin(
        self, name: str, title: str, parent: str | None, tags: Mapping[str, str], parameters: Mapping[str, Any]
    ) -> str:
        if name in self.ledger.ids:
            return self.ledger.ids[name]
        whole = {"mlflow.runName": title, **tags} | ({"mlflow.parentRunId": parent} if parent else {})
        run_id = self.api.create_run(self.experiment_id, tags=whole, run_name=title).info.run_id
        self.ledger.ids[name] = run_id
        self.ledger.save()
        self._parameters(run_id, parameters)
        return run_id

    def _parameters(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(name, str(value)[:6000]) for name, value in flatten(redacted(values))]
        for start in range(0, len(flat), 100):
            self.api.log_batch(run_id, params=flat[start : start + 100])

    def _step(self, node: Mapping[str, Any]) -> None:
        parts = list(events(self.store, self.run, node["key"], set()))
        for name, lines in parts:
            place = f"{node['key']}/{name}"
            fresh = lines[self.ledger.sent.get(place, 0) :]
            if fresh:
                tags = {"rayfield.key": node["key"]}
                parent = self._begin(node["key"], node["title"], self.ledger.ids[""], tags, {})
                self._lines(node["key"], parent, fresh)
                self.ledger.sent[place] = len(lines)

    def _lines(self, key: str, step_run: str, lines: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics: dict[str, list[Any]] = {}
        for line in lines:
            trial = line.get("trial", "")
            target = self._begin(f"{key}/{trial}", trial, step_run, {"rayfield.key": key}, {}) if trial else step_run
            when = int(line["time"] * 1000)
            if line["kind"] == "metrics":
                own = metrics.setdefault(target, [])
                own += [Metric(n, v, when, line["step"]) for n, v in line["values"].items() if v == v]
            elif line["kind"] == "params":
                self._parameters(target, line["values"])
            elif line["kind"] == "file":
                self._artifact(target, line)
        for target, own in metrics.items():
            for start in range(0, len(own), BATCH):
                self.api.log_batch(target, metrics=own[start : start + BATCH])

    def _artifact(self, target: str, line: Mapping[str, Any]) -> None:
        import tempfile

        file: File = decode(line["file"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(line["name"]).name
            path.write_bytes(file.read())
            self.api.log_artifact(target, str(path), line["folder"])

    def _close(self, record: Mapping[str, Any]) -> None:
        """Ends the runs of what has ended: nothing says RUNNING for ever."""
        statuses = {line["key"]: line["status"] for line in ledger_lines(self.store, self.run)}
        words = {"done": "FINISHED", "failed": "FAILED", "cached": "FINISHED", "skipped": "KILLED"}
        over = record.get("ended") is not None
        for name, run_id in self.ledger.ids.items():
            key = name.partition("/")[0]
            status = words.get(statuses.get(key, ""), "KILLED" if over else "") if name else ""
            if not name and over:
                self._attach_report(run_id)
                status = {0: "FINISHED", 5: "KILLED"}.get(record["code"], "FAILED")
            if status and name not in self.ledger.closed:
                self.api.set_terminated(run_id, status)
                self.ledger.closed.append(name)

    def _attach_report(self, run_id: str) -> None:
        """The run's page, among the artifacts of its MLflow run."""
        data = self.store.read(f"runs/{self.run}/report.html")
        if data is not None and "" not in self.ledger.closed:
            self.api.log_text(run_id, data.decode(), "report.html")


def ledger_lines(store: Store, run: str) -> Iterator[dict[str, Any]]:
    """How each step of a run ended, in order."""
    for name in store.names(f"runs/{run}/ledger"):
        line = store.load(f"runs/{run}/ledger/{name}")
        if line:
            yield line


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested parameters as dotted names."""
    for name, value in values.items():
        if name == "@":
            yield f"{prefix}kind", str(value).rpartition(":")[2]
        elif isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class Tracker:
    """Sends in a thread of its own while the run goes on; older runs that were left behind go first."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.sender = store, Sender(store, run)
        self.stop = threading.Event()
        self.problem = ""
        self.thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def _work(self) -> None:
        self._attempt(self._behind)
        while not self.stop.wait(PAUSE):
            self._attempt(self.sender.send)

    def _attempt(self, send: Any) -> None:
        try:
            send()
            self.problem = ""
        except Exception as error:  # whatever MLflow raises, training goes on; finish() says what is left
            self.problem = " ".join(str(error).split())[:300]

    def _behind(self) -> None:
        for name, record in self.store.runs():
            if name != self.sender.run and not record.get("tracked") and _is_over(self.store, name, record):
                Sender(self.store, name).send()
                _mark(self.store, name)

    def finish(self, seconds: float = 60) -> str:
        """Sends the rest. Returns what went wrong, in words; nothing when all was sent."""
        self.stop.set()
        self.thread.join(seconds)
        if self.thread.is_alive():
            return "MLflow did not answer in time; what it lacks waits in the store, and the next run sends it."
        self._attempt(self.sender.send)
        if self.problem:
            return f"MLflow did not take everything ({self.problem}); the rest waits in the store for the next run."
        _mark(self.store, self.sender.run)
        return ""

    def url(self) -> dict[str, str]:
        """Step key -> MLflow run id."""
        return self.sender.ledger.ids


def _is_over(store: Store, run: str, record: dict[str, Any]) -> bool:
    """Whether nobody sends a run any more. One whose driver is gone has ended: it is said here."""
    if record.get("ended") is not None:
        return True
    if not _free({**record["owner"], "until": record["started"] + 7 * 86400}):
        return False  # its own driver sends it; two senders would begin every MLflow run twice
    store.write(f"runs/{run}/run.json", json.dumps({**record, "ended": time.time(), "code": 5}).encode())
    return True


def _mark(store: Store, run: str) -> None:
    record = store.load(f"runs/{run}/run.json")
    if record and record.get("ended") is not None:
        store.write(f"runs/{run}/run.json", json.dumps({**record, "tracked": True}).encode())
