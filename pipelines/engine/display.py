"""
What people see: a live list of steps in a terminal, plain lines elsewhere, and the table at the end. All on stderr.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

MARKS = {"cached": "=", "done": "+", "failed": "x", "skipped": "-"}
WORDS = {"cached": "kept", "done": "done", "failed": "failed", "skipped": "skipped"}


def console() -> Any:
    """A console on stderr; NO_COLOR and pipes are honoured by rich."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class Lines:
    """One line when a step begins and one when it ends: for logs and pipes."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    def began(self, node: Mapping[str, Any]) -> None:
        self.times[node["key"]] = time.monotonic()
        print(f"  > {node['title']}", file=sys.stderr, flush=True)

    def said(self, node: Mapping[str, Any], lines: list[dict[str, Any]]) -> None:
        pass

    def ended(self, node: Mapping[str, Any], status: str, manifest: Mapping[str, Any] | None, error: str) -> None:
        seconds = time.monotonic() - self.times.get(node["key"], time.monotonic())
        what = error or (manifest or {}).get("describe", "")
        print(f"  {MARKS[status]} {node['title']}: {what} ({seconds:.1f} s)", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Live:
    """A bar for each running step, with its latest numbers."""

    def __init__(self, total: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = console()
        self.progress = Progress(
            TextColumn("  {task.description:<22}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]:<7}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[latest]}"),
            console=self.console,
            transient=True,
        )
        self.bars: dict[str, Any] = {}
        self.lines = Lines()
        self.progress.start()

    def began(self, node: Mapping[str, Any]) -> None:
        self.lines.times[node["key"]] = time.monotonic()
        self.bars[node["key"]] = self.progress.add_task(node["title"], total=None, unit="", latest="")

    def said(self, node: Mapping[str, Any], lines: list[dict[str, Any]]) -> None:
        bar = self.bars[node["key"]]
        for line in lines:
            if line["kind"] == "progress":
                self.progress.update(bar, completed=line["done"], total=line["total"], unit=line["unit"])
            elif line["kind"] == "metrics":
                numbers = "  ".join(f"{name} {value:.3g}" for name, value in list(line["values"].items())[:3])
                self.progress.update(bar, latest=f"{line['trial']} {numbers}".strip())

    def ended(self, node: Mapping[str, Any], status: str, manifest: Mapping[str, Any] | None, error: str) -> None:
        if node["key"] in self.bars:
            self.progress.remove_task(self.bars.pop(node["key"]))
        seconds = time.monotonic() - self.lines.times.get(node["key"], time.monotonic())
        colors = {"cached": "dim", "done": "green", "failed": "red", "skipped": "yellow"}
        what = error or (manifest or {}).get("describe", "")
        self.console.print(
            f"  [{colors[status]}]{MARKS[status]}[/] {node['title']}: {_escaped(what)} [dim]({seconds:.1f} s)[/]"
        )

    def close(self) -> None:
        self.progress.stop()


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def watcher(total: int) -> Any:
    """The display that fits where stderr goes."""
    return Live(total) if sys.stderr.isatty() else Lines()


def results(nodes: list[dict[str, Any]], manifests: Mapping[str, Any], status: Mapping[str, str]) -> None:
    """The table that ends a run: what was prepared, tuned, trained, how good it is, and what is registered."""
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "step", "what came of it", "time"):
        table.add_column(name, no_wrap=name != "what came of it", justify="right" if name == "time" else "left")
    for node in nodes:
        manifest = manifests.get(node["key"])
        seconds = f"{manifest['cost']['seconds']:.1f} s" if manifest else ""
        word = WORDS[status[node["key"]]]
        table.add_row(word, node["title"], _escaped(manifest["describe"]) if manifest else "", seconds)
    screen = console()
    screen.print()
    screen.print(table)
    _models(manifests, screen)


def _models(manifests: Mapping[str, Any], screen: Any) -> None:
    results = [m["result"] for m in manifests.values() if m and isinstance(m["result"], dict)]
    classifies = any(result.get("goal") == "accuracy" for result in results)
    for result in results:
        if classifies and result.get("verdict") == "PROMOTE":
            screen.print(f"\n  Ask it:   rayfield predict models:/{result['name']}@champion FILE.obj", highlight=False)
    screen.print("  See it:   rayfield ui")


def summary(
    nodes: list[dict[str, Any]], manifests: Mapping[str, Any], status: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What machines read: a dict for each step."""
    return [
        {
            "step": node["title"],
            "key": node["key"],
            "status": status[node["key"]],
            "describe": (manifests[node["key"]] or {}).get("describe"),
            "result": (manifests[node["key"]] or {}).get("result"),
            "cost": (manifests[node["key"]] or {}).get("cost"),
        }
        for node in nodes
    ]
