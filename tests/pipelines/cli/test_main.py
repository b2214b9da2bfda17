"""
The command line: what it prints where, its exit codes, and what it does not import.
"""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click import Context
from click.testing import CliRunner, Result

from components.runtime import filesystem
from pipelines.cli.main import main
from pipelines.engine.execution import driver
from pipelines.engine.execution.executors import Here
from pipelines.engine.monitoring import mlflow_sync
from pipelines.engine.monitoring.console import results
from pipelines.engine.store.store import Store
from tests.meshes import write_shapes
from tests.pipelines.engine.toys import ran

ROOT = Path(__file__).resolve().parents[3]
TOY = '''
from pipelines.engine.pipeline import pipeline
from tests.pipelines.engine.toys import broken, judge, number, total


@pipeline
def toy(kind: str = "none", verdict: str = "PROMOTE", value: int = 1):
    """
    A toy.

    value: what is added
    """
    if kind != "none":
        broken(kind=kind)
    judge(verdict=verdict)
    total([number(value)])
'''
TRAINING = '''
from components.families.shapes.voxnet import VoxNet
from components.source import Source
from components.steps.preprocess import preprocess
from components.steps.train import train
from pipelines.engine.pipeline import pipeline
from tests.meshes import small_voxnet


@pipeline
def training(source: Source = "folder", workers: int = 0):
    """Trains."""
    family = small_voxnet()
    train(family, preprocess(source, [family.representation()], on="here"), workers=workers)
'''


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs steps in this process."""
    monkeypatch.setattr(driver, "OnRay", Here)
    monkeypatch.setattr(mlflow_sync, "PAUSE", 0.05)


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves MLflow out: it has its own tests."""

    class Nowhere:
        def __init__(self, *_: object) -> None: ...

        def start(self) -> None: ...

        def finish(self) -> str:
            return ""

    monkeypatch.setattr(driver, "Tracker", Nowhere)


@pytest.fixture
def toy(tmp_path: Path) -> str:
    (tmp_path / "toy.py").write_text(TOY)
    return str(tmp_path / "toy.py")


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    (tmp_path / "training.py").write_text(TRAINING)
    return [str(tmp_path / "training.py"), "--root", str(write_shapes(tmp_path / "shapes", each=4))]


def rayfield(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def said(result: Result) -> str:
    """The one line of an error."""
    (line,) = result.stderr.splitlines()
    return line


# Exit codes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 0),
        (["--kind", "data"], 1),
        (["--kind", "bug"], 1),
        (["--kind", "usage"], 2),
        (["--verdict", "REJECT"], 3),
        (["--kind", "infeasible"], 4),
        (["--verdict", "HOLD"], 0),
        (["--kind", "data", "--verdict", "REJECT"], 1),
    ],
    ids=["done", "data", "bug", "usage", "gate", "infeasible", "held", "failed before the gate"],
)
def test_a_runs_end_is_its_exit_code(toy, untracked, words, code):
    assert rayfield("run", toy, *words).exit_code == code


def test_a_gate_that_said_no_says_so_when_all_is_kept_as_well(toy, untracked):
    assert rayfield("run", toy, "--verdict", "REJECT").exit_code == 3
    assert rayfield("run", toy, "--verdict", "REJECT").exit_code == 3


def test_an_interrupted_run_says_that_it_continues(toy, untracked, monkeypatch):
    class Interrupted(Here):
        def submit(self, node: Any, run: str, address: str) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(driver, "OnRay", Interrupted)
        result = rayfield("run", toy)

    assert result.exit_code == 5
    assert "Interrupted. The same command continues." in result.stderr
    assert rayfield("run", toy).exit_code == 0


def test_a_plan_that_no_cluster_of_this_size_could_run_is_infeasible(training, untracked):
    result = rayfield("run", *training, "--workers", "64")

    assert result.exit_code == 4
    assert "64 workers take 64 CPUs and loading data takes 1 more" in result.stderr


