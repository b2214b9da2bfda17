"""
The keys under mutation: every change that may change a result changes the keys of the steps that it concerns, and of
no other; no change of words, of place, of machine or of resources changes any. Without an exception either way.

A project of three steps is written down, mutated and read anew for each case; so is a copy of components/, of which
the families' real closures are taken. Nothing of either is imported: keys are computed from the source.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from components.errors import UsageError
from components.families.generative.gan import Gan
from components.families.recap.tsne import Tsne
from components.families.shapes.pointnet import PointNet
from components.families.shapes.voxnet import VoxNet
from components.families.splatting.gaussians import Gaussians
from components.family import Family
from components.sources.folder import Folder
from components.sources.furniture import Furniture
from components.steps.evaluate import evaluate
from components.steps.predict import predict
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.caching import cache_key, modules
from pipelines.engine.caching.fingerprint import fingerprint
from pipelines.engine.graph.tracing import draw

ROOT = Path(__file__).resolve().parents[3]

# A written project

FILES = {
    "components/__init__.py": '"""Parts."""\n',
    "components/steps/__init__.py": "",
    "components/steps/load.py": '''"""Loads."""

import json
import numpy as np
from components.deep import helper
from components.runtime.resource import resource

LIMIT = 3
TABLE = {"a": [1, 2]}


def load(rows, start=0, *, scale: float = 1.0):
    """Rows from the start on."""
    # the first are skipped
    text = resource("table.bin")
    if start > LIMIT:
        rows = rows[1:]
    return helper.twice(len(rows) - start) * scale, text, json.dumps(TABLE), np.zeros(1)
''',
    "components/steps/learn.py": '''"""Learns."""

import torch
from components import model
from .shared import mean


class Learner(model.Base):
    """Learns by heart."""

    rate: float = 0.1
    """of learning"""

    def step(self, batch):
        try:
            return mean(batch) * self.rate
        except ValueError:
            """nothing to learn from"""
            return torch.zeros(1)

    @property
    def name(self):
        return f"learner {self.rate}"
''',
    "components/steps/shared.py": "def mean(values):\n    return sum(values) / len(values)\n",
    "components/steps/judge.py": '''"""Judges."""

from pathlib import Path
from components import dynamic, marked
from components.marks import TABLE, noted

LIMIT = 0.5


@noted
def judge(result, limit=LIMIT):
    late = Path(__file__).with_name("late.py")
    return [x > limit for x in TABLE.values()], getattr(dynamic, result), late
''',
    "components/dynamic.py": "one = 1\ntwo = 2\n",
    "components/marks.py": """TABLE = {}


def noted(function):
    TABLE[function.__name__] = function
    return function


def remark():
    print("nobody calls this")
""",
    "components/marked.py": """from components.marks import noted


@noted
def entry():
    return 1


def another():
    return 3
""",
    "components/steps/late.py": "LATE = 1\n",
    "components/deep/__init__.py": "",
    "components/deep/helper.py": """from components.deep.deeper import FACTOR


def twice(n):
    return n * FACTOR
""",
    "components/deep/deeper.py": "FACTOR = 2\n",
    "components/model.py": "class Base:\n    decay = 0.9\n\n    def forward(self, x):\n        return x\n",
    "components/runtime/resource.py": "def resource(name):\n    return name\n",
    "components/sources/data/table.bin": "one",
    "components/sources/data/other.bin": "one",
    "pipelines/engine/execution/scheduler_loop.py": "SPEED = 1\n",
    "constraints.txt": "numpy==2.4.6\nabsent-package==1.0\n",
}
LOAD, LEARN, JUDGE = ("components.steps." + name for name in ("load", "learn", "judge"))
ALL = {LOAD, LEARN, JUDGE}
ROOTS = {LOAD: "load", LEARN: "Learner", JUDGE: "judge"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "project"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    yield from at(root, monkeypatch)


def at(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Code is read from `root`."""
    monkeypatch.setattr(modules, "ROOT", root)
    monkeypatch.setattr(modules, "LOCK", root / "constraints.txt")
    modules.forget()
    yield root
    modules.forget()
    cache_key.forget()


def said(names: set[str]) -> dict[str, str]:
    """The key of a step of each of these modules, were it called without parameters."""
    cache_key.forget()
    return {name: cache_key.digest(cache_key.ingredients(fingerprint([(name, ROOTS[name])]), {}, 0)) for name in names}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def mutate(root: Path, file: str, old: str, new: str) -> None:
    path = root / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


