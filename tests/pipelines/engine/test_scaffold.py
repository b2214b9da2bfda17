"""
`rayfield new family`: what it writes must work as it is.
"""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from components.errors import UsageError
from components.training import evaluate, parameter_count
from pipelines.engine import scaffold
from tests.support import adapted, begin

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A family called mean_field, written into an empty project."""
    monkeypatch.setattr(scaffold, "ROOT", tmp_path)
    for folder in ("components/families", "tests/components/families"):
        (tmp_path / folder).mkdir(parents=True)
    return [tmp_path / path for path in scaffold.family("mean_field")]


def imported(path: Path):
    name = "components.families.mean_field"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def family(written: list[Path]):
    yield imported(written[0]).MeanField
    sys.modules.pop("components.families.mean_field")


def test_the_family_and_its_test_lie_where_they_are_found(written):
    assert [path.name for path in written] == ["mean_field.py", "test_mean_field.py"]
    for path in written:
        ast.parse(path.read_text())


def test_the_family_learns(family):
    tiny, rows = adapted(family.tiny())
    learner = begin(tiny, rows)
    before = tiny.score(evaluate(tiny, learner.state.net, rows))["loss"]
    for _ in learner.run(until=30):
        pass

    assert tiny.score(evaluate(tiny, learner.state.net, rows))["loss"] < before


def test_its_docstring_states_its_size(family, written):
    with torch.device("meta"):
        count = parameter_count(family.paper().network())

    assert f"{count:,} parameters at paper()" in written[0].read_text()


def test_its_test_passes(family, written):
    scope: dict = {}
    exec(compile(written[1].read_text(), str(written[1]), "exec"), scope)

    scope["test_the_order_of_points_does_not_matter"]()


@pytest.mark.parametrize("name", ["Mean", "mean-field", "2d", ""])
def test_a_name_that_is_no_files_is_refused(name):
    with pytest.raises(UsageError, match="small letters, digits and _"):
        scaffold.family(name)


@pytest.mark.parametrize("name", ["class", "none", "true", "_", "_2d"])
def test_a_name_that_nothing_could_import_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(scaffold, "ROOT", tmp_path)
    with pytest.raises(UsageError, match=f"is no word of Python, but got {name!r}"):
        scaffold.family(name)


def test_a_family_that_exists_is_not_overwritten():
    before = (ROOT / "components" / "families" / "voxnet.py").read_bytes()
    with pytest.raises(UsageError, match="components/families/voxnet.py exists"):
        scaffold.family("voxnet")

    assert (ROOT / "components" / "families" / "voxnet.py").read_bytes() == before