def test_one_class_alone_ends_in_one_line(tmp_path, training, untracked):
    root = write_shapes(tmp_path / "one", each=4, labels=("flat",))
    result = rayfield("run", training[0], "--root", str(root))

    assert result.exit_code == 2
    assert "A classifier needs at least two classes" in result.stderr


# Running


def test_a_run_says_what_came_of_every_step_and_json_alone_is_on_stdout(toy, untracked):
    result = rayfield("run", toy, "--value", "5", "--json")
    rows = json.loads(result.stdout)

    assert [(row["step"], row["status"]) for row in rows] == [("judge", "done"), ("number", "done"), ("total", "done")]
    assert rows[-1]["result"] == 5
    assert "> total" in result.stderr


def test_the_answer_goes_to_stdout_and_the_progress_to_stderr(toy, untracked):
    result = rayfield("run", toy)

    assert "> total" in result.stderr and "> total" not in result.stdout
    assert re.search(r"done +total ", result.stdout) and not re.search(r"done +total ", result.stderr)
    assert "rayfield report --open" in result.stderr


@pytest.mark.parametrize(
    "words",
    [["runs"], ["status"], ["show"], ["diff", "last"], ["plan", "TOY"], ["explain", "TOY"], ["gc"]],
    ids=" ".join,
)
def test_what_a_command_answers_can_be_piped(toy, untracked, words):
    rayfield("run", toy, "--value", "2")
    rayfield("run", toy)
    result = rayfield(*(toy if word == "TOY" else word for word in words))

    assert result.stdout
    assert bool(result.stderr) == (words == ["status"]), "advice alone"


def test_a_pipe_that_is_closed_ends_a_command_quietly():
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m pipelines families | head -1"
    found = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)

    assert found.stdout.count("\n") == 1 and found.stderr == ""


def test_a_second_run_keeps_everything(toy, untracked):
    rayfield("run", toy)
    rows = json.loads(rayfield("run", toy, "--json").stdout)

    assert {row["status"] for row in rows} == {"cached"}
    assert ran("total") == 1


def test_a_failed_step_is_shown_with_its_traceback_and_the_rest_goes_on(toy, untracked):
    result = rayfield("run", toy, "--kind", "bug")
    shown = rayfield("show")

    assert "a bug error of two lines" in result.stderr
    assert "Traceback" not in result.stderr
    assert ran("total") == 1
    assert "toys.py" in shown.stdout and "Traceback" in shown.stdout


@pytest.mark.parametrize("kind", ["usage", "infeasible", "data"])
def test_a_mistake_of_people_within_a_step_is_shown_as_its_sentence_alone(toy, untracked, kind):
    rayfield("run", toy, "--kind", kind)
    shown = rayfield("show").stdout

    assert f"\n  broken\n  a {kind} error of two lines\n" in shown
    assert "Traceback" not in shown


def test_what_is_in_quarantine_is_named_with_its_reason(training, untracked):
    folder = Path(training[2]) / "ball"
    folder.mkdir(exist_ok=True)
    for n in range(22):
        (folder / f"bad{n:02d}.obj").write_bytes(b"")
    ended = rayfield("run", *training).stdout
    again = rayfield("run", *training).stdout
    shown = rayfield("show").stdout
    page = Path(rayfield("report").stdout.strip()).read_text()

    assert "preprocess: 22 in quarantine" in ended
    assert ended.count("the file has no bytes") == again.count("the file has no bytes") == 3
    assert "ball/bad00.obj: the file has no bytes" in ended and "and 19 more" in ended
    assert shown.count("the file has no bytes") == page.count("the file has no bytes") == 20
    assert "ball/bad19.obj" in page and "and 2 more" in shown and "and 2 more" in page


# What to type next


def test_the_commands_that_are_printed_name_the_store_that_was_typed(toy, untracked, tmp_path):
    there = tmp_path / "else where"
    ended = rayfield("run", toy, "--kind", "bug", "--store", str(there)).stderr
    shown = rayfield("show", "--store", str(there)).stdout
    mistake = said(rayfield("show", "no-run", "--store", str(there)))

    assert f"rayfield report --open --store '{there}'" in ended
    assert f"rayfield ui --store '{there}'" in ended
    assert re.search(rf"`rayfield show \S+ --store '{there}'`", ended)
    assert f" STEP --store '{there}'" in shown
    assert f"`rayfield runs --store '{there}'` lists them" in mistake


