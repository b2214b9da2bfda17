"""
`rayfield doctor`: what this machine has, what it lacks, and the remedy.
"""

import importlib.metadata
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.errors import RayfieldError
from components.runtime import filesystem, objects
from components.runtime.filesystem import is_remote
from components.runtime.objects import tracking_uri, where
from components.runtime.redaction import redact
from pipelines.cli.hints import with_store
from pipelines.engine.execution.retry import ours
from pipelines.engine.graph.plan_cache import LOCK
from pipelines.engine.store.store import Store

PROBE = 60.0
"""seconds for a cluster to find room for a task"""


def examine(store: Store) -> list[dict[str, Any]]:
    """A row for each check: what, found, ok."""
    checks: list[tuple[str, Callable[[Store], tuple[bool, str]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("cpus", _cpus),
        ("disk", _disk),
        ("store", _store),
        ("damage", _damage),
        ("mlflow", _mlflow),
        ("cluster", _cluster),
        ("workers", _workers),
    ]
    rows = []
    for name, check in checks:
        try:
            ok, found = check(store)
        except RayfieldError as error:
            ok, found = False, str(error)
        except Exception as error:  # a check that cannot be made is a finding
            ok, found = False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        rows.append({"what": name, "ok": ok, "found": redact(found)})
    return rows


def _python(_: Store) -> tuple[bool, str]:
    version = sys.version_info
    return (3, 11) <= version < (3, 14), f"{version.major}.{version.minor}.{version.micro} (3.11 to 3.13)"


def _packages(_: Store) -> tuple[bool, str]:
    wrong = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        name, wanted = line.split("==")
        try:
            have = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        if have != wanted:
            wrong.append(f"{name} {have}, not {wanted}")
    if any(importlib.metadata.packages_distributions().get("torchvision", [])):
        wrong.append("torchvision, which breaks transformers and torchmetrics here: pip uninstall torchvision")
    return not wrong, "; ".join(wrong) or "as constraints.txt says"


def _cpus(_: Store) -> tuple[bool, str]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return count >= 2, f"{count} (2 or more)"


def _disk(store: Store) -> tuple[bool, str]:
    place = Path("." if is_remote(store.address) else store.address)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    return free > 2, f"{free:.0f} GiB free at {place} (2 or more)"


def _store(store: Store) -> tuple[bool, str]:
    """The store must be writable, and refuse to create what exists: leases and manifests rest on it."""
    probe = f"probe/{uuid.uuid4().hex}"
    store.write(probe, b"")
    store.delete(probe)
    filesystem.prune(f"{store.address}/probe")
    if filesystem.creates_once(store.address):
        return True, f"{store.address}: writable, and creates once"
    return False, f"{store.address}: creates twice: one run at a time may use it, and a second is refused"


def _damage(store: Store) -> tuple[bool, str]:
    """Objects that readers found damaged or missing, and no run has made anew yet."""
    found = [label for label in store.names("damaged") if not _is_mended(store, label)]
    some = ", ".join(found[:3]) + (" ..." if len(found) > 3 else "")
    look = with_store("`rayfield verify` looks at all")
    if not found:
        return True, f"none was met; {look}"
    return False, f"{len(found)} set aside in {store.address}/damaged, which the next run makes anew: {some}; {look}"


def _is_mended(store: Store, label: str) -> bool:
    """True if an object that was set aside is there again, by its digest, or a file of another folder."""
    name = where(label) if "-" not in label else label.replace("-", "/", 1)
    return filesystem.look(f"{store.address}/{name}") is not None


def _mlflow(_: Store) -> tuple[bool, str]:
    from components.steps.registry.versions import client

    client().search_experiments(max_results=1)
    return True, tracking_uri()


def _workers(store: Store) -> tuple[bool, str]:
    """A Ray task and a worker of Ray Train read the store and write it: they may be elsewhere, or somebody else."""
    import ray

    from components.steps.ray_workers import on_workers, probe, probe_worker
    from pipelines.engine.execution.executors import connect

    connect()
    scratch = f"scratch/doctor-{uuid.uuid4().hex}"
    try:
        task = ray.remote(max_retries=0)(probe).remote(objects.told(), f"{scratch}/task")
        name, config = f"{store.address}/{scratch}", {"name": f"{scratch}/train"}
        said = {
            f"{scratch}/task": ray.get(task, timeout=PROBE),
            f"{scratch}/train": on_workers(probe_worker, config, workers=1, gpus=0, scratch=name),
        }
        lost = [name for name, words in said.items() if store.read(name) != words.encode()]
    except Exception as error:
        raise ours(error) from None
    finally:
        _remove(f"{store.address}/{scratch}")
    where = ", ".join(sorted({words.split()[0] for words in said.values()}))
    if lost:
        return False, f"what was written on {where} did not come to {store.address}: {', '.join(lost)}"
    return True, f"a Ray task and a worker of Ray Train on {where} read and wrote {store.address}"


def _remove(folder: str) -> None:
    for entry in filesystem.walk(folder):
        filesystem.delete(f"{folder}/{entry.name}")
    filesystem.prune(folder)


def _cluster(_: Store) -> tuple[bool, str]:
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        return True, "none (RAY_API_SERVER_ADDRESS names one): Ray is started here"
    from pipelines.engine.cluster.jobs import Jobs, own_versions

    cluster = Jobs.at(address)
    wrong = cluster.mismatch()
    same = ", ".join(f"{name} {version}" for name, version in own_versions().items())
    return not wrong, f"{cluster.address}: {wrong or f'{same} on both sides'}"
