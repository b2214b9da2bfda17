"""
The display: bars in a terminal, plain lines with their times elsewhere, and a tree of what was.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.engine.execution import scheduler_loop as runner_module
from pipelines.engine.monitoring import console
from pipelines.engine.monitoring.console import SAID, Lines, Live, also_read, results, run_tree, unbeaten, watcher
from pipelines.engine.monitoring.run_view import open_run
from pipelines.engine.store.store import Store
from tests.pipelines.engine.recorded import held, recorded
from tests.pipelines.engine.toys import broken, flaky, number, total

NODES = [{"key": name[0], "title": name} for name in ("preprocess", "train voxnet", "register furniture")]
FIRST, SECOND, THIRD = NODES


def progress(done: float, total: float = 100, unit: str = "steps", *, at: float = 0.0) -> dict[str, Any]:
    return {"kind": "progress", "time": at, "done": done, "total": total, "unit": unit}


def metrics(trial: str = "", **values: float) -> dict[str, Any]:
    return {"kind": "metrics", "step": 1, "trial": trial, "values": values}


@pytest.fixture
def clock() -> Any:
    class Clock:
        now = 1_000_000.0

        def __call__(self) -> float:
            return self.now

    return Clock()


@pytest.fixture
def lines(clock: Any, capsys: pytest.CaptureFixture[str]) -> tuple[Lines, Callable[[], list[str]]]:
    """The display of a pipe, and what it wrote since it was last asked, without the times."""
    return Lines(clock), lambda: [line[11:] for line in capsys.readouterr().err.splitlines()]


def test_a_step_is_a_line_at_its_begin_and_one_at_its_end(lines, clock):
    shown, written = lines
    shown.began(FIRST)
    clock.now += 12.34
    shown.ended(FIRST, "done", {"describe": "446 rows"}, "")

    assert written() == ["> preprocess", "+ preprocess: 446 rows (12.3 s)"]


def test_each_line_has_its_time(clock, capsys):
    Lines(clock).began(FIRST)

    assert capsys.readouterr().err[:11].count(":") == 2


def test_what_was_kept_took_no_time(lines):
    shown, written = lines
    shown.ended(FIRST, "cached", {"describe": "446 rows"}, "")

    assert written() == ["= preprocess: 446 rows"]


def test_progress_is_a_line_now_and_then_with_the_time_left(lines, clock):
    """By what was done since the first word of it: how long workers took to start says nothing of the rest."""
    shown, written = lines
    shown.began(SECOND)
    clock.now += 100 * SAID
    shown.said(SECOND, [metrics(loss=0.5), progress(10, at=clock.now)])
    clock.now += SAID
    shown.said(SECOND, [metrics(loss=0.25), progress(25, at=clock.now)])
    shown.said(SECOND, [progress(26, at=clock.now)])

    assert written() == [
        "> train voxnet",
        ". train voxnet: 10/100 steps  loss 0.5",
        ". train voxnet: 25/100 steps  loss 0.25  about 2 min 30 s left",
    ]


def test_the_time_left_is_that_of_what_is_counted_now(lines, clock):
    """A training waits for shards, then takes steps: the shards' pace says nothing of the steps'."""
    shown, written = lines
    shown.began(SECOND)
    shown.said(SECOND, [progress(1, 4, "shards", at=clock.now)])
    clock.now += 10 * SAID
    shown.said(SECOND, [progress(20, at=clock.now)])
    clock.now += SAID
    shown.said(SECOND, [progress(50, at=clock.now)])

    assert written()[-2:] == [". train voxnet: 20/100 steps", ". train voxnet: 50/100 steps  about 50 s left"]


def test_another_attempt_says_so(lines):
    shown, written = lines
    shown.began(FIRST)
    shown.began(FIRST)

    assert written() == ["> preprocess", "> preprocess (attempt 2)"]


def test_a_step_that_is_tried_again_says_why_and_when(lines):
    shown, written = lines
    shown.began(THIRD)
    shown.retried(THIRD, "MLflow at http://[::1]:5000 does not answer", 12.3)
    screen = Screen(width=160)
    screen.live.retried(THIRD, "MLflow at http://[::1]:5000 does not answer", 12.3)
    line = "~ register furniture: MLflow at http://[::1]:5000 does not answer (again in 12 s)"

    assert written()[-1] == line
    assert line in screen.printed()


def test_a_skipped_step_says_why(lines):
    shown, written = lines
    shown.ended(THIRD, "skipped", None, "")

    assert written() == ["- register furniture: a step that it needs failed"]


class Screen:
    """A terminal of some width whose bars are drawn when the test asks."""

    def __init__(self, width: int = 110, nodes: Sequence[Mapping[str, Any]] = ()) -> None:
        self.console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
        self.live = Live(nodes or NODES, self.console)
        self.live.progress.stop()  # its thread draws when it likes

    def text(self) -> list[str]:
        with self.console.capture() as drawn:
            for part in self.live.progress.get_renderables():
                self.console.print(part)
        return [line.rstrip() for line in drawn.get().splitlines()]

    def printed(self) -> str:
        return self.console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_a_bar_for_each_running_step_and_what_is_next():
    screen = Screen()
    screen.live.began(FIRST)
    screen.live.began(SECOND)
    screen.live.said(SECOND, [progress(40), metrics(loss=0.25)])
    first, second, waiting = screen.text()

    assert first.split()[0] == "preprocess"
    assert "train voxnet" in second and "40/100 steps" in second and "loss 0.25" in second
    assert waiting == "  0 of 3 steps; next: register furniture"


def test_a_bar_has_room_for_the_fold_of_its_step():
    fold = {"key": "f", "title": "evaluate pointnet, fold 2 of 5"}
    screen = Screen(nodes=[*NODES, fold])
    screen.live.began(fold)

    assert fold["title"] in screen.text()[0]


def test_what_has_ended_leaves_the_bars_for_a_line_above_them():
    screen = Screen()
    screen.live.began(FIRST)
    screen.live.ended(FIRST, "done", {"describe": "446 rows [all]"}, "")

    assert screen.text() == ["  1 of 3 steps; next: train voxnet, register furniture"]
    assert "+ preprocess: 446 rows [all] (0.0 s)" in screen.printed()


def test_a_step_that_is_tried_again_has_one_bar():
    screen = Screen()
    screen.live.began(FIRST)
    screen.live.said(FIRST, [progress(40)])
    screen.live.began(FIRST)

    assert len(screen.text()) == 2
    assert "attempt 2" in screen.text()[0] and "40/100" not in screen.text()[0]


def test_the_trial_that_spoke_last_is_named():
    screen = Screen()
    screen.live.began(SECOND)
    screen.live.said(SECOND, [metrics("trial 03", loss=0.5)])

    assert "trial 03 loss 0.5" in screen.text()[0]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_has_one_row_for_each_step(width):
    screen = Screen(width)
    for node in NODES:
        screen.live.began(node)
        screen.live.said(node, [progress(40), metrics(loss=0.25, accuracy=0.5, entropy=1.5)])

    rows = screen.text()
    assert len(rows) == 4
    assert max(map(len, rows)) <= width


def test_words_in_brackets_are_not_markup():
    screen = Screen()
    screen.live.began({"key": "x", "title": "train [red]"})
    screen.live.ended({"key": "x", "title": "train [red]"}, "failed", None, "the [blue] error")

    assert "x train [red]: the [blue] error" in screen.printed()


def test_bars_are_for_terminals(monkeypatch):
    assert isinstance(watcher(NODES), Lines)
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True, raising=False)
    live = watcher(NODES)
    live.close()

    assert isinstance(live, Live)


# Afterwards


def scores(step: str, name: str, right: str, parts: str = "same") -> dict[str, Any]:
    """A manifest of scores on test assets that are parts by themselves; 1 is right."""
    values = [int(one) for one in right]
    without = [(sum(values) - value) / (len(values) - 1) for value in values]
    own = {"name": name, "goal": "accuracy", "direction": "max", "test": {"accuracy": sum(values) / len(values)}}
    result = {**own, "left_out": {"test": without}, "parts": {"test": parts}}
    said = {"describe": f"{name}: accuracy", "cost": {"seconds": 1.0}}
    return {"step": f"components.steps.evaluate:{step}", "result": result, **said}


def test_a_model_that_is_not_better_than_a_baseline_by_its_error_says_so():
    model, forest = scores("evaluate", "voxnet", "11110000"), scores("baseline", "forest", "11100001")
    majority = scores("baseline", "majority", "00000000")

    assert unbeaten(model, [model, None, forest, majority]) == "; not better than forest: +0.000 ± 0.189"
    assert unbeaten(scores("evaluate", "voxnet", "11111111"), [forest, majority]) == ""


def test_a_baseline_on_other_assets_or_by_another_goal_is_no_match():
    model, forest = scores("evaluate", "voxnet", "0000"), scores("baseline", "forest", "1111", "others")
    other = scores("baseline", "forest", "1111")
    other["result"]["goal"] = "kid"

    assert unbeaten(model, [forest, other]) == ""
    assert unbeaten(forest, [model]) == ""  # of a baseline nothing is asked


def test_the_table_at_the_end_says_it(own_store: Path, capsys):
    manifests = {"a": scores("evaluate", "voxnet", "1100"), "b": scores("baseline", "forest", "1110")}
    nodes = [{"key": key, "title": manifest["result"]["name"]} for key, manifest in manifests.items()]
    results(nodes, manifests, dict.fromkeys(manifests, "done"), Store(str(own_store)))

    assert "voxnet: accuracy; not better than forest: -0.250 ± 0.250" in capsys.readouterr().out


def shown(store: Store, width: int = 160) -> list[str]:
    screen = Console(file=io.StringIO(), width=width)
    run_tree(open_run(store, "20260101-000000-aa01"), screen)
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_run_is_a_tree_with_times_attempts_and_what_came_of_each_step(own_store: Path, monkeypatch):
    monkeypatch.setattr(runner_module.time, "sleep", lambda _: None)
    store = Store(str(own_store))
    recorded(store, lambda: total([flaky(failures=1), total([broken()])]), code=1)
    rows = shown(store)

    assert "failed after" in rows[1] and "1 done, 0 kept, 1 failed" in rows[1]
    assert [row[:14].rstrip() for row in rows[4:]] == ["├─ flaky", "└─ broken", "   └─ total", "      └─ total"]
    assert "done, 2 attempts" in rows[4]
    assert "a data error of two lines" in rows[5]
    assert "skipped" in rows[6] and "skipped" in rows[7]


@pytest.mark.parametrize("width", [60, 80, 110, 160])
def test_states_and_times_are_whole_however_narrow_it_is(own_store: Path, width):
    store = Store(str(own_store))
    (node,) = recorded(store, lambda: number(1))
    manifest = store.manifest(node["key"])
    store.delete(f"keys/{node['key']}.json")
    said = {"title": "a title " * 9, "describe": "what came of it " * 20}
    store.commit(node["key"], {**manifest, **said, "cost": {"seconds": 83.0, "cpu": 7923.0}})
    row = shown(store, width)[-1]

    assert "done  1 min 23 s  2 h 12 min" in row
    assert len(row) <= width and row.rstrip().endswith("…")


def test_gpu_seconds_are_shown_where_there_were_gpus(own_store: Path):
    store = Store(str(own_store))
    nodes = recorded(store, lambda: number(1))
    without = shown(store)
    manifest = store.manifest(nodes[0]["key"])
    store.delete(f"keys/{nodes[0]['key']}.json")
    store.commit(nodes[0]["key"], {**manifest, "cost": {"seconds": 60.0, "cpu": 3.0, "gpu": 120.0}})

    assert "GPU" not in "".join(without)
    assert "1 min 00 s  3.0 s  2 min 00 s" in shown(store)[-1]


def test_what_a_step_read_that_is_in_no_key_is_named_after_the_tree(own_store):
    store, screen = Store(str(own_store)), Console(file=io.StringIO(), width=60)
    (node,) = recorded(store, lambda: number(1))
    held(store, node["key"], also=["/etc/[words]", "the variable WORDS", "the module late"])
    (step,) = open_run(store, "20260101-000000-aa01").steps
    also_read(step, 2, screen)

    assert screen.file.getvalue() == "\n  number also read: /etc/[words], the variable WORDS, and 1 more\n"