SEEN = {
    "a helper's body": ("components/deep/helper.py", "n * FACTOR", "FACTOR * n", {LOAD}),
    "a body of the step": ("components/steps/load.py", "rows[1:]", "rows[2:]", {LOAD}),
    "a condition": ("components/steps/load.py", "start > LIMIT", "start >= LIMIT", {LOAD}),
    "a constant": ("components/steps/load.py", "LIMIT = 3", "LIMIT = 4", {LOAD}),
    "a number's kind": ("components/steps/load.py", "LIMIT = 3", "LIMIT = 3.0", {LOAD}),
    "a constant within another": ("components/steps/load.py", "[1, 2]", "[1, 3]", {LOAD}),
    "a constant two imports away": ("components/deep/deeper.py", "2", "3", {LOAD}),
    "a default argument": ("components/steps/load.py", "start=0", "start=1", {LOAD}),
    "a keyword's default": ("components/steps/load.py", "float = 1.0", "float = 2.0", {LOAD}),
    "the order of arguments": ("components/steps/judge.py", "result, limit=LIMIT", "limit=LIMIT, result=0", {JUDGE}),
    "a field": ("components/steps/learn.py", "float = 0.1", "float = 0.2", {LEARN}),
    "a method": ("components/steps/learn.py", "* self.rate\n", "/ self.rate\n", {LEARN}),
    "a decorator": ("components/steps/learn.py", "    @property\n", "", {LEARN}),
    "a base class": ("components/steps/learn.py", "(model.Base)", "", {LEARN}),
    "a base class's method": ("components/model.py", "return x", "return -x", {LEARN}),
    "a base class's attribute": ("components/model.py", "0.9", "0.99", {LEARN}),
    "what is caught": ("components/steps/learn.py", "ValueError", "TypeError", {LEARN}),
    "what a handler does": ("components/steps/learn.py", "zeros(1)", "zeros(2)", {LEARN}),
    "text that does something": ("components/steps/learn.py", 'f"learner {', 'f"Learner {', {LEARN}),
    "an import": ("components/steps/load.py", "import numpy as np", "import scipy as np", {LOAD}),
    "a module of Python's own": ("components/steps/load.py", "import json\n", "import csv as json\n", {LOAD}),
    "a relative import": ("components/steps/learn.py", "from .shared import mean", "from .load import LIMIT", {LEARN}),
    "what is imported relatively": ("components/steps/shared.py", "sum(values)", "max(values)", {LEARN}),
    "what a folder's own file does": ("components/deep/__init__.py", "", "print('deep')\n", {LOAD}),
    "what the root's own file does": ("components/__init__.py", '"""Parts."""', "import os\nos.umask(0)", ALL),
    "a monkeypatch at import": ("components/deep/deeper.py", "FACTOR = 2", "FACTOR = 2\nstr.format = None", {LOAD}),
    "a monkeypatch of another module": (
        "components/steps/shared.py",
        "def mean",
        "from components import model\nmodel.Base.forward = len\n\n\ndef mean",
        {LEARN},
    ),
    "what a mark does": ("components/marks.py", "return function", "return print or function", {JUDGE}),
    "what registers itself by a mark": ("components/marked.py", "return 1", "return 2", {JUDGE}),
    "a name that getattr finds": ("components/dynamic.py", "one = 1", "one = 3", {JUDGE}),
    "another name that getattr may find": ("components/dynamic.py", "two = 2", "second = 2", {JUDGE}),
    "a default that a name gives": ("components/steps/judge.py", "LIMIT = 0.5", "LIMIT = 0.6", {JUDGE}),
    "an annotation of a field": ("components/steps/learn.py", "rate: float", "rate: int", {LEARN}),
    "the nesting of a class's last method": (
        "components/steps/learn.py",
        "    @property\n    def name(self):\n        return",
        "@property\ndef name(self):\n    return",
        {LEARN},
    ),
    "what a comprehension's name hides": ("components/steps/judge.py", "for x in", "for y in", {JUDGE}),
    "a file beside that is named": ("components/steps/late.py", "LATE = 1", "LATE = 2", {JUDGE}),
    "a data file": ("components/sources/data/table.bin", "one", "two", {LOAD}),
    "the name of a data file": ("components/steps/load.py", "table.bin", "other.bin", {LOAD}),
}


@pytest.mark.parametrize("name", SEEN)
def test_every_mutation_of_what_is_done_changes_the_keys_that_it_concerns_and_no_other(project, name):
    file, old, new, concerned = SEEN[name]
    before = said(ALL)
    if old:
        mutate(project, file, old, new)
    else:
        (project / file).write_text(new)

    assert changed(before, said(ALL)) == concerned


