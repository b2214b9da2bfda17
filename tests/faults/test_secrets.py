"""
Secrets are planted, a pipeline says all of them in every way, and then every byte that was written is searched.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from components.steps.preprocess import preprocess
from pipelines.cli.main import FOLDER, main
from pipelines.engine.execution import driver
from pipelines.engine.execution.executors import Here
from tests.faults.leaks import ADDRESS, HOLDING, IN_AN_ADDRESS, NEVER, OWN, PLANTED, Guarded, Letters
from tests.meshes import write_shapes
from tests.two_nodes import python

ROOT = Path(__file__).resolve().parents[2]
LEAKY = '''
from pipelines.engine.pipeline import pipeline
from tests.faults.leaks import crash, fail, say


@pipeline
def leaky(hub_token: str = "", address: str = "nowhere", max_tokens: int = 4):
    """Says everything."""
    said = say()
    fail(said)
    crash(said)
'''


TELLING = """
from components.source import Source
from components.steps.preprocess import preprocess
from pipelines.engine.pipeline import pipeline
from tests.faults.leaks import told_by_a_search, told_by_data, told_by_trials, told_by_workers
from tests.meshes import small_voxnet


@pipeline
def telling(source: Source = "folder"):
    table = preprocess(source, [small_voxnet().representation()], on="here")
    told_by_trials()
    told_by_a_search(table)
    told_by_workers(table)
    told_by_data()
"""


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, own_store: Path) -> None:
    for name, value in {**PLANTED, **HOLDING}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # MLflow's database lies in the store, and is searched with it


@pytest.fixture
def leaky(tmp_path: Path) -> str:
    (tmp_path / "leaky.py").write_text(LEAKY)
    return str(tmp_path / "leaky.py")


def leaks(text: str) -> set[str]:
    return {secret for secret in NEVER if secret in text}


def written(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder as text: the bytes as they are, and what is packed in a table."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield str(path), path.read_bytes().decode("utf-8", "replace")
        with suppress(pa.ArrowInvalid, OSError):  # it is no Parquet
            yield f"{path} (its rows)", str(pq.read_table(path).to_pylist())


def said_by_every_command(run: str) -> dict[str, str]:
    """What people can ask of a run afterwards, on both streams."""
    asked = [["show"], ["show", "--json"], ["status"], ["status", "--json"]]
    asked += [[word] for word in ("runs", "logs", "report") if (FOLDER / f"{word}.py").exists()]
    results = {" ".join(words): CliRunner().invoke(main, words) for words in asked}
    return {words: result.stdout + result.stderr for words, result in results.items()}


def searched(folder: Path, output: str) -> dict[str, set[str]]:
    """Where which secret stands."""
    texts = {"what the run said": output, **said_by_every_command("leaky"), **dict(written(folder))}
    assert any("hub_token" in text for text in texts.values()), "what the step noted was written nowhere"
    assert any("The server refuses" in text for text in texts.values()), "the error was written nowhere"
    assert any("ZeroDivisionError" in text for text in texts.values())
    assert (folder / "mlflow.db").exists()
    return {place: found for place, text in texts.items() if (found := leaks(text))}


def test_no_secret_is_ever_written(leaky, own_store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "OnRay", Here)
    result = CliRunner().invoke(main, ["run", leaky])

    lines = (result.stdout + result.stderr).splitlines()

    assert result.exit_code == 1
    # in this one process a step's own print goes to the terminal; what Ray's workers print is searched below
    assert searched(own_store, "\n".join(line for line in lines if not line.startswith(OWN))) == {}


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray writes its logs; the path of a unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def command_lines() -> dict[str, str]:
    """How each process that this user may look at was started: all users of a machine see that."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found[str(place)] = place.read_bytes().decode("utf-8", "replace")
    return found


