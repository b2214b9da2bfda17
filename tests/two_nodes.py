"""
A small Ray cluster on this machine, in a process of its own: a token is asked for, and nodes can be killed.

Its standard input takes orders, a line each; it says on standard output what it did, and ends with its input.
"""

import json
import os
import sys
import tempfile
from typing import Any

CPUS = {"head": 1, "other": 3}  # a group of two workers fits the other node alone
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 8}
"""a dead node is known after seconds, not a minute"""


def start() -> Any:
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": CPUS["head"],
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": 0,
        "dashboard_agent_listen_port": 0,
    }
    return Cluster(initialize_head=True, head_node_args={**head, "_system_config": QUICK})


def processes(node: Any) -> list[int]:
    """The raylet and all that it started: its workers."""
    import psutil

    raylet = node.all_processes["raylet"][0].process.pid
    return [raylet, *(child.pid for child in psutil.Process(raylet).children(recursive=True))]


def main() -> None:
    # the path of a unix socket has 107 bytes at most
    base = os.environ.get("RAY_TMPDIR", "/tmp")
    folder = tempfile.mkdtemp(prefix="ray-", dir=base)
    # Cluster writes down its address as the one that every `ray.init()` of this machine joins: here, and not for all
    os.environ["RAY_TMPDIR"] = folder
    cluster = start()
    nodes: list[Any] = []

    def say(**words: Any) -> None:
        print("::" + json.dumps(words), flush=True)

    say(gcs=cluster.gcs_address, dashboard=f"http://{cluster.webui_url}", pid=os.getpid())
    for line in sys.stdin:
        order = line.strip()
        if order == "add":
            # two nodes that unpack a job's project into one folder would pull it from under each other's feet
            nodes.append(cluster.add_node(num_cpus=CPUS["other"], temp_dir=tempfile.mkdtemp(prefix="ray-", dir=base)))
            say(processes=processes(nodes[-1]), id=nodes[-1].node_id)
        elif order == "kill":
            node = nodes.pop()
            gone = processes(node)
            cluster.remove_node(node, allow_graceful=False)
            say(processes=gone, id=node.node_id)
        elif order == "processes":
            say(processes=[processes(node) for node in nodes])
    cluster.shutdown()


if __name__ == "__main__":
    main()