UNSEEN = {
    "a comment": ("components/steps/load.py", "# the first are skipped", "# those are skipped"),
    "no comment": ("components/steps/load.py", "    # the first are skipped\n", ""),
    "a module's docstring": ("components/steps/load.py", '"""Loads."""', '"""Reads."""'),
    "a function's docstring": ("components/steps/load.py", '"""Rows from the start on."""', '"""Some rows."""'),
    "no docstring": ("components/steps/load.py", '    """Rows from the start on."""\n', ""),
    "a class's docstring": ("components/steps/learn.py", '"""Learns by heart."""', '"""Learns."""'),
    "a bare string under a field": ("components/steps/learn.py", '"""of learning"""', '"""0 to 1"""'),
    "a bare string in a handler": ("components/steps/learn.py", '"""nothing to learn from"""', '"""an empty batch"""'),
    "a new bare string": ("components/deep/deeper.py", "FACTOR = 2", 'FACTOR = 2\n"""doubles"""'),
    "blank lines": ("components/steps/load.py", "LIMIT = 3\n", "\n\nLIMIT = 3\n\n"),
    "spaces": ("components/deep/helper.py", "n * FACTOR", "(n  *  FACTOR)"),
    "quotes": ("components/steps/load.py", '{"a":', "{'a':"),
    "a number's spelling": ("components/steps/load.py", "LIMIT = 3", "LIMIT = 0x3"),
    "a u before text": ("components/steps/load.py", '{"a":', '{u"a":'),
    "an import that nothing uses": ("components/steps/load.py", "import json\n", "import json\nimport scipy\n"),
    "an import for types": (
        "components/steps/load.py",
        "import json\n",
        "import json\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import scipy\n",
    ),
    "what a script does": (
        "components/deep/deeper.py",
        "FACTOR = 2",
        "FACTOR = 2\nif __name__ == '__main__':\n    print(1)",
    ),
    "a function that nothing calls": ("components/marks.py", "nobody calls this", "still nobody"),
    "another function of a module": ("components/marked.py", "return 3", "return 4"),
    "a constant that nothing uses": ("components/deep/deeper.py", "FACTOR = 2", "FACTOR = 2\nOTHER = 3"),
    "another name for a module": (
        "components/deep/helper.py",
        "from components.deep.deeper import FACTOR\n\n\ndef twice(n):\n    return n * FACTOR",
        "import components.deep.deeper as d\n\n\ndef twice(n):\n    return n * d.FACTOR",
    ),
    "the order of definitions": (
        "components/marks.py",
        "TABLE = {}\n\n\ndef noted(function):\n    TABLE[function.__name__] = function\n    return function\n",
        "def noted(function):\n    TABLE[function.__name__] = function\n    return function\n\n\nTABLE = {}\n",
    ),
    "the engine": ("pipelines/engine/execution/scheduler_loop.py", "SPEED = 1", "SPEED = 2"),
    "a data file that is not read": ("components/sources/data/other.bin", "one", "two"),
    "a package that is not imported": ("constraints.txt", "absent-package==1.0", "absent-package==2.0"),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_no_mutation_of_words_or_of_what_is_not_used_changes_any_key(project, name):
    before = said(ALL)
    mutate(project, *UNSEEN[name])

    assert changed(before, said(ALL)) == set()


KERNELS = {
    "components/kernels/__init__.py": "",
    "components/kernels/compiled.py": "def kernel(function):\n    return function\n",
    "components/kernels/fast.py": """from components.kernels.compiled import kernel


@kernel
def used(n):
    return n + 1


@kernel
def unused(n):
    return n + 5
""",
}


def test_a_kernel_is_in_the_keys_of_what_calls_it_alone_and_so_is_how_it_is_compiled(project):
    for name, text in KERNELS.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    mutate(
        project, "components/steps/load.py", "import json\n", "import json\nfrom components.kernels.fast import used\n"
    )
    mutate(project, "components/steps/load.py", "rows[1:]", "used(rows)")
    before = said(ALL)
    mutate(project, "components/kernels/fast.py", "n + 5", "n + 6")
    assert changed(before, said(ALL)) == set()

    mutate(project, "components/kernels/fast.py", "n + 1", "n + 2")
    assert changed(before, after := said(ALL)) == {LOAD}
    mutate(project, "components/kernels/compiled.py", "return function", "return function or print")
    assert changed(after, said(ALL)) == {LOAD}


MARKS = {
    "a package's": ("from numba.extending import overload", "@overload(len)"),
    "a module's of the project": ("from components import marks", "@marks.noted"),
    "one that is computed": ("from components.marks import TABLE", '@TABLE.get("noted")'),
    "one of a table": ("from components.marks import TABLE", '@TABLE["noted"]'),
    "one that a call gives": ("from components.marks import noted", "@noted(print).again"),
}


@pytest.mark.parametrize("mark", MARKS)
def test_what_is_marked_by_whatever_may_note_it_elsewhere_counts_where_its_module_is_imported(project, mark):
    """numba compiles what `overload` marks in the place of what it names: no call leads there."""
    imports, line = MARKS[mark]
    mutate(project, "components/marked.py", "from components.marks import noted", imports)
    mutate(project, "components/marked.py", "@noted", line)
    before = said(ALL)
    mutate(project, "components/marked.py", "return 1", "return 2")

    assert changed(before, said(ALL)) == {JUDGE}


@pytest.mark.parametrize(
    ("imports", "line"),
    [
        ("import functools", "@functools.cache"),
        ("from contextlib import contextmanager as managed", "@managed"),
        ("from numba import njit", "@njit(cache=True)"),
        ("import torch", "@torch.no_grad()"),
        ("import abc", "@staticmethod"),
    ],
)
def test_what_is_marked_by_what_notes_nothing_counts_where_it_is_reached(project, imports, line):
    mutate(project, "components/marked.py", "from components.marks import noted", imports)
    mutate(project, "components/marked.py", "@noted", line)
    before = said(ALL)
    mutate(project, "components/marked.py", "return 1", "return 2")

    assert changed(before, said(ALL)) == set()


def test_a_function_that_is_moved_to_another_file_and_renamed_changes_no_key(project):
    before = said(ALL)
    (project / "components/deep/factors.py").write_text("DOUBLE = 2\n\n\ndef doubled(n):\n    return n * DOUBLE\n")
    mutate(
        project, "components/steps/load.py", "from components.deep import helper", "from components.deep import factors"
    )
    mutate(project, "components/steps/load.py", "helper.twice(", "factors.doubled(")

    assert changed(before, said(ALL)) == set()


def test_how_code_names_what_no_key_covers_changes_no_key(project):
    """By the function or by its module, and wherever that lies."""
    for place in ("runtime", "plotting"):
        (project / "components" / place).mkdir(exist_ok=True)
        (project / "components" / place / "moving.py").write_text("def send(rows):\n    return rows\n")
    by_function, by_module = "from components.{}.moving import send\n", "from components.{} import moving\n"
    mutate(project, "components/steps/load.py", "import json\n", "import json\n" + by_function.format("runtime"))
    mutate(project, "components/steps/load.py", "rows[1:]", "send(rows)")
    before = said(ALL)
    mutate(project, "components/steps/load.py", by_function.format("runtime"), by_module.format("runtime"))
    mutate(project, "components/steps/load.py", "send(rows)", "moving.send(rows)")
    assert changed(before, said(ALL)) == set()

    mutate(project, "components/steps/load.py", by_module.format("runtime"), by_module.format("plotting"))
    assert changed(before, said(ALL)) == set()
    mutate(project, "components/steps/load.py", "moving.send(rows)", "moving.receive(rows)")
    assert changed(before, said(ALL)) == {LOAD}


def test_a_step_whose_file_is_moved_keeps_its_key(project):
    before = said({LOAD})
    (project / "components/steps/load.py").rename(project / "components/deep/loading.py")
    cache_key.forget()
    after = cache_key.digest(cache_key.ingredients(fingerprint([("components.deep.loading", "load")]), {}, 0))

    assert after == before[LOAD]


def versions(monkeypatch: pytest.MonkeyPatch, **known: str) -> None:
    """The machine has these versions; of what is None, none."""
    real = metadata.version

    def version(name: str) -> str:
        found = known.get(name, "")
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found or real(name)

    monkeypatch.setattr(modules.metadata, "version", version)


def test_another_version_of_a_package_changes_the_keys_that_import_it(project, monkeypatch):
    before = said(ALL)
    versions(monkeypatch, numpy="9.9.9")

    assert changed(before, said(ALL)) == {LOAD}


def test_every_package_that_shares_an_import_counts(project, monkeypatch):
    """`import google` may be brought by any of five packages."""
    monkeypatch.setattr(modules, "_packages", lambda: {"numpy": ["numpy", "scipy"]})
    before = said(ALL)
    versions(monkeypatch, numpy="9.9.9")
    first = said(ALL)
    versions(monkeypatch, scipy="9.9.9")

    assert changed(before, first) == changed(first, said(ALL)) == {LOAD}


def test_the_machines_build_of_a_package_changes_no_key(project, monkeypatch):
    versions(monkeypatch, torch="2.13.0+cpu")
    before = said(ALL)
    versions(monkeypatch, torch="2.13.0+cu130")

    assert changed(before, said(ALL)) == set()
    versions(monkeypatch, torch="2.13.1+cpu")
    assert changed(before, said(ALL)) == {LEARN}


def test_a_package_that_one_machine_has_and_another_lacks_changes_no_key_while_both_keep_to_the_lock(
    project, monkeypatch
):
    mutate(project, "components/steps/load.py", "import json\n", "import absent_package as json\n")
    without = said(ALL)
    versions(monkeypatch, absent_package="1.0+cu130")

    assert changed(without, said(ALL)) == set()
    versions(monkeypatch, absent_package="1.1")
    assert changed(without, said(ALL)) == {LOAD}


def test_a_locked_version_counts_where_the_package_is_not_installed(project):
    mutate(project, "components/steps/load.py", "import json\n", "import absent_package as json\n")
    before = said(ALL)
    mutate(project, "constraints.txt", "absent-package==1.0", "absent-package==2.0")

    assert changed(before, said(ALL)) == {LOAD}


def test_a_module_of_no_package_counts_by_its_source(project, monkeypatch, tmp_path):
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "rayfield_stray.py").write_text("STRAY = 1\n")
    monkeypatch.syspath_prepend(str(stray))
    mutate(project, "components/steps/load.py", "import json\n", "import rayfield_stray as json\n")
    before = said(ALL)
    (stray / "rayfield_stray.py").write_text("STRAY = 22\n")

    assert changed(before, said(ALL)) == {LOAD}


