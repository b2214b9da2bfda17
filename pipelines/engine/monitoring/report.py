"""
The report of a run: one HTML file that needs nothing else, made from the store alone.

It has no script, no font and no address of another place: it opens from a mail, from MLflow, in ten years. Whatever
came from people or from steps is escaped by the template and has been redacted.
"""

import base64
import io
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from components.runtime.objects import Damaged
from components.runtime.redaction import redact, redacted
from components.runtime.serialization import decode
from pipelines.engine.monitoring import svg
from pipelines.engine.monitoring.logs import read
from pipelines.engine.monitoring.run_view import (
    UNREAD,
    Run,
    Said,
    Step,
    duration,
    history,
    open_run,
    quarantined,
    said,
    whys,
)
from pipelines.engine.store.store import Store

T = TypeVar("T")
TEMPLATE = Path(__file__).with_name("report.html")
WIDEST = 1400  # pixels of a figure
HEAVIEST = 300_000  # bytes of a figure that is left as it is
FIGURES = 60  # of a report
SHOWN = 4  # of a series of figures over time
LAST_LINES = 40  # of the logs of a step that failed


def write_report(store: Store, name: str, damaged: list[str] | None = None) -> str:
    """Puts the report of a run beside its record; returns its name in the store."""
    path = f"runs/{name}/report.html"
    store.write(path, report(store, name, damaged=damaged).encode())
    return path


@dataclass(frozen=True)
class Reader:
    """Reads what is shown, and notes what is damaged."""

    store: Store
    damaged: list[str]

    def __call__(self, read: Callable[..., T], *asked: Any) -> T | None:
        """Read with `read` from the store; nothing where that is damaged."""
        try:
            return read(self.store, *asked)
        except Damaged as error:
            self.damaged.append(redact(str(error)))
            return None


def report(store: Store, name: str, now: float | None = None, damaged: list[str] | None = None) -> str:
    """The report of a run as HTML; what it lacks because it is damaged is said there, and added to `damaged`."""
    import jinja2

    reader = Reader(store, [] if damaged is None else damaged)
    run = open_run(store, name)
    told = {step.key: said(store, step.made_in(name), step.key) for step in run.steps}
    reasons = whys(run, store)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = duration
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **_head(run, now or time.time()),
        models=[_model(step, run) for step in run.steps if "verdict" in _result(step)],
        scores=list(_scores(run.steps)),
        comparisons=[_result(step) for step in run.steps if "means" in _result(step)],
        quarantines=[found for step in run.steps if (found := _quarantine(reader, step))],
        readers=[step for step in run.steps if step.also],
        graph=_safe(svg.graph(run.steps)),
        timeline=_timeline(run, now or time.time()),
        steps=[_step(store, run, step, told[step.key], reasons[step.key]) for step in run.steps],
        training=[drawn for step in run.steps if (drawn := _training(reader, step, told[step.key]))],
        figures=list(_figures(reader, run.steps, told)),
        damaged=reader.damaged,
    )


def _safe(text: str) -> Any:
    """SVG that this package made: its own texts are escaped already."""
    from markupsafe import Markup

    return Markup(redact(text))


def _result(step: Step) -> Mapping[str, Any]:
    result = (step.manifest or {}).get("result")
    return result if isinstance(result, Mapping) else {}


def _head(run: Run, now: float) -> dict[str, Any]:
    record = redacted(run.record)
    seconds = run.seconds if run.state != "running" else now - record["started"]
    kept = sum(step.seconds or 0 for step in run.steps if step.status == "cached")
    ran = [step for step in run.steps if step.status == "done"]
    numbers = [
        ("time", duration(seconds)),
        ("steps run", str(len(ran))),
        ("kept", str(run.count("cached"))),
        ("failed", str(run.count("failed")) if run.count("failed") else ""),
        ("CPU time", duration(sum(step.cost.get("cpu", 0) for step in ran)) if ran else ""),
        ("GPU time", duration(gpu) if (gpu := sum(step.cost.get("gpu", 0) for step in ran)) else ""),
        ("saved by what was kept", duration(kept) if kept else ""),
    ]
    return {
        "run": run.name,
        "state": run.state,
        "record": record,
        "mlflow": run.ids.get(""),
        "numbers": [(name, value) for name, value in numbers if value],
        "started": _when(record["started"]),
        "ended": _when(record["ended"]) if record.get("ended") else "",
    }


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _timeline(run: Run, now: float) -> Any:
    if not any(step.starts for step in run.steps):
        return ""
    ended = run.record.get("ended") or (now if run.state == "running" else run.record["started"] + run.seconds)
    return _safe(svg.timeline(run.steps, run.record["started"], ended))


