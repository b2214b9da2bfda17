"""
Whatever of components/ runs in a step of a shipped pipeline is in its key, or in no key by design.

Each pipeline runs whole, on a few shapes and for a few updates, with a tracer. The steps are strict: one that reads a
file, a variable or a module that its key does not hold fails here as well.
"""

from pathlib import Path

import pytest

from components.steps import ray_workers, tune
from pipelines.engine import pipeline
from pipelines.engine.graph.plan_cache import Request
from pipelines.engine.store.store import Store
from tests.meshes import write_shapes
from tests.tracer import unkeyed

SMALL = {
    "pointnet": {"steps": "3", "stored": "64", "points": "32", "batch": "8"},
    "voxnet": {"steps": "3", "resolution": "16", "pad": "2", "batch": "8", "falls": ""},
    "convnet": {"steps": "3", "batch": "8"},
    "gan": {"steps": "3", "batch": "8", "views": "2"},
    "gaussians": {"steps": "3", "points": "100"},
    "tsne": {"steps": "3"},
}
"""family -> what makes it small"""

PIPELINES = {
    "quickstart": ({"trials": "2", "workers": "0"}, ("pointnet", "voxnet", "tsne")),
    "classify": ({"trials": "2", "folds": "2"}, ("pointnet", "voxnet")),
    "embed": ({"trials": "2"}, ("voxnet", "tsne")),
    "imagine": ({"trials": "2", "workers": "0"}, ("gan",)),
    "splat": ({"trials": "2"}, ("gaussians",)),
    "certify": ({"trials": "2", "pieces": "folder"}, ("voxnet",)),
}
"""pipeline -> its parameters, and the families that it has"""


HIDDEN = """
import numpy as np

from components.kernels.sampling import areas
from components.step import step
from pipelines.engine.pipeline import pipeline


@step
def hidden() -> float:
    points, _, _ = areas.py_func.__globals__["sample"](np.eye(3)[None], 4, np.random.default_rng(0))
    return float(points.sum())


@pipeline
def mine():
    hidden()
"""
"""a step that samples points by a function and a kernel that its key cannot know"""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray would do elsewhere is done in this process."""

    def in_turn(wanted, name, table, context):
        for one in wanted.values():
            one.run(table, context)
        return {}

    def one_by_one(function, items, held, blocks, cpus, context):
        yield from ((item, function(item, *held)) for item in items)

    monkeypatch.setattr(tune, "_on_tune", in_turn)
    monkeypatch.setattr(ray_workers, "_on_ray", one_by_one)


def test_what_is_called_by_a_made_up_name_is_found(tmp_path: Path, own_store: Path):
    """Otherwise the tests below could not fail."""
    (tmp_path / "mine.py").write_text(HIDDEN)

    found = unkeyed(Request(tmp_path / "mine.py", {}, {}, {}), Store(str(own_store)))

    assert found == {
        "hidden": [("components.kernels.sampling", name) for name in ("_faces", "_fold", "interpolate", "sample")]
    }


@pytest.mark.parametrize("name", pipeline.names())
def test_whatever_runs_in_a_step_is_in_its_key(name: str, tmp_path: Path, own_store: Path):
    texts, families = PIPELINES[name]
    folder = {"root": str(write_shapes(tmp_path / "shapes", each=8))}
    source = {} if name == "splat" else {"source": "folder"}
    settings = {family: SMALL[family] for family in families}
    request = Request(pipeline.find(name), {**texts, **source}, settings, folder if source else {})

    found = unkeyed(request, Store(str(own_store)))

    assert {title: roots for title, roots in found.items() if roots} == {}