@pytest.fixture
def outside(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of the path, from which the project's step imports `rayfield_stray`."""
    (tmp_path / "outside").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "outside"))
    mutate(project, "components/steps/load.py", "import json\n", "import rayfield_stray as json\n")
    return tmp_path / "outside"


def test_a_folder_of_modules_without_a_file_of_its_own_counts_by_its_source(outside):
    (outside / "rayfield_stray").mkdir()
    (outside / "rayfield_stray" / "inner.py").write_text("STRAY = 1\n")
    before = said(ALL)
    (outside / "rayfield_stray" / "inner.py").write_text("STRAY = 2\n")

    assert changed(before, said(ALL)) == {LOAD}


def test_a_module_outside_that_another_one_outside_imports_counts(outside):
    (outside / "rayfield_stray.py").write_text("from rayfield_far import FAR\n\nSTRAY = FAR\n")
    (outside / "rayfield_far.py").write_text("FAR = 1\n")
    before = said(ALL)
    (outside / "rayfield_far.py").write_text("FAR = 2\n")

    assert changed(before, said(ALL)) == {LOAD}


@pytest.mark.parametrize("file", ["table.json", "fast.so", "deep/more.json"])
def test_whatever_else_lies_in_a_package_that_may_be_edited_counts(outside, file):
    place = outside / "rayfield_stray" / file
    place.parent.mkdir(parents=True)
    (outside / "rayfield_stray" / "__init__.py").write_text("")
    place.write_text("1")
    before = said(ALL)
    place.write_text("22")

    assert changed(before, said(ALL)) == {LOAD}


