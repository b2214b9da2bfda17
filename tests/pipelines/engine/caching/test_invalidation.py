"""
Explanations: what changed is named, down to the function, the constant, the package, the asset; and nothing else is.
"""

import json
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.errors import UsageError
from pipelines.cli.main import main
from pipelines.engine.caching import cache_key, modules
from pipelines.engine.caching.invalidation import (
    Reasons,
    assets_of,
    chosen,
    code_changes,
    definition_changes,
    difference_of_assets,
    flat,
    listed,
    report,
)
from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Runner
from pipelines.engine.graph import plan_cache
from pipelines.engine.graph.plan_cache import Request, drawn, statuses
from pipelines.engine.store.store import Store
from tests.meshes import shape, write_shapes

ROOT = Path(__file__).resolve().parents[4]
PYTHON = platform.python_version()
TOY = """
from components.families.shapes.pointnet import PointNet
from components.representations.descriptors import Descriptors
from components.source import Source
from components.steps.preprocess import preprocess
from pipelines.engine.pipeline import pipeline
from tests.pipelines.engine.toys import learn, look, number, total


@pipeline
def toy(source: Source = "folder", value: int = 1, numbers: int = 1, seed: int = 0):
    '''A toy.'''
    preprocess(source, [Descriptors()], on="here")
    look(source)
    learn(PointNet.tiny())
    total([total([number(value), number(7)]), *(number(100 + n) for n in range(numbers))])
"""


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the project's code, from which keys are read."""
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "components", root / "components", ignore=shutil.ignore_patterns("__pycache__", "data"))
    for name in ("tests/pipelines/engine/toys.py", "pipelines/engine/pipeline.py", "constraints.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for module in (modules, plan_cache):
        monkeypatch.setattr(module, "ROOT", root)
    outside = modules._outside  # finds the toys where this process has imported them from
    monkeypatch.setattr(
        modules, "_outside", lambda name: next(filter(Path.is_file, modules.paths_of(name)), outside(name))
    )
    yield root
    modules._versions.cache_clear()
    cache_key.forget()


@pytest.fixture
def toy(tmp_path: Path, copied: Path) -> "Toy":
    (tmp_path / "toy.py").write_text(TOY)
    write_shapes(tmp_path / "shapes", each=3)
    return Toy(tmp_path, Store(str(tmp_path / "store")))


class Toy:
    """A pipeline that is run, changed, and asked about."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store, self.runs = folder, store, 0

    def request(self, **texts: str) -> Request:
        sets = {"pointnet": {"lr": texts.pop("lr")}} if "lr" in texts else {}
        return Request(self.folder / "toy.py", texts, sets, {"root": str(self.folder / "shapes")})

    def run(self, **texts: str) -> None:
        nodes = drawn(self.request(**texts), self.store)
        self.runs += 1
        assert Runner(self.store, f"run-{self.runs}", nodes, Here)().ok
        self.store.write(f"runs/run-{self.runs}/run.json", json.dumps({"nodes": nodes}).encode())

    def reasons(self, **texts: str) -> Reasons:
        modules._versions.cache_clear()
        nodes = drawn(self.request(**texts), self.store)
        return Reasons(self.store, nodes, statuses(nodes, self.store))

    def why(self, **texts: str) -> dict[str, list[str]]:
        """Of each step that would run and waits for no other, what changed."""
        found = self.reasons(**texts)
        return {
            node["title"]: found.all(node)
            for node in found.nodes
            if found.manifests[node["key"]] is None and not found.waits(node)
        }


def mutate(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_step_that_never_ran_is_new(toy):
    assert set(map(tuple, toy.why().values())) == {("new",)}


def test_nothing_is_said_where_nothing_changed(toy):
    toy.run()

    assert toy.why() == {}


def test_a_parameter_is_named_with_what_it_was_and_is(toy):
    toy.run()

    assert toy.why(value="3") == {"number": ["parameter value 1 -> 3"]}
    assert toy.why(lr="3e-4") == {"learn pointnet": ["parameter family.lr 0.002 -> 0.0003"]}


def test_a_step_beside_its_like_is_new_and_no_change_of_them(toy):
    toy.run()

    assert toy.why(numbers="2") == {"number": ["new"]}


def test_a_seed_is_named(toy):
    toy.run()

    assert toy.why(seed="1")["look"] == ["seed 0 -> 1"]


@pytest.mark.parametrize(
    ("file", "old", "new", "step", "said"),
    [
        (
            "components/steps/preprocess.py",
            "SHARD = 32",
            "SHARD = 64",
            "preprocess",
            "constant SHARD of components.steps.preprocess",
        ),
        (
            "components/representations/descriptors.py",
            "def rows(self",
            "def rows(me",
            "preprocess",
            "components.representations.descriptors.Descriptors.rows changed",
        ),
        (
            "components/kernels/neighbours.py",
            "best, most = newest, 0.0",
            "best, most = newest, 0.5",
            "learn pointnet",
            "components.kernels.neighbours._best changed",
        ),
        (
            "components/representation.py",
            "return type(self).__name__.lower()",
            "return type(self).__name__",
            "learn pointnet",
            "components.representation.Representation.name changed",
        ),
    ],
    ids=["constant", "method", "what a method leads to", "a base class"],
)
def test_what_changed_of_the_code_is_named_down_to_the_definition(toy, copied, file, old, new, step, said):
    toy.run()
    mutate(copied / file, old, new)

    assert toy.why()[step] == [said]


def test_a_helper_of_a_step_is_named(toy, copied):
    toy.run()
    mutate(copied / "tests/pipelines/engine/toys.py", "    return len(source.rows())", "    return -len(source.rows())")

    assert toy.why()["look"] == ["tests.pipelines.engine.toys.look changed"]


def test_a_package_is_named_with_its_versions(toy, monkeypatch):
    toy.run()
    real = modules.metadata.version
    monkeypatch.setattr(modules.metadata, "version", lambda name: "9.9.9" if name == "numba" else real(name))

    assert toy.why()["learn pointnet"] == [f"package numba {real('numba')} -> 9.9.9"]


def test_another_python_is_named_after_what_a_key_holds(toy, monkeypatch):
    toy.run()
    monkeypatch.setattr(platform, "python_version", lambda: "4.0.0")

    assert toy.why(value="2")["number"] == [
        "parameter value 1 -> 2",
        f"Python {PYTHON} -> 4.0.0, which is in no key",
    ]


def test_assets_that_came_went_and_changed_are_named(toy):
    toy.run()
    shapes = toy.folder / "shapes"
    (shapes / "flat" / "new.obj").write_text(shape("flat", 77))
    (shapes / "long" / "0.obj").unlink()
    (shapes / "round" / "1.obj").write_text(shape("round", 88))
    (said,) = toy.why()["preprocess"]

    assert said.startswith("source: 1 asset added (flat/new.obj), 1 removed (long/0.obj), 1 changed (round/1.obj)")
    assert toy.why()["look"] == ["source: other contents"]


def test_what_somebody_elses_classes_made_is_compared_without_them(toy):
    """A plan is drawn in a process that imports no code of one's own once it has the keys."""
    toy.run()
    (node,) = (node for node in toy.reasons().nodes if node["title"] == "preprocess")
    made = toy.store.manifest(node["key"])
    foreign = json.loads(re.sub(r'"(source|representation):\w+"', '"own:theirs:Theirs"', json.dumps(made)))

    assert foreign != made
    assert assets_of(foreign) == assets_of(made)
    assert listed({"@": "own:theirs:Theirs"}) is None


def test_a_step_that_waits_says_for_what(toy):
    toy.run()
    found = toy.reasons(value="3")
    last = found.nodes[-1]

    assert found.short(last) == "needs total"
    assert [report(found, node)["needs"] for node in chosen(found, "total")] == [[], ["number"], ["total"]]


def test_a_step_is_chosen_with_what_must_run_before_it(toy):
    toy.run()

    assert [node["title"] for node in chosen(toy.reasons(), "look")] == ["look"]
    assert [node["title"] for node in chosen(toy.reasons(value="3"), "total")] == ["number", "total", "total"]
    assert len(chosen(toy.reasons(), "")) == 8
    with pytest.raises(UsageError, match="No step 'lok'. Did you mean 'look'?"):
        chosen(toy.reasons(), "lok")


def test_a_kept_result_is_compared_with_the_one_before_it_and_a_change_is_traced_to_where_it_began(toy):
    toy.run()
    toy.run(value="3")
    found = toy.reasons(value="3")
    said = report(found, found.nodes[-1])

    assert (said["action"], said["made_by"], said["compared_with"]["run"]) == ("keep", "run-2", "run-1")
    assert said["why"] == ["number: parameter value 1 -> 3"]


def test_the_nearest_of_the_earlier_results_is_the_one_that_is_compared(toy):
    toy.run()
    toy.run(lr="0.5", seed="4")
    toy.run(lr="0.25", seed="5")

    assert toy.why(lr="0.5", seed="5")["learn pointnet"][0] in ("parameter family.lr 0.25 -> 0.5", "seed 4 -> 5")
    assert len(toy.why(lr="0.5", seed="5")["learn pointnet"]) == 1


def test_the_command_says_it_in_a_line_and_as_json(toy, monkeypatch):
    toy.run()
    words = ["--root", str(toy.folder / "shapes"), "--value", "3", "--store", toy.store.address]
    plain = CliRunner().invoke(main, ["explain", str(toy.folder / "toy.py"), "number", *words])
    rows = json.loads(CliRunner().invoke(main, ["explain", str(toy.folder / "toy.py"), *words, "--json"]).stdout)

    assert "would run" in plain.stdout and "parameter value 1 -> 3" in plain.stdout
    assert plain.stderr == ""
    assert [row["action"] for row in rows] == ["keep", "keep", "keep", "run", "keep", "run", "keep", "run"]
    assert rows[3]["why"] == ["parameter value 1 -> 3"]


def test_steps_are_named_by_the_beginning_of_their_titles_too(toy):
    """As the five trainings of a cross-validation are."""
    found = toy.reasons()

    assert chosen(found, "learn point") == chosen(found, "learn pointnet") != []


# Parts


def test_parameters_are_named_by_their_places():
    said = flat({"family": {"@": "m:PointNet", "lr": 1.0}, "sets": [{"@": "m:Points", "count": 2}], "empty": []})

    assert said == {"family": "m:PointNet", "family.lr": 1.0, "sets.0": "m:Points", "sets.0.count": 2, "empty": []}


def test_what_is_used_now_or_no_more_is_said_last(own_store):
    store = Store(str(own_store))
    store.write("code/one.json", json.dumps({"m": {"f": "1", "g": "1"}, "old": {"h": "1"}}).encode())
    store.write("code/other.json", json.dumps({"m": {"f": "2"}, "new": {"h": "1"}}).encode())
    one = {"code": "one", "package numpy": "1", "data x.bin": "1"}
    other = {"code": "other", "package numpy": "2", "data x.bin": "2", "package torch": "3"}

    assert list(code_changes(one, other, store)) == [
        "m.f changed",
        "package numpy 1 -> 2",
        "data x.bin",
        "package torch none -> 3",
        "m.g is used no more",
        "old is used no more",
        "new is used now",
    ]


def test_definitions_that_changed_are_told_from_those_that_are_used_now():
    one = {"f": "1", "constant A": "1", "C": "1", "field C.x": "1", "C.run": "1", "statements": "1"}
    other = {"g": "1", "constant A": "2", "C": "1", "field C.x": "2", "C.run": "2", "statements": "2"}

    assert definition_changes({"m": one}, {"m": other}) == (
        ["constant A of m", "field m.C.x changed", "m.C.run changed", "statements of m changed"],
        ["m.f is used no more", "m.g is used now"],
    )


def test_where_the_definitions_are_not_known_the_code_is_named():
    assert definition_changes(None, {"m": {"f": "1"}}) == (["the code changed"], [])


def test_many_assets_are_counted_and_few_are_named():
    old = {f"{n}": ("d", "chair", "train") for n in range(9)}
    new = {
        **{f"{n}": ("d", "chair", "test") for n in range(5)},
        **{f"{n}": ("d", "sofa", "train") for n in range(5, 9)},
    }

    assert difference_of_assets(old, new) == "4 assets labelled anew (5, 6, 7, ...), 5 in another split (0, 1, 2, ...)"
    assert difference_of_assets(old, old) == "other attributes"
