"""
The forecast of a run: each step with why it runs, what it takes, and what it will cost by what it cost before. A plan
that could never be scheduled is refused here, by the arithmetic that the step itself would use.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import Infeasible
from pipelines.engine.caching.invalidation import Nodes, Reasons
from pipelines.engine.cluster.capacity import Cluster, cluster
from pipelines.engine.store.store import Store


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run."""

    steps: list[dict[str, Any]]
    """step, key, action, why, seconds and bytes (None: unknown), resources"""
    where: Cluster | None
    """None where nothing would run"""
    free: int | None
    """bytes at the store; None for a bucket"""
    refused: list[str]
    """why it could never be scheduled"""

    @property
    def waiting(self) -> list[dict[str, Any]]:
        return [row for row in self.steps if row["action"] == "run"]

    def total(self, what: str) -> tuple[float, int]:
        """The sum of what is known of the steps that would run, and of how many it is not known."""
        known = [row[what] for row in self.waiting if row[what] is not None]
        return sum(known), len(self.waiting) - len(known)

    def said(self) -> dict[str, Any]:
        """The forecast as JSON would hold it."""
        seconds, unknown = self.total("seconds")
        return {
            "steps": self.steps,
            "run": len(self.waiting),
            "seconds": seconds,
            "bytes": self.total("bytes")[0],
            "unknown": unknown,
            "free": self.free,
            "cluster": self.where.describe() if self.where else None,
            "refused": self.refused,
        }


def forecast(nodes: Nodes, manifests: Mapping[str, Any], store: Store) -> Forecast:
    reasons = Reasons(store, nodes, manifests)
    there = cluster() if not all(manifests.values()) else None
    steps = [_row(node, manifests[node["key"]], reasons) for node in nodes]
    refused = list(refusals(nodes, manifests, there)) if there else []
    free = None if store.remote else shutil.disk_usage(_existing(Path(store.address))).free
    return Forecast(steps, there, free, refused)


def check(nodes: Nodes, manifests: Mapping[str, Any]) -> None:
    """Refuses a plan of which a step could never be scheduled."""
    for refused in refusals(nodes, manifests, cluster()):
        raise Infeasible(refused)


def refusals(nodes: Nodes, manifests: Mapping[str, Any], there: Cluster) -> Iterator[str]:
    """Each step that would run and could never be scheduled, with the arithmetic."""
    if not there.machines:  # the step itself asks again, once the cluster is joined
        return
    from components.steps.ray_workers import check_workers

    for node in nodes:
        own = node["parameters"]
        if manifests[node["key"]] is None and _is_workers(own.get("workers")):
            try:
                check_workers(_workers(own["workers"]), own.get("gpus", 0.0), there.resources, there.machines)
            except Infeasible as error:
                yield f"{node['title']} could never be scheduled. {error}"


def _workers(value: Any) -> int | tuple[int, int]:
    """A number, or the least and the most: a plan has them as a list."""
    return value if isinstance(value, int) else (value[0], value[1])


def _is_workers(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list | tuple) and all(isinstance(n, int) for n in value))


def _row(node: Mapping[str, Any], manifest: Mapping[str, Any] | None, reasons: Reasons) -> dict[str, Any]:
    before = manifest or reasons.earlier(node)
    return {
        "step": node["title"],
        "key": node["key"],
        "action": "keep" if manifest else "run",
        "why": "" if manifest else reasons.short(node),
        "seconds": before["cost"]["seconds"] if before else None,
        "bytes": size_of(before["result"]) if before else None,
        "resources": node["resources"],
    }


def size_of(value: Any) -> int:
    """The bytes of every file that a result names."""
    if isinstance(value, Mapping):
        own = value["size"] if str(value.get("@")).rpartition(":")[2] == "File" else 0
        return own + sum(map(size_of, value.values()))
    return sum(map(size_of, value)) if isinstance(value, list) else 0


def _existing(path: Path) -> Path:
    path = path.resolve()
    return path if path.exists() else _existing(path.parent)
