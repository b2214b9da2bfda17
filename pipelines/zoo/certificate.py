"""
`rayfield certify FAMILY`: the seven points of a family that works, and what was measured on the way.

Points 1, 3 and 4 are tests; 2, 5, 6 and 7 come from the pipeline `certify`, whose results are kept like any other's.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from math import isnan, nan
from pathlib import Path
from typing import Any

from components.errors import UsageError
from components.family import find
from components.metrics.paired import difference
from pipelines.engine import pipeline
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.execution.driver import execute
from pipelines.engine.graph.plan_cache import REFUSED, Request, nodes, statuses
from pipelines.engine.monitoring.events import events
from pipelines.engine.store.store import Store
from pipelines.zoo.catalog import certificate_key, exemption
from pipelines.zoo.clone import of_clone

RELOAD = """
import json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
import components
assert "code" in components.__file__, components.__file__
question = {k: np.array(v, dtype=d) for k, (d, v) in json.load(open(sys.argv[3])).items()}
answered = model.predict(question)
json.dump({k: np.asarray(v).tolist() for k, v in answered.items()}, open(sys.argv[4], "w"))
"""


def certify(name: str, store: Store, folder: Path | None) -> int:
    """
    Runs every point and writes results/NAME.json. Returns the exit code: 1 if a point does not hold.

    A run that fails or is interrupted measured nothing: its own code is returned, and nothing is written.
    """
    if name.endswith(".py"):
        raise UsageError(
            f"A certificate is of a family of components/families, but {name} is your own. `rayfield run certify "
            f"--family {name}` measures it beside the baselines."
        )
    find(name)
    of_clone(ROOT / "tests" / "test_every_family.py", "certify")
    request = Request(pipeline.find("certify"), {"family": name}, {}, {})
    found = nodes(request, store)
    if not all(statuses(found, store).values()):
        code = execute(request, found, store, as_json=False)
        if code not in (0, REFUSED):  # of a gate that said no the run has ended
            return code
    results = {node["key"]: manifest for node in found if (manifest := store.manifest(node["key"]))}
    points = {
        "1": _tests(name, "not (workers or checkpoint)"),
        "2": _learns(name, results),
        "3": _exempt(name, 3) or _tests(name, "workers"),
        "4": _tests(name, "checkpoint"),
        "5": _tuned(name, results, _verdicts(store, found)),
        "6": _exempt(name, 6) or _reloads(name, results),
        "7": _drawn(store, found),
    }
    certificate = {
        "family": name,
        "measured": points["2"]["found"],
        "points": points,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU" if not _gpu() else _gpu(),
        "key": certificate_key(name),
    }
    path = (folder or ROOT / "results") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(certificate, indent=1) + "\n", encoding="utf-8")
    for number, point in points.items():
        print(f"  {'ok ' if point['ok'] else 'NO '} {number}  {point['found']}", file=sys.stderr)
    return 0 if all(point["ok"] for point in points.values()) else 1


def _exempt(name: str, point: int) -> dict[str, Any] | None:
    said = exemption(name, point)
    return {"ok": True, "found": f"exempt: {said}"} if said else None


def _tests(name: str, chosen: str) -> dict[str, Any]:
    """The family's own tests and its part of the conformance suite."""
    suite = [str(ROOT / "tests" / "test_every_family.py"), "-k", f"{name} and ({chosen})"]
    own = [str(ROOT / "tests" / "components" / "families" / f"test_{name}.py")] if "not" in chosen else []
    words = []
    for arguments in filter(None, (suite, own)):
        command = [sys.executable, "-m", "pytest", "--no-header", "-p", "no:cacheprovider", *arguments]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
        words.append(ended.stdout.strip().splitlines()[-1])
        if ended.returncode:
            return {"ok": False, "found": "; ".join(words)}
    return {"ok": True, "found": "; ".join(words)}


