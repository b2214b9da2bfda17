"""
What a change of the code does to the keys: every change that may change a result counts, and no change of words does.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pipelines.engine.caching import modules
from pipelines.engine.caching.definitions import read
from pipelines.engine.caching.fingerprint import fingerprint, is_in_no_key

STEP = '''"""Counts."""

import numpy as np
from components.helper import scale
from components.runtime.resource import resource

SIZE = 3


def count(rows, start=0):
    """How many."""
    # from the start on
    table = resource("table.bin")
    return scale(np.size(rows) - start) * SIZE
'''
HELPER = '''"""Helps."""


def scale(number):
    return 2 * number
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one step, one helper and one data file."""
    root = tmp_path / "project"
    (root / "components" / "sources" / "data").mkdir(parents=True)
    (root / "components" / "counting.py").write_text(STEP)
    (root / "components" / "helper.py").write_text(HELPER)
    (root / "components" / "resource.py").write_text("def resource(name):\n    return name\n")
    (root / "components" / "sources" / "data" / "table.bin").write_bytes(b"one")
    monkeypatch.setattr(modules, "ROOT", root)
    return root


def dependencies() -> dict[str, str]:
    return dict(fingerprint([("components.counting", "count")]).in_key)


def listed() -> dict[str, Mapping[str, str]]:
    """Module -> what is reached of it."""
    return dict(fingerprint([("components.counting", "count")]).listing)


def change(project: Path, file: str, old: str, new: str) -> None:
    path = project / "components" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("helper.py", "2 * number", "number * 2"),
        ("helper.py", "return 2", "return 3"),
        ("counting.py", "SIZE = 3", "SIZE = 4"),
        ("counting.py", "start=0", "start=1"),
        ("counting.py", "import numpy as np", "import math as np"),
        ("counting.py", "import numpy as np", "import torch as np"),
        ("counting.py", "- start", "+ start"),
        ("counting.py", '"table.bin"', '"other.bin"'),
        ("counting.py", "def count(rows", "def count(*rows"),
    ],
    ids=[
        "body",
        "constant",
        "module constant",
        "default",
        "Python's own",
        "import",
        "operator",
        "data name",
        "signature",
    ],
)
def test_every_change_of_the_code_is_seen(project, file, old, new):
    before = dependencies()
    change(project, file, old, new)

    assert dependencies() != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("counting.py", "# from the start on", "# from the beginning on"),
        ("counting.py", '"""How many."""', '"""How many rows there are."""'),
        ("counting.py", '"""Counts."""', '"""Counts rows."""'),
        ("counting.py", "SIZE = 3", 'SIZE = 3\n"""a bare string under a constant"""'),
        ("counting.py", "SIZE = 3", "\n\nSIZE = 3\n\n"),
        ("helper.py", "return 2 * number", "return (2  *  number)  # twice"),
        ("helper.py", '"""Helps."""', ""),
    ],
    ids=["comment", "docstring", "module docstring", "bare string", "blank lines", "spaces", "no docstring"],
)
def test_no_change_of_words_is_seen(project, file, old, new):
    before = dependencies()
    change(project, file, old, new)

    assert dependencies() == before


def test_a_string_that_does_something_is_seen(project):
    change(project, "helper.py", "return 2 * number", 'return "2"')
    before = dependencies()
    change(project, "helper.py", '"2"', '"3"')

    assert dependencies() != before


def test_the_bytes_of_a_packaged_data_file_are_seen(project):
    before = dependencies()
    (project / "components" / "sources" / "data" / "table.bin").write_bytes(b"two")

    assert dependencies()["data table.bin"] != before["data table.bin"]


def test_a_version_is_seen_but_not_its_local_part(project, monkeypatch):
    def version_of_numpy(version: str) -> str:
        modules._versions.cache_clear()
        monkeypatch.setattr(modules.metadata, "version", lambda name: version)
        return dependencies()["package numpy"]

    try:
        assert version_of_numpy("2.4.0") != version_of_numpy("2.5.0")
        assert version_of_numpy("2.4.0+cpu") == version_of_numpy("2.4.0+cu130")
    finally:
        modules._versions.cache_clear()


