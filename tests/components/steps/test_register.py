"""
register: a transaction that can be repeated, a gate, a champion, and a model that needs nothing but itself.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from components.artifacts import Model, Scores, at_least, at_most
from components.errors import UsageError
from components.step import Printing
from components.steps import register as module
from components.steps.answering import answer
from components.steps.evaluate import evaluate
from components.steps.register import TrackingDown, client, example, register, registered
from components.steps.train import train
from components.table import Table
from pipelines.engine.errors import kind_of
from tests.meshes import small_pointnet


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model of this test's own: the database is everybody's."""
    return request.node.name


@pytest.fixture
def scores(table: Table) -> Scores:
    return evaluate(train(small_pointnet(steps=4), table, workers=0), table, on="here")


def scored(scores: Scores, accuracy: float, **more: Any) -> Scores:
    """The same model as if its test had gone so."""
    return replace(scores, test={**scores.test, "accuracy": accuracy}, **more)


def alias(name: str, alias: str) -> str | None:
    try:
        return str(client().get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads nothing: for tests of what is decided, not of what is stored."""

    class Info:
        model_uri = "runs:/none/model"

    monkeypatch.setattr(module, "_upload", lambda api, *_: Info())
    monkeypatch.setattr(
        "mlflow.MlflowClient.create_model_version",
        lambda self, name, source, tags, description: self._get_registry_client().create_model_version(
            name, source, None, tags, None, description
        ),
    )


# What is decided


def test_the_first_version_that_passes_its_gate_is_champion(scores, name, quick):
    model = register(scored(scores, 0.6), name=name, gate=at_least(accuracy=0.5))

    assert (model.version, model.verdict, model.reasons) == ("1", "PROMOTE", ())
    assert alias(name, "champion") == "1"
    assert model.describe() == f"{name} version 1 is champion"


def test_a_version_that_misses_its_gate_is_registered_and_not_promoted(scores, name, quick):
    model = register(scored(scores, 0.4), name=name, gate=at_least(accuracy=0.5))

    assert model.verdict == "REJECT"
    assert model.reasons == ("accuracy is 0.4, at least 0.5 is asked",)
    assert alias(name, "champion") is None
    assert client().get_model_version(name, "1").tags["rayfield.verdict"] == "REJECT"


def test_registering_the_same_again_makes_no_second_version(scores, name, quick):
    first = register(scored(scores, 0.6), name=name)
    second = register(scored(scores, 0.6), name=name)

    assert first == second
    assert len(client().search_model_versions(f"name = '{name}'")) == 1
    assert alias(name, "champion") == "1"
    assert alias(name, "previous") is None


def test_a_better_version_becomes_champion_and_the_old_one_previous(scores, name, quick):
    register(scored(scores, 0.6), name=name)
    model = register(scored(scores, 0.7), name=name)

    assert (model.version, model.verdict) == ("2", "PROMOTE")
    assert (alias(name, "champion"), alias(name, "previous")) == ("2", "1")


def test_a_worse_version_on_the_same_test_assets_is_held(scores, name, quick):
    register(scored(scores, 0.7), name=name)
    model = register(scored(scores, 0.6), name=name)

    assert model.verdict == "HOLD"
    assert model.reasons == ("accuracy is 0.6, the champion's is 0.7 on the same test assets",)
    assert alias(name, "champion") == "1"


def test_a_score_of_other_test_assets_is_not_compared(scores, name, quick):
    register(scored(scores, 0.7), name=name)
    model = register(scored(scores, 0.6, assets=None), name=name)

    assert model.verdict == "PROMOTE"


def test_where_less_is_better_the_worse_is_the_greater(scores, name, quick):
    least = replace(scores, goal="loss", direction="min", test={"loss": 0.5})
    register(least, name=name, gate=at_most(loss=1.0))

    assert register(replace(least, test={"loss": 0.6}), name=name).verdict == "HOLD"
    assert register(replace(least, test={"loss": 0.4}), name=name).verdict == "PROMOTE"


def test_force_moves_the_champion_and_is_recorded(scores, name, quick):
    register(scored(scores, 0.7), name=name)
    model = register(scored(scores, 0.1), name=name, gate=at_least(accuracy=0.5), force=True)

    assert alias(name, "champion") == model.version == "2"
    assert json.loads(client().get_model_version(name, "2").tags["rayfield.evidence"])["forced"] is True


def test_a_registration_killed_between_version_and_alias_is_finished(scores, name, quick, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.set_registered_model_alias", _killed)
        with pytest.raises(KeyboardInterrupt):
            register(scored(scores, 0.6), name=name)
    register(scored(scores, 0.6), name=name)

    assert alias(name, "champion") == "1"
    assert len(client().search_model_versions(f"name = '{name}'")) == 1


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


# Bad input


def test_a_baseline_is_not_registered(scores, name):
    with pytest.raises(UsageError, match="A baseline cannot be registered"):
        register(replace(scores, checkpoint=None), name=name)


def test_a_gate_on_a_score_that_is_not_there_is_refused(scores, name):
    with pytest.raises(UsageError, match="The gate asks for 'acuracy', but pointnet has accuracy"):
        register(scores, name=name, gate=at_least(acuracy=0.5))


def test_a_server_that_does_not_answer_is_waited_for(scores, name, monkeypatch):
    """It is the server's error: the engine tries the step again."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(
        TrackingDown, match="MLflow at http://127.0.0.1:9 does not answer. Run again when it does."
    ) as e:
        register(scores, name=name)
    assert kind_of(e.value) == "transient"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("furniture", "A model is models:/NAME@champion"),
        ("models:/nobody@champion", "No model models:/nobody@champion"),
    ],
)
def test_a_model_that_is_not_there_is_refused(uri, words):
    with pytest.raises(UsageError, match=words) as caught:
        registered(uri)

    assert len(str(caught.value).splitlines()) == 1


# What is stored


@pytest.fixture
def model(scores: Scores, name: str) -> Model:
    return register.run(register.bind((scores,), {"name": name}), Printing())


def test_the_registered_model_answers_alone_as_it_did_here(model, scores, tmp_path):
    """In a process of another folder, with the code that lies beside the weights and none of this checkout's."""
    question = example(scores)
    np.savez(tmp_path / "question.npz", **question)
    code = (
        "import sys, numpy as np, mlflow\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "import components\n"
        "answer = model.predict(dict(np.load('question.npz')))\n"
        "np.savez('answer.npz', **answer)\n"
        "print(components.__file__)\n"
    )
    _, _, folder = registered(model.uri)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folder.parent)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    answered = dict(np.load(tmp_path / "answer.npz"))
    here = answer(scores.checkpoint.family, scores.checkpoint.network(), question)

    assert Path(loaded.stdout.strip().splitlines()[-1]).is_relative_to(folder.parent)
    for column, value in here.items():
        np.testing.assert_array_equal(answered[column], value)
    assert not list(folder.parent.rglob("*.pkl"))
    card = (folder / "MODEL_CARD.md").read_text()
    assert "| accuracy |" in card
    assert f"Tested on {scores.count} rows" in card
