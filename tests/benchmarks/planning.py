"""
Planning graphs of 500 to 5,000 steps: seconds of drawing, of writing the plan, of reading it again, of looking up what
is made, and of saying why each step would run. A growth of 1.0 is linear: the seconds rise as the steps do.

    python -m tests.benchmarks.planning
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from components.source import Asset, Source
from pipelines.engine.caching.invalidation import Reasons
from pipelines.engine.graph.dry_run import forecast
from pipelines.engine.graph.plan_cache import Request, drawn, remembered, statuses
from pipelines.engine.graph.tracing import Graph, draw
from pipelines.engine.store.store import Store

COUNTS = (500, 1000, 2000, 5000)
SCENES = '''
"""One branch a scene: a source's part, a chain of three steps; one step joins them all."""

from components.artifacts import at_least
from pipelines.engine.pipeline import pipeline
from tests.benchmarks.planning import Scenes
from tests.pipelines.engine.toys import gated, look, number, total


@pipeline
def scenes(count: int = 500):
    source, last, ends = Scenes(count=count // 4), 0, []
    for scene in source.groups("id"):
        last = total([look(source.only(value=scene)), last])
        ends.append(gated(number(len(ends)), gate=at_least(accuracy=0.5)))
    total([*ends, last])
'''


class Scenes(Source):
    """So many scenes from nowhere."""

    count: int

    def rows(self) -> list[Asset]:
        return [Asset(f"scene {n:05d}", "", "scene", "train", f"{n}") for n in range(self.count)]

    def watch(self) -> list[Path]:
        return []


def timed(found: dict[str, float], name: str, function: Callable[[], Any]) -> Any:
    began = time.process_time()
    result = function()
    found[name] = time.process_time() - began
    return result


def finished(store: Store, nodes: list[dict[str, Any]]) -> None:
    """As if every step had run."""
    for node in nodes:
        own = {name: node[name] for name in ("key", "step", "title", "ingredients")}
        cost = {"seconds": 1.0, "cpu": 1.0}
        store.commit(node["key"], {**own, "result": 1, "describe": "1", "run": "first", "when": 1.0, "cost": cost})
    record = {"nodes": [{name: node[name] for name in ("key", "step", "title")} for node in nodes]}
    store.write("runs/first/run.json", json.dumps(record).encode())


def measure(count: int, folder: Path) -> dict[str, float]:
    """CPU seconds of each part of planning so many steps."""
    path, store, found = folder / "scenes.py", Store(str(folder / f"store-{count}")), dict[str, float]()
    path.write_text(SCENES)
    request, drawing = Request(path, {"count": str(count)}, {}, {}), dict[str, float]()

    def draw_timed(*args: Any) -> Graph:
        return timed(drawing, "drawing", lambda: draw(*args))

    with patch("pipelines.engine.graph.tracing.draw", draw_timed), patch("os.fsync"):
        nodes = timed(found, "plan written", lambda: drawn(request, store))
        found = {**drawing, "plan written": found["plan written"] - drawing["drawing"]}
        manifests = timed(found, "nothing made", lambda: statuses(nodes, store))
        timed(found, "forecast", lambda: forecast(nodes, manifests, store))
        finished(store, nodes)
    assert timed(found, "plan read", lambda: remembered(request, store)) == nodes
    timed(found, "all made", lambda: statuses(nodes, store))
    later = [other(node) for node in nodes]
    reasons = Reasons(store, later, {node["key"]: None for node in later})
    timed(found, "why", lambda: [reasons.all(node) for node in later])
    return {"steps": float(len(nodes)), **found}


def other(node: Mapping[str, Any]) -> dict[str, Any]:
    """The same step after a change of the seed."""
    made_of = {**node["ingredients"], "seed": 1}
    return {**node, "key": "other" + node["key"], "needs": [], "ingredients": made_of}


def growth(rows: list[dict[str, float]], part: str) -> float:
    """The power of the number of steps by which the seconds rise, from the second row to the last."""
    low, high = rows[1], rows[-1]
    return math.log(high[part] / low[part]) / math.log(high["steps"] / low["steps"])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure(100, Path(folder))  # the code is read once
        rows = [measure(count, Path(folder)) for count in COUNTS]
    print(f"{'steps':>14}" + "".join(f"{row['steps']:>9.0f}" for row in rows) + "   growth   ms/step")
    for part in (name for name in rows[0] if name != "steps"):
        numbers = "".join(f"{row[part]:>9.2f}" for row in rows)
        each = 1000 * rows[-1][part] / rows[-1]["steps"]
        print(f"{part:>14}{numbers}{growth(rows, part):>9.2f}{each:>10.2f}")
    whole = [sum(v for name, v in row.items() if name in ("drawing", "plan written", "nothing made")) for row in rows]
    rate = math.log(whole[-1] / whole[1]) / math.log(rows[-1]["steps"] / rows[1]["steps"])
    print(f"{'planned':>14}" + "".join(f"{seconds:>9.2f}" for seconds in whole) + f"{rate:>9.2f}   CPU seconds")


if __name__ == "__main__":
    main()