def test_what_is_imported_by_what_is_imported_is_seen(project):
    (project / "components" / "deep.py").write_text("DEPTH = 1\n")
    change(project, "helper.py", '"""Helps."""', '"""Helps."""\n\nfrom components.deep import DEPTH\n')
    change(project, "helper.py", "2 *", "DEPTH *")
    before = dependencies()
    change(project, "deep.py", "1", "2")

    assert dependencies() != before


def test_an_import_inside_a_function_is_seen(project):
    (project / "components" / "late.py").write_text("LATE = 1\n")
    change(project, "helper.py", "return 2", "from components import late\n\n    return late.LATE")

    assert listed()["components.late"].keys() == {"constant LATE"}


def test_a_relative_import_is_seen(project):
    change(project, "counting.py", "from components.helper import", "from .helper import")

    assert listed()["components.helper"].keys() == {"scale"}


def test_two_modules_that_import_each_other_end(project):
    change(project, "helper.py", '"""Helps."""', "import components.counting")
    change(project, "helper.py", "2 * number", "components.counting.count(number)")

    assert listed().keys() == {"components.helper", "components.counting"}


def test_a_module_that_is_not_imported_is_not_seen(project):
    before = dependencies()
    (project / "components" / "stranger.py").write_text("STRANGE = True\n")

    assert dependencies() == before


def test_the_engine_and_what_moves_bytes_or_draws_are_in_no_key():
    found = fingerprint([("components.steps.train", "train"), ("components.families.shapes.pointnet", "PointNet")])

    assert not [name for name in found.listing if is_in_no_key(name)]
    assert {
        "components.steps.train",
        "components.families.shapes.pointnet",
        "components.training.learner",
    } <= found.listing.keys()
    assert {name for name in found.modules if name.startswith("components.runtime")}  # imported, and in no key


def test_what_draws_is_in_the_key_of_what_returns_a_figure():
    root = ("components.families.recap.convnet", "ConvNet")

    assert "components.plotting.figures" not in fingerprint([root]).listing
    assert "components.plotting.figures" in fingerprint([root], draws=True).listing


def test_python_itself_is_no_package():
    found = fingerprint([("components.steps.train", "train")]).in_key

    assert not {"package os", "package json", "package builtins"} & found.keys()
    assert {"package torch", "package numpy", "package ray"} <= found.keys()


def test_a_name_that_a_function_has_itself_stands_for_nothing_else(project):
    """`scale` is the argument here, and not the helper that the module imports."""
    change(project, "counting.py", "def count(rows, start=0)", "def count(rows, start=0, scale=len)")
    assert "components.helper" not in listed()

    change(project, "counting.py", "SIZE\n", "[SIZE for SIZE in (1, 2)][0]\n")
    assert "constant SIZE" not in listed()["components.counting"]


TEXTS = [
    (
        "def f(a, /, b=1, *c, d, e: int = 2, **g) -> str:\n    return f'{a!r:>{b}} {d}'",
        "c017ca5a2917d954a5da1b2e7829245e",
    ),
    (
        "class A(B, metaclass=M):\n    x: int = 1\n    def y(self): return lambda z: (z, -1j, b'', ..., None)",
        "892e574991fdf34fae2c1e7e5437e095",
    ),
    ("X = [i for i in range(3) if (j := i)], {**D, 'a': u'b'}, 0x10, 1_0.5", "d71d86875f690827da1749f828e3c516"),
    (
        "def g(v):\n    match v:\n        case [P(q), *r] if r: return q\n        case {'k': w, **s}: yield w, s\n",
        "4ac43da2500b30f05984046eb338bf06",
    ),
]


@pytest.mark.parametrize(("text", "digest"), TEXTS)
def test_a_text_has_the_same_digest_on_every_python(text, digest):
    """Stored from Python 3.11: `ast.dump` says other things of the same text from one version to the next."""
    (found,) = next(iter(read(text.encode(), "a.py", "").definitions.values()))

    assert found.digest == digest
