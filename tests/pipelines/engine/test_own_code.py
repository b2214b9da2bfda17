"""
The keys of a pipeline of one's own: what an edit of its files changes, and what a plan remembers of them.
"""

import sys
from pathlib import Path

import pytest

from pipelines.engine.caching.definitions import read
from pipelines.engine.caching.fingerprint import fingerprint
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.execution.code_snapshot import take
from pipelines.engine.graph.plan_cache import Request, drawn, remembered
from pipelines.engine.store.store import Store

NETS = """
from components.family import Classifier
from components.representations.points import Points
from widths import width


class MyNet(Classifier):
    @classmethod
    def tiny(cls):
        return cls(steps=3)

    def representation(self):
        return Points(count=8)

    def network(self):
        return width(2)


def another():
    return 1
"""
MINE = """
from components.family import Family
from components.source import Source
from components.step import step
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Table
from pipelines.engine.pipeline import pipeline


@step
def weigh(table: Table) -> int:
    return 1


@step
def other(table: Table) -> int:
    return 2


@pipeline
def mine(source: Source = "furniture", family: Family = "voxnet"):
    model = family.tiny()
    table = preprocess(source, [model.representation()])
    weigh(table)
    other(table)
    train(model, table)
"""


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    """A pipeline in one folder, a family in another, with a helper beside that."""
    for name, text in {"a/mine.py": MINE, "b/nets.py": NETS, "b/widths.py": "def width(n):\n    return n\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return Request(tmp_path / "a" / "mine.py", {"family": str(tmp_path / "b" / "nets.py")}, {}, {})


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("a/mine.py", "return 1", "return 3", {"weigh"}),
        ("a/mine.py", "return 2", "return 3", {"other"}),
        ("b/nets.py", "return 1", "return 3", set()),
        ("b/nets.py", "width(2)", "width(3)", {"train mynet"}),
        ("b/widths.py", "return n", "return n + 1", {"train mynet"}),
        ("b/nets.py", "count=8", "count=9", {"preprocess", "weigh", "other", "train mynet"}),
    ],
    ids=["a step", "another", "what nothing calls", "a family", "what it imports", "its representation"],
)
def test_an_edit_changes_the_keys_of_what_uses_it_alone(
    request_, tmp_path, own_store, monkeypatch, file, old, new, changed
):
    """Though it is as large as what was there, and as soon: Python would take what it compiled for it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    store = Store(str(own_store))
    before = {node["title"]: node["key"] for node in drawn(request_, store)}
    path = tmp_path / file
    path.write_text(path.read_text().replace(old, new))
    after = {node["title"]: node["key"] for node in drawn(request_, store)}

    assert {title for title in after if after[title] != before[title]} == changed


PACKAGES = {
    "a comment in a package without __init__.py": ("helpers/inner/deep.py", "# words\n", set()),
    "code in a package without __init__.py": ("helpers/inner/deep.py", "def two():\n    return 3\n", {"weigh"}),
    "words for people": ("helpers/README.md", "# words\n", set()),
    "data in a package": ("helpers/words.txt", "words\n", {"weigh"}),
    "a file that is named like one of this project": ("setup.py", "THREE = 4\n", {"weigh"}),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_what_lies_in_packages_beside_a_pipeline_counts_as_far_as_it_is_used(request_, tmp_path, own_store, name):
    file, more, changed = PACKAGES[name]
    files = {"helpers/inner/deep.py": "def two():\n    return 2\n", "setup.py": "THREE = 3\n"}
    for inner, text in files.items():
        (tmp_path / "a" / inner).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / inner).write_text(text)
    imports = "from helpers.inner.deep import two\nfrom setup import THREE\n"
    (tmp_path / "a" / "mine.py").write_text(imports + MINE.replace("return 1", "return two() + THREE"))
    store = Store(str(own_store))
    before = {node["title"]: node["key"] for node in drawn(request_, store)}
    with (tmp_path / "a" / file).open("a") as stream:
        stream.write(more)
    after = {node["title"]: node["key"] for node in drawn(request_, store)}

    assert {title for title in after if after[title] != before[title]} == changed


def test_a_remembered_plan_finds_the_files_again_and_its_copy_has_them(request_, own_store):
    """As where a run is continued: nothing was drawn in that process, so nothing of one's own was imported."""
    store = Store(str(own_store))
    drawn(request_, store)
    nodes = remembered(request_, store)
    assert nodes is not None and not {"rayfield_mine", "rayfield_nets", "widths"} & sys.modules.keys()
    held = {path.name for path in take(request_, nodes, store).iterdir()}

    assert {"rayfield_mine.py", "rayfield_nets.py", "widths.py"} <= held


def test_a_step_beside_the_shipped_pipelines_is_in_its_key(monkeypatch):
    """A pipeline of one's own may lie in pipelines/, of which the engine alone is in no key."""
    said = {}
    for value in (1, 2):
        text = f"def weigh():\n    return {value}\n".encode()
        monkeypatch.setattr(
            "pipelines.engine.caching.modules.text_of",
            lambda name, path=None, text=text: read(
                text if name == "pipelines.quickstart" else b"", "pipelines/quickstart.py", "pipelines"
            ),
        )
        said[value] = fingerprint([("pipelines.quickstart", "weigh")]).digest

    assert said[1] != said[2]
    assert (ROOT / "pipelines" / "quickstart.py").is_file()
