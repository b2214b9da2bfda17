"""
Package a registered model: MLflow's "models from code" with safetensors, JSON and the components it needs.

No pickle, and no clone of this project where it is loaded.
"""

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as load_arrays

from components.artifacts import Checkpoint, Scores
from components.runtime.crash_points import point
from components.runtime.module_files import copy_modules
from components.runtime.objects import tracking_uri
from components.runtime.serialization import classes, encode
from components.steps.registry import training_data
from components.steps.registry.inference import answer, seal
from components.steps.registry.model_card import model_card
from components.steps.registry.versions import experiment

NEEDED = ("torch", "numpy", "pyarrow", "safetensors", "numba", "scipy", "matplotlib")
"""packages that a registered model is loaded with, at the versions of this machine"""


def uploaded(api: Any, scores: Scores, checkpoint: Checkpoint, name: str, key: str) -> tuple[str, str]:
    """
    The address of the model in MLflow and the run that holds it.

    A crash after the upload is found again by the key; what a crash left half uploaded is deleted.
    """
    place, tagged = experiment(api, "models"), f"tags.`rayfield.key` = '{key}'"
    found = api.search_logged_models([place], filter_string=tagged)
    whole = [one for one in found if str(one.status) == "READY"]
    if whole:
        _close(api, whole[0].source_run_id)
        return whole[0].model_uri, whole[0].source_run_id
    for half in found:
        api.delete_logged_model(half.model_id)
    runs = api.search_runs([place], tagged)
    run = runs[0] if runs else api.create_run(place, run_name=f"{name} {key[:8]}", tags={"rayfield.key": key})
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return upload(run.info.run_id, scores, checkpoint, name, key, Path(folder)), run.info.run_id


def _close(api: Any, run: str) -> None:
    """Ends the run of an upload that was whole when its process died."""
    if api.get_run(run).info.status == "RUNNING":
        api.set_terminated(run)


def upload(run: str, scores: Scores, checkpoint: Checkpoint, name: str, key: str, folder: Path) -> str:
    """Writes the model's folder and logs it to a run; returns its address."""
    import mlflow

    question, parts = example(scores), written(folder / "parts", checkpoint, key)
    (folder / "parts" / "MODEL_CARD.md").write_text(model_card(scores, checkpoint, name, key), encoding="utf-8")
    mlflow.set_tracking_uri(tracking_uri())
    with mlflow.start_run(run_id=run):
        point("register: its MLflow run is open, nothing uploaded")
        mlflow.log_metrics({f"test_{n}": v for n, v in scores.test.items() if v == v})
        return mlflow.pyfunc.log_model(
            name=name.replace(".", "-"),  # MLflow takes a registered model's name with a dot, and no logged model's
            # MLflow copies modes too: a copy of ours has the one that the umask leaves
            python_model=str(shutil.copyfile(Path(__file__).with_name("served.py"), folder / "served.py")),
            artifacts={path.name: str(path) for path in sorted(parts.iterdir())},
            code_paths=_code(folder / "code", checkpoint),
            signature=_signature(checkpoint, question),
            input_example=question,
            pip_requirements=[f"{p}=={metadata.version(p).partition('+')[0]}" for p in ("mlflow", *NEEDED)],
            tags={"rayfield.key": key},
        ).model_uri


def written(folder: Path, checkpoint: Checkpoint, key: str) -> Path:
    """A model's folder: its family and representation as JSON, its weights, and what it has seen."""
    folder.mkdir(parents=True)
    own = [name for name in _modules(checkpoint) if not name.startswith("components.")]
    said = {
        "family": encode(checkpoint.family),
        "representation": encode(checkpoint.representation),
        "own": own,
        "weights": checkpoint.weights.digest,
        "key": key,
    }
    (folder / "model.json").write_text(json.dumps({**said, "seal": seal(said)}, indent=1), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(checkpoint.weights.read())
    if checkpoint.seen is not None:
        (folder / training_data.NAME).write_bytes(checkpoint.seen.read())
    return folder


def _code(folder: Path, checkpoint: Checkpoint) -> list[str]:
    """The files that load the model where there is no clone: those of its own classes, and what they import."""
    copy_modules([f"{__package__}.served", *_modules(checkpoint)], folder)
    return [str(path) for path in sorted(folder.iterdir())]


def _modules(checkpoint: Checkpoint) -> list[str]:
    """The modules that define what a model's folder names."""
    return sorted({kind.__module__ for kind in classes((checkpoint.family, checkpoint.representation))})


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
