"""
`rayfield new`: what it writes must work as it is, in the project and outside it.
"""

import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from components.errors import UsageError
from components.training.learner import evaluate, parameter_count
from pipelines.cli.main import request_of
from pipelines.engine.execution.code_snapshot import take
from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Runner
from pipelines.engine.graph.plan_cache import drawn
from pipelines.engine.store.store import Store
from pipelines.zoo import scaffold
from tests.meshes import write_shapes
from tests.support import adapted, begin

NAMES = {
    "pipeline": "shapes",
    "step": "tally",
    "family": "mean_field",
    "source": "boxes",
    "representation": "spread_out",
}
ROOT = Path(__file__).resolve().parents[3]
WAY = '''
from components.family import Family
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.train import train
from pipelines.engine.pipeline import pipeline


@pipeline
def way(source: Source = "folder", family: Family = "voxnet"):
    """A family on a source."""
    model = family.at("tiny")
    table = preprocess(source, [model.representation()], on="here")
    evaluate(train(model, table, workers=0), table, on="here")
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own, with shapes in it; nothing of it can be imported by its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "way.py").write_text(WAY)
    write_shapes(tmp_path / "shapes", each=6)
    return tmp_path


def ran(words: list[str], store: Path, sets: tuple[str, ...] = ()) -> Mapping[str, dict[str, Any]]:
    """Title -> manifest of every step of a command, run in this process from a copy of the code."""
    held, request = Store(str(store)), request_of(words[0], words[1:], sets)
    nodes = drawn(request, held)
    with patch.dict(os.environ, RAYFIELD_CODE=str(take(request, nodes, held))):
        outcome = Runner(held, "run", nodes, Here)()
    assert outcome.ok, outcome.errors
    return {node["title"]: held.manifest(node["key"]) for node in nodes}


# Outside the project


@pytest.mark.parametrize("noun", NAMES)
def test_outside_the_project_one_file_is_written_and_a_command_that_tries_it(folder, noun):
    written = scaffold.write(noun, NAMES[noun])

    assert written.paths == (f"{NAMES[noun]}.py",)
    assert written.command.startswith("rayfield run ") and f" {NAMES[noun]}.py" in written.command


@pytest.mark.parametrize("noun", NAMES)
def test_the_file_is_clean_by_the_rules_of_this_project(folder, noun):
    scaffold.write(noun, NAMES[noun])
    words = ["check", "--no-cache", "--config", str(ROOT / "pyproject.toml"), f"{NAMES[noun]}.py"]
    ended = subprocess.run([sys.executable, "-m", "ruff", *words], capture_output=True, text=True)

    assert ended.returncode == 0, ended.stdout


def test_the_pipeline_is_drawn_to_a_registered_model(folder, own_store):
    scaffold.write("pipeline", "shapes")
    request = request_of("shapes.py", ["--source", "folder", "--root", "shapes"], ())
    titles = [node["title"] for node in drawn(request, Store(str(own_store)))]

    assert titles == ["preprocess", "tune voxnet", "train voxnet", "evaluate voxnet", "register shapes"]


def test_the_step_counts(folder, own_store):
    scaffold.write("step", "tally")
    made = ran(["tally.py", "--source", "folder", "--root", "shapes"], own_store)

    assert made["tally"]["step"] == "own:rayfield_tally:tally"
    assert made["tally"]["result"] == {"flat": 6, "long": 6, "round": 6}


def test_the_family_learns_by_its_file_and_is_set_by_its_class(folder, own_store):
    scaffold.write("family", "mean_field")
    words = ["way.py", "--family", "mean_field.py", "--source", "folder", "--root", "shapes"]
    made = ran(words, own_store, ("meanfield.steps=3", "meanfield.points=16"))

    family = made["train meanfield"]["result"]["family"]
    assert family["@"] == "own:rayfield_mean_field:MeanField"
    assert (family["steps"], family["points"]) == (3, 16)
    assert made["evaluate meanfield"]["result"]["name"] == "meanfield"


def test_the_source_is_listed_split_and_opened(folder, own_store):
    scaffold.write("source", "boxes")
    words = ["way.py", "--source", "boxes.py", "--count", "8"]
    made = ran(words, own_store, ("voxnet.steps=2", "voxnet.resolution=16", "voxnet.filters=2", "voxnet.hidden=4"))

    counts = made["preprocess"]["result"]["counts"]
    assert counts["quarantined"] == 0 and sum(counts.values()) == 24 and min(counts["val"], counts["test"]) > 0


def test_the_representation_is_in_the_table(folder, own_store):
    scaffold.write("representation", "spread_out")
    made = ran(["spread_out.py", "--source", "folder", "--root", "shapes", "--bins", "8"], own_store)

    (one,) = made["preprocess"]["result"]["sets"]
    assert one["declared"] == {"@": "own:rayfield_spread_out:SpreadOut", "bins": 8, "pairs": 4096}
    assert one["rows"] == 18


def test_a_name_that_would_hide_a_module_is_refused(folder):
    for name in ("random", "torch", "components"):
        with pytest.raises(UsageError, match=f"hides no other module, but Python has one called '{name}'"):
            scaffold.write("step", name)


@pytest.mark.parametrize("name", ["Mean", "mean-field", "2d", ""])
def test_a_name_that_is_no_files_is_refused(folder, name):
    with pytest.raises(UsageError, match="small letters, digits and _"):
        scaffold.write("family", name)


@pytest.mark.parametrize("name", ["class", "none", "true", "_", "_2d"])
def test_a_name_that_nothing_could_import_is_refused(folder, name):
    with pytest.raises(UsageError, match=f"is no word of Python, but got {name!r}"):
        scaffold.write("family", name)


@pytest.mark.parametrize(
    ("noun", "name"),
    [
        *(("pipeline", name) for name in ("train", "called", "pipeline", "sorted")),
        *(("step", name) for name in ("preprocess", "shown", "step", "source", "least", "pq", "sum")),
        *(("family", name) for name in ("net", "points", "tensor", "classifier", "exception")),
        *(("source", name) for name in ("asset", "source", "mesh", "path", "iterable")),
        *(("representation", name) for name in ("column", "mapping", "mesh", "representation")),
    ],
)
def test_a_name_that_the_text_needs_for_another_is_refused_before_anything_is_written(folder, noun, name):
    before = sorted(folder.iterdir())
    with pytest.raises(UsageError, match=f"is that of nothing else in its file and its test, but got '{name}', and"):
        scaffold.write(noun, name)

    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("name", ["__init__", "__main__"])
def test_a_name_that_python_keeps_for_itself_is_refused(folder, name):
    with pytest.raises(UsageError, match="small letters, digits and _"):
        scaffold.write("step", name)


@pytest.mark.parametrize(
    ("noun", "name"), [("step", "labels"), ("step", "count"), ("pipeline", "table"), ("family", "features")]
)
def test_a_name_that_the_text_has_elsewhere_only_is_taken(folder, noun, name):
    assert scaffold.write(noun, name).paths == (f"{name}.py",)


def test_what_exists_is_not_overwritten(folder):
    (folder / "mine.py").write_text("mine")
    with pytest.raises(UsageError, match=r"mine.py exists"):
        scaffold.write("step", "mine")

    assert (folder / "mine.py").read_text() == "mine"


# Inside it


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, in which the command is given."""
    monkeypatch.setattr(scaffold, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    return tmp_path


@pytest.fixture(params=NAMES)
def imported(request: pytest.FixtureRequest, clone: Path) -> Iterator[tuple[str, Path, Path]]:
    """What was written and its test, with the first imported as if it lay in this project."""
    noun = request.param
    paths = [clone / path for path in scaffold.write(noun, NAMES[noun]).paths]
    name = ".".join(paths[0].relative_to(clone).with_suffix("").parts)
    module = as_module(name, paths[0])
    yield noun, module, paths[1]
    del sys.modules[name]


def as_module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_inside_the_project_its_test_lies_beside_the_others_and_passes(imported, clone, tmp_path_factory):
    noun, module, path = imported
    assert Path(module.__file__).parent == clone / scaffold.FOLDERS[noun]
    assert path.parent == clone / "tests" / scaffold.FOLDERS[noun] and (ROOT / scaffold.FOLDERS[noun]).is_dir()

    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    (test,) = [value for name, value in scope.items() if name.startswith("test_")]
    test(*[tmp_path_factory.mktemp("own") for _ in inspect.signature(test).parameters])


@pytest.fixture
def family(clone: Path) -> Iterator[Any]:
    scaffold.write("family", "mean_field")
    yield as_module("components.families.mean_field", clone / "components/families/mean_field.py").MeanField
    del sys.modules["components.families.mean_field"]


def test_the_family_learns(family):
    tiny, rows = adapted(family.tiny())
    learner = begin(tiny, rows)
    before = tiny.score(evaluate(tiny, learner.state.net, rows))["loss"]
    for _ in learner.run(until=30):
        pass

    assert tiny.name == "mean_field"
    assert tiny.score(evaluate(tiny, learner.state.net, rows))["loss"] < before


def test_the_familys_docstring_states_its_size(family):
    with torch.device("meta"):
        count = parameter_count(family.paper().network())

    assert f"{count:,} parameters at paper()" in Path(inspect.getfile(family)).read_text()


@pytest.mark.parametrize(("noun", "name"), [("step", "table"), ("pipeline", "draw"), ("representation", "furniture")])
def test_in_the_project_a_name_that_its_test_needs_is_refused(clone, noun, name):
    with pytest.raises(UsageError, match=f"but got '{name}', and they have another"):
        scaffold.write(noun, name)


def test_a_pipeline_hides_no_folder_of_modules(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UsageError, match=r"pipelines/engine.py exists"):
        scaffold.write("pipeline", "engine")


def test_in_the_project_too_nothing_is_overwritten(monkeypatch):
    monkeypatch.chdir(ROOT)
    voxnet = ROOT / "components" / "families" / "shapes" / "voxnet.py"
    before = voxnet.read_bytes()
    with pytest.raises(UsageError, match="components/families/shapes/voxnet.py exists"):
        scaffold.write("family", "voxnet")

    assert voxnet.read_bytes() == before
    assert not (ROOT / "components" / "families" / "voxnet.py").exists()
