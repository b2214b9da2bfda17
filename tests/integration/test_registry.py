"""
Two registered versions of a real model: from the command line, over a whole source, and with MLflow alone.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from components.artifacts import Scores, at_least
from components.sources.folder import Folder
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.registry.gate import leaked, listed
from components.steps.registry.inference import answer
from components.steps.registry.packaging import example
from components.steps.registry.versions import registered
from components.steps.train import train
from pipelines.cli.main import main
from tests.meshes import small_voxnet, write_shapes
from tests.readme import README, blocks
from tests.services.servers import free_port

NAME = "two-versions"
ALONE = """
import importlib.util, sys
assert importlib.util.find_spec("components") is None, "this process can see the clone"
import numpy as np, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(dict(np.load("question.npz")))
np.savez("answer.npz", **answer)
import components
print(components.__file__)
"""
WITHOUT_A_CLONE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
"""


class Made(NamedTuple):
    store: Path
    shapes: Path
    scores: list[Scores]


@pytest.fixture(scope="module")
def made(tracking: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A good model, and then one that has learned nothing: the first is champion, the second is held."""
    folder = tmp_path_factory.mktemp("registry")
    shapes, store = write_shapes(folder / "shapes"), folder / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYFIELD_STORE", str(store))
        patch.setenv("MLFLOW_TRACKING_URI", tracking)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        good, poor = small_voxnet(steps=60), small_voxnet(steps=1, lr=1e-9)
        table = preprocess(Folder(root=str(shapes)), [good.representation()], on="here")
        scores = [evaluate(train(family, table, workers=0), table, on="here") for family in (good, poor)]
        assert scores[0].test["accuracy"] > scores[1].test["accuracy"]
        for one in scores:
            register(one, name=NAME, gate=at_least(accuracy=0.1))
        yield Made(store, shapes, scores)


@pytest.fixture(autouse=True)
def same_store(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYFIELD_STORE", str(made.store))


def rayfield(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def told(*words: str) -> Any:
    result = rayfield(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# From the command line


def test_the_champion_is_changed_and_changed_back_from_the_command_line(made):
    refused = rayfield("models", "promote", NAME, "2")

    assert refused.exit_code == 3
    assert "version 2: HOLD" in refused.stdout
    assert "on what neither has seen" in refused.stdout
    assert told("models", "promote", NAME, "2", "--force")["forced"] is True
    assert told("models", "show", NAME)["aliases"] == {"champion": "2", "previous": "1"}
    assert "version 1 is champion again, 2 was" in rayfield("models", "rollback", NAME).stdout

    shown = rayfield("models", "show", NAME).stdout

    assert [line.split()[:2] for line in shown.splitlines()[:2]] == [["version", "1"], ["version", "2"]]
    assert "forced" in shown and "rollback" in shown
    (row,) = [row for row in told("models", "list") if row["name"] == NAME]
    assert (row["champion"], row["previous"], row["versions"]) == ("1", "2", 2)
    assert f"# {NAME}: voxnet" in rayfield("models", "show", NAME, "1").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nobody"], "No model 'nobody'"),
        (["show", NAME, "9"], f"Model '{NAME}' has no version '9': it has 1, 2."),
        (["promote", NAME, "one"], f"Model '{NAME}' has no version 'one'"),
        (["rollback", "nobody"], "no previous champion"),
    ],
)
def test_a_model_that_is_not_there_ends_in_one_line_and_exit_code_2(words, message):
    result = rayfield("models", *words)

    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_is_asked_about_and_drawn(made, tmp_path):
    picture = tmp_path / "picture.png"
    said = told("predict", f"models:/{NAME}@champion", str(made.shapes / "flat" / "0.obj"), "--out", str(picture))

    assert {label for label, _ in said["answers"]} == {"flat", "long", "round"}
    assert sum(share for _, share in said["answers"]) == pytest.approx(1)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_goes_to_the_working_folder_and_replaces_only_another_answer(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = tmp_path / "shapes"
    shapes.mkdir()
    (shapes / "a.png").write_bytes(b"a texture")
    (shapes / "a.obj").write_bytes((made.shapes / "flat" / "0.obj").read_bytes())
    for _ in range(2):
        assert told("predict", f"models:/{NAME}@champion", "shapes/a.obj")["picture"] == "a.obj.answer.png"

    assert [path.name for path in shapes.iterdir() if path.suffix == ".png"] == ["a.png"]
    assert (shapes / "a.png").read_bytes() == b"a texture"
    for kind, start in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        for _ in range(2):
            told("predict", f"models:/{NAME}@champion", "shapes/a.obj", "--out", f"a.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes().startswith(start)


def test_a_shape_that_its_representation_refuses_ends_in_one_line(made, tmp_path, monkeypatch):
    """A voxel grid takes a line of points; points on its surface have nowhere to be."""
    from components.representations.points import Points
    from pipelines.inference import predict

    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    monkeypatch.setattr(predict, "registered", lambda uri: (None, (Points(), None), None))
    result = rayfield("predict", f"models:/{NAME}@champion", "line.obj")

    assert result.exit_code == 1
    assert "line.obj cannot be read: none of its 1 faces has an area" in result.stderr


# A whole source


@pytest.fixture
def spoiled(made: Made) -> Iterator[Made]:
    """Its shapes with one that cannot be read and one without faces."""
    extra = [made.shapes / "flat" / "torn.obj", made.shapes / "long" / "empty.obj"]
    extra[0].write_bytes(b"")
    extra[1].write_text("v 0 0 0\n")
    yield made
    for path in extra:
        path.unlink()


@pytest.mark.parametrize("on", ["here", "ray"])
def test_every_asset_of_a_source_has_an_answer_or_a_reason(spoiled, tmp_path, on, ray_session):
    out = str(tmp_path / "answers.parquet")
    asked = ["--source", "folder", "--root", str(spoiled.shapes), "--out", out, "--on", on]
    summary = told("predict", f"models:/{NAME}@champion", *asked)
    rows = {row["id"]: row for row in pq.read_table(out).to_pylist()}

    assert (summary["assets"], summary["answered"], summary["labelled"] + summary["learned"]) == (26, 24, 24)
    assert sum(summary["predicted"].values()) == 24
    assert summary["accuracy"] == np.mean(
        [r["predicted"] == r["label"] for r in rows.values() if r["learned"] is False and not r["reason"]]
    )
    assert len(rows) == 26
    assert "no bytes" in rows["flat/torn.obj"]["reason"]
    assert "no faces" in rows["long/empty.obj"]["reason"]
    assert rows["long/empty.obj"]["predicted"] is None
    assert sum(summary["quarantined"].values()) == 2

    # the accuracy is of what the model was neither trained nor chosen on
    scores = spoiled.scores[0]
    unseen = {name for name, _ in listed(scores)} - set(leaked(scores))
    assert {name for name, row in rows.items() if not row["reason"] and not row["learned"]} == unseen
    assert summary["labelled"] == len(unseen) > 0

    # as the checkpoint answers the row that `preprocess` made of the same asset
    table = preprocess(Folder(root=str(spoiled.shapes)), [scores.checkpoint.representation], on="here")
    own = table.open(scores.checkpoint.representation, "test")
    question = {name: column.numpy() for name, column in own.columns.items()}
    expected = answer(scores.checkpoint.family, scores.checkpoint.network(), question)["probabilities"]
    for name, shares in zip(own.ids, expected, strict=True):
        np.testing.assert_allclose(rows[name]["probabilities"], shares, rtol=1e-4, atol=1e-6)


# MLflow alone


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has the packages and not the clone, and that may load no pickle."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_A_CLONE)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RAY", "MLFLOW"))}
    return {
        **inherited,
        "PYTHONPATH": str(tmp_path / "site"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"],
    }


def test_the_registered_model_answers_alone_as_it_did_here(made, stranger, tmp_path):
    """In a process of another folder, with the code that lies beside the weights: there is no clone to be found."""
    question = example(made.scores[0])
    np.savez(tmp_path / "question.npz", **question)
    command = [sys.executable, "-W", "ignore", "-c", ALONE, f"models:/{NAME}/1"]
    ended = subprocess.run(command, cwd=tmp_path, env=stranger, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    checkpoint = made.scores[0].checkpoint
    here = answer(checkpoint.family, checkpoint.network(), question)
    there = dict(np.load(tmp_path / "answer.npz"))
    _, _, folder = registered(f"models:/{NAME}/1")

    assert not Path(ended.stdout.strip().splitlines()[-1]).is_relative_to(Path(__file__).parents[2])
    assert there.keys() == here.keys()
    for column, value in here.items():
        np.testing.assert_array_equal(there[column], value)
    assert {path.suffix for path in folder.parent.rglob("*") if path.is_file() and path.suffix != ".pyc"} <= {
        *("", ".py", ".json", ".md", ".safetensors", ".yaml", ".yml", ".txt"),  # and no pickle
    }
    card = (folder / "MODEL_CARD.md").read_text()
    assert "| accuracy |" in card
    assert f"Tested on {made.scores[0].count} rows" in card


@pytest.mark.services
def test_mlflow_serves_it_over_http_by_the_readmes_commands(made, stranger, tmp_path):
    """Where they are typed lies a store; the variable that they set is all that names it."""
    database = Path(stranger.pop("MLFLOW_TRACKING_URI").removeprefix("sqlite:///"))
    (tmp_path / ".rayfield").mkdir()
    (tmp_path / ".rayfield" / "mlflow.db").symlink_to(database)
    (serving,) = [b.commands for b in blocks(README.read_text(encoding="utf-8")) if "models serve" in b.commands[-1]]
    port = free_port()
    lines = "\n".join(serving).replace("furniture", NAME) + f" -p {port}"
    question = example(made.scores[0])
    body = json.dumps({"inputs": {name: value.tolist() for name, value in question.items()}}).encode()
    command = ["bash", "-c", lines]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=stranger, stdout=log, stderr=log, start_new_session=True)
    try:
        said = _asked(f"http://127.0.0.1:{port}/invocations", body, server)
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
    checkpoint = made.scores[0].checkpoint
    here = answer(checkpoint.family, checkpoint.network(), question)

    np.testing.assert_allclose(said["predictions"]["probabilities"], here["probabilities"], rtol=1e-5)


def _asked(url: str, body: bytes, server: "subprocess.Popen[bytes]") -> Any:
    """The server's answer, as soon as it gives one."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except ConnectionError:
            time.sleep(0.2)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionError):
                raise
            time.sleep(0.2)
    raise AssertionError("the server did not answer")