@pytest.mark.parametrize(
    ("verdict", "lines"),
    [
        ("PROMOTE", ["Ask it:   rayfield predict models:/toy@champion FILE.obj"]),
        (
            "HOLD",
            [
                "Ask it:   rayfield predict models:/toy/2 FILE.obj",
                "Use it:   rayfield models promote toy 2 --force",
            ],
        ),
    ],
)
def test_a_registered_version_is_followed_by_how_to_ask_it(capsys, verdict, lines):
    judged = {"name": "toy", "version": "2", "verdict": verdict}
    manifests = {n: {"result": one} for n, one in enumerate([{"goal": "accuracy"}, judged])}
    results([], manifests, {}, Store.here())

    assert [line.strip() for line in capsys.readouterr().err.splitlines() if "toy" in line] == lines


def test_a_store_that_was_not_typed_is_not_named(toy, untracked):
    ended = rayfield("run", toy).stderr

    assert "rayfield report --open, rayfield ui\n" in ended
    assert "--store" not in ended + rayfield("show").stdout


@pytest.mark.parametrize("words", [["runs"], ["status"], ["models", "list"]], ids=" ".join)
def test_where_nothing_is_yet_the_first_command_names_the_store_too(tmp_path, words, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    there = str(tmp_path / "there")

    assert f"`rayfield run quickstart --store {there}`" in rayfield(*words, "--store", there).stderr


def test_a_command_that_takes_no_store_is_given_none(toy, tmp_path):
    there = ["--store", str(tmp_path / "there")]

    assert said(rayfield("run", "quikstart", *there)).endswith("`rayfield pipelines` lists all.")


def test_mlflow_that_does_not_answer_stops_nothing(toy, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = rayfield("run", toy)

    assert result.exit_code == 0
    assert "the rest waits in the store" in " ".join(result.stderr.split())


def test_a_plan_says_what_would_run(toy, untracked):
    rayfield("run", toy, "--value", "5")
    rows = json.loads(rayfield("plan", toy, "--value", "6", "--json").stdout)["steps"]

    assert [(row["step"], row["action"]) for row in rows] == [("judge", "keep"), ("number", "run"), ("total", "run")]
    assert "2 of 3 steps would run." in rayfield("run", toy, "--value", "6", "--dry-run").stdout
    assert ran("number 6") == 0


def test_the_last_runs_are_listed(toy, untracked):
    assert "No run yet" in rayfield("runs").stderr
    rayfield("run", toy, "--kind", "data")
    rayfield("run", toy, "--value", "9")
    rows = {row["status"]: row for row in json.loads(rayfield("runs", "--json").stdout)}

    assert rows.keys() == {"failed", "done"}
    assert rows["failed"]["steps"] == {"failed": 1, "done": 3}
    assert json.loads(rayfield("runs", "--json", "--failed").stdout) == [rows["failed"]]
    assert json.loads(rayfield("runs", "--json", "--pipeline", "other").stdout) == []
    assert len(json.loads(rayfield("runs", "--json", "-n", "1").stdout)) == 1


def test_status_is_about_what_runs_now(toy, untracked):
    assert "No run yet" in rayfield("status").stderr
    rayfield("run", toy)

    assert json.loads(rayfield("status", "--json").stdout) == []
    assert "Nothing runs. The last run:" in rayfield("status").stdout
    assert json.loads(rayfield("status", "last", "--json").stdout)[0]["status"] == "done"


@pytest.mark.parametrize("name", ["last", "20"])
def test_a_run_is_stopped_by_the_names_that_other_commands_take(toy, untracked, name):
    rayfield("run", toy)
    run = json.loads(rayfield("runs", "--json").stdout)[0]["run"]

    assert rayfield("stop", name).stdout == f"  {run} has ended already\n"


def test_the_logs_of_a_step_are_printed_to_stdout(toy, untracked):
    rayfield("run", toy, "--kind", "data")
    (name,) = (row["run"] for row in json.loads(rayfield("runs", "--json").stdout))
    whole, one = rayfield("logs", "last"), rayfield("logs", name, "broken")
    line = json.loads(rayfield("logs", name, "broken", "--json", "-n", "1").stdout)

    assert "broken, step" in whole.stdout and "DataError: a data error of two" in whole.stdout
    assert "| Traceback (most recent call last):" in one.stdout.splitlines()[0]
    assert (line["step"], line["writer"], line["text"]) == ("broken", "step", "lines")
    assert "Nothing was printed." in rayfield("logs", name, "judge").stderr
    assert "Nothing was printed." in rayfield("logs", name, "judg", "--follow").stderr


TALKING = """
from components.step import step
from pipelines.engine.pipeline import pipeline


@step
def talk(value: int) -> int:
    print("counting")
    return value


@step
def add(value: int, more: int) -> int:
    return value + more


@pipeline
def talking(more: int = 1):
    add(talk(1), more)
"""


def test_the_logs_of_what_was_kept_are_those_of_the_run_that_made_it(tmp_path, untracked):
    (tmp_path / "talking.py").write_text(TALKING)
    rayfield("run", str(tmp_path / "talking.py"))
    rayfield("run", str(tmp_path / "talking.py"), "--more", "2")

    assert "counting" in rayfield("logs", "last", "talk").stdout


def test_two_runs_are_compared(toy, untracked):
    rayfield("run", toy, "--value", "5")
    first = json.loads(rayfield("runs", "--json").stdout)[0]["run"]
    rayfield("run", toy, "--value", "6")
    names = [row["run"] for row in json.loads(rayfield("runs", "--json").stdout)]
    (second,) = set(names) - {first}
    found = json.loads(rayfield("diff", first, second, "--json").stdout)

    assert found["parameters"] == {"value": ["5", "6"]}
    assert [(step["step"], step["same"]) for step in found["steps"]] == [
        ("judge", True),
        ("number", False),
        ("total", False),
    ]
    assert "value: 5 -> 6" in rayfield("diff", first, second).stdout


def test_the_last_run_is_compared_with_the_one_before_it_of_its_pipeline(own_store):
    def record(run: str, pipeline: str) -> None:
        told = {"pipeline": pipeline, "started": 1.0, "ended": 2.0, "code": 0, "nodes": [], "commit": ""}
        Store(str(own_store)).save(f"runs/{run}/run.json", {**told, "parameters": {}})

    record("20260101-toy", "toy")
    alone = rayfield("diff", "last")
    record("20260102-other", "other")
    record("20260103-toy", "toy")

    assert alone.exit_code == 2
    assert "but 20260101-toy is the first of toy. Name another as OTHER." in said(alone)
    assert rayfield("diff", "last").stdout.startswith("  20260101-toy  ->  20260103-toy")
    assert rayfield("diff", "20260102").stdout.startswith("  20260102-other  ->  20260103-toy")
    assert "but both are 20260101-toy." in said(rayfield("diff", "20260101", "20260101"))


def test_what_a_run_did_not_finish_is_said_when_it_is_compared(toy, untracked):
    rayfield("run", toy, "--kind", "bug")
    rayfield("run", toy, "--kind", "data")
    shown = rayfield("diff", "last", json.loads(rayfield("runs", "--json").stdout)[1]["run"]).stdout

    assert shown.count(" (failed) has no result of broken: nothing of these is compared.") == 2
    assert not re.search("broken +same result", shown)


def test_every_run_has_its_report(toy, untracked, tmp_path):
    rayfield("run", toy, "--kind", "data")
    path = Path(rayfield("report").stdout.strip())
    elsewhere = tmp_path / "new" / "report.html"
    rayfield("report", "last", "--out", str(elsewhere))

    assert path.name == "report.html" and path.is_file()
    assert elsewhere.read_text().startswith("<!doctype html>")
    assert str(path.parent.name) in path.read_text()


def test_who_may_only_read_gets_what_is_kept_and_a_report_elsewhere(toy, untracked, monkeypatch, tmp_path):
    rayfield("run", toy)
    store = Store(os.environ["RAYFIELD_STORE"])
    store.write("runs/0/run.json", b'{"started": 1.0, "nodes": [], "pipeline": "toy"}')
    store.write("open/0", b"0")

    def refuse(*_: Any) -> bool:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filesystem, "write", refuse)
    monkeypatch.setattr(filesystem, "create", refuse)
    assert rayfield("run", toy).exit_code == 0
    assert rayfield("plan", toy, "--kind", "data").exit_code == 0
    assert rayfield("report", "--out", str(tmp_path / "report.html")).exit_code == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_report_that_cannot_be_written_costs_no_result(toy, untracked, monkeypatch):
    monkeypatch.setattr("pipelines.engine.monitoring.report.report", lambda *_, **__: 1 / 0)
    result = rayfield("run", toy)

    assert result.exit_code == 0
    assert "The report was not written (ZeroDivisionError" in " ".join(result.stderr.split())


def test_a_record_says_how_to_make_the_run_again(toy, untracked):
    rayfield("run", toy, "--value", "5")
    shown = json.loads(rayfield("show", "--json").stdout)

    assert shown["command"] == f"rayfield run {toy} --value 5"
    assert shown["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(step["why"] for step in shown["steps"])


# Bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], "No command 'rum'. Did you mean 'run'?"),
        (["run", "quikstart"], "No pipeline 'quikstart'. Did you mean 'quickstart'?"),
        (["run", "nowhere.py"], "No file nowhere.py."),
        (["run", "no\0where.py"], r"An argument is UTF-8 without null bytes, but got 'no\x00where.py'."),
        (["run", "quickstart", "--size", "ti\0ny"], r"UTF-8 without null bytes, but got 'ti\x00ny'."),
        (["run", "classify", "--source", "folder", "--root", "/\udcff"], r"null bytes, but got '/\udcff'. Write"),
        (["run", "quickstart", "--trails", "4"], "has 'trails'. Did you mean 'trials'?"),
        (["run", "quickstart", "--trials", "many"], "--trials must be a whole number, but got 'many'."),
        (
            ["run", "quickstart", "--size", "tny"],
            "but got 'tny'. Did you mean 'tiny'?",
        ),
        (["run", "quickstart", "--source", "furnitur"], "No source 'furnitur'. Did you mean 'furniture'?"),
        (["run", "quickstart", "--source", "folder"], "Source 'folder' needs --root"),
        (["run", "classify", "--family", "pointnett"], "No family 'pointnett'. Did you mean 'pointnet'?"),
        (["run", "quickstart", "--set", "pointnet.lrr=1"], "no field 'lrr'. Did you mean 'lr'?"),
        (["run", "quickstart", "--set", "pointnet.lr=x"], "pointnet.lr must be a number, but got 'x'."),
        (["run", "quickstart", "--set", "gan.lr=1"], "--set gan.lr met no gan"),
        (["run", "quickstart", "--set", "lr=1"], "--set is family.field=value, but got 'lr=1'."),
        (["run", "quickstart", "tiny"], "An option begins with --, but got 'tiny'."),
        (["show", "no-run"], "No run 'no-run' in"),
        (["logs", "last"], "There is no run in"),
        (["diff", "no-run"], "No run 'no-run' in"),
        (["predict", "models:/nobody@champion", "nowhere.obj"], "No file nowhere.obj."),
        (
            ["predict", "models:/nobody@champion", str(ROOT)],
            f"predict takes one FILE, but {ROOT} is a folder. Pass --source folder --root {ROOT}.",
        ),
        (["quickstart"], "quickstart is a pipeline. Run it: `rayfield run quickstart`."),
        (["mine.py", "--seed", "1"], "mine.py is a pipeline. Run it: `rayfield run mine.py`."),
        (["run", "classify", "--family", "gan"], "--family must be a classifier, but gan is none. Pass convnet or"),
        (["run", "embed", "--family", "tsne"], "--family must be a classifier, but tsne is none. Pass convnet or"),
        (["stop", "last"], "There is no run in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_one_line_and_exit_code_2(words, message):
    result = rayfield(*words)

    assert result.exit_code == 2
    assert said(result).startswith("rayfield: ")
    assert message in said(result)


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("foo://bucket/x", "--store is a folder or an address such as s3://bucket/rayfield, but got foo://bucket/x."),
        ("gs://bucket/x", "--store gs://bucket/x needs a package that is not here: Please install gcsfs"),
        ("/etc/passwd", "--store is a folder or an address, but /etc/passwd is a file."),
        ("/etc/passwd/x", "--store is a folder or an address, but /etc/passwd is a file."),
        ("s3://AKIA12345:planted@bucket/x", "--store is written where others read it, but holds a secret."),
        ("memory://me:planted@bucket/x", "--store is written where others read it, but holds a secret."),
    ],
)
@pytest.mark.parametrize("command", [["runs"], ["run", "quickstart", "--dry-run"]], ids=" ".join)
def test_a_store_that_could_never_be_one_ends_in_one_line(command, store, message):
    result = rayfield(*command, "--store", store)

    assert result.exit_code == 2
    assert message in said(result)
    assert "planted" not in said(result)


def test_a_store_behind_a_cache_is_one():
    assert rayfield("runs", "--store", "simplecache::memory://bucket/x").exit_code == 0


def test_a_bucket_without_keys_ends_in_one_line(monkeypatch, tmp_path):
    """The first thing that whoever has a cluster meets."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    result = rayfield("runs", "--store", "s3://bucket/rayfield")

    assert result.exit_code == 1
    assert "Unable to locate credentials. Set AWS_ACCESS_KEY_ID" in said(result)


def test_an_error_that_nobody_foresaw_is_shown_whole_and_without_a_secret(monkeypatch, own_store):
    def fail(_: Any) -> None:
        raise ZeroDivisionError("cannot divide s3://me:planted@bucket")

    monkeypatch.setattr(Store, "runs", fail)
    result = rayfield("runs")

    assert result.exit_code == 1
    assert "Traceback" in result.stderr and "s3://***@bucket" in result.stderr
    assert "planted" not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "models:/nobody@champion", "shape.obj"],
        ["models", "show", "nobody"],
        ["models", "show", "nobody", "1"],
        ["models", "promote", "nobody", "1"],
        ["models", "rollback", "nobody"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_asking_for_a_model_where_none_was_registered_makes_no_database(tmp_path, own_store, monkeypatch, words):
    write_shapes(tmp_path / "shapes", each=1)
    (file, *_) = (tmp_path / "shapes").rglob("*.obj")
    file.rename(tmp_path / "shape.obj")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = rayfield(*words)

    assert result.exit_code == 2
    assert f"there is no sqlite:///{own_store.resolve()}/mlflow.db" in said(result)
    assert not list(own_store.rglob("mlflow.db*"))


def test_listing_the_models_makes_no_database(own_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    assert "No model yet" in rayfield("models", "list").stderr
    assert not list(own_store.rglob("mlflow.db*"))


def test_a_folder_that_is_not_there_ends_in_one_line():
    result = rayfield("run", "quickstart", "--source", "folder", "--root", "/none")

    assert result.exit_code in (1, 2)
    assert "'/none' does not exist" in said(result)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "no bytes"), ("v 0 0 0\n", "no faces"), ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "finite|number")],
    ids=["empty", "no faces", "not finite"],
)
def test_a_file_that_cannot_be_used_is_asked_about_in_vain(tmp_path, text, reason):
    (tmp_path / "bad.obj").write_text(text)
    result = rayfield("predict", "models:/nobody@champion", str(tmp_path / "bad.obj"))

    assert result.exit_code == 1
    assert re.search(reason, said(result))


def test_a_shape_in_another_format_is_told_which_ones_are_read(tmp_path):
    for name, said_of_it in (("chair.fbx", "its name ends in .fbx"), ("chair", "its name has no ending")):
        (tmp_path / name).write_text("FBX")
        result = rayfield("predict", "models:/nobody@champion", str(tmp_path / name))

        assert result.exit_code == 1
        assert f"an OBJ, PLY, OFF, STL or GLB file, but {said_of_it}" in said(result)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("o.xyz", "--out is a .png, .svg, .pdf file, but got o.xyz. Pass o.png."),
        ("here", "--out is the picture itself, but here is a folder. Pass here/answer.png."),
        ("/proc/x/o.png", "--out is a file that can be made, but /proc/x/o.png cannot: no such file or directory."),
        ("chair.obj/o.png", "--out is a file that can be made, but chair.obj/o.png cannot: not a directory."),
        ("chair.png", "--out never replaces what is no answer, but chair.png is there. Pass another --out."),
        (f"{'x' * 300}.png", "cannot: file name too long."),
    ],
    ids=["format", "folder", "nowhere", "in a file", "a texture", "too long"],
)
def test_a_picture_that_could_not_be_kept_is_refused_before_the_model_is_read(tmp_path, monkeypatch, out, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "chair.png").write_bytes(b"a texture")
    (tmp_path / "chair.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    result = rayfield("predict", "models:/nobody@champion", "chair.obj", "--out", out)

    assert result.exit_code == 2
    assert message in said(result)
    assert (tmp_path / "chair.png").read_bytes() == b"a texture"


def test_a_shape_that_its_representation_refuses_has_its_words_for_a_reason(tmp_path):
    from components.representations.points import Points
    from components.sources.folder import Folder
    from pipelines.inference.predict import answers

    (tmp_path / "line").mkdir()
    (tmp_path / "line" / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    source = Folder(root=str(tmp_path))
    (row,) = answers(source.rows(), source, None, Points(), None)

    assert row["reason"] == "none of its 1 faces has an area: the corners of each lie on one line"


@pytest.mark.parametrize(
    "out", ["here", "/proc/x/answers.parquet", "answers.txt", "answers", "memory://bucket/answers.json"]
)
def test_a_table_that_could_not_be_kept_is_refused_before_the_model_is_read(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    result = rayfield("predict", "models:/nobody@champion", "--source", "furniture", "--out", out)

    assert result.exit_code == 2
    assert "--out is" in said(result)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "is full"), (errno.EACCES, "must be writable, but Permission denied")],
    ids=["full", "forbidden"],
)
def test_a_store_that_takes_nothing_ends_in_one_line(toy, monkeypatch, number, words):
    """Root may write everywhere, so the error is made up."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filesystem, "_part", refuse)
    result = rayfield("run", toy)

    assert result.exit_code == 1
    assert words in said(result)


def test_a_disk_that_is_full_in_the_middle_of_a_step_loses_nothing(training, untracked, monkeypatch):
    """The objects of the second shard do not fit; with room again, the same command goes on."""
    link, calls = os.link, []

    def full(source: str, target: str) -> None:
        if "/keys/" in str(target) and not calls.append(target) and len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        result = rayfield("run", *training)
    assert result.exit_code == 1
    assert "is full" in result.stderr
    assert len(Store.here().names("keys")) == 1

    assert rayfield("run", *training).exit_code == 0
    assert len(Store.here().names("keys")) == 3


# What it does not import


def imported(*words: str, store: str = "") -> tuple[set[str], str]:
    """What a command imports of the heavy packages, and how it ended."""
    code = (
        "import sys; sys.argv = ['rayfield', *sys.argv[1:]]\n"
        "from pipelines.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print('ended with', end.code, file=sys.stderr)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'scipy', 'pandas'}\n"
        "print('imported', *sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({"RAYFIELD_STORE": store} if store else {})}
    command = [sys.executable, "-c", code, *words]
    end = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True).stderr.splitlines()
    return set(end[-1].split()[1:]), end[-2]


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["run", "quickstart", "--help"], ["pipelines"], ["families"], ["status"]]
)
def test_what_only_reads_imports_nothing_heavy(words):
    heavy, end = imported(*words)

    assert heavy == set()
    assert "Traceback" not in end


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["for people", "for machines"])
def test_a_run_that_is_all_kept_imports_nothing_heavy(toy, untracked, own_store, more):
    assert rayfield("run", toy).exit_code == 0
    heavy, end = imported("run", toy, *more, store=str(own_store))

    assert heavy == set()
    assert end == "ended with 0"


