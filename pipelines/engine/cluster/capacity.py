"""
Capacity to run on, found without joining it: a plan is refused before anything is started.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.runtime import reachability

SECONDS = 3
"""that a cluster is given to answer"""


@dataclass(frozen=True)
class Cluster:
    """The machines that steps would run on."""

    where: str
    machines: tuple[Mapping[str, float], ...]
    """CPU and GPU of each; none where they are not known"""
    cores: int = 0
    """of this machine, where Ray would be started here"""

    @property
    def resources(self) -> dict[str, float]:
        return {name: sum(machine.get(name, 0) for machine in self.machines) for name in ("CPU", "GPU")}

    def describe(self) -> str:
        if not self.machines:
            return f"{self.where}: unknown, for it does not say what it has"
        said = ", ".join(f"{count:g} {name}" for name, count in self.resources.items() if count)
        if self.cores and self.cores != self.resources["CPU"]:  # Ray's CPUs are places for work, not cores
            return f"{self.where}: {self.cores} cores, on which Ray may place work for {said}"
        return f"{self.where}: {said}" + (f" on {len(self.machines)} machines" if len(self.machines) > 1 else "")


def local_cpus() -> int:
    """The CPUs that a local Ray is started with; four at least, for steps that wait for each other need some."""
    return max(4, os.cpu_count() or 1)


def cluster() -> Cluster:
    """The cluster of RAY_ADDRESS, or what a local Ray would have."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return Cluster("this Ray", tuple(_own(n["Resources"]) for n in ray.nodes() if n["Alive"]))
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return Cluster("this machine", ({"CPU": float(local_cpus()), "GPU": float(_cards())},), os.cpu_count() or 1)
    return Cluster(address, _asked(address))


def _own(resources: Mapping[str, float]) -> dict[str, float]:
    return {name: float(resources.get(name, 0)) for name in ("CPU", "GPU")}


def _cards() -> int:
    """The GPUs that Ray would find on this machine."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    visible = manager.get_current_process_visible_accelerator_ids()
    found = manager.get_current_node_num_accelerators()
    return found if visible is None else min(found, len(visible))


def _asked(address: str) -> tuple[Mapping[str, float], ...]:
    """Machines by the word of the head at host:port; nothing where it does not answer."""
    if "://" in address or parted(address) is None or silent(address):
        return ()
    try:
        return tuple(_own(dict(node.resources_total)) for node in _nodes(address))
    except Exception:  # whatever it is that keeps a head from answering, joining it will say
        return ()


def parted(address: str) -> tuple[str, int] | None:
    """Host and port of a head, head:6379 or ray://head:10001; None if it is written in another way."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if host and "://" not in host and port.isdigit() else None


def silent(address: str) -> str:
    """Why no head answers at host:port, in a few words: Ray's own clients ask for minutes, deaf to every signal."""
    host, port = parted(address) or ("", 0)
    # with TLS the first word is another
    ask = reachability.refused if os.environ.get("RAY_USE_TLS") == "1" else reachability.silent_grpc
    return ask(host, port)


def _nodes(address: str) -> list[Any]:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import gcs_pb2

    found = GcsClient(address=address).get_all_node_info(timeout=SECONDS)
    return [node for node in found.values() if node.state == gcs_pb2.GcsNodeInfo.ALIVE]