def described(folder: Path, **files: str) -> None:
    """What an installer writes of a package `rayfield_stray`, version 1.0."""
    folder.mkdir(parents=True)
    about = "Metadata-Version: 2.1\nName: rayfield_stray\nVersion: 1.0\n"
    for name, text in {"METADATA": about, **files}.items():
        (folder / name.replace("_json", ".json").replace("_INFO", "-INFO")).write_text(text)


EDITABLE = '{"dir_info": {"editable": true}, "url": "file:///somewhere"}'


@pytest.mark.parametrize("how", ["as pip notes it", "by a link to a folder", "by an egg beside the sources"])
def test_a_package_that_is_installed_to_be_edited_counts_by_its_source(outside, monkeypatch, tmp_path, how):
    """Its version stays while its code changes."""
    if how == "as pip notes it":
        described(outside / "rayfield_stray-1.0.dist-info", direct_url_json=EDITABLE)
    elif how == "by a link to a folder":
        described(tmp_path / "installed" / "rayfield_stray-1.0.dist-info")
        monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    else:
        described(outside / "rayfield_stray.egg-info", PKG_INFO="Name: rayfield_stray\nVersion: 1.0\n")
        (outside / "rayfield_stray.egg-info" / "METADATA").unlink()
    (outside / "rayfield_stray.py").write_text("STRAY = 1\n")
    before = said(ALL)
    (outside / "rayfield_stray.py").write_text("STRAY = 2\n")

    assert changed(before, said(ALL)) == {LOAD}


