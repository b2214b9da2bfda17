"""
The text of a kernel: another after any change of what the kernel reaches, the same after any other.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.runtime.kernel_text import UnreadableError, text_of

FILES = {
    "rayfield_a.py": """
import math
import numpy as np
import rayfield_c
from numba.extending import overload
from components.kernels.compiled import kernel
from rayfield_b import Pair, Side, added, halved, plain

WEIGHTS = np.array([1.0, 2.0])
OFFSET = 1
FACTORS = (1, (2.0, "x"))


@kernel
def scaled(x):
    \"\"\"Scales.\"\"\"
    # by a sum
    total = later(x) + added(x) * WEIGHTS[0] + FACTORS[1][0]
    if Side.LEFT == 1:
        total += Pair(1, 2).first
    return total * rayfield_c.FACTOR + math.sqrt(plain(x)) + np.float64(halved(x))


@kernel
def later(x):
    return x + OFFSET if x > 0 else scaled(-x)


@kernel
def alone(x):
    return x
""",
    "rayfield_b.py": """
from collections import namedtuple
from enum import IntEnum
from numba.extending import overload
from components.kernels.compiled import kernel
from rayfield_c import DEEP

OTHER = 5
Pair = namedtuple("Pair", "first second")
Side = IntEnum("Side", "LEFT RIGHT")


def _added(step):
    @kernel
    def inner(x):
        return x + step + DEEP

    return inner


added = _added(2)


@kernel(inline="always")
def halved(x, by=2):
    return x / by


def plain(x):
    return x


@overload(plain)
def compiled_plain(x):
    return lambda x: x * DEEP


@kernel
def unused(x):
    return x - 1
""",
    "rayfield_c.py": "FACTOR = 2.0\nDEEP = 3.0\nUNUSED = 4.0\n",
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write(tmp_path / "first")
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    yield tmp_path / "first"
    forget()


def write(folder: Path) -> None:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)


def forget() -> None:
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)
    importlib.invalidate_caches()


def imported(name: str = "rayfield_a") -> Any:
    """The module as its file is now: its bytecode of before, of the same second, is not asked."""
    forget()
    return importlib.import_module(name)


def text() -> str:
    return text_of(imported().scaled)


def mutate(path: Path, old: str, new: str) -> None:
    said = path.read_text()
    assert said.count(old) == 1
    path.write_text(said.replace(old, new))


@pytest.fixture(autouse=True)
def without_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written twice in a second has the bytecode of the first time."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


SEEN = {
    "its own code": ("rayfield_a.py", "x > 0", "x >= 0"),
    "a kernel that stands below it": ("rayfield_a.py", "x + OFFSET", "x - OFFSET"),
    "a constant of its file": ("rayfield_a.py", "OFFSET = 1", "OFFSET = 2"),
    "a constant's type": ("rayfield_a.py", "OFFSET = 1", "OFFSET = 1.0"),
    "an entry of a tuple in a tuple": ("rayfield_a.py", '"x"', '"y"'),
    "an entry of an array": ("rayfield_a.py", "[1.0, 2.0]", "[1.0, 3.0]"),
    "the type of an array": ("rayfield_a.py", "2.0])", "2.0], np.float32)"),
    "the order of an array in memory": ("rayfield_a.py", "np.array([1.0, 2.0])", "np.array([1.0, 9, 2, 9])[::2]"),
    "a kernel of another file": ("rayfield_b.py", "x + step + DEEP", "x - step + DEEP"),
    "what a kernel is closed over": ("rayfield_b.py", "_added(2)", "_added(3)"),
    "a function that is inlined": ("rayfield_b.py", "x / by", "by / x"),
    "a default": ("rayfield_b.py", "by=2", "by=4"),
    "an option": ("rayfield_b.py", 'inline="always"', 'error_model="numpy"'),
    "what numba compiles in a function's place": ("rayfield_b.py", "x * DEEP", "x - DEEP"),
    "a field of a named tuple": ("rayfield_b.py", '"first second"', '"first third"'),
    "a member of an enumeration": ("rayfield_b.py", '"LEFT RIGHT"', '"RIGHT LEFT"'),
    "a constant that is asked of a module": ("rayfield_c.py", "FACTOR = 2.0", "FACTOR = 3.0"),
    "a constant two files away": ("rayfield_c.py", "DEEP = 3.0", "DEEP = 4.0"),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_change_of_anything_that_a_kernel_reaches_changes_its_text(modules, name):
    file, old, new = SEEN[name]
    before = text()
    mutate(modules / file, old, new)

    assert text() != before


UNSEEN = {
    "a comment": ("rayfield_a.py", "# by a sum", "# by the sum"),
    "lines above": ("rayfield_a.py", "OFFSET = 1", "\n\nOFFSET = 1"),
    "a kernel that it does not call": ("rayfield_a.py", "return x\n", "return -x\n"),
    "one of another file": ("rayfield_b.py", "x - 1", "x - 2"),
    "a constant that it does not name": ("rayfield_b.py", "OTHER = 5", "OTHER = 6"),
    "one of a module that it asks for others": ("rayfield_c.py", "UNUSED = 4.0", "UNUSED = 5.0"),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_no_other_change_does(modules, name):
    file, old, new = UNSEEN[name]
    before = text()
    mutate(modules / file, old, new)

    assert text() == before


def test_the_folder_and_the_age_of_the_files_are_not_in_it(modules, tmp_path, monkeypatch):
    before = text()
    write(tmp_path / "second")
    monkeypatch.syspath_prepend(str(tmp_path / "second"))

    assert text() == before
    assert Path(sys.modules["rayfield_a"].__file__).parent == tmp_path / "second"


def test_a_text_is_the_same_however_often_it_is_asked_for(modules):
    module = imported()
    first = [text_of(one) for one in (module.scaled, module.later, module.alone)]

    assert [text_of(one) for one in (module.scaled, module.later, module.alone)] == first
    assert len(set(first)) == 3


def test_a_constant_that_is_set_while_the_process_runs_changes_it(modules):
    module = imported()
    before = text_of(module.scaled)
    module.WEIGHTS[1] = 7

    assert text_of(module.scaled) != before


def test_the_versions_of_the_packages_that_are_named_are_in_it(modules, monkeypatch):
    before = text()
    monkeypatch.setattr(np, "__version__", "9.9.9")

    assert text() != before


@pytest.mark.parametrize("value", [object(), np.array([None])], ids=["an object", "an array of objects"])
def test_a_constant_that_no_text_describes_is_named(modules, value):
    module = imported()
    module.OFFSET = value

    with pytest.raises(UnreadableError, match="is no number, text, tuple|has no bytes of its own"):
        text_of(module.scaled)
