"""
What happened in a run, read from its files alone.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import UsageError
from pipelines.engine.execution import scheduler_loop as runner_module
from pipelines.engine.monitoring.run_view import duration, find, find_step, history, open_run, said, state_of, tree
from pipelines.engine.store.store import Store
from tests.pipelines.engine.recorded import change, recorded
from tests.pipelines.engine.toys import broken, drawn, flaky, number, talk, total

ROOT = Path(__file__).resolve().parents[4]
RUN = "20260101-000000-aa01"


@pytest.fixture
def store(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(runner_module.time, "sleep", lambda _: None)
    return Store(str(own_store))


def test_a_step_has_its_attempts_its_errors_and_its_cost(store):
    recorded(store, lambda: flaky(failures=2))
    (step,) = open_run(store, RUN).steps

    assert (step.status, step.attempts, len(step.starts)) == ("done", 3, 3)
    assert [failure["error"] for failure in step.failures] == ["ConnectionError: the network is gone"] * 2
    assert step.began <= step.ended
    assert step.cost.keys() == {"seconds", "cpu", "gpu"}
    assert step.error == ""


def test_a_failed_step_has_its_error_and_what_needed_it_was_skipped(store):
    recorded(store, lambda: total([broken()]), code=1)
    run = open_run(store, RUN)

    assert run.state == "failed"
    assert [step.status for step in run.steps] == ["failed", "skipped"]
    assert run.steps[0].what == "a data error of two lines"


@pytest.mark.parametrize(
    ("code", "state"), [(0, "done"), (1, "failed"), (3, "refused"), (4, "failed"), (5, "interrupted")]
)
def test_a_runs_state_is_its_exit_code_in_words(store, code, state):
    recorded(store, lambda: number(1), code=code)

    assert open_run(store, RUN).state == state


def test_a_run_says_where_its_page_in_mlflow_is(store, monkeypatch):
    recorded(store, lambda: number(1))
    ledger = {"ids": {"": "8d1f"}, "sent": {}, "closed": [], "experiment": "7"}
    store.write(f"runs/{RUN}/mlflow.json", json.dumps(ledger).encode())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    here = open_run(store, RUN).page
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:a-password-of-hers@mlflow.lab/")

    assert here.startswith("run 8d1f, experiment ") and here.endswith("`rayfield ui`")
    assert open_run(store, RUN).page.endswith("mlflow.lab/#/experiments/7/runs/8d1f")
    assert "a-password-of-hers" not in open_run(store, RUN).page


def test_a_run_without_an_end_goes_on_while_its_driver_lives(store):
    recorded(store, lambda: number(1))
    change(store, RUN, "ended", "code")
    lease = store.lease(f"run-{RUN}")
    living = state_of(store, RUN, store.load(f"runs/{RUN}/run.json"))
    lease.release()

    assert living == "running"
    assert open_run(store, RUN).state == "interrupted"


def test_what_ran_when_a_run_was_interrupted_was_interrupted(store):
    nodes = recorded(store, lambda: number(1), code=5)
    names = store.names(f"runs/{RUN}/ledger")
    assert [store.load(f"runs/{RUN}/ledger/{name}")["status"] for name in names] == ["running", "done"]
    store.delete(f"runs/{RUN}/ledger/{names[-1]}")
    (step,) = open_run(store, RUN).steps

    assert step.key == nodes[0]["key"]
    assert (step.status, step.manifest) == ("interrupted", None)


def test_a_run_is_found_by_a_beginning_by_its_last_part_and_as_the_last(store):
    for run in (RUN, "20260102-000000-bb02", "20260102-000001-cc03"):
        recorded(store, lambda: number(1), run)

    assert find(store, RUN) == find(store, "20260101") == find(store, "aa") == RUN
    assert find(store) == find(store, "last") == "20260102-000001-cc03"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("20260102", "'20260102' begins 2 runs: 20260102-000001-cc03, 20260102-000000-bb02. Write more of it."),
        ("nothing", "No run 'nothing' in"),
        ("20260101-000000-aa02", "Did you mean '20260101-000000-aa01'?"),
    ],
)
def test_a_name_that_is_not_one_run_is_a_mistake_with_a_remedy(store, name, message):
    for run in (RUN, "20260102-000000-bb02", "20260102-000001-cc03"):
        recorded(store, lambda: number(1), run)

    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        find(store, name)


def test_a_step_is_found_by_its_title_or_its_key(store):
    recorded(store, lambda: total([number(1), number(2)]))
    run = open_run(store, RUN)
    wanted = run.steps[2]

    assert find_step(run, "total") is find_step(run, "tot") is find_step(run, wanted.key[:8]) is wanted
    with pytest.raises(UsageError, match="'number' names 2 steps"):
        find_step(run, "number")
    with pytest.raises(UsageError, match="has no step 'totl'. Did you mean 'total'"):
        find_step(run, "totl")


def test_what_a_step_said_is_put_together(store):
    def pipeline() -> None:
        talk()
        drawn()

    first, second = recorded(store, pipeline)
    found = said(store, RUN, first["key"])

    assert found.curves == {"": {"loss": [(0, 3.0), (1, 2.0), (2, 1.0)]}, "trial 01": {"loss": [(1, 0.5)]}}
    assert found.params == {"depth": 3, "nested": {"width": 4}}
    assert (found.progress["done"], found.progress["total"]) == (1, 2)
    assert [line["name"] for line in said(store, RUN, second["key"]).files] == ["map.png"]


def test_the_curves_of_a_checkpoint_are_those_of_its_whole_training(store):
    from components.runtime.objects import keep
    from components.runtime.serialization import encode

    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "val_loss": 1.5}]
    file = keep("history.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())

    assert history(store, {"result": {"history": encode(file)}}) == {
        "loss": [(1, 2.0), (2, 1.0)],
        "val_loss": [(2, 1.5)],
    }
    assert history(store, {"result": {"history": None}}) == history(store, None) == {}


def test_a_step_stands_under_the_last_of_those_that_it_needs(store):
    def pipeline() -> None:
        first = number(1)
        total([first, total([first, number(2)])])

    recorded(store, pipeline)

    assert [f"{indent}{step.title}" for indent, step in tree(open_run(store, RUN).steps)] == [
        "├─ number",
        "└─ number",
        "   └─ total",
        "      └─ total",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.04 s"), (12.34, "12.3 s"), (59.96, "60.0 s"), (65, "1 min 05 s"), (7800, "2 h 10 min"), (None, "")],
)
def test_a_duration_is_written_for_people(seconds, text):
    assert duration(seconds) == text


def test_looking_at_runs_imports_no_torch_ray_or_mlflow():
    code = (
        "import sys\n"
        "from pipelines.engine.monitoring import diff, logs, report, run_view\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'numpy') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"
