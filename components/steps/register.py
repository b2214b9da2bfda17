"""
register: the transaction that makes a checkpoint a version of a registered model, and perhaps its champion.

Registering the same thing again finds the version by its key and makes no new one. The alias `champion` moves only
when the gate lets it; the one before becomes `previous`.
"""

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load as load_arrays

import components
from components.artifacts import Checkpoint, Gate, Model, Scores
from components.crash import point
from components.errors import RayfieldError, UsageError
from components.files import digest_of, tracking_uri
from components.plain import canonical, encode
from components.step import Context, step
from components.steps.answering import answer, opened

NEEDED = ("torch", "numpy", "pyarrow", "safetensors", "numba", "scipy", "matplotlib")
"""packages that a registered model is loaded with, at the versions of this machine"""


OPEN = Gate()


class TrackingDown(RayfieldError, ConnectionError):
    """The MLflow server does not answer: registering waits until it does."""


@step
def register(scores: Scores, *, name: str, gate: Gate = OPEN, force: bool = False, context: Context) -> Model:
    """
    Registers the checkpoint behind some scores as a version of the model `name`.

    The version becomes champion if its test scores pass the gate and are not worse than the champion's on the same
    test assets. `force` moves the alias whatever the gate says, and is recorded.
    """
    checkpoint = scores.checkpoint
    if checkpoint is None:
        raise UsageError(f"A baseline cannot be registered, but got {scores.name}. Pass a trained model's scores.")
    missing = [n for n in gate.names() if n not in scores.test]
    if missing:
        raise UsageError(f"The gate asks for {missing[0]!r}, but {scores.name} has {', '.join(scores.test)}.")
    key = context.key(scores=scores, name=name)
    try:
        return _transaction(scores, checkpoint, name, gate, force, key, context)
    except Exception as error:
        if not is_down(error):
            raise
        raise TrackingDown(f"MLflow at {tracking_uri()} does not answer. Run again when it does.") from error