FROM_GIT = """{"url": "https://example.org/stray", "vcs_info": {"vcs": "git", "commit_id": "%s"}}"""


def test_a_package_from_git_at_another_commit_counts_though_its_version_is_the_same(outside):
    described(outside / "rayfield_stray-1.0.dist-info", direct_url_json=FROM_GIT % "aaa")
    (outside / "rayfield_stray.py").write_text("STRAY = 1\n")
    before = said(ALL)
    (outside / "rayfield_stray-1.0.dist-info" / "direct_url.json").write_text(FROM_GIT % "bbb")

    assert changed(before, said(ALL)) == {LOAD}


def test_a_package_that_is_installed_for_good_counts_by_its_version_alone(outside):
    described(outside / "rayfield_stray-1.0.dist-info")
    (outside / "rayfield_stray.py").write_text("STRAY = 1\n")
    before = said(ALL)
    (outside / "rayfield_stray.py").write_text("STRAY = 2\n")
    assert changed(before, said(ALL)) == set()

    about = outside / "rayfield_stray-1.0.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("1.0", "1.1"))
    assert changed(before, said(ALL)) == {LOAD}


BY_NAME = [
    'importlib.import_module("components.named")',
    'import_module("..named", __package__)',
    '__import__("components.named")',
]


@pytest.mark.parametrize("call", BY_NAME)
def test_a_module_that_is_imported_by_its_name_in_quotes_counts(project, call):
    (project / "components/named.py").write_text("SCALE = 1\n")
    mutate(project, "components/steps/load.py", "LIMIT = 3", f"LIMIT = {call}.SCALE")
    before = said(ALL)
    mutate(project, "components/named.py", "1", "2")

    assert changed(before, said(ALL)) == {LOAD}


@pytest.mark.parametrize("call", ["import_module(rows)", '__import__("components." + rows)'])
def test_a_module_whose_name_no_key_could_hold_is_refused(project, call):
    mutate(project, "components/steps/load.py", "LIMIT = 3", f"LIMIT = {call}")

    with pytest.raises(UsageError, match="An import takes a name in quotes.*line 8 of components/steps/load.py"):
        said(ALL)
    assert len(said({LEARN, JUDGE})) == 2


@pytest.mark.parametrize("file", ['Path(__file__).with_name("table.json")', "Path(helper.__file__).parent"])
def test_a_data_file_that_is_found_by_the_place_of_the_code_is_refused(project, file):
    mutate(project, "components/steps/load.py", "LIMIT = 3", f"LIMIT = {file}")

    with pytest.raises(UsageError, match=r'line 8 of components/steps/load.py.*write resource\("NAME"\)'):
        said(ALL)


def test_a_module_at_the_projects_root_counts_as_the_projects_own(project):
    (project / "beside.py").write_text("BESIDE = 1\n")
    mutate(project, "components/steps/load.py", "import json\n", "import beside as json\n")
    before = said(ALL)
    (project / "beside.py").write_text("BESIDE = 2\n")

    assert changed(before, said(ALL)) == {LOAD}


def test_a_data_file_is_seen_under_another_name_of_the_function(project):
    mutate(project, "components/steps/load.py", "import resource\n", "import resource as asset\n")
    mutate(project, "components/steps/load.py", 'resource("table.bin")', 'asset("table.bin")')
    before = said(ALL)
    (project / "components/sources/data/table.bin").write_text("two")

    assert changed(before, said(ALL)) == {LOAD}


@pytest.mark.parametrize("call", ["resource(rows)", 'resource("a" + rows)', "resource(*rows)", "resource()"])
def test_a_data_file_whose_name_no_key_could_hold_is_refused(project, call):
    mutate(project, "components/steps/load.py", 'resource("table.bin")', call)

    with pytest.raises(UsageError, match="takes a name in quotes"):
        said(ALL)


