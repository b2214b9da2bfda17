"""
Steps that say every secret they can find, in every way that a step can say something.

They are imported by Ray's workers too, so they cannot live in the file of a test.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from components.artifacts import Checkpoint
from components.errors import DataError
from components.families.shapes.voxnet import VoxNet
from components.family import Batch, State
from components.representation import Column, Representation
from components.source import Asset, Source, Unreadable
from components.step import Context, step
from components.steps.optuna_search import search
from components.steps.ray_workers import spread
from components.steps.train import train
from components.steps.tune import TrialRun, TrialScore, _on_tune
from components.table import Table
from tests.meshes import small_voxnet

PLANTED = {
    "AWS_ACCESS_KEY_ID": "planted-access-key-13",
    "AWS_SECRET_ACCESS_KEY": "planted+aws/secret=1",
    "AWS_SESSION_TOKEN": "planted-session-2",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-3",
    "HUB_TOKEN": "planted-hub-4",
    "MYSQL_PWD": "planted-mysql-7",
    "HUB_WEBHOOK_URL": "https://hooks.example/planted-hook-8",
    "HUB_API_KEY_V2": "planted-version-9",
}
IN_JSON = "planted-json-10"
HOLDING = {"FSSPEC_S3": f'{{"key": "planted-json-key-11", "secret": "{IN_JSON}", "anon": false}}'}
IN_AN_ADDRESS = "planted-address-5"
ADDRESS = f"https://reader:{IN_AN_ADDRESS}@example.org/data?X-Amz-Signature=planted-signature-6"
IN_A_PATH = "planted/password-12"
DATABASE = f"postgresql://reader:{IN_A_PATH}@example.org/data"
NEVER = (*PLANTED.values(), IN_AN_ADDRESS, "planted-signature-6", IN_JSON, "planted-json-key-11", IN_A_PATH)

OWN = "printed by the step itself:"


def everything() -> str:
    return " ".join([*(os.environ.get(name, "") for name in (*PLANTED, *HOLDING)), ADDRESS, DATABASE])


@step
def say(*, context: Context) -> str:
    """Prints, notes and logs."""
    print(f"{OWN} {everything()}", flush=True)
    print(f"{OWN} {everything()}", file=sys.stderr, flush=True)
    context.note({"hub_token": os.environ["HUB_TOKEN"], "words": everything(), "deep": {"address": ADDRESS}})
    context.log({"loss": 1.0}, 0)
    return "said"


@step
def fail(said: str) -> str:
    raise DataError(f"The server refuses {everything()}")


@step
def crash(said: str) -> str:
    raise ZeroDivisionError(f"cannot be divided by {everything()}")


# By those whom Ray starts


class Telling(VoxNet):
    """A VoxNet that prints everything at each update; a trial of it, and a training of seven updates, raise it too."""

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        print(everything(), flush=True)
        if self.lr != small_voxnet().lr:
            raise DataError(everything())
        if self.steps == 7:
            raise ZeroDivisionError(everything())
        return super().update(state, batch)


def telling(steps: int) -> Telling:
    own = small_voxnet(steps=steps)
    return Telling(**{one.name: getattr(own, one.name) for one in fields(own)})


class Told(TrialRun):
    """A trial that prints everything, and raises it."""

    def run(self, table: Table, context: Context) -> TrialScore:
        print(everything(), file=sys.stderr, flush=True)
        raise DataError(everything())


@step(spreads=True)
def told_by_trials(*, context: Context) -> str:
    told = Told(small_voxnet(), 1, None, "trial 00", "")
    return str(_on_tune({0: told}, "told", None, context)[0])  # type: ignore[arg-type]


@step(spreads=True)
def told_by_a_search(table: Table, *, context: Context) -> int:
    return len(search(telling(steps=8), table, 2, context))


@step(spreads=True)
def told_by_workers(table: Table, *, context: Context) -> Checkpoint:
    return train.run(train.bind((telling(steps=7), table), {"workers": 1}), context)


def tell(item: int) -> int:
    print(everything(), flush=True)
    if item:
        raise ZeroDivisionError(everything())
    return item


@step(spreads=True)
def told_by_data(*, context: Context) -> int:
    return len(list(spread(tell, [0, 1], (), on="ray", context=context)))


class Guarded(Source):
    """Some texts, of which one cannot be fetched with the words that it is fetched with."""

    def rows(self) -> list[Asset]:
        return [Asset(name, ADDRESS, "text", "train", name) for name in ("one", "two")]

    def open(self, asset: Asset) -> str:
        if asset.id == "two":
            raise Unreadable(f"{ADDRESS} answers 403 to {os.environ['HUB_TOKEN']}")
        return asset.id

    def watch(self) -> list[Path]:
        return []


class Letters(Representation):
    def columns(self) -> dict[str, Column]:
        return {"count": Column((), "int64", "letters")}

    def rows(self, asset: Any, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        yield {"count": np.int64(len(asset))}
