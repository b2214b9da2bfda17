"""
A run, read from the store alone: the commands that show runs, and the report, are made of this.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.errors import DataError, RayfieldError, UsageError, nearest
from components.runtime.objects import Damaged, File, tracking_uri
from components.runtime.redaction import redact
from components.runtime.serialization import decode
from pipelines.engine.caching.invalidation import Reasons
from pipelines.engine.cluster.submissions import Submission, settle
from pipelines.engine.monitoring.events import events
from pipelines.engine.store.store import Store

STATES = {0: "done", 3: "refused", 5: "interrupted"}
"""how a run ended, by its exit code; any other is "failed\""""

PHRASES = 4
"""reasons of one step that are told"""
UNREAD = 20
"""assets in quarantine that a run's page names"""


@dataclass
class Step:
    """One step of a run, and what became of it."""

    key: str
    title: str
    step: str
    """components.steps.train:train"""
    needs: tuple[str, ...]
    status: str = "waiting"
    """waiting, running, retry, cached, done, failed, skipped or interrupted"""
    began: float | None = None
    """when its last attempt began"""
    ended: float | None = None
    attempts: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    """ledger lines of the attempts that failed and were made again, and of the error that ended it"""
    starts: list[float] = field(default_factory=list)
    manifest: dict[str, Any] | None = None

    @property
    def seconds(self) -> float | None:
        """Seconds that its result took to make, in this run or in the one that it is kept from."""
        cost = (self.manifest or {}).get("cost", {}).get("seconds")
        return cost if cost is not None or not self.ended or not self.began else self.ended - self.began

    @property
    def cost(self) -> dict[str, float]:
        return (self.manifest or {}).get("cost", {})

    @property
    def error(self) -> str:
        return self.failures[-1]["error"] if self.failures and self.status in ("failed", "retry") else ""

    @property
    def what(self) -> str:
        """Its outcome in one line."""
        return self.error or (self.manifest or {}).get("describe", "")

    @property
    def also(self) -> list[str]:
        """Inputs that are in no key, read while its result was made."""
        return [redact(one) for one in (self.manifest or {}).get("also", [])]

    def made_in(self, run: str) -> str:
        """The run whose logs and numbers are this step's."""
        return (self.manifest or {}).get("run", run) if self.status == "cached" else run


@dataclass
class Run:
    """One run: its record, its state now, and its steps in the order of the plan."""

    name: str
    record: dict[str, Any]
    state: str
    """submitted, running, done, failed, refused, interrupted"""
    steps: list[Step]
    ids: dict[str, str]
    """"" or a step's key or key/trial -> MLflow run"""
    experiment: str = ""
    """MLflow's id of the pipeline's experiment"""

    @property
    def seconds(self) -> float:
        last = self.record.get("ended") or max((s.ended or s.began or 0 for s in self.steps), default=0)
        return max(0.0, last - self.record["started"])

    @property
    def page(self) -> str:
        """MLflow's page of the run: its address where a server has it, else how to open one."""
        server, run = tracking_uri().rstrip("/"), self.ids.get("", "")
        if server.startswith(("http://", "https://")):
            return redact(f"{server}/#/experiments/{self.experiment}/runs/{run}")
        return f"run {run}, experiment {self.record['pipeline']}: `rayfield ui`"

    def count(self, *statuses: str) -> int:
        return sum(step.status in statuses for step in self.steps)


def open_run(store: Store, name: str) -> Run:
    """A run by its whole name."""
    found = store.record(name)
    if found is None:
        raise _no_record(store, name)
    record = _settled(store, name, found)
    state = state_of(store, name, record)
    steps = {node["key"]: _step(node) for node in record["nodes"]}
    for line in _ledger(store, name):
        if line["key"] in steps:
            _tell(steps[line["key"]], line)
    for step in steps.values():
        if step.status in ("done", "cached"):
            step.manifest = store.manifest(step.key)
        elif step.status in ("running", "retry") and state != "running":
            step.status, step.ended = "interrupted", record.get("ended")
    sent = store.load(f"runs/{name}/mlflow.json") or {}
    return Run(name, record, state, list(steps.values()), sent.get("ids", {}), sent.get("experiment", ""))