def driven(words: list[str], folder: Path, store: Path) -> tuple[int, str, dict[str, set[str]]]:
    """The exit code and the words of a command, and the command lines with secrets that were seen meanwhile."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAYFIELD_STORE": str(store)}
    seen: dict[str, set[str]] = {}
    with (folder / "output").open("w") as output:
        command = [sys.executable, "-m", "pipelines", *words]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            seen |= {place: found for place, text in command_lines().items() if (found := leaks(text))}
            time.sleep(0.5)
    return process.returncode, (folder / "output").read_text(), seen


def test_nor_in_rays_own_folder_by_trials_workers_and_data(own_store, tmp_path, ray_folder):
    """Ray Tune would write AWS's keys into each trial's runtime_env, and what workers print and raise into its logs."""
    code, said, seen = driven(["run", *told(tmp_path)], tmp_path, own_store)

    assert_whole_and_silent(code, said, own_store, ray_folder)
    assert seen == {}


@pytest.mark.services
def test_nor_there_by_a_job_whose_nodes_have_the_secrets_too(own_store, tmp_path, ray_folder):
    nodes = subprocess.Popen(
        [python(), "-m", "tests.two_nodes"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "nodes").open("w"),
        text=True,
    )
    assert nodes.stdin and nodes.stdout
    try:
        address = json.loads(next(line for line in nodes.stdout if line.startswith("::"))[2:])["dashboard"]
        nodes.stdin.write("add\n")
        nodes.stdin.flush()
        next(line for line in nodes.stdout if line.startswith("::"))
        code, said, seen = driven(["submit", *told(tmp_path), "--address", address], tmp_path, own_store)
        assert_whole_and_silent(code, said, own_store, ray_folder)
        assert seen == {}
    finally:
        nodes.stdin.close()
        nodes.wait(60)


def told(folder: Path) -> list[str]:
    """The words that ask for a pipeline in which all whom Ray starts tell every secret."""
    (folder / "telling.py").write_text(TELLING)
    return ["telling.py", "--root", str(write_shapes(folder / "shapes", each=4))]


def assert_whole_and_silent(code: int, said: str, store: Path, ray_folder: Path) -> None:
    """That each of them raised what it was to raise, and that no secret is in any file or in what the run said."""
    found = {"what the run said": said, **dict(written(store)), **dict(written(ray_folder))}
    # the code that plants them travels with a job
    texts = {place: text for place, text in found.items() if not Path(place).name.startswith("leaks.")}

    assert code == 1, said
    assert any("runtime_env" in text for place, text in texts.items() if place.startswith(str(ray_folder)))
    for step in ("trials", "a_search", "workers", "data"):
        assert f"told_by_{step}" in said
    assert sum("ZeroDivisionError" in line for line in said.splitlines()) >= 2, said
    assert {place: found for place, text in texts.items() if (found := leaks(text))} == {}


@pytest.mark.services
def test_nor_by_the_workers_of_ray(leaky, own_store, tmp_path):
    """What they print goes through other processes than what they raise."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAYFIELD_STORE": str(own_store)}
    command = [sys.executable, "-m", "pipelines", "run", leaky]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    assert ended.returncode == 1, ended.stderr
    assert searched(own_store, ended.stdout + ended.stderr) == {}


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    "words",
    [
        ["--hub_token", "planted-by-hand"],
        ["--hub-token=planted-by-hand"],
        ["--address", ADDRESS],
        ["--address", PLANTED["HUB_TOKEN"]],
    ],
    ids=["named so", "named so with a dash", "in an address", "of the environment"],
)
def test_a_secret_on_the_command_line_is_refused_before_it_is_written(leaky, own_store, words, form):
    """A parameter is written into the plan and into the manifest, for the step to be called with it."""
    result = CliRunner().invoke(main, ["run", leaky, *words, *form])
    texts = [result.stdout + result.stderr, *(text for _, text in written(own_store))]

    assert result.exit_code == 2
    assert "Set a variable" in result.stderr
    assert not any("planted-" in text for text in texts)


def test_a_number_of_tokens_is_no_secret(leaky, monkeypatch):
    monkeypatch.setattr(driver, "OnRay", Here)

    assert CliRunner().invoke(main, ["run", leaky, "--max_tokens", "8", "--dry-run"]).exit_code == 0


def test_why_an_asset_is_in_quarantine_names_no_secret(own_store):
    table = preprocess(Guarded(), [Letters()], on="here")
    (row,) = pq.read_table(table.quarantine.path()).to_pylist()

    assert "answers 403" in row["reason"]
    assert {place: found for place, text in written(own_store) if (found := leaks(text))} == {}


def test_an_error_of_the_command_line_names_no_secret(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://reader:{IN_AN_ADDRESS}@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = CliRunner().invoke(main, ["models", "list"])

    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert leaks(result.stderr) == set()