def _model(step: Step, run: Run) -> dict[str, Any]:
    """A registered version: the verdict and what it rests on."""
    result = redacted(_result(step))
    parameters = (step.manifest or {}).get("ingredients", {}).get("parameters", {})
    gate = parameters.get("gate") if isinstance(parameters.get("gate"), Mapping) else {}
    behind = _behind(parameters.get("scores"), run)
    asked = [(name, "at least", value) for name, value in gate.get("least", {}).items()]
    asked += [(name, "at most", value) for name, value in gate.get("most", {}).items()]
    rows = [
        {"name": n, "bound": f"{word} {v:g}", "value": _number(behind, n), "met": _met(behind, n, word, v)}
        for n, word, v in asked
    ]
    return {"result": result, "gate": rows, "scores": behind, "key": step.key, "kept": step.status == "cached"}


def _behind(handle: Any, run: Run) -> Mapping[str, Any]:
    """The scores that a step was given, by the key of the step that made them."""
    if not isinstance(handle, Mapping) or "key" not in handle:
        return {}
    manifest = next((s.manifest for s in run.steps if s.key == handle["key"]), None) or {}
    result = manifest.get("result")
    if handle.get("output") and isinstance(result, list):
        result = result[manifest["outputs"].index(handle["output"])]
    return result if isinstance(result, Mapping) else {}


def _met(scores: Mapping[str, Any], name: str, word: str, bound: float) -> bool | None:
    value = scores.get("test", {}).get(name)
    if value is None:
        return None
    return bool(value >= bound) if word == "at least" else bool(value <= bound)


def _number(scores: Mapping[str, Any], name: str) -> str:
    """0.463 ± 0.051."""
    value, error = scores.get("test", {}).get(name), scores.get("error", {}).get(name)
    if value is None:
        return ""
    return f"{value:.4g} ± {error:.2g}" if error is not None and error == error else f"{value:.4g}"


