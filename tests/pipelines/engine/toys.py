"""
Steps and pipelines that cost nothing, for tests of the engine.
"""

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.artifacts import Gate
from components.errors import DataError, Infeasible, UsageError
from components.family import Family
from components.runtime.objects import File, keep
from components.source import Source
from components.step import Context, step
from pipelines.engine.pipeline import pipeline

ERRORS = {"data": DataError, "usage": UsageError, "infeasible": Infeasible, "bug": ZeroDivisionError}


def ran(name: str) -> int:
    """How often a step said that it ran; it is counted in a file, so that any process may ask."""
    path = Path(os.environ["RAYFIELD_STORE"]) / "calls" / name
    return len(path.read_text()) if path.exists() else 0


def _count(name: str) -> None:
    path = Path(os.environ["RAYFIELD_STORE"]) / "calls" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(".")


@step(aside=("workers",))
def number(value: int, *, workers: int = 1) -> int:
    _count(f"number {value}")
    return value


@step
def total(numbers: Sequence[int]) -> int:
    _count("total")
    return sum(numbers)


@step
def broken(of: Any = None, *, kind: str = "data") -> int:
    _count("broken")
    raise ERRORS[kind](f"a {kind} error of two\nlines")


@step
def flaky(*, failures: int = 1) -> int:
    _count("flaky")
    if ran("flaky") <= failures:
        raise ConnectionError("the network is gone")
    return ran("flaky")


@step(outputs=("low", "high"))
def bounds(numbers: Sequence[int]) -> tuple[int, int]:
    return min(numbers), max(numbers)


@step
def talk(*, context: Context) -> str:
    """Says one of everything that a step can say."""
    print("words that are printed", flush=True)
    context.note({"depth": 3, "nested": {"width": 4}})
    for n in range(3):
        context.log({"loss": 3.0 - n}, n)
    context.log({"loss": 0.5}, 1, trial="trial 01")
    context.progress(1, 2, "parts")
    context.file("words.txt", b"words")
    return "said"


@step
def learn(family: Family, *, seed: int = 0) -> str:
    return family.name


@step
def look(source: Source) -> int:
    return len(source.rows())


@step
def gated(result: Any, *, gate: Gate = Gate()) -> int:  # noqa: B008
    return 0


@step
def judge(*, verdict: str) -> dict[str, str]:
    """Says what a gate said, as `register` does."""
    return {"name": "toy", "verdict": verdict}


@pipeline
def sums(values: tuple[int, ...] = (1, 2), extra: int = 0, seed: int = 0) -> None:
    """
    Numbers and their sum.

    values: what to add, with commas between
    """
    total([number(value) for value in values] + [number(extra)])


@step
def keeping(*, words: str = "words") -> File:
    _count("keeping")
    return keep("words.txt", words.encode())


@step
def drawn(*, pictures: int = 1, size: int = 8, context: Context) -> str:
    """Draws: a figure, or one again and again."""
    import numpy as np

    random = np.random.default_rng(0)
    for n in range(pictures):
        context.figure("map", random.integers(0, 255, (size, size, 3), np.uint8), step=n if pictures > 1 else None)
    return "drawn"


@step
def trained(*, steps: int = 20, context: Context) -> str:
    """Says what a training says."""
    for n in range(steps):
        context.log({"loss": 2.0 / (n + 1)}, n)
        if n % 5 == 4:
            context.log({"val_loss": 2.2 / (n + 1), "val_accuracy": n / steps}, n)
    for trial in range(2):
        for n in range(4):
            context.log({"loss": trial + 1.0 / (n + 1)}, n, trial=f"trial {trial:02d}")
    return "trained"


@step
def scored(of: Any = None, *, accuracy: float = 0.5) -> dict[str, Any]:
    """Says what `evaluate` says."""
    own = {"accuracy": accuracy, "loss": 1.5}
    errors = {"accuracy": 0.04, "loss": float("nan")}
    return {"name": "toy", "goal": "accuracy", "val": own, "test": own, "error": errors, "count": 90}


@step
def promoted(scores: Any, *, name: str, gate: Gate, verdict: str = "PROMOTE") -> dict[str, Any]:
    """Says what `register` says."""
    reasons = [] if verdict == "PROMOTE" else ["accuracy is 0.3, the champion's is 0.5"]
    return {"name": name, "version": "3", "verdict": verdict, "reasons": reasons, "uri": f"models:/{name}/3"}


@step(registers=True)
def enrolled(*, name: str, key: str = "one") -> dict[str, Any]:
    """Registers a version under a key, and makes it champion: what `register` does of a model, of nothing."""
    from components.steps.registry.versions import by_key, client, ensure

    _count(f"enrolled {name}")
    api = client()
    ensure(api, name)
    version = by_key(api, name, key) or str(
        api.create_model_version(name, "mlflow-artifacts:/nothing", tags=keyed(key)).version
    )
    api.set_registered_model_alias(name, "champion", version)
    uri = f"models:/{name}/{version}"
    return {
        "name": name,
        "version": version,
        "verdict": "PROMOTE",
        "reasons": [],
        "uri": uri,
        "key": key,
        "what": "toy",
    }


def keyed(key: str) -> dict[str, str]:
    """The tag by which a version is found again."""
    return {"rayfield.key": key}


@step
def read(file: File) -> str:
    return file.read().decode()


@step
def unread() -> dict[str, Any]:
    """Says what a table says of an asset that could not be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{"id": "chair", "reason": "it has no faces"}]), buffer)
    kept = keep("quarantine.parquet", buffer.getvalue().to_pybytes())
    return {"counts": {"quarantined": 1}, "quarantine": kept}


@step
def leave() -> None:
    sys.exit(3)


@step
def told_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


@step
def parse(words: Sequence[str]) -> None:
    ArgumentParser().parse_args(words)


@step(outputs=("low", "high"))
def amiss(words: Sequence[str], *, spoil: bool = False) -> tuple[str, ...]:
    """As many words as it is given; a spoilt one no file can hold."""
    return (*words[1:], "\udcff") if spoil else tuple(words)
