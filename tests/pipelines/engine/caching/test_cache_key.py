"""
What is in a key, and what is not.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.families.shapes.pointnet import PointNet
from components.families.shapes.voxnet import VoxNet
from components.representations.points import Points
from components.runtime.objects import File
from components.source import Asset, Source
from components.sources.furniture import Furniture
from components.step import Step
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Table
from pipelines.engine.caching.cache_key import classes_of, fingerprint_of, in_key, in_plan, root_of
from pipelines.engine.graph import tracing
from pipelines.engine.graph.tracing import Graph, Node, draw
from tests.pipelines.engine.toys import bounds, number, total


class Listing(Source):
    """Assets from nowhere."""

    ids: str = "a b"
    digest_: str = "d"
    root: str = ""

    def rows(self) -> list[Asset]:
        return [Asset(name, f"{self.root}/{name}", "label", "train", self.digest_) for name in self.ids.split()]


def drawn(step: Step, *args: Any, seed: int = 0, table: int = 1, **kwargs: Any) -> Node:
    """The node of a call on a made-up table; `table` says which."""
    graph = Graph(seed=seed)
    handle = graph.add(number, {"value": table, "workers": 1})
    given = [handle if arg is TABLE else arg for arg in args]
    graph.add(step, step.bind(tuple(given), kwargs))
    return list(graph.nodes.values())[-1]


def key(step: Step, *args: Any, **kwargs: Any) -> str:
    return drawn(step, *args, **kwargs).key


TABLE = object()
"""stands for the result of another step"""


def test_the_same_call_has_the_same_key():
    assert key(train, PointNet.tiny(), TABLE) == key(train, PointNet.tiny(), TABLE)


@pytest.mark.parametrize(
    "other",
    [replace(PointNet.tiny(), lr=3e-4), replace(PointNet.tiny(), transforms="none"), VoxNet.tiny()],
    ids=["a number", "a word", "another family"],
)
def test_another_family_has_another_key(other):
    assert key(train, other, TABLE) != key(train, PointNet.tiny(), TABLE)


def test_another_input_has_another_key():
    assert key(train, PointNet.tiny(), TABLE) != key(train, PointNet.tiny(), TABLE, table=2)


def test_another_output_of_one_step_has_another_key():
    graph = Graph()
    low, high = graph.add(bounds, {"numbers": [1, 2]})

    assert graph.add(total, {"numbers": [low]}).key != graph.add(total, {"numbers": [high]}).key


def test_another_seed_has_another_key():
    assert key(number, 1, seed=0) != key(number, 1, seed=1)


def test_workers_and_graphics_cards_are_not_in_the_key():
    assert key(train, PointNet.tiny(), TABLE, workers=1) == key(train, PointNet.tiny(), TABLE, workers=8, gpus=1.0)


def test_where_the_work_is_done_is_not_in_the_key():
    keys = {key(preprocess, Listing(), [Points()], on=on) for on in ("auto", "ray", "here")}

    assert len(keys) == 1


def test_the_stores_place_is_not_in_the_key(monkeypatch):
    before = key(train, PointNet.tiny(), TABLE)
    monkeypatch.setenv("RAYFIELD_STORE", "/somewhere/else")

    assert key(train, PointNet.tiny(), TABLE) == before


def test_the_working_folder_is_not_in_the_key(monkeypatch, tmp_path):
    before = key(train, PointNet.tiny(), TABLE)
    monkeypatch.chdir(tmp_path)

    assert key(train, PointNet.tiny(), TABLE) == before


@pytest.mark.parametrize(
    "other",
    [Listing(ids="a b c"), Listing(ids="a"), Listing(digest_="e")],
    ids=["one more asset", "one asset less", "other bytes"],
)
def test_the_contents_of_a_source_are_in_the_key(other):
    assert key(preprocess, other, [Points()]) != key(preprocess, Listing(), [Points()])


def test_the_place_of_a_source_and_the_order_of_its_listing_are_not():
    before = key(preprocess, Listing(), [Points()])

    assert key(preprocess, Listing(root="/elsewhere"), [Points()]) == before
    assert key(preprocess, Listing(ids="b a"), [Points()]) == before


def test_the_code_of_a_family_is_in_the_key_and_that_of_another_is_not():
    code = fingerprint_of([root_of(train.function)], PointNet.tiny()).listing

    assert "components.families.shapes.pointnet" in code
    assert "components.representations.points" in code
    assert "components.families.shapes.voxnet" not in code
    assert "find" not in code["components.family"]


def test_the_code_of_a_source_within_another_is_in_the_key():
    assert Furniture in classes_of(Furniture().only(value="x"))


def test_a_plan_holds_what_a_key_leaves_aside():
    assert in_plan(Furniture(fold=2))["fold"] == 2
    assert set(in_key(Listing(root="/here"))) == {"@", "digest"}


def test_no_path_of_this_machine_is_in_what_a_key_is_made_of():
    said = str(drawn(preprocess, Listing(root="/secret/place"), [Points()]).ingredients)

    assert "/secret/place" not in said
    assert str(Path.cwd()) not in said
    assert os.uname().nodename not in said


def test_a_field_that_is_marked_aside_is_in_no_key_and_in_the_plan():
    """A table says where its assets were read, and means the same wherever that is."""
    file = File("assets.parquet", "digest", 1)
    here, there = (
        Table(file, (), (), file, {}, source=Furniture(full=True, root=root)) for root in ("/here", "/there")
    )

    assert in_key(here) == in_key(there) == in_key(Table(file, (), (), file, {}))
    assert in_plan(here)["source"]["root"] == "/here"
    assert Furniture not in classes_of(here)


class Wrapped(Listing):
    """Opens what another source's code opens."""

    def kinds(self) -> tuple[type, ...]:
        return (type(self), Furniture)


