"""
Secrets are planted, a pipeline says all of them in every way, and then every byte that was written is searched.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from components.steps.preprocess import preprocess
from pipelines.cli import FOLDER, main
from pipelines.engine import running
from pipelines.engine.executors import Here
from tests.faults.leaks import ADDRESS, HOLDING, IN_AN_ADDRESS, NEVER, OWN, PLANTED, Guarded, Letters

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
    monkeypatch.setattr(running, "OnRay", Here)
    result = CliRunner().invoke(main, ["run", leaky])

    lines = (result.stdout + result.stderr).splitlines()

    assert result.exit_code == 1
    # in this one process a step's own print goes to the terminal; what Ray's workers print is searched below
    assert searched(own_store, "\n".join(line for line in lines if not line.startswith(OWN))) == {}


@pytest.mark.services
def test_nor_by_the_workers_of_ray(leaky, own_store, tmp_path):
    """What they print goes through other processes than what they raise."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAYFIELD_STORE": str(own_store)}
    command = [sys.executable, "-m", "pipelines", "run", leaky]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    assert ended.returncode == 1, ended.stderr
    assert searched(own_store, ended.stdout + ended.stderr) == {}


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "json"])
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
def test_a_secret_on_the_command_line_is_refused_before_it_is_written(leaky, own_store, words, json):
    """A parameter is written into the plan and into the manifest, for the step to be called with it."""
    result = CliRunner().invoke(main, ["run", leaky, *words, *json])
    texts = [result.stdout + result.stderr, *(text for _, text in written(own_store))]

    assert result.exit_code == 2
    assert "Set a variable" in result.stderr
    assert not any("planted-" in text for text in texts)


def test_a_number_of_tokens_is_no_secret(leaky, monkeypatch):
    monkeypatch.setattr(running, "OnRay", Here)

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