def _learns(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """The held-out score of the preset with its error, beside the baselines'."""
    own = [m for m in results.values() if m["step"].endswith(":evaluate") and m["result"]["name"] == name]
    if not own:
        return {"ok": False, "found": "the pipeline did not end"}
    scores = own[0]["result"]
    goal = scores["goal"]
    error = scores["error"].get(goal)
    said = f"{goal} {scores['test'][goal]:.3f}" + (f" ± {error:.3f}" if error is not None else "")
    rivals = {m["result"]["name"]: m["result"] for m in results.values() if m["step"].endswith(":baseline")}
    said += "".join(f"; {n} {r['test'][goal]:.3f} ± {r['error'][goal]:.3f}" for n, r in rivals.items())
    naive = rivals.get("majority")
    alone = "" if naive else f"; no naive baseline: judged by {goal} alone"
    return {
        "ok": naive is None or scores["test"][goal] > naive["test"][goal],
        "found": f"{said} ({scores['count']} rows){alone}",
    }


def _tuned(name: str, results: Mapping[str, Any], verdicts: Sequence[str]) -> dict[str, Any]:
    """The search's choice and its reason, and the family as chosen beside the preset on the same test rows."""
    own = [m["result"] for m in results.values() if m["step"].endswith(":evaluate") and m["result"]["name"] == name]
    if len(own) != 2 or not verdicts:
        return {"ok": False, "found": "the search did not end"}
    preset, tuned = own  # in the order in which the pipeline is drawn
    goal, error = preset["goal"], preset["error"].get(preset["goal"], nan)
    if tuned["checkpoint"]["weights"] == preset["checkpoint"]["weights"]:
        return {"ok": True, "found": f"{verdicts[-1]}; test {goal} {preset['test'][goal]:.3f} ± {error:.3f}"}
    apart, by = difference(tuned, preset, "test")
    scores = f"preset {preset['test'][goal]:.3f} ± {error:.3f}, tuned {tuned['test'][goal]:.3f}"
    scores += f" ± {tuned['error'].get(goal, nan):.3f}, the difference {apart:+.3f} ± {by:.3f}"
    return {"ok": not isnan(apart), "found": f"{verdicts[-1]}; test {goal}: {scores}"}


def _verdicts(store: Store, found: list[dict[str, Any]]) -> list[str]:
    """The words of `tune` on its search, the latest run last."""
    keys = [node["key"] for node in found if node["step"].endswith(":tune")]
    lines = [
        line for key in keys for run, _ in store.runs() for _, part in events(store, run, key, set()) for line in part
    ]
    told = sorted((line for line in lines if line["kind"] == "params"), key=lambda line: line["time"])
    return [line["values"]["search"] for line in told if "search" in line["values"]]


def _reloads(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """The registered model answers in a process that has only the model as the checkpoint answers here."""
    import numpy as np

    from components.runtime.objects import tracking_uri
    from components.runtime.serialization import decode
    from components.steps.registry.inference import answer
    from components.steps.registry.packaging import example

    model = next((m["result"] for m in results.values() if m["step"].endswith(":register")), None)
    if model is None:
        return {"ok": False, "found": "it was not registered"}
    scores = next(decode(m["result"]) for m in results.values() if m["result"].get("name") == name)
    question = example(scores)
    here = answer(scores.checkpoint.family, scores.checkpoint.network(), question)
    with tempfile.TemporaryDirectory() as folder:
        asked, told, script = (Path(folder) / n for n in ("question.json", "answer.json", "ask.py"))
        asked.write_text(json.dumps({n: (str(v.dtype), v.tolist()) for n, v in question.items()}), encoding="utf-8")
        script.write_text(RELOAD, encoding="utf-8")
        command = [sys.executable, str(script), tracking_uri(), model["uri"], str(asked), str(told)]
        ended = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
        if ended.returncode:
            return {"ok": False, "found": ended.stderr.strip().splitlines()[-1]}
        there = {n: np.array(v) for n, v in json.loads(told.read_text(encoding="utf-8")).items()}
    worst = max(float(np.abs(here[n].astype(float) - there[n].astype(float)).max()) for n in here)
    return {"ok": worst < 1e-4, "found": f"{model['name']} {model['version']}: answers differ by {worst:.1g}"}


def _drawn(store: Store, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The names of the figures that the run kept."""
    names = set()
    for node in found:
        for run, _ in store.runs():
            for _, lines in events(store, run, node["key"], set()):
                names |= {line["name"] for line in lines if line["kind"] == "file" and line["folder"] == "figures"}
    return {"ok": bool(names), "found": ", ".join(sorted(names))}


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
