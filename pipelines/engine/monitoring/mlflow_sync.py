"""
MLflow: a pipeline's run with its steps as children and trials as grandchildren.

One thread of the driver sends what the steps wrote to the store. Whatever MLflow did not take stays there with a mark
of how far it got, and the next run sends the rest: a tracking server that is down delays the log and stops nothing.
Each MLflow run is tagged with its place before anything else, so that one which a killed driver made is found again.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.runtime.crash_points import point
from components.runtime.objects import Damaged, File
from components.runtime.redaction import redact, redacted
from components.runtime.serialization import decode
from components.steps.registry.versions import cause, client, experiment
from pipelines.engine.execution.context import events
from pipelines.engine.store.orphans import end, ended, left, unmark
from pipelines.engine.store.store import Store

BATCH = 500  # metrics of one request; MLflow takes 1,000
PAUSE = 2.0


@dataclass
class Ledger:
    """The part of one run that MLflow has taken: kept in the store, so that another process can go on."""

    store: Store
    run: str
    ids: dict[str, str] = field(default_factory=dict)
    """"" or a step's key or key/trial -> MLflow run id"""
    sent: dict[str, set[str]] = field(default_factory=dict)
    """a step's key -> its event files that were sent"""
    closed: list[str] = field(default_factory=list)
    experiment: str = ""
    """its id"""

    @classmethod
    def of(cls, store: Store, run: str) -> "Ledger":
        held = store.load(f"runs/{run}/mlflow.json") or {}
        sent = {key: set(names) for key, names in held.get("sent", {}).items()}
        return cls(store, run, held.get("ids", {}), sent, held.get("closed", []), held.get("experiment", ""))

    def save(self) -> None:
        sent = {key: sorted(names) for key, names in self.sent.items()}
        held = {"ids": self.ids, "sent": sent, "closed": self.closed, "experiment": self.experiment}
        self.store.save(f"runs/{self.run}/mlflow.json", held)


