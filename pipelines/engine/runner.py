"""
Running a plan: what is done is found in the store, what is ready runs, and every end is safe.

A run can be killed at any instruction. `run` again finds the manifests that were committed, continues training from
the last checkpoints in scratch, and does the rest.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipelines.engine.context import events
from pipelines.engine.executors import Executor
from pipelines.engine.store import Lease, Store

ATTEMPTS = {"transient": 4, "preempted": 3}
"""how often a step is tried, by whose error it was; any other error ends the step at once"""

RENEW = 15.0


class Watcher(Protocol):
    """Who is told what happens: the display, the tracker."""

    def began(self, node: Mapping[str, Any]) -> None: ...

    def said(self, node: Mapping[str, Any], lines: list[dict[str, Any]]) -> None: ...

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
    leases: dict[str, Lease] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    seen: dict[str, set[str]] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    _executor: Executor | None = None

    def __call__(self) -> Outcome:
        """Runs until nothing is left that could."""
        renewed = time.monotonic()
        while len(self.outcome.status) < len(self.nodes):
            self._settle()
            for node in self._ready():
                self._start(node)
            if self._executor is not None and self.leases:
                for key, outcome in self._executor.ended(0.2).items():
                    self._end(self._node(key), outcome)
            elif len(self.outcome.status) < len(self.nodes):
                time.sleep(0.2)  # another driver has the lease
            self._listen()
            if time.monotonic() - renewed > RENEW:
                renewed = time.monotonic()
                for lease in self.leases.values():
                    lease.renew()
        return self.outcome

    def cancel(self) -> None:
        """Stops what runs, and lets its leases go: the next run continues."""
        if self._executor is not None:
            self._executor.cancel()
        for lease in self.leases.values():
            lease.release()

    def _node(self, key: str) -> dict[str, Any]:
        return next(node for node in self.nodes if node["key"] == key)

    def _settle(self) -> None:
        """Finds what is already made, and what can never be."""
        for node in self.nodes:
            key = node["key"]
            if key in self.outcome.status or key in self.leases:
                continue
            manifest = self.store.manifest(key)
            if manifest is not None:
                self._finish(node, "done" if manifest.get("run") == self.run else "cached", manifest)
            elif any(self.outcome.status.get(need) in ("failed", "skipped") for need in node["needs"]):
                self._finish(node, "skipped")

    def _ready(self) -> list[dict[str, Any]]:
        def ready(node: Mapping[str, Any]) -> bool:
            open_ = node["key"] not in self.outcome.status and node["key"] not in self.leases
            waits = time.monotonic() < self.not_before.get(node["key"], 0)
            return open_ and not waits and all(self.outcome.status.get(n) in ("cached", "done") for n in node["needs"])

        return [node for node in self.nodes if ready(node)]

    def _start(self, node: dict[str, Any]) -> None:
        lease = self.store.lease(node["key"])
        if lease is None:
            return
        if self._executor is None:
            self._executor = self.executor()
        self.leases[node["key"]] = lease
        self.attempts[node["key"]] = self.attempts.get(node["key"], 0) + 1
        self._record(node, "running")
        for watcher in self.watchers:
            watcher.began(node)
        self._executor.submit(node, self.run, self.store.address)

    def _end(self, node: dict[str, Any], outcome: Mapping[str, Any]) -> None:
        key = node["key"]
        self._listen()
        self.leases.pop(key).release()
        if outcome["ok"]:
            self._finish(node, "done", self.store.manifest(key))
            return
        if self.attempts[key] < ATTEMPTS.get(outcome["kind"], 1):
            self.not_before[key] = time.monotonic() + 2.0 ** self.attempts[key]
            self._record(node, "retry", outcome["error"])
            return
        self.outcome.errors[key] = dict(outcome)
        self._finish(node, "failed", error=outcome["error"])

    def _finish(
        self, node: dict[str, Any], status: str, manifest: Mapping[str, Any] | None = None, error: str = ""
    ) -> None:
        self.outcome.status[node["key"]] = status
        self._record(node, status, error)
        for watcher in self.watchers:
            watcher.ended(node, status, manifest, error)

    def _record(self, node: Mapping[str, Any], status: str, error: str = "") -> None:
        line: dict[str, Any] = {
            "time": time.time(),
            "key": node["key"],
            "title": node["title"],
            "status": status,
            "error": error,
        }
        line["attempts"] = self.attempts.get(node["key"], 0)
        if trace := self.outcome.errors.get(node["key"], {}).get("traceback"):
            line["traceback"] = trace
        self.store.write(f"runs/{self.run}/ledger/{self.lines:05d}.json", json.dumps(line).encode())
        self.lines += 1

    def _listen(self) -> None:
        """Passes on what the running steps said."""
        for key in self.leases:
            seen = self.seen.setdefault(key, set())
            for name, lines in list(events(self.store, self.run, key, seen)):
                seen.add(name)
                for watcher in self.watchers:
                    watcher.said(self._node(key), lines)