def test_the_code_that_a_source_says_it_opens_with_is_in_the_key():
    assert classes_of(Wrapped()) - classes_of(Listing()) == {Wrapped, Furniture}


def test_a_part_of_a_source_has_the_key_of_its_own_assets():
    one, other = Listing().only(value="a"), Listing(ids="a c").only(value="a")

    assert in_key(one)["digest"] == one.digest()
    assert key(preprocess, one, [Points()]) == key(preprocess, other, [Points()])
    assert key(preprocess, one, [Points()]) != key(preprocess, Listing().only(value="b"), [Points()])


def test_a_source_is_listed_once_for_all_of_its_parts(monkeypatch):
    """A branch for each of thousands of scenes would list thousands of times thousands."""
    listed: list[str] = []
    real = Listing.rows
    monkeypatch.setattr(Listing, "rows", lambda self: listed.append(self.ids) or real(self))
    source = Listing(ids=" ".join(f"scene-{n}" for n in range(50)))

    def pipeline() -> None:
        for scene in source.groups("id"):
            preprocess(source.only(value=scene), [Points()])

    found = draw(pipeline, {}, {})

    assert len(found.nodes) == 50
    assert len(listed) == 2  # for the groups, and for the keys
    draw(pipeline, {}, {})
    assert len(listed) == 4


def test_two_steps_of_one_name_have_two_keys(monkeypatch):
    """Of two modules that import each other the code is the same."""
    monkeypatch.setattr(tracing, "ingredients", lambda code, parameters, seed: {"code": {}, "seed": 0})
    one, other = Step(number.function, (), ()), Step(number.function, (), ())
    other.module = "tests.pipelines.engine.caching.test_cache_key"
    graph = Graph()

    assert graph.add(one, {"value": 1}).key != graph.add(other, {"value": 1}).key


@pytest.mark.parametrize("value", [PointNet.tiny(), Points(), Furniture()], ids=["family", "representation", "source"])
def test_steps_and_classes_stand_in_a_key_by_names_that_outlive_a_move_of_their_files(value):
    word = f"{type(value).__mro__[1].__name__}".lower().replace("classifier", "family")

    assert drawn(train, PointNet.tiny(), TABLE).step == "step:train"
    assert in_plan(value)["@"] == f"{word}:{type(value).__module__.rpartition('.')[2]}"