def _step(node: Mapping[str, Any]) -> Step:
    return Step(node["key"], node["title"], node["step"], tuple(node.get("needs", ())))


def _ledger(store: Store, run: str) -> Iterator[dict[str, Any]]:
    for name in store.names(f"runs/{run}/ledger"):
        line = store.load(f"runs/{run}/ledger/{name}")
        if line:
            yield line


def _tell(step: Step, line: Mapping[str, Any]) -> None:
    """Brings a step up to a line of the ledger."""
    step.status, step.attempts = line["status"], max(step.attempts, line.get("attempts", 0))
    if line["status"] == "running":
        step.began, step.ended = line["time"], None
        step.starts.append(line["time"])
    else:
        step.ended = line["time"]
    if line.get("error"):
        step.failures.append(dict(line))


def state_of(store: Store, name: str, record: Mapping[str, Any]) -> str:
    """How a run is: one whose driver is gone without a word was interrupted."""
    record = _settled(store, name, record)
    if record.get("ended") is not None:
        return STATES.get(record["code"], "failed")
    if store.held(f"run-{name}"):
        return "running"
    return "submitted" if Submission.of(store, name) else "interrupted"


def _settled(store: Store, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record; of one that was handed to a cluster, and that nobody works on, with what the cluster says."""
    idle = record.get("ended") is None and not store.held(f"run-{name}")
    return settle(store, name, dict(record)) if idle else dict(record)


def find(store: Store, name: str = "last") -> str:
    """The whole name of a run: "last", a beginning that only one run has, or of its last part."""
    known = sorted(store.names("runs"), reverse=True)
    if name == "last" and not known:
        raise UsageError(f"There is no run in {store.address} yet. `rayfield run quickstart` makes one.")
    if name == "last":
        return next((run for run, _ in store.runs()), known[0])
    found = [run for run in known if run == name] or [
        run for run in known if run.startswith(name) or run.rpartition("-")[2].startswith(name)
    ]
    if len(found) == 1 and store.record(found[0]) is None:
        raise _no_record(store, found[0])
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{name!r} begins {len(found)} runs: {', '.join(found[:4])}. Write more of it.")
    raise UsageError(f"No run {name!r} in {store.address}.{nearest(name, known)} `rayfield runs` lists them.")


def _no_record(store: Store, run: str) -> RayfieldError:
    """Why a run cannot be looked at."""
    if said := store.damaged_records().get(run):
        return DataError(said)
    return UsageError(f"A run must have its record, but gc removed that of {run}. `rayfield runs` lists others.")


def find_step(run: Run, name: str) -> Step:
    """A step by its title or its key, or by a beginning that only one step has."""
    exact = [step for step in run.steps if name in (step.title, step.key)]
    found = exact or [step for step in run.steps if step.title.startswith(name) or step.key.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        ways = ", ".join(f"{step.title} ({step.key[:8]})" for step in found[:6])
        raise UsageError(f"{name!r} names {len(found)} steps: {ways}. Name it by its key.")
    titles = [step.title for step in run.steps]
    raise UsageError(f"Run {run.name} has no step {name!r}.{nearest(name, titles)} It has {', '.join(titles)}.")


@dataclass
class Said:
    """A step's own words: numbers by update, parameters, files, how far it is."""

    curves: dict[str, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)
    """trial, "" for the step itself -> name -> (update, value)"""
    params: dict[str, Any] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    damaged: bool = False
    """whether part of it is lost"""


def said(store: Store, run: str, key: str) -> Said:
    """A step's own words in a run, whichever of its processes said them."""
    found = Said()
    lines = [line for _, own in events(store, run, key, set()) for line in own]
    for line in sorted(lines, key=lambda line: line["time"]):
        trial = line.get("trial", "")
        if line["kind"] == "metrics":
            found.latest = line["values"]
            for name, value in line["values"].items():
                found.curves.setdefault(trial, {}).setdefault(name, []).append((line["step"], value))
        elif line["kind"] == "params" and not trial:
            found.params.update(line["values"])
        elif line["kind"] == "file":
            found.files.append(line)
        elif line["kind"] == "progress":
            found.progress = line
        elif line["kind"] == "damaged":
            found.damaged = True
    return found


def quarantined(store: Store, manifest: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Asset and reason of each that a table's step could not read; nothing of other steps."""
    result = (manifest or {}).get("result")
    # a table that `predict` made hands on the quarantine of the one that it read, and counts none
    if not (isinstance(result, Mapping) and isinstance(result.get("counts"), Mapping)):
        return []
    if not result["counts"].get("quarantined"):
        return []
    data = store.open(decode(result["quarantine"]))
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    return sorted((redact(row["id"]), redact(" ".join(_reason(row).split()))) for row in rows)


def _reason(row: Mapping[str, Any]) -> str:
    """Why an asset is in quarantine; a table of before this was kept does not say who refused it."""
    by = row.get("by")
    return f"{row['reason']} (refused by {by})" if by else row["reason"]


def set_damaged_aside(store: Store, manifests: Iterable[Mapping[str, Any] | None], *, figures: bool) -> list[str]:
    """
    Reads what a run's end shows of kept steps: quarantine lists and, for its report, histories, `figures` and files.

    What is damaged is set aside, whereupon the store forgets the manifest that names it. Returns what was found.
    """
    found = []
    for file in {file for manifest in manifests if manifest for file in _shown(manifest, figures)}:
        try:
            store.open(file)
        except Damaged as error:
            found.append(str(error))
    if found:
        store.look_again()
    return found


def _shown(manifest: Mapping[str, Any], figures: bool) -> Iterator[File]:
    result = manifest.get("result")
    said = result if isinstance(result, Mapping) else {}
    if isinstance(said.get("counts"), Mapping) and said["counts"].get("quarantined"):
        yield decode(said["quarantine"])
    if figures and isinstance(said.get("history"), Mapping):
        yield decode(said["history"])
    yield from map(decode, manifest.get("files", ()) if figures else ())


def history(store: Store, manifest: Mapping[str, Any] | None) -> dict[str, list[tuple[int, float]]]:
    """The curves that a checkpoint holds: those of its whole training, whichever runs did it."""
    result = (manifest or {}).get("result")
    held = result.get("history") if isinstance(result, dict) else None
    data = store.open(decode(held)) if held else b""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, data.splitlines()):
        for name, value in line.items():
            if name != "step":
                curves.setdefault(name, []).append((line["step"], value))
    return curves


def whys(run: Run, store: Store) -> dict[str, str]:
    """Why each step ran, or did not."""
    found = {step.key: _why(step) for step in run.steps}
    made = {step.key: {**step.manifest, "needs": step.needs} for step in run.steps if step.manifest}
    reasons = Reasons(store, list(made.values()), made)
    for step in run.steps:
        if step.status == "done" and step.key in made:
            phrases = reasons.all(made[step.key])
            if phrases == ["new"]:
                continue
            more = f"; and {len(phrases) - PHRASES} more" if len(phrases) > PHRASES else ""
            found[step.key] = "; ".join(phrases[:PHRASES]) + more + _again(step)
    return found


def _again(step: Step) -> str:
    return f"; {step.attempts} attempts" if step.attempts > 1 else ""


def _why(step: Step) -> str:
    kept = f"kept from run {(step.manifest or {}).get('run', '')}"
    words = {
        "cached": kept,
        "skipped": "a step that it needs failed",
        "waiting": "what it needs is not made yet",
        "interrupted": "the run was interrupted while it ran",
    }
    return words.get(step.status, "there was no result under this key") + _again(step)


def duration(seconds: float | None) -> str:
    """0.04 s, 12.3 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def tree(steps: list[Step]) -> list[tuple[str, Step]]:
    """
    The steps with the lines of a tree before them: each stands under the last drawn of those that it needs.

    A step that needs several would stand in several places; the other needs are in the report's graph.
    """
    order = {step.key: place for place, step in enumerate(steps)}
    below: dict[str, list[Step]] = {}
    for step in steps:
        needs = [key for key in step.needs if key in order]
        below.setdefault(max(needs, key=order.__getitem__) if needs else "", []).append(step)

    def walk(key: str, indent: str) -> Iterator[tuple[str, Step]]:
        own = below.get(key, [])
        for place, step in enumerate(own):
            last = place == len(own) - 1
            yield indent + ("└─ " if last else "├─ "), step
            yield from walk(step.key, indent + ("   " if last else "│  "))

    return list(walk("", ""))
