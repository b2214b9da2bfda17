"""
Running a plan: what is done is found in the store, what is ready runs, and every end is safe.

A run can be killed at any instruction. `run` again finds the manifests that were committed, continues training from
the last checkpoints in scratch, and does the rest.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from components.runtime.crash_points import point
from pipelines.engine.execution.context import events
from pipelines.engine.execution.executors import Executor
from pipelines.engine.store.store import Lease, Store, sealed


@dataclass(frozen=True)
class Budget:
    """How often a step is tried again after errors of one class, and how long it waits before."""

    retries: int
    first: float
    """seconds, the most before the first retry; twice as many before each one after it"""
    most: float

    def wait(self, retry: int, chance: float) -> float:
        """Exponential backoff with full jitter: those who failed together do not come back together."""
        return chance * min(self.most, self.first * 2.0 ** (retry - 1))


BUDGETS = {
    "transient": Budget(retries=8, first=2.0, most=60.0),  # two minutes on average: a server that is restarted
    "preempted": Budget(retries=8, first=1.0, most=30.0),
    "memory": Budget(retries=2, first=10.0, most=60.0),
    "damaged": Budget(retries=3, first=0.0, most=0.0),
}
"""by class; an error of any other class (user, data, code) ends the step at once: it would only be made again"""

POLL = 0.2
RENEW = 15.0


class Watcher(Protocol):
    """Who is told what happens: the display, the tracker."""

    def began(self, node: Mapping[str, Any]) -> None: ...

    def said(self, node: Mapping[str, Any], lines: list[dict[str, Any]]) -> None: ...

    def retried(self, node: Mapping[str, Any], error: str, wait: float) -> None: ...

    def ended(self, node: Mapping[str, Any], status: str, manifest: Mapping[str, Any] | None, error: str) -> None: ...


@dataclass
class Outcome:
    """How each node of a run ended."""

    status: dict[str, str] = field(default_factory=dict)
    """key -> cached, done, failed, skipped"""
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(status in ("cached", "done") for status in self.status.values())


@dataclass
class Runner:
    """One run of one plan."""

    store: Store
    run: str
    nodes: list[dict[str, Any]]
    executor: Callable[[], Executor]
    """made when the first node must run: an all-cached run needs none"""
    watchers: list[Watcher] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    held: list[Lease] = field(default_factory=list)
    """leases of others that are renewed with its own: the run's"""
    check: Callable[[], None] = lambda: None
    """raises KeyboardInterrupt when the run is to end"""
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    leases: dict[str, Lease] = field(default_factory=dict)
    retries: dict[str, Counter[str]] = field(default_factory=dict)
    """key -> how often it was tried again, by the class of the error"""
    seen: dict[str, set[str]] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    renewed: float = 0.0
    lines: int = 0
    _executor: Executor | None = None

    def __call__(self) -> Outcome:
        """Runs until nothing is left that could."""
        self.renewed = self.now()
        self.lines = len(self.store.names(f"runs/{self.run}/ledger"))
        self._settle(self.nodes)
        while len(self.outcome.status) < len(self.nodes):
            self.check()
            for node in self._ready():
                self._start(node)
            if self._executor is not None and self.leases:
                for key, outcome in self._executor.ended(POLL).items():
                    self._end(self._node(key), outcome)
            else:
                self.sleep(POLL)  # another driver has the lease, or an error is waited out
            self._listen()
            self._renew()
            self._settle(self._ready())
            self._skip()
        return self.outcome

    def _renew(self) -> None:
        if self.now() - self.renewed > RENEW:
            self.renewed = self.now()
            for lease in [*self.leases.values(), *self.held]:
                lease.renew()

    def cancel(self) -> None:
        """Stops what runs, and lets its leases go: the next run continues."""
        if self._executor is not None:
            self._executor.cancel()
        for lease in self.leases.values():
            lease.release()

    @cached_property
    def _by_key(self) -> dict[str, dict[str, Any]]:
        return {node["key"]: node for node in self.nodes}

    def _node(self, key: str) -> dict[str, Any]:
        return self._by_key[key]

    @cached_property
    def _behind(self) -> dict[str, list[str]]:
        """Key -> the modules of the steps that led there: results bring code along, as a checkpoint its family."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:  # each stands behind what it needs
            names = {name for key in node["needs"] for name in (*found[key], *self._node(key)["modules"])}
            found[node["key"]] = sorted(names)
        return found

    def _settle(self, nodes: list[dict[str, Any]]) -> None:
        """Finds what is already made: by an earlier run, or by another driver."""
        for node in nodes:
            manifest = self.store.manifest(node["key"])
            if manifest is not None:
                self._finish(node, "done" if manifest.get("run") == self.run else "cached", manifest)

    def _skip(self) -> None:
        """Gives up what can never be made. A node comes after those that it needs."""
        for node in self.nodes:
            failed = any(self.outcome.status.get(need) in ("failed", "skipped") for need in node["needs"])
            if failed and node["key"] not in self.outcome.status:
                self._finish(node, "skipped")

    def _ready(self) -> list[dict[str, Any]]:
        def ready(node: Mapping[str, Any]) -> bool:
            open_ = node["key"] not in self.outcome.status and node["key"] not in self.leases
            waits = self.now() < self.not_before.get(node["key"], 0)
            return open_ and not waits and all(self.outcome.status.get(n) in ("cached", "done") for n in node["needs"])

        return [node for node in self.nodes if ready(node)]

    def _start(self, node: dict[str, Any]) -> None:
        point("runner: before the lease")
        lease = self.store.lease(node["key"])
        if lease is None:
            return
        point("runner: lease held")
        if self.store.manifest(node["key"]) is not None:  # another driver made it since we looked, and let go
            lease.release()
            return
        if self._executor is None:
            self._executor = self.executor()
        self.leases[node["key"]] = lease
        self._record(node, "running")
        for watcher in self.watchers:
            watcher.began(node)
        self._executor.submit({**node, "behind": self._behind[node["key"]]}, self.run, self.store.address)

    def _end(self, node: dict[str, Any], outcome: Mapping[str, Any]) -> None:
        key = node["key"]
        self._listen()
        point("runner: a step ended, its lease still held")
        self.leases.pop(key).release()
        point("runner: a step ended, its lease let go")
        if outcome["ok"]:
            self._finish(node, "done", self.store.manifest(key))
        elif not self._retry(node, outcome):
            self.outcome.errors[key] = dict(outcome)
            self._finish(node, "failed", error=outcome["error"])

    def _retry(self, node: dict[str, Any], outcome: Mapping[str, Any]) -> bool:
        """Has a step tried again, if the budget of the error's class is not spent."""
        key, kind = node["key"], outcome["kind"]
        spent = self.retries.setdefault(key, Counter())
        if kind not in BUDGETS or spent[kind] >= BUDGETS[kind].retries:
            return False
        spent[kind] += 1
        if kind == "damaged":
            self._reopen()
        # of the run and the key: a test knows it beforehand, and no two drivers wait alike
        chance = random.Random(f"{self.run}/{key}/{kind}/{spent[kind]}").random()
        wait = BUDGETS[kind].wait(spent[kind], chance)
        self.not_before[key] = self.now() + wait
        self._record(node, "retry", outcome["error"], kind=kind, wait=round(wait, 3), traceback=outcome["traceback"])
        for watcher in self.watchers:
            watcher.retried(node, outcome["error"], wait)
        return True

    def _reopen(self) -> None:
        """Has every step that lost an object make it anew."""
        self.store.look_again()
        for node in self.nodes:
            if self.outcome.status.get(node["key"]) in ("cached", "done") and not self.store.manifest(node["key"]):
                del self.outcome.status[node["key"]]

    def _finish(
        self, node: dict[str, Any], status: str, manifest: Mapping[str, Any] | None = None, error: str = ""
    ) -> None:
        point("runner: a step ended, not in the run's ledger")
        self.outcome.status[node["key"]] = status
        failure = self.outcome.errors.get(node["key"], {})
        self._record(node, status, error, **{n: failure[n] for n in ("kind", "traceback") if n in failure})
        point("runner: a step ended, in the run's ledger")
        for watcher in self.watchers:
            watcher.ended(node, status, manifest, error)

    def _record(self, node: Mapping[str, Any], status: str, error: str = "", **more: Any) -> None:
        """Appends a line to the run's ledger, which other drivers of the same run append to as well."""
        attempts = 1 + sum(self.retries.get(node["key"], Counter()).values()) - (status == "retry")
        line = {"time": time.time(), "key": node["key"], "title": node["title"], "status": status, "error": error}
        data = sealed({**line, "attempts": 0 if status in ("cached", "skipped") else attempts, **more})
        self.lines += 1
        while not self.store.create(f"runs/{self.run}/ledger/{self.lines:05d}.json", data):
            self.lines += 1

    def _listen(self) -> None:
        """Passes on what the running steps said."""
        for key in self.leases:
            seen = self.seen.setdefault(key, set())
            for name, lines in list(events(self.store, self.run, key, seen)):
                seen.add(name)
                for watcher in self.watchers:
                    watcher.said(self._node(key), lines)