@dataclass
class Sender:
    """Brings MLflow up to date with one run's files."""

    store: Store
    run: str
    api: Any = None
    ledger: Ledger = field(init=False)
    made: dict[str, str] | None = None
    """place -> MLflow run id of those that an earlier driver may have made and not written down"""
    status: dict[str, str] = field(default_factory=dict)
    """a step's key -> how it ended"""
    read: set[str] = field(default_factory=set)
    """lines of the run's ledger that `status` holds"""

    def __post_init__(self) -> None:
        self.ledger = Ledger.of(self.store, self.run)

    def send(self) -> None:
        """Sends what has not been sent; whatever it raises, what was sent is marked."""
        record = self.store.record(self.run)
        if record is None:
            return
        # before the events: what a step said before it ended is then among them
        self._read_status()
        try:
            self.api = self.api or client()
            self.ledger.experiment = self.ledger.experiment or experiment(self.api, record["pipeline"])
            self._begin("", record["title"], {"rayfield.commit": record["commit"]}, record["parameters"])
            self._reopen(record)
            for node in record["nodes"]:
                if node["key"] not in self.ledger.closed:
                    self._step(node)
            self._close(record)
        finally:
            self.ledger.save()

    def _read_status(self) -> None:
        for name, line in ledger_files(self.store, self.run, self.read):
            self.read.add(name)
            self.status[line["key"]] = line["status"]

    def _begin(
        self, place: str, title: str, tags: Mapping[str, str], parameters: Mapping[str, Any], parent: str = ""
    ) -> str:
        """The MLflow run of a place: "" for the whole, a step's key, or key/trial."""
        if place not in self.ledger.ids:
            whole = {"mlflow.runName": title, "rayfield.run": self.run, "rayfield.place": place or "/", **tags}
            whole |= {"mlflow.parentRunId": parent} if parent else {}
            run_id = self._made().get(place or "/") or self._create(title, whole)
            self._parameters(run_id, parameters)
            self.ledger.ids[place] = run_id
            self.ledger.save()
        return self.ledger.ids[place]

    def _create(self, title: str, tags: Mapping[str, str]) -> str:
        point("tracking: before an MLflow run is made")
        run_id: str = self.api.create_run(self.ledger.experiment, tags=dict(tags), run_name=title).info.run_id
        point("tracking: an MLflow run is made, not written down")
        return run_id

    def _made(self) -> dict[str, str]:
        if self.made is None:
            wanted, token, self.made = f"tags.`rayfield.run` = '{self.run}'", None, {}
            while True:
                page = self.api.search_runs([self.ledger.experiment], wanted, page_token=token)
                self.made |= {run.data.tags["rayfield.place"]: run.info.run_id for run in page}
                token = page.token
                if not token:
                    break
        return self.made

    def _reopen(self, record: Mapping[str, Any]) -> None:
        """A run that was closed for dead, and is continued under its name, runs again."""
        if record.get("ended") is None and "" in self.ledger.closed:
            self.api.update_run(self.ledger.ids[""], "RUNNING")
            self.ledger.closed.clear()

    def _parameters(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(name, str(value)[:6000]) for name, value in flatten(redacted(values))]
        for start in range(0, len(flat), 100):
            self.api.log_batch(run_id, params=flat[start : start + 100])

    def _step(self, node: Mapping[str, Any]) -> None:
        key = node["key"]
        sent = self.ledger.sent.setdefault(key, set())
        for name, lines in events(self.store, self.run, key, sent):
            parent = self._begin(key, node["title"], {"rayfield.key": key}, {}, self.ledger.ids[""])
            self._lines(key, parent, lines)
            point("tracking: a step's lines are sent, not written down")
            sent.add(name)

    def _lines(self, key: str, step_run: str, lines: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics: dict[str, list[Any]] = {}
        for line in lines:
            trial = line.get("trial", "")
            tags = {"rayfield.key": key}
            target = self._begin(f"{key}/{trial}", trial, tags, {}, step_run) if trial else step_run
            when = int(line["time"] * 1000)
            if line["kind"] == "metrics":
                own = metrics.setdefault(target, [])
                own += [Metric(n, v, when, line["step"]) for n, v in line["values"].items() if v == v]
            elif line["kind"] == "params":
                self._parameters(target, line["values"])
            elif line["kind"] == "file":
                with suppress(Damaged):  # the run that makes it anew sends it
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
        words = {"done": "FINISHED", "failed": "FAILED", "cached": "FINISHED", "skipped": "KILLED"}
        over = record.get("ended") is not None
        for name, run_id in self.ledger.ids.items():
            key = name.partition("/")[0]
            status = words.get(self.status.get(key, ""), "KILLED" if over else "") if name else ""
            if not name and over:
                self._attach_report(run_id)
                status = {0: "FINISHED", 5: "KILLED"}.get(record["code"], "FAILED")
            if status and name not in self.ledger.closed:
                self.api.set_terminated(run_id, status)
                point("tracking: an MLflow run is closed, not written down")
                self.ledger.closed.append(name)

    def _attach_report(self, run_id: str) -> None:
        """The run's page, among the artifacts of its MLflow run."""
        data = self.store.read(f"runs/{self.run}/report.html")
        if data is not None and "" not in self.ledger.closed:
            self.api.log_text(run_id, data.decode(), "report.html")


def ledger_lines(store: Store, run: str) -> Iterator[dict[str, Any]]:
    """Events of the steps of a run, in order."""
    for _, line in ledger_files(store, run, set()):
        yield line


def ledger_files(store: Store, run: str, seen: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a run's ledger that are not in `seen`, by their names."""
    for name in store.names(f"runs/{run}/ledger"):
        line = store.load(f"runs/{run}/ledger/{name}") if name not in seen else None
        if line:
            yield name, line


def finish_left(store: Store, *, own: str = "", dead: bool = False) -> None:
    """Ends the runs that were left behind, and sends the rest of them."""
    for run in left(store, own=own, dead=dead):
        if end(store, run):
            point("tracking: a dead run's record is ended, MLflow not told")
            Sender(store, run).send()
        unmark(store, run)


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
        self._attempt(lambda: finish_left(self.store, own=self.sender.run))
        while not self.stop.wait(PAUSE):
            self._attempt(self.sender.send)

    def _attempt(self, send: Any) -> None:
        try:
            send()
            self.problem = ""
        except Exception as error:  # whatever MLflow raises, training goes on; finish() says what is left
            self.problem = redact(cause(error))

    def finish(self, seconds: float = 60) -> str:
        """Sends the rest. Returns what went wrong, in words; nothing when all was sent."""
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join(seconds)
        if self.thread.is_alive():
            return "MLflow did not answer in time; what it lacks waits in the store, and the next run sends it."
        self._attempt(self.sender.send)
        if self.problem:
            return f"MLflow did not take everything ({self.problem}); the rest waits in the store for the next run."
        if ended(self.store, self.sender.run):
            unmark(self.store, self.sender.run)
        return ""

    def url(self) -> dict[str, str]:
        """Step key -> MLflow run id."""
        return self.sender.ledger.ids