def test_the_place_of_the_project_changes_no_key(project, monkeypatch, tmp_path):
    before = said(ALL)
    shutil.copytree(project, tmp_path / "unpacked" / "by_ray")
    monkeypatch.setattr(modules, "ROOT", tmp_path / "unpacked" / "by_ray")

    assert changed(before, said(ALL)) == set()


# The project itself

FAMILIES: dict[str, Family] = {
    "pointnet": PointNet.tiny(),
    "voxnet": VoxNet.tiny(),
    "gan": Gan.tiny(),
    "gaussians": Gaussians.tiny(),
    "tsne": Tsne.tiny(),
}
EVERY = set(FAMILIES)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "components", root / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "constraints.txt", root)
    yield from at(root, monkeypatch)


def real_keys() -> dict[str, str]:
    """The keys of every step: the preprocessing of each source, and a training of each family with what follows it."""

    def pipeline() -> None:
        for family in FAMILIES.values():
            table = preprocess(Furniture(), [family.representation()])
            checkpoint = train(family, table)
            register(evaluate(checkpoint, table), name=family.name)
            tune(family, table)
        predict(checkpoint, table)

    modules.forget()
    nodes = draw(pipeline, {}, {}).nodes.values()
    return {f"{node.title} {place}": node.key for place, node in enumerate(nodes)}


def concerned(before: Mapping[str, str], step: str) -> set[str]:
    """The families whose step of that name has another key now."""
    own = {title.split()[1] for title in changed(before, real_keys()) if title.startswith(step)}
    return own & EVERY


REAL = {
    "a kernel": ("components/kernels/voxels.py", "SLACK = 1e-9", "SLACK = 1e-8", {"voxnet"}),
    "the rasteriser of views": ("components/kernels/raster.py", "MARGIN = 1e-6", "MARGIN = 1e-5", {"gan", "gaussians"}),
    "the rasteriser of splats": ("components/kernels/splatting.py", "SHARE = 4096", "SHARE = 2048", {"gaussians"}),
    "what numba compiles in a function's place": (
        "components/kernels/splatting.py",
        "range(7, -1, -1)",
        "range(8, -1, -1)",
        {"gaussians"},
    ),
    "how kernels are compiled": ("components/kernels/compiled.py", "nogil=True", "nogil=False", EVERY),
    "where compiled kernels are kept": ("components/runtime/compilation_cache.py", "KEPT = 90", "KEPT = 9", set()),
    "a layer": ("components/layers/ssim.py", "SIZE, SIGMA = 11, 1.5", "SIZE, SIGMA = 13, 1.5", {"gaussians"}),
    "a constant of a layer": ("components/layers/splats.py", "NEAR = ", "NEAR = 2 * ", {"gaussians"}),
    "a representation": (
        "components/representations/points.py",
        "count: Count = 1024",
        "count: Count = 1",
        {"pointnet"},
    ),
    "a family": ("components/families/shapes/voxnet.py", "SLOPE = 0.1", "SLOPE = 0.2", {"voxnet"}),
    "what a family is": ("components/family.py", "return one > other if", "return one >= other if", EVERY),
    "the loop": ("components/training/learner.py", "self.state.pieces *= 2", "self.state.pieces *= 3", EVERY),
    "a decoder, through the table": (
        "components/sources/sweethome3d/packed.py",
        "is_new = codes == 0",
        "is_new = codes == 1",
        EVERY,
    ),
    "the splits, through the table": ("components/source.py", '"test" if place < 1', '"test" if place < 2', EVERY),
    "a shard's size, through the table": ("components/steps/preprocess.py", "SHARD = 32", "SHARD = 64", EVERY),
    "the training step": ("components/steps/train.py", "PARTS = 10", "PARTS = 5", EVERY),
    "another step": ("components/steps/registry/model_card.py", "Tested on", "Judged on", set()),
    "the search": ("components/steps/tune.py", "SHORT = 5", "SHORT = 4", set()),
    "a source that is not used": ("components/sources/folder.py", "VAL = 0.12", "VAL = 0.2", set()),
    "how a family is found by its name": ("components/family.py", "No family", "There is no family", set()),
    "what moves bytes": ("components/runtime/filesystem.py", "PATIENCE = 120.0", "PATIENCE = 60.0", set()),
    "what draws": ("components/plotting/figures.py", "import numpy as np", "import numpy as np\nODD = 1", set()),
    "how handles refuse": ("components/step.py", "it has no length", "it is not measured", set()),
    "words alone": ("components/training/learner.py", '"""', '"""Indeed. ', set()),
}


