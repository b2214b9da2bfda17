"""
What a change of the code does to the keys: every change that may change a result counts, and no change of words does.
"""

from pathlib import Path

import pytest

from pipelines.engine import code

STEP = '''"""Counts."""

import numpy as np
from components.helper import scale
from components.resource import resource

SIZE = 3


def count(rows, start=0):
    """How many."""
    # from the start on
    table = resource("table.bin")
    return scale(len(rows) - start) * SIZE
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
    (root / "components" / "step.py").write_text(STEP)
    (root / "components" / "helper.py").write_text(HELPER)
    (root / "components" / "resource.py").write_text("def resource(name):\n    return name\n")
    (root / "components" / "sources" / "data" / "table.bin").write_bytes(b"one")
    monkeypatch.setattr(code, "ROOT", root)
    return root


def dependencies() -> dict[str, str]:
    return code.dependencies(["components.step"])


def change(project: Path, file: str, old: str, new: str) -> None:
    path = project / "components" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("helper.py", "2 * number", "number * 2"),
        ("helper.py", "return 2", "return 3"),
        ("step.py", "SIZE = 3", "SIZE = 4"),
        ("step.py", "start=0", "start=1"),
        ("step.py", "import numpy as np", "import numpy as np\nimport math"),
        ("step.py", "import numpy as np", "import torch as np"),
        ("step.py", "- start", "+ start"),
        ("step.py", '"table.bin"', '"other.bin"'),
        ("step.py", "def count(rows", "def count(*rows"),
    ],
    ids=[
        "body",
        "constant",
        "module constant",
        "default",
        "new import",
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
        ("step.py", "# from the start on", "# from the beginning on"),
        ("step.py", '"""How many."""', '"""How many rows there are."""'),
        ("step.py", '"""Counts."""', '"""Counts rows."""'),
        ("step.py", "SIZE = 3", 'SIZE = 3\n"""a bare string under a constant"""'),
        ("step.py", "SIZE = 3", "\n\nSIZE = 3\n\n"),
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
        code._versions.cache_clear()
        monkeypatch.setattr(code.metadata, "version", lambda name: version)
        return dependencies()["package numpy"]

    try:
        assert version_of_numpy("2.4.0") != version_of_numpy("2.5.0")
        assert version_of_numpy("2.4.0+cpu") == version_of_numpy("2.4.0+cu130")
    finally:
        code._versions.cache_clear()


def test_what_is_imported_by_what_is_imported_is_seen(project):
    (project / "components" / "deep.py").write_text("DEPTH = 1\n")
    change(project, "helper.py", '"""Helps."""', '"""Helps."""\n\nfrom components.deep import DEPTH\n')
    before = dependencies()
    change(project, "deep.py", "1", "2")

    assert dependencies() != before


def test_an_import_inside_a_function_is_seen(project):
    (project / "components" / "late.py").write_text("LATE = 1\n")
    change(project, "helper.py", "return 2", "from components import late\n\n    return late.LATE")

    assert "components.late" in dependencies()


def test_a_relative_import_is_seen(project):
    change(project, "step.py", "from components.helper import", "from .helper import")

    assert "components.helper" in dependencies()


def test_two_modules_that_import_each_other_end(project):
    change(project, "helper.py", '"""Helps."""', "import components.step")

    assert {"components.helper", "components.step"} <= dependencies().keys()


def test_a_module_that_is_not_imported_is_not_seen(project):
    before = dependencies()
    (project / "components" / "stranger.py").write_text("STRANGE = True\n")

    assert dependencies() == before


def test_the_engine_is_in_no_key():
    found = code.dependencies(["pipelines.quickstart"])

    assert not [name for name in found if name.startswith("pipelines.engine")]
    assert "components.steps.train" in found
    assert "components.families.pointnet" in found


def test_python_itself_is_no_package():
    assert not {"package os", "package json", "package ast"} & code.dependencies(["components.runtime.files"]).keys()
    assert "package fsspec" in code.dependencies(["components.runtime.files"])