def is_down(error: Exception) -> bool:
    """Whether the server could not be reached: MLflow wraps what the network said in an error of its own."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, ConnectionError) or (
        isinstance(error, MlflowException) and isinstance(error.__context__, OSError)
    )


def _transaction(
    scores: Scores, checkpoint: Checkpoint, name: str, gate: Gate, force: bool, key: str, context: Context
) -> Model:
    point("register: before anything")
    api = client()
    _ensure_model(api, name)
    point("register: the model has its name, no version")
    tested = test_list(scores)
    champion = _champion(api, name)
    reasons = gate.failures(scores.test) + _worse(scores, tested, champion, key)
    version = _version(api, name, key) or _create(api, scores, checkpoint, name, key, tested)
    verdict = "PROMOTE" if not reasons or force else "REJECT" if gate.failures(scores.test) else "HOLD"
    tags = {"rayfield.verdict": verdict, "rayfield.evidence": json.dumps({"reasons": reasons, "forced": force})}
    point("register: the version is there, no verdict")
    for tag, value in tags.items():
        api.set_model_version_tag(name, version, tag, value)
    point("register: the verdict is written, no alias moved")
    if verdict == "PROMOTE" and (champion is None or str(champion.version) != version):
        if champion is not None:
            api.set_registered_model_alias(name, "previous", champion.version)
            point("register: `previous` moved, `champion` not yet")
        api.set_registered_model_alias(name, "champion", version)
        point("register: `champion` moved")
    context.note({"verdict": verdict, "version": version, "reasons": reasons})
    return Model(name, str(version), verdict, tuple(reasons), f"models:/{name}/{version}", key)


def client() -> Any:
    """An MLflow client, with the database made and migrated by one process at a time."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own 7 keep a dead server for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from filelock import FileLock

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        for logger in ("mlflow", "alembic", "sqlalchemy"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        uri = tracking_uri()
        if not uri.startswith("sqlite:///"):
            return mlflow.MlflowClient(uri, uri)
        # six processes that open a fresh database at once: five crash in its migrations
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(uri.removeprefix("sqlite:///") + ".lock"):
            api = mlflow.MlflowClient(uri, uri)
            api.search_experiments(max_results=1)
        return api


def experiment(api: Any, name: str) -> str:
    """The id of an experiment; it is made if there is none."""
    found = api.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    uri = tracking_uri()
    beside = str(Path(uri.removeprefix("sqlite:///")).with_name("mlartifacts")) if uri.startswith("sqlite") else None
    return api.create_experiment(name, artifact_location=beside)


def _ensure_model(api: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        api.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _champion(api: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return api.get_model_version_by_alias(name, "champion")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _version(api: Any, name: str, key: str) -> str | None:
    found = api.search_model_versions(f"name = '{name}' and tags.`rayfield.key` = '{key}'")
    return str(found[0].version) if found else None


def test_list(scores: Scores) -> str:
    """The digest of the list of test assets: two scores are compared only on the same list."""
    if scores.assets is None:
        return ""
    rows = pq.read_table(scores.assets.path(), columns=["id", "split", "digest"]).to_pylist()
    return digest_of(canonical(sorted([r["id"], r["digest"]] for r in rows if r["split"] == "test")).encode())


def _worse(scores: Scores, tested: str, champion: Any, key: str) -> list[str]:
    """Why a version is not to replace the champion."""
    if champion is None or champion.tags.get("rayfield.key") == key or champion.tags.get("rayfield.test") != tested:
        return []
    theirs = json.loads(champion.tags["rayfield.scores"]).get(scores.goal)
    ours = scores.test[scores.goal]
    better = theirs is not None and (ours < theirs if scores.direction == "max" else ours > theirs)
    return [f"{scores.goal} is {ours:.4g}, the champion's is {theirs:.4g} on the same test assets"] if better else []


def _create(api: Any, scores: Scores, checkpoint: Checkpoint, name: str, key: str, tested: str) -> str:
    """Uploads the model and creates the version; what is uploaded and never named is found by no one."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = _upload(api, scores, checkpoint, name, key, Path(folder))
    point("register: uploaded, no version")
    tags = {
        "rayfield.key": key,
        "rayfield.test": tested,
        "rayfield.family": checkpoint.family.name,
        "rayfield.scores": json.dumps(dict(scores.test)),
    }
    card = model_card(scores, checkpoint, name, key)
    return str(api.create_model_version(name, info.model_uri, tags=tags, description=card).version)


def _upload(api: Any, scores: Scores, checkpoint: Checkpoint, name: str, key: str, folder: Path) -> Any:
    import mlflow

    said = {"family": encode(checkpoint.family), "representation": encode(checkpoint.representation), "key": key}
    (folder / "model.json").write_text(json.dumps(said, indent=1))
    (folder / "model.safetensors").write_bytes(checkpoint.weights.read())
    (folder / "MODEL_CARD.md").write_text(model_card(scores, checkpoint, name, key))
    question = example(scores)
    pins = [f"{p}=={metadata.version(p).partition('+')[0]}" for p in ("mlflow", *NEEDED)]
    with mlflow.start_run(run_id=_run(api, name, key)):
        point("register: its MLflow run is open, nothing uploaded")
        mlflow.log_metrics({f"test_{n}": v for n, v in scores.test.items() if v == v})
        return mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={p.name: str(p) for p in sorted(folder.iterdir())},
            code_paths=[str(_code(folder.parent / f"{folder.name}-code"))],
            signature=_signature(checkpoint, question),
            input_example=question,
            pip_requirements=pins,
        )


def _run(api: Any, name: str, key: str) -> str:
    """The MLflow run that holds a key's upload: one that a killed process opened is gone on with, and so closed."""
    place = experiment(api, "models")
    found = api.search_runs([place], f"tags.`rayfield.key` = '{key}'", max_results=1)
    run = found[0] if found else api.create_run(place, run_name=f"{name} {key[:8]}", tags={"rayfield.key": key})
    return str(run.info.run_id)


def _code(folder: Path) -> Path:
    """The project's components without their data: what loads the model where there is no clone."""
    target = folder / "components"
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "data", "*.pyc")
    shutil.copytree(Path(components.__file__).parent, target, ignore=ignored)
    return target


def example(scores: Scores) -> dict[str, np.ndarray]:
    """The question that `evaluate` kept, by column."""
    assert scores.example is not None
    return load_arrays(scores.example.read())


def _signature(checkpoint: Checkpoint, question: Mapping[str, np.ndarray]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    answered = answer(checkpoint.family, checkpoint.network(), question)
    return ModelSignature(
        inputs=Schema([TensorSpec(v.dtype, (-1, *v.shape[1:]), n) for n, v in question.items()]),
        outputs=Schema([TensorSpec(v.dtype, (-1, *v.shape[1:]), n) for n, v in answered.items()]),
    )


def model_card(scores: Scores, checkpoint: Checkpoint, name: str, key: str) -> str:
    """What a stranger must know of the model, as Markdown."""
    family = checkpoint.family
    doc = (__import__(type(family).__module__, fromlist=["_"]).__doc__ or "").strip().splitlines()
    numbers = [
        f"| {n} | {scores.val.get(n, float('nan')):.4g} | {v:.4g} | {scores.error.get(n, float('nan')):.2g} |"
        for n, v in scores.test.items()
    ]
    lines = [
        f"# {name}: {family.name}",
        "",
        *doc[:1],
        "",
        f"{checkpoint.parameters:,} parameters, {checkpoint.steps} updates on {checkpoint.device}; key `{key}`.",
        "",
        f"Tested on {scores.count} rows that it has not learned from.",
        "",
        "| score | val | test | standard error |",
        "|---|---|---|---|",
        *numbers,
        "",
        *_data_card(scores),
    ]
    return "\n".join(lines)


def _data_card(scores: Scores) -> list[str]:
    """The data's licences and authors: their attribution goes wherever the model goes."""
    if scores.assets is None:
        return []
    rows = pq.read_table(scores.assets.path()).to_pylist()
    attributes = [dict(row["attributes"] or []) for row in rows]
    licences = Counter(a.get("licence", "not stated") for a in attributes)
    authors = Counter(a.get("author", "") for a in attributes if a.get("author"))
    said = [f"Data: {len(rows)} assets; " + ", ".join(f"{n} {licence}" for licence, n in licences.most_common()) + "."]
    if authors:
        said += ["", "Authors: " + ", ".join(f"{author} ({n})" for author, n in authors.most_common(40)) + "."]
    return said


def registered(uri: str) -> tuple[Any, Any, Path]:
    """The family, the network and the folder of a registered model: models:/furniture@champion."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if not uri.startswith("models:/"):
        raise UsageError(f"A model is models:/NAME@champion or models:/NAME/VERSION, but got {uri!r}.")
    client()
    mlflow.set_tracking_uri(tracking_uri())
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri)) / "artifacts"
    except MlflowException as error:
        raise UsageError(f"No model {uri} at {tracking_uri()}: {' '.join(str(error).split())}") from error
    family, representation, net = opened(folder)
    return family, (representation, net), folder