def _scores(steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    """A row for each score of each model; the goal's first."""
    for step in steps:
        result = _result(step)
        if "test" in result and "goal" in result:
            names = sorted(result["test"], key=lambda name: (name != result["goal"], name))
            for name in names:
                val = result["val"].get(name)
                yield {
                    "step": step,
                    "model": result["name"],
                    "first": name == names[0],
                    "span": len(names),
                    "name": name,
                    "goal": name == result["goal"],
                    "val": "" if val is None else f"{val:.4g}",
                    "test": _number(result, name),
                    "count": result["count"],
                }


def _quarantine(reader: Reader, step: Step) -> dict[str, Any] | None:
    """Quarantine of a step with its reasons: the first of it, and how many more."""
    rows = reader(quarantined, step.manifest) or []
    named = {"step": step, "count": len(rows), "rows": rows[:UNREAD], "more": len(rows[UNREAD:])}
    return named if rows else None


def _step(store: Store, run: Run, step: Step, told: Said, why: str) -> dict[str, Any]:
    trace = step.failures[-1].get("traceback", "") if step.failures else ""
    return {
        "key": step.key,
        "title": redact(step.title),
        "status": step.status,
        "word": "kept" if step.status == "cached" else step.status,
        "why": redact(why) + ("; part of what it said is damaged, and is left out" if told.damaged else ""),
        "what": redact(step.what),
        "seconds": duration(step.seconds),
        "cpu": duration(step.cost.get("cpu")),
        "gpu": duration(step.cost["gpu"]) if step.cost.get("gpu") else "",
        "attempts": step.attempts,
        "failures": redacted([failure["error"] for failure in step.failures]),
        "traceback": redact(trace),
        "lines": _last_lines(store, run, step) if step.status in ("failed", "interrupted") else [],
        "params": [(name, str(value)) for name, value in _flat(redacted(told.params))],
        "files": [line["file"] for line in told.files if line["folder"] != "figures"],
        "mlflow": run.ids.get(step.key),
    }


def _last_lines(store: Store, run: Run, step: Step) -> list[str]:
    lines = read(store, run.name, step.key, {})[-LAST_LINES:]
    return [f"{line.time[11:19]} {line.writer} | {line.text}" for line in lines]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name != "@":
            yield f"{prefix}{name}", value


def _training(reader: Reader, step: Step, told: Said) -> dict[str, Any] | None:
    """The curves of a step: its own by name, training and validation together, and those of its trials."""
    own = reader(history, step.manifest) or told.curves.get("", {})
    charts = [_chart(name if "train" in pair else f"{name} on val", pair) for name, pair in _pairs(own).items()]
    trials = {trial: curves for trial, curves in sorted(told.curves.items()) if trial}
    for name in dict.fromkeys(name for curves in trials.values() for name in curves):
        charts.append(_chart(f"{name} of the trials", {t: own[name] for t, own in trials.items() if name in own}))
    drawn = [drawing for drawing in charts if drawing][:12]
    return {"title": redact(step.title), "key": step.key, "charts": drawn} if drawn else None


def _pairs(curves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> the training's curve, and the validation's of the same name."""
    found: dict[str, dict[str, Any]] = {}
    for name, points in curves.items():
        found.setdefault(name.removeprefix("val_"), {})["val" if name.startswith("val_") else "train"] = points
    return {name: dict(sorted(lines.items())) for name, lines in found.items()}


def _chart(title: str, lines: Mapping[str, Any]) -> Any:
    """A chart of what has more than one value; nothing if all of them are one."""
    long = {name: points for name, points in lines.items() if len({value for _, value in points}) > 1}
    drawn = svg.chart(title, long) if long else ""
    return {"svg": _safe(drawn), "names": list(long) if 1 < len(long) <= 8 else []} if drawn else None


def _figures(reader: Reader, steps: Sequence[Step], told: Mapping[str, Said]) -> Iterator[dict[str, str]]:
    """The pictures of every step; of one that was drawn again and again, a few moments."""
    count = 0
    for step in steps:
        series: dict[str, list[Any]] = {}
        for line in told[step.key].files:
            if line["folder"] == "figures":
                series.setdefault(re.sub(r"_\d{6}(?=\.png$)", "", line["name"]), []).append(line)
        for lines in series.values():
            for line in _few(lines):
                data = reader(Store.open, decode(line["file"])) if count < FIGURES else None
                if data is not None:
                    count += 1
                    title = redact(line["name"].removesuffix(".png").replace("_", " "))
                    shape = "wide" if _is_wide(data) else ""
                    yield {"src": data_uri(data), "title": title, "step": step.title, "key": step.key, "shape": shape}


def _is_wide(png: bytes) -> bool:
    """True if a PNG is better seen over two columns."""
    width, height = struct.unpack(">II", png[16:24])
    return bool(width > 1.8 * height)


def _few(lines: Sequence[Any]) -> list[Any]:
    if len(lines) <= SHOWN:
        return list(lines)
    return [lines[round(place * (len(lines) - 1) / (SHOWN - 1))] for place in range(SHOWN)]


def data_uri(data: bytes) -> str:
    """A PNG as an address that holds it whole; a large one is made smaller."""
    kind = "png"
    if len(data) > HEAVIEST:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as picture:
            picture.thumbnail((WIDEST, WIDEST * 4))
            buffer = io.BytesIO()
            picture.convert("RGBA" if "A" in picture.getbands() else "RGB").save(buffer, "WEBP", quality=88)
        data, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