def test_help_of_a_pipeline_tells_its_parameters(toy):
    result = rayfield("run", toy, "--help")

    assert result.exit_code == 0
    assert "--value" in result.stdout and "what is added [1]" in result.stdout


def test_a_tuple_among_the_defaults_is_shown_as_it_is_typed():
    assert "with commas between [pointnet,voxnet]" in rayfield("run", "classify", "--help").stdout


def test_every_command_has_help_and_names_no_file_that_is_not_there():
    for name in main.list_commands(Context(main)):
        result = rayfield(name, "--help")

        assert result.exit_code == 0
        assert main.get_command(Context(main), name).get_short_help_str()
        assert all((ROOT / file).exists() for file in re.findall(r"\w+\.md", result.stdout)), name


@pytest.mark.parametrize("port", ["99999", "0", "-1", "http"])
def test_a_port_that_is_none_is_refused(monkeypatch, port):
    monkeypatch.setattr(os, "execvp", lambda *_: pytest.fail("the server was started"))
    result = rayfield("ui", "--port", port)

    assert result.exit_code == 2
    assert "Invalid value for '--port'" in result.stderr


def test_pipelines_and_families_are_listed():
    assert {row["name"] for row in json.loads(rayfield("pipelines", "--json").stdout)} >= {"quickstart", "classify"}
    assert {row["name"] for row in json.loads(rayfield("families", "--json").stdout)} >= {"pointnet", "voxnet"}


