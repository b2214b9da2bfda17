"""
What is killed: a small whole pipeline, in a place where an earlier run died and an earlier model is champion.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.store.store import Store
from tests.faults.drivers import WHOLE, drive, ended, start, warm
from tests.meshes import write_shapes

AT_ONCE = 2
"""cases that run side by side"""


@dataclass
class Case:
    """A place of its own, and the drivers that ran there one after another."""

    folder: Path
    words: list[str]
    server: Any
    codes: list[int] = field(default_factory=list)

    def drive(self, armed: str = "", after: float | None = None) -> int:
        """One more driver, killed at an armed point or after some seconds; returns how it ended."""
        settings = {"RAYFIELD_CRASH_AT": armed} if armed else {}
        process = start(self.server, drive, str(self.folder), len(self.codes), self.words, settings)
        if after is not None:
            time.sleep(after)
            process.kill()
        self.codes.append(ended(process))
        return self.codes[-1]

    def noted(self, name: str, number: int | None = None) -> list[str]:
        """The lines that driver `number` wrote, or all of them."""
        numbers = range(len(self.codes)) if number is None else [number]
        paths = [self.folder / f"{name}-{n}" for n in numbers]
        return [line for path in paths if path.exists() for line in path.read_text().split("\n") if line]

    def output(self) -> str:
        return "\n".join((self.folder / f"output-{n}").read_text()[-3000:] for n in range(len(self.codes)))

    @property
    def store(self) -> Store:
        return Store(str(self.folder / "store"))

    @property
    def mlflow(self) -> Any:
        from mlflow import MlflowClient

        uri = f"sqlite:///{self.folder}/mlflow.db"
        return MlflowClient(uri, uri)


@pytest.fixture(scope="session")
def server() -> Any:
    return warm()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, server: Any) -> Path:
    """A store with the open record of a driver that died, and a database where a model of fewer updates is champion."""
    folder = tmp_path_factory.mktemp("template")
    words = ["run", str(WHOLE), "--root", str(write_shapes(folder / "shapes", each=4)), "--set", "pointnet.steps=4"]
    earlier = Case(folder, words, server)
    assert earlier.drive() == 0, earlier.output()
    shutil.rmtree(folder / "store")
    dead = {"pipeline": "whole", "title": "dead", "parameters": {}, "nodes": [], "commit": "", "started": time.time()}
    earlier.store.write("open/dead", b"dead")
    earlier.store.write("runs/dead/run.json", json.dumps(dead).encode())
    return folder


@pytest.fixture(scope="session")
def new_case(template: Path, server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a case: the template's store and database, copied."""
    words = ["run", str(WHOLE), "--root", str(template / "shapes")]

    def made() -> Case:
        folder = tmp_path_factory.mktemp("case")
        shutil.copytree(template / "store", folder / "store")
        shutil.copy(template / "mlflow.db", folder / "mlflow.db")
        return Case(folder, words, server)

    return made


@pytest.fixture(scope="session")
def undisturbed(new_case: Any) -> Case:
    """The same pipeline, left in peace."""
    case: Case = new_case()
    assert case.drive("*:1000000000") == 0, case.output()
    return case


@pytest.fixture(scope="session")
def side_by_side(request: pytest.FixtureRequest, undisturbed: Case) -> Iterator[Any]:
    """Runs the cases of all collected tests of one function, a few at once; each test then waits for its own."""
    waiting: dict[str, dict[Any, Future[Any]]] = {}

    def result(node: Any, function: Callable[[Any], Any]) -> Any:
        if node.originalname not in waiting:
            items = [i for i in request.session.items if getattr(i, "originalname", "") == node.originalname]
            waiting[node.originalname] = {_argument(item): pool.submit(function, _argument(item)) for item in items}
        return waiting[node.originalname][_argument(node)].result()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield result
        pool.shutdown(cancel_futures=True)


def _argument(node: Any) -> Any:
    """What a test is parametrized with."""
    return next(iter(node.callspec.params.values()))