@pytest.mark.parametrize("name", REAL)
def test_a_change_of_the_real_code_changes_the_trainings_that_use_it_and_no_other(copied, name):
    file, old, new, families = REAL[name]
    before = real_keys()
    path = copied / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))

    assert concerned(before, "train") == families


@pytest.mark.parametrize("name", ["furniture.bin", "textured.bin"])
def test_one_byte_of_a_bundled_data_file_changes_every_key_that_its_source_leads_to(copied, name):
    before = real_keys()
    path = copied / "components" / "sources" / "data" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    assert changed(before, real_keys()) == set(before)


def test_the_code_that_a_registered_model_is_asked_by_is_in_the_key_of_its_registration(copied):
    """MLflow runs served.py by its path: no import leads there."""
    before = real_keys()
    mutate(copied, "components/steps/registry/served.py", "set_model(Served())", "set_model(Served(  )) or None")

    assert {title.split()[0] for title in changed(before, real_keys())} == {"register"}


def test_folders_that_are_called_otherwise_change_no_key(copied):
    """So that a house may be redrawn without a training being made anew."""
    before = real_keys()
    names = {"layers": "zz_parts", "metrics": "aa_scores", "formats": "zz_files", "training": "aa_loop"}
    for old, new in names.items():
        (copied / "components" / old).rename(copied / "components" / new)
        for path in (copied / "components").rglob("*.py"):
            path.write_text(re.sub(rf"\bcomponents\.{old}\b", f"components.{new}", path.read_text()))

    assert changed(before, real_keys()) == set()


def test_a_comment_in_every_file_changes_no_key(copied):
    before = real_keys()
    for path in (copied / "components").rglob("*.py"):
        path.write_text(path.read_text() + "\n# a remark\n")

    assert changed(before, real_keys()) == set()


def test_every_decoder_is_behind_a_folder_of_shapes(copied):
    """Decoders are chosen by the ending of a file's name when it is opened."""
    found = {one.name for one in modules.closure([Folder.__module__])}

    assert found >= {f"components.formats.{path.stem}" for path in (copied / "components/formats").glob("[a-z]*.py")}


def test_only_what_finds_families_sources_and_results_imports_by_a_name_that_it_is_given():
    """
    The class itself is in the key wherever one of these was asked: what else were found so would be in none.

    A step that reached one of the first two would be refused.
    """
    by_name = {
        path.relative_to(ROOT / "components").as_posix()
        for path in (ROOT / "components").rglob("*.py")
        if "import_module(" in path.read_text() or "__import__(" in path.read_text()
    }

    assert by_name == {"family.py", "source.py", "runtime/serialization.py", "runtime/user_code.py"}


def test_only_resource_reads_what_lies_beside_the_code():
    beside = {
        path.relative_to(ROOT / "components").as_posix()
        for path in (ROOT / "components").rglob("*.py")
        if "__file__" in path.read_text()
    }

    runtime = {f"runtime/{name}.py" for name in ("resource", "serialization", "user_code")}
    assert beside == {*runtime, "steps/registry/packaging.py"}


# Parameters


def drawn(**values: object) -> dict[str, str]:
    def pipeline(trials: int = 8, lr: float = 1e-3, count: int = 64, workers: int = 1, seed: int = 0) -> None:
        family = replace(PointNet.tiny(), lr=lr, stored=count)
        table = preprocess(Furniture(), [family.representation()])
        checkpoint = train(tune(family, table, trials=trials), table, workers=workers)
        predict(checkpoint, preprocess(Furniture(), [VoxNet.tiny().representation()]))
        evaluate(checkpoint, table)

    nodes = draw(pipeline, values, {}).nodes.values()
    return {f"{place} {node.title}": node.key for place, node in enumerate(nodes)}


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        ({"trials": 16}, {"1 tune pointnet", "2 train pointnet", "4 predict pointnet", "5 evaluate pointnet"}),
        ({"lr": 3e-4}, {"1 tune pointnet", "2 train pointnet", "4 predict pointnet", "5 evaluate pointnet"}),
        (
            {"count": 32},
            {"0 preprocess", "1 tune pointnet", "2 train pointnet", "4 predict pointnet", "5 evaluate pointnet"},
        ),
        ({"workers": 4}, set()),
    ],
    ids=["a step's own", "a family's", "a representation's", "resources"],
)
def test_a_parameter_changes_the_keys_of_the_steps_that_read_it_and_of_what_they_lead_to(value, steps):
    assert changed(drawn(), drawn(**value)) == steps


def test_a_seed_changes_every_key():
    assert changed(drawn(), drawn(seed=1)) == set(drawn())
