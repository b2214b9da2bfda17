"""
A run on the console: a live list of steps in a terminal, plain lines elsewhere, both on stderr; the table at the end,
which is a run's answer, on stdout.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from components.metrics.paired import difference, surpasses
from components.runtime.objects import Damaged
from pipelines.cli.hints import typed
from pipelines.engine.store.store import Store

MARKS = {"cached": "=", "done": "+", "failed": "x", "skipped": "-"}
WORDS = {"cached": "kept", "done": "done", "failed": "failed", "skipped": "skipped", "waiting": "waiting"}
COLORS = {"cached": "dim", "done": "green", "failed": "red", "skipped": "yellow", "interrupted": "yellow"}
WIDE = 160  # columns where there is no terminal
LEAST = 12  # columns that a step's title, and what came of it, have in the narrowest terminal
FIRST = 3  # assets in quarantine that the end of a run names
SAID = 30.0  # seconds between lines of one step's progress, where there is no terminal


def console(*, stderr: bool = False) -> Any:
    """A console on stdout, or on stderr; NO_COLOR and pipes are honoured by rich. A file has room for long lines."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else WIDE)


class Lines:
    """One line when a step begins, one when it ends, and one now and then between: for logs and pipes."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.began_at: dict[str, float] = {}
        self.attempts: dict[str, int] = {}
        self.told: dict[str, float] = {}
        self.latest: dict[str, Mapping[str, float]] = {}
        self.first: dict[str, Mapping[str, Any]] = {}
        """what a step said first of its progress: what came before, such as workers' start, is no guide to the rest"""

    def began(self, node: Mapping[str, Any]) -> None:
        key = node["key"]
        self.began_at[key] = self.told[key] = self.now()
        self.attempts[key] = self.attempts.get(key, 0) + 1
        self.first.pop(key, None)
        again = f" (attempt {self.attempts[key]})" if self.attempts[key] > 1 else ""
        self._print(f"> {node['title']}{again}")

    def said(self, node: Mapping[str, Any], lines: list[dict[str, Any]]) -> None:
        key = node["key"]
        for line in lines:
            if line["kind"] == "metrics":
                self.latest[key] = line["values"]
            elif line["kind"] == "progress":
                if self.first.setdefault(key, line)["unit"] != line["unit"]:
                    self.first[key] = line  # as workers wait for shards, then take steps
                if self.now() - self.told.get(key, 0) >= SAID:
                    self.told[key] = self.now()
                    self._print(f". {node['title']}: {self._progress(key, line)}")

    def _progress(self, key: str, line: Mapping[str, Any]) -> str:
        done, total, first = line["done"], line["total"], self.first[key]
        more, took = done - first["done"], line["time"] - first["time"]
        left = f"about {_clock(took * (total - done) / more)} left" if more > 0 and done < total else ""
        return "  ".join(filter(None, [f"{done:g}/{total:g} {line['unit']}", numbers(self.latest.get(key, {})), left]))

    def retried(self, node: Mapping[str, Any], error: str, wait: float) -> None:
        self._print(f"~ {_again(node, error, wait)}")

    def ended(self, node: Mapping[str, Any], status: str, manifest: Mapping[str, Any] | None, error: str) -> None:
        took = f" ({self.seconds(node['key']):.1f} s)" if node["key"] in self.began_at else ""
        self._print(f"{MARKS[status]} {_sentence(node, status, manifest, error)}{took}")

    def seconds(self, key: str) -> float:
        return self.now() - self.began_at[key]

    def _print(self, text: str) -> None:
        when = datetime.fromtimestamp(self.now()).strftime("%H:%M:%S")
        print(f"  {when} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def _sentence(node: Mapping[str, Any], status: str, manifest: Mapping[str, Any] | None, error: str) -> str:
    what = error or (manifest or {}).get("describe", "")
    what = what or ("a step that it needs failed" if status == "skipped" else "")
    return f"{node['title']}: {what}" if what else str(node["title"])


def _again(node: Mapping[str, Any], error: str, wait: float) -> str:
    return f"{node['title']}: {error} (again in {_clock(wait)})"


def numbers(values: Mapping[str, float]) -> str:
    """The first three of some numbers."""
    return "  ".join(f"{name} {value:.3g}" for name, value in list(values.items())[:3])


def _clock(seconds: float) -> str:
    """Whole seconds: 11 s, 1 min 30 s, 2 h 10 min."""
    from pipelines.engine.monitoring.run_view import duration

    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 60 else duration(whole)


class Live:
    """A bar for each running step with its latest numbers, and below them what waits."""

    def __init__(self, nodes: Sequence[Mapping[str, Any]], screen: Any = None) -> None:
        self.console = screen or console(stderr=True)
        self.titles = {node["key"]: str(node["title"]) for node in nodes}
        self.status: dict[str, str] = {}
        self.bars: dict[str, Any] = {}
        self.lines = Lines()
        self.progress = self._progress()
        self.progress.start()

    def _progress(self) -> Any:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.table import Column
        from rich.text import Text

        live = self

        class Counts(ProgressColumn):
            def render(self, task: Any) -> Text:
                return Text(f"{task.completed:g}/{task.total:g} {task.fields['unit']}" if task.total else "")

        class Times(ProgressColumn):
            def render(self, task: Any) -> Text:
                left = task.time_remaining
                about = f", {_clock(left)} left" if left and task.total else ""
                return Text(f"{_clock(task.elapsed or 0)}{about}", style="dim")

        class Bars(Progress):
            def get_renderables(self) -> Iterable[Any]:
                if self.tasks:
                    yield self.make_tasks_table(self.tasks)
                yield live.waiting(live.console.width)

        cut = {"no_wrap": True, "overflow": "ellipsis"}
        wide = min(32, max([22, *map(len, self.titles.values())])) + 2
        return Bars(
            TextColumn("  {task.description}", markup=False, table_column=Column(width=wide, **cut)),  # type: ignore[arg-type]
            BarColumn(20),
            Counts(table_column=Column(no_wrap=True)),
            Times(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[latest]}", style="dim", markup=False, table_column=Column(**cut)),  # type: ignore[arg-type]
            console=self.console,
            transient=True,
            refresh_per_second=5,
        )

    def waiting(self, width: int = 80) -> Any:
        """Steps that have not begun, in one line."""
        from rich.text import Text

        open_ = [title for key, title in self.titles.items() if key not in self.status and key not in self.bars]
        words = f"  {len(self.status)} of {len(self.titles)} steps" + (f"; next: {', '.join(open_)}" if open_ else "")
        return Text(words if len(words) <= width else words[: width - 1] + "…", style="dim", no_wrap=True)

    def began(self, node: Mapping[str, Any]) -> None:
        key = node["key"]
        self.lines.began_at[key] = self.lines.now()
        attempt = self.lines.attempts[key] = self.lines.attempts.get(key, 0) + 1
        if key in self.bars:
            self.progress.remove_task(self.bars[key])
        title = f"{node['title']} (attempt {attempt})" if attempt > 1 else str(node["title"])
        self.bars[key] = self.progress.add_task(title, total=None, unit="", latest="")

    def said(self, node: Mapping[str, Any], lines: list[dict[str, Any]]) -> None:
        bar = self.bars[node["key"]]
        for line in lines:
            if line["kind"] == "progress":
                self.progress.update(bar, completed=line["done"], total=line["total"], unit=line["unit"])
            elif line["kind"] == "metrics":
                self.progress.update(bar, latest=f"{line['trial']} {numbers(line['values'])}".strip())

    def retried(self, node: Mapping[str, Any], error: str, wait: float) -> None:
        self.console.print(f"  [yellow]~[/] {_escaped(_again(node, error, wait))}")

    def ended(self, node: Mapping[str, Any], status: str, manifest: Mapping[str, Any] | None, error: str) -> None:
        key = node["key"]
        self.status[key] = status
        if key in self.bars:
            self.progress.remove_task(self.bars.pop(key))
        took = f" [dim]({self.lines.seconds(key):.1f} s)[/]" if key in self.lines.began_at else ""
        sentence = _escaped(_sentence(node, status, manifest, error))
        self.console.print(f"  [{COLORS[status]}]{MARKS[status]}[/] {sentence}{took}")

    def close(self) -> None:
        self.progress.stop()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def watcher(nodes: Sequence[Mapping[str, Any]]) -> Any:
    """The display that fits where stderr goes."""
    return Live(nodes) if sys.stderr.isatty() else Lines()


def results(nodes: list[dict[str, Any]], manifests: Mapping[str, Any], status: Mapping[str, str], store: Store) -> None:
    """The table that ends a run: what was prepared, tuned, trained, how good it is, and what is registered."""
    from pipelines.engine.monitoring.run_view import quarantined

    table = plain_table("", "step", "what came of it", "time")
    for node in nodes:
        manifest = manifests.get(node["key"])
        seconds = f"{manifest['cost']['seconds']:.1f} s" if manifest else ""
        word = WORDS[status[node["key"]]]
        what = _escaped(manifest["describe"] + unbeaten(manifest, manifests.values())) if manifest else ""
        table.add_row(word, node["title"], what, seconds)
    screen = console()
    screen.print()
    screen.print(table)
    for node in nodes:
        with noting_damage(screen):
            unread(quarantined(store, manifests.get(node["key"])), node["title"], FIRST, screen)
    _models(manifests, console(stderr=True))


def unbeaten(manifest: Mapping[str, Any], others: Iterable[Mapping[str, Any] | None]) -> str:
    """The baselines on the same test assets that a model's score is not better than, by their difference's error."""
    own = manifest["result"]
    if not manifest["step"].endswith(":evaluate") or not own.get("parts"):
        return ""
    said = ""
    for other in others:
        if other and other["step"].endswith(":baseline") and _comparable(own, other["result"]):
            value, error = difference(own, other["result"], "test")
            if not surpasses(value, error, own["direction"]):
                said += f"; not better than {other['result']['name']}: {value:+.3f} ± {error:.3f}"
    return said


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if two models were scored by one goal on the same test assets."""
    return one["goal"] == other["goal"] and one["parts"].get("test") == other.get("parts", {}).get("test", "")


def plain_table(*names: str, right: Sequence[str] = ("time",)) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=name != "what came of it", justify="right" if name in right else "left")
    return table


def run_tree(run: Any, screen: Any) -> None:
    """A run as a tree of its steps: how each ended, how often it was tried, and what it took."""
    from pipelines.engine.monitoring.run_view import duration, tree

    rows = tree(run.steps)
    gpu = any(step.cost.get("gpu") for _, step in rows)
    names = ["step", "", "time", "CPU", *(["GPU"] if gpu else []), "what came of it"]
    table = plain_table(*names, right=("time", "CPU", "GPU"))
    for indent, step in rows:
        color = COLORS.get(step.status, "cyan" if step.status in ("running", "retry") else "dim")
        tried = f", {step.attempts} attempts" if step.attempts > 1 else ""
        word = f"[{color}]{WORDS.get(step.status, step.status)}[/]{tried}"
        took = [duration(step.seconds), duration(step.cost.get("cpu"))]
        took += [duration(step.cost.get("gpu"))] if gpu else []
        table.add_row(f"[dim]{indent}[/]{_escaped(step.title)}", word, *took, _escaped(step.what))
    _fit(table, screen.width)
    record = run.record
    screen.print(f"  [bold]{_escaped(record['title'])}[/]  {run.name}  {record['commit'][:12]}")
    ended = f"{run.count('done')} done, {run.count('cached')} kept, {run.count('failed')} failed"
    screen.print(f"  {run.state} after {duration(run.seconds)}: {ended}\n")
    screen.print(table)


def _fit(table: Any, width: int) -> None:
    """One line for each row: what is too wide is cut from the last column, then from the first, and from no other."""
    from rich.text import Text

    first, *_, last = table.columns
    for column in table.columns:
        cells = [str(column.header), *map(str, column.cells)]
        column.no_wrap, column.overflow = True, "ellipsis"
        column.width = max(Text.from_markup(cell).cell_len for cell in cells)
    room = width - sum(column.width + 2 for column in table.columns[1:-1]) - 4
    first.width = min(first.width, max(room - LEAST, LEAST))
    last.width = min(last.width, max(room - first.width, LEAST))


@contextmanager
def noting_damage(screen: Any) -> Iterator[None]:
    """Says of what is damaged that it is, and goes on: the rest is whole."""
    try:
        yield
    except Damaged as error:
        screen.print(f"  {_escaped(str(error))}", soft_wrap=True)


def unread(rows: Sequence[tuple[str, str]], title: str, most: int, screen: Any) -> None:
    """Quarantine of a step with its reasons: the first of it, and how many more."""
    if rows:
        screen.print(f"\n  {_escaped(title)}: {len(rows)} in quarantine")
        for asset, reason in rows[:most]:
            screen.print(f"    {_escaped(asset)}: {_escaped(reason)}", soft_wrap=True)
        if len(rows) > most:
            screen.print(f"    and {len(rows) - most} more")


def also_read(step: Any, most: int, screen: Any) -> None:
    """Inputs of a step that are in no key: another result may come of it under the same key."""
    if step.also:
        more = f", and {len(step.also) - most} more" if len(step.also) > most else ""
        said = f"{step.title} also read: {', '.join(step.also[:most])}{more}"
        screen.print(f"\n  {_escaped(said)}", soft_wrap=True)


def _models(manifests: Mapping[str, Any], screen: Any) -> None:
    made = [m for m in manifests.values() if m and isinstance(m["result"], dict)]
    classifies = any(one["result"].get("goal") == "accuracy" for one in made)
    for one in made:
        if one["result"].get("verdict"):
            screen.print()
            if problem := one.get("standing", {}).get("problem"):
                screen.print(f"  MLflow does not answer, so nobody knows what is champion: {_escaped(problem)}")
            for word, command in _next(one, classifies):
                screen.print(f"  {word:<9} {typed(command)}", soft_wrap=True)
    screen.print(f"  See it:   {typed('rayfield report --open')}, {typed('rayfield ui')}", soft_wrap=True)


def _next(manifest: Mapping[str, Any], classifies: bool) -> Iterator[tuple[str, str]]:
    """How a registered version is asked, and how one that is not the champion is made it all the same."""
    result, now = manifest["result"], manifest.get("standing")
    name, version = result["name"], result.get("version")
    champion = now["champion"] == version if now else result["verdict"] == "PROMOTE"
    if classifies:
        yield "Ask it:", f"rayfield predict models:/{name}{'@champion' if champion else f'/{version}'} FILE.obj"
    if not champion:
        yield "Use it:", f"rayfield models promote {name} {version} --force"


def summary(
    nodes: list[dict[str, Any]], manifests: Mapping[str, Any], status: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A dict for each step, for machines to read."""
    return [
        {
            "step": node["title"],
            "key": node["key"],
            "status": status[node["key"]],
            "describe": own.get("describe"),
            "result": own.get("result"),
            "cost": own.get("cost"),
            **{name: own[name] for name in ("standing",) if name in own},
        }
        for node in nodes
        for own in [manifests[node["key"]] or {}]
    ]
