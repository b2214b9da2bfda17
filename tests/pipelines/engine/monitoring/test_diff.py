"""
Two runs side by side: what differs is named, what is the same is left out.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.monitoring.diff import difference
from pipelines.engine.monitoring.run_view import open_run
from pipelines.engine.store.store import Store
from tests.pipelines.engine.recorded import change, held, recorded
from tests.pipelines.engine.toys import broken, number, scored, total

ONE, OTHER = "20260101-000000-aa01", "20260102-000000-bb02"


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


def compared(store: Store) -> dict[str, Any]:
    return difference(store, open_run(store, ONE), open_run(store, OTHER))


def edit(store: Store, key: str, kind: str, **values: str) -> None:
    """Changes what a result says that it was made of."""
    manifest = store.manifest(key)
    store.delete(f"keys/{key}.json")
    ingredients = manifest["ingredients"]
    store.commit(key, {**manifest, "ingredients": {**ingredients, kind: {**ingredients[kind], **values}}})


def test_a_run_differs_from_itself_in_nothing(store):
    recorded(store, lambda: scored(number(1)), ONE)
    run = open_run(store, ONE)
    found = difference(store, run, run)

    assert {kind: found[kind] for kind in ("parameters", "code", "packages", "data", "environment")} == {
        "parameters": {},
        "code": [],
        "packages": {},
        "data": {},
        "environment": {},
    }
    assert found["commit"] is None
    assert all(step["same"] for step in found["steps"])


def test_parameters_the_machine_and_the_commit_are_compared(store):
    recorded(store, lambda: number(1), ONE)
    recorded(store, lambda: number(1), OTHER)
    change(store, OTHER, parameters={"size": "paper", "trials": 4}, environment={"python": "3.12"}, commit="def")
    found = compared(store)

    assert found["parameters"] == {"size": ["tiny", "paper"], "trials": [None, 4]}
    assert found["environment"] == {"python": ["3.11", "3.12"]}
    assert found["commit"] == ["abc", "def"]


def test_secrets_among_the_parameters_are_hidden(store):
    recorded(store, lambda: number(1), ONE, parameters={"token": "0a1b"})
    recorded(store, lambda: number(1), OTHER)

    assert compared(store)["parameters"]["token"] == ["***", None]


def test_modules_packages_and_data_that_differ_are_named(store):
    first = recorded(store, lambda: number(1), ONE)
    second = recorded(store, lambda: number(2), OTHER)
    edit(store, first[0]["key"], "code", **{"package numpy": "2.0", "data furniture.bin": "a", "code": "a"})
    edit(store, second[0]["key"], "code", **{"package numpy": "2.1", "data furniture.bin": "b", "code": "b"})
    for digest in ("a", "b"):
        store.write(f"code/{digest}.json", json.dumps({"components.formats.mesh": {"Mesh": digest}}).encode())
    found = compared(store)

    assert found["packages"] == {"numpy": ["2.0", "2.1"]}
    assert found["data"] == {"furniture.bin": ["a", "b"]}
    assert found["code"] == ["components.formats.mesh.Mesh changed"]


def test_the_contents_of_a_source_are_data(store):
    for run, digest, value in ((ONE, "a", 1), (OTHER, "b", 2)):
        (node,) = recorded(store, lambda value=value: number(value), run)  # type: ignore[misc]
        edit(store, node["key"], "parameters", source={"@": ["components.sources.folder:Folder"], "digest": digest})  # type: ignore[arg-type]

    assert compared(store)["data"] == {"number source": ["a", "b"]}


def test_scores_have_a_difference_with_its_error(store):
    recorded(store, lambda: scored(accuracy=0.5), ONE)
    recorded(store, lambda: scored(accuracy=0.6), OTHER)
    ((step),) = compared(store)["steps"]
    accuracy, loss = step["scores"]

    assert not step["same"]
    assert accuracy["values"] == [0.5, 0.6]
    assert math.isclose(accuracy["delta"], 0.1)
    assert math.isclose(accuracy["error"], math.hypot(0.04, 0.04))
    assert loss["delta"] == 0 and loss["error"] is None  # an error that is not known is not made up


def test_steps_are_matched_by_title_and_order(store):
    recorded(store, lambda: total([number(1), number(2)]), ONE)
    recorded(store, lambda: total([number(1), number(3), number(4)]), OTHER)
    steps = compared(store)["steps"]

    assert [(step["step"], step["same"]) for step in steps] == [
        ("number", True),
        ("number", False),
        ("total", False),
        ("number", False),
    ]
    assert steps[-1]["status"] == [None, "done"]


def test_a_step_that_failed_in_one_of_them_is_said(store):
    recorded(store, lambda: broken(), ONE, code=1)
    recorded(store, lambda: number(1), OTHER)

    assert [(s["step"], s["status"]) for s in compared(store)["steps"]] == [
        ("broken", ["failed", None]),
        ("number", [None, "done"]),
    ]


def test_another_python_is_named_though_it_is_in_no_key(store):
    (one,) = recorded(store, lambda: number(1), ONE)
    (other,) = recorded(store, lambda: number(2), OTHER)
    held(store, one["key"], python="3.11.9")
    held(store, other["key"], python="3.13.1")

    assert compared(store)["packages"] == {"python": ["3.11.9", "3.13.1"]}


def test_a_step_that_one_of_them_did_not_finish_is_named_and_compared_in_nothing(store):
    recorded(store, lambda: total([number(1)]), ONE, code=5)
    store.delete(f"runs/{ONE}/ledger/{store.names(f'runs/{ONE}/ledger')[-1]}")  # that `total` ended
    _, last = recorded(store, lambda: total([number(1)]), OTHER)
    edit(store, last["key"], "code", **{"package numpy": "2.0", "data furniture.bin": "a"})
    found = compared(store)

    assert found["states"] == ["interrupted", "done"]
    assert found["unfinished"] == {ONE: ["total"]}
    assert found["packages"] == found["data"] == {} and found["code"] == []
    assert [(step["step"], step["same"], step["status"]) for step in found["steps"]] == [
        ("number", True, ["done", "cached"]),
        ("total", False, ["interrupted", "cached"]),
    ]
    assert found["steps"][1]["seconds"][0] is None