def test_a_terminal_whose_encoding_lacks_a_character_gets_it_escaped():
    """The scores of a family have a ±."""
    environment = {**os.environ, "PYTHONIOENCODING": "iso8859-2"}
    command = [sys.executable, "-m", "pipelines", "families"]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)

    assert told.returncode == 0, told.stderr
    assert rb" \xb1 0.0" in told.stdout


def test_python_m_pipelines_is_rayfield():
    found = subprocess.run([sys.executable, "-m", "pipelines", "--version"], cwd=ROOT, capture_output=True, text=True)

    assert found.stdout.startswith("rayfield, version")


# Paths that were typed


def test_a_root_that_was_typed_means_the_folder_where_it_was_typed(training, untracked, tmp_path, monkeypatch):
    """Two folders have shapes of one name, and a plan of the one is no plan of the other."""
    write_shapes(tmp_path / "a" / "shapes", each=2)
    write_shapes(tmp_path / "b" / "shapes", each=3)
    counted = {}
    for name in ("a", "b", "a"):
        monkeypatch.chdir(tmp_path / name)
        assert rayfield("run", training[0], "--root", "shapes", "--dry-run").exit_code == 0
        (plan,) = [
            p
            for p in Store.here().names("plans")
            if f"/{name}/shapes" in (Store.here().read(f"plans/{p}") or b"").decode()
        ]
        counted[name] = plan

    assert len(set(counted.values())) == 2


def test_variables_that_name_paths_are_made_absolute_before_a_worker_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYFIELD_STORE", "store")
    monkeypatch.setenv("RAYFIELD_CACHE", "cache")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///own.db")
    assert rayfield("runs").exit_code == 0

    assert os.environ["RAYFIELD_STORE"] == f"{tmp_path}/store"
    assert os.environ["RAYFIELD_CACHE"] == f"{tmp_path}/cache"
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/own.db"
