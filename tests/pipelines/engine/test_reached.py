"""
Small projects in which a change of a result hides: each way in which Python lets code be found without naming it.

What static reading can follow changes the key; what it cannot is refused with the line, or is seen while the step runs
(test_observing.py). Nothing is imported.
"""

from pathlib import Path

import pytest

from components.errors import UsageError
from pipelines.engine.caching import cache_key, modules
from pipelines.engine.caching.fingerprint import fingerprint


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(modules, "ROOT", tmp_path)
    monkeypatch.setattr(modules, "LOCK", tmp_path / "constraints.txt")
    modules.forget()
    return tmp_path


def files_of(text: str) -> dict[str, str]:
    """Module -> its text: "== NAME" begins one."""
    parts = (part.partition("\n") for part in text.strip().removeprefix("== ").split("\n== "))
    return {name: f"{body}\n" for name, _, body in parts}


def key_of(root: Path, files: dict[str, str]) -> str:
    """The key of `step` in the module `a` of a project of these files."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "components" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cache_key.digest(dict(fingerprint([("components.a", "step")]).in_key))


def keys_of(root: Path, case: tuple[str, str, str, str]) -> tuple[str, str]:
    """The key before and after a change of a file."""
    file, old, new, text = case
    files = files_of(text)
    assert files[file].count(old) == 1
    return key_of(root, files), key_of(root, {**files, file: files[file].replace(old, new)})


FOLLOWED = {
    "a decorator's argument": (
        "a",
        "by(2)",
        "by(3)",
        """
== a
def by(n):
    return lambda f: lambda x: f(x) * n
@by(2)
def step(x):
    return x
""",
    ),
    "a class decorator": (
        "a",
        "c.n = 1",
        "c.n = 2",
        """
== a
def more(c):
    c.n = 1
    return c
@more
class C:
    pass
def step(x):
    return C.n
""",
    ),
    "a metaclass": (
        "a",
        "n = 1",
        "n = 2",
        """
== a
class M(type):
    n = 1
class C(metaclass=M):
    pass
def step(x):
    return C.n
""",
    ),
    "a class that a metaclass registers": (
        "plug",
        "n = 1",
        "n = 2",
        """
== base
TABLE = {}
class M(type):
    def __init__(cls, *rest):
        TABLE[cls.__name__] = cls
class Base(metaclass=M):
    pass
== plug
from components.base import Base, TABLE
class Late(Base):
    n = 1
== a
from components import plug
from components.base import Base, TABLE
def step(x):
    return TABLE, x
""",
    ),
    "a class that __init_subclass__ registers": (
        "plug",
        "n = 1",
        "n = 2",
        """
== base
TABLE = {}
class Base:
    def __init_subclass__(cls):
        TABLE[cls.__name__] = cls
== plug
from components.base import Base, TABLE
class Late(Base):
    n = 1
== a
from components import plug
from components.base import Base, TABLE
def step(x):
    return TABLE, x
""",
    ),
    "a class that __subclasses__ finds": (
        "plug",
        "n = 1",
        "n = 2",
        """
== base
class Base:
    pass
== plug
from components.base import Base
class Late(Base):
    n = 1
== a
from components import plug
from components.base import Base
def step(x):
    return [c.n for c in Base.__subclasses__()]
""",
    ),
    "the name of what is registered": (
        "plug",
        "def late",
        "def early",
        """
== base
TABLE = {}
def noted(f):
    TABLE[f.__name__] = f
    return f
== plug
from components.base import noted
@noted
def late():
    return 1
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "the order of what is registered": (
        "plug",
        "@noted\ndef a():\n    return 1\n@noted\ndef b():\n    return 2\n",
        "@noted\ndef b():\n    return 2\n@noted\ndef a():\n    return 1\n",
        """
== base
TABLE = {}
def noted(f):
    TABLE[0] = f
    return f
== plug
from components.base import noted
@noted
def a():
    return 1
@noted
def b():
    return 2
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "what a constant's call registers": (
        "plug",
        "lambda: 1",
        "lambda: 2",
        """
== base
TABLE = {}
def noted(f):
    TABLE[0] = f
    return f
== plug
from components.base import noted
HANDLE = noted(lambda: 1)
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "what a constant puts into a table": (
        "plug",
        "'a', 1",
        "'a', 2",
        """
== base
TABLE = {}
== plug
from components.base import TABLE
LEFT = TABLE.setdefault('a', 1)
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "what a class's body puts into a table": (
        "plug",
        "= 1",
        "= 2",
        """
== base
TABLE = {}
== plug
from components.base import TABLE
class Late:
    TABLE['a'] = 1
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "a method that its decorator registers": (
        "plug",
        "return 1",
        "return 2",
        """
== base
TABLE = {}
def noted(f):
    TABLE[0] = f
    return f
== plug
from components.base import noted
class Late:
    @noted
    def m(self):
        return 1
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "what a default registers": (
        "plug",
        "lambda: 1",
        "lambda: 2",
        """
== base
TABLE = {}
def noted(f):
    TABLE[0] = f
    return f
== plug
from components.base import noted
def late(x=noted(lambda: 1)):
    return x
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "what a package's decorator registers": (
        "plug",
        "return 1",
        "return 2",
        """
== plug
from numba.extending import overload
@overload(len)
def late(x):
    return 1
== a
from components import plug
def step(x):
    return len(x)
""",
    ),
    "a state of a package that a constant sets": (
        "plug",
        "ignore",
        "raise",
        """
== plug
import numpy as np
OLD = np.seterr(all='ignore')
== a
from components import plug
def step(x):
    return 1 / x
""",
    ),
    "an overload of singledispatch in another module": (
        "plug",
        "return 1",
        "return 2",
        """
== base
from functools import singledispatch
@singledispatch
def of(x):
    return 0
== plug
from components.base import of
@of.register
def _(x: int):
    return 1
== a
from components import plug
from components.base import of
def step(x):
    return of(x)
""",
    ),
    "an overload under the module's name": (
        "plug",
        "return 1",
        "return 2",
        """
== base
from functools import singledispatch
@singledispatch
def of(x):
    return 0
== plug
from components import base
@base.of.register(int)
def _(x):
    return 1
== a
from components import plug
from components.base import of
def step(x):
    return of(x)
""",
    ),
    "a module's __getattr__": (
        "lazy",
        "return 1",
        "return 2",
        """
== lazy
def __getattr__(name):
    return 1
== a
from components.lazy import thing
def step(x):
    return thing
""",
    ),
    "the second of two stars": (
        "two",
        "B = 1",
        "B = 2",
        """
== one
A = 1
== two
B = 1
== a
from components.one import *
from components.two import *
def step(x):
    return B
""",
    ),
    "a star that hides an import": (
        "two",
        "B = 1",
        "B = 2",
        """
== one
B = 0
== two
B = 1
== a
from components.one import B
from components.two import *
def step(x):
    return B
""",
    ),
    "a star that hides a builtin": (
        "two",
        "return 1",
        "return 2",
        """
== two
def max(x):
    return 1
== a
from components.two import *
def step(x):
    return max(x)
""",
    ),
    "a star of a star": (
        "one",
        "B = 1",
        "B = 2",
        """
== one
B = 1
== two
from components.one import *
== a
from components.two import *
def step(x):
    return B
""",
    ),
    "what a package hands on": (
        "deep/inner",
        "B = 1",
        "B = 2",
        """
== deep/__init__
from .inner import B as C
== deep/inner
B = 1
== a
from components.deep import C
def step(x):
    return C
""",
    ),
    "a function that is defined by a condition": (
        "a",
        "return 2",
        "return 3",
        """
== a
if 1:
    def f():
        return 1
else:
    def f():
        return 2
def step(x):
    return f()
""",
    ),
    "an import that is tried": (
        "slow",
        "B = 1",
        "B = 2",
        """
== slow
B = 1
== a
try:
    from missing import B
except ImportError:
    from components.slow import B
def step(x):
    return B
""",
    ),
    "an import that a function tries first": (
        "fast",
        "B = 1",
        "B = 2",
        """
== fast
B = 1
== a
def step(x):
    try:
        from components.fast import B
    except ImportError:
        from math import pi as B
    return B
""",
    ),
    "a class's import": (
        "side",
        "1000",
        "2000",
        """
== side
import sys
sys.setrecursionlimit(1000)
== mid
class Unused:
    import components.side
== a
import components.mid
def step(x):
    return x
""",
    ),
    "a closure": (
        "a",
        "N = 1",
        "N = 2",
        """
== a
N = 1
def make():
    def inner():
        return N
    return inner
def step(x):
    return make()()
""",
    ),
    "a default that calls": (
        "a",
        "return 1",
        "return 2",
        """
== a
def f():
    return 1
def step(x=f()):
    return x
""",
    ),
    "a partial": (
        "a",
        "f, 1",
        "f, 2",
        """
== a
from functools import partial
def f(n):
    return n
g = partial(f, 1)
def step(x):
    return g()
""",
    ),
    "a property": (
        "a",
        "return 1",
        "return 2",
        """
== a
class C:
    @property
    def n(self):
        return 1
def step(x):
    return C().n
""",
    ),
    "a factory of defaults": (
        "a",
        "[1]",
        "[2]",
        """
== a
from dataclasses import dataclass, field
def made():
    return [1]
@dataclass
class C:
    n: list = field(default_factory=made)
def step(x):
    return C().n
""",
    ),
    "a global that a function sets": (
        "a",
        "N = 1",
        "N = 2",
        """
== a
N = 0
def f():
    global N
    N = 1
def step(x):
    f()
    return N
""",
    ),
    "a monkeypatch within a function": (
        "a",
        "lambda: 1",
        "lambda: 2",
        """
== base
def f():
    return 0
== a
from components import base
def step(x):
    base.f = lambda: 1
    return base.f()
""",
    ),
    "a name that is deleted": (
        "a",
        "    del B\n",
        "    pass\n",
        """
== a
B = 1
try:
    del B
except NameError:
    pass
def step(x):
    return B
""",
    ),
    "a walrus": (
        "a",
        "B := 1",
        "B := 2",
        """
== a
(B := 1)
def step(x):
    return B
""",
    ),
    "what a match compares with": (
        "base",
        "A = 1",
        "A = 2",
        """
== base
class K:
    A = 1
== a
from components.base import K
def step(x):
    match x:
        case K.A:
            return 1
""",
    ),
    "an annotation in quotes": (
        "a",
        "T = int",
        "T = str",
        """
== a
from typing import get_type_hints
T = int
def step(x: 'list[T]'):
    return get_type_hints(step)
""",
    ),
    "an annotation that is called as its parameter is": (
        "mesh",
        "int",
        "str",
        """
== mesh
Mesh = int
== a
from components import mesh
def step(mesh: mesh.Mesh):
    return mesh
""",
    ),
    "import_module under another name": (
        "late",
        "B = 1",
        "B = 2",
        """
== late
B = 1
== a
from importlib import import_module as im
def step(x):
    return im('components.late').B
""",
    ),
    "a module that runpy runs": (
        "late",
        "B = 1",
        "B = 2",
        """
== late
B = 1
== a
import runpy
def step(x):
    return runpy.run_module('components.late')
""",
    ),
    "a loaded module": (
        "late",
        "B = 1",
        "B = 2",
        """
== late
B = 1
== a
import sys
from components import late
def step(x):
    return sys.modules['components.late'].B
""",
    ),
    "a loaded module that is asked for by get": (
        "late",
        "B = 1",
        "B = 2",
        """
== late
B = 1
== a
from sys import modules
def step(x):
    return modules.get('components.late')
""",
    ),
    "the module's own names": (
        "a",
        "return 1",
        "return 2",
        """
== a
def f():
    return 1
def step(x):
    return globals()['f']()
""",
    ),
    "the module itself among those that are loaded": (
        "a",
        "B = 1",
        "B = 2",
        """
== a
import sys
B = 1
def step(x):
    return getattr(sys.modules[__name__], 'B')
""",
    ),
    "a text that is evaluated": (
        "a",
        "return 1",
        "return 2",
        """
== a
def f():
    return 1
def step(x):
    return eval('f()')
""",
    ),
    "a function in a table that is filled elsewhere": (
        "plug",
        "lambda: 1",
        "lambda: 2",
        """
== base
TABLE = {}
== plug
from components import base
base.TABLE['a'] = lambda: 1
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "an attribute that is asked of a module by its name": (
        "late",
        "B = 1",
        "B = 2",
        """
== late
B = 1
== a
import operator
from components import late
def step(x):
    return operator.attrgetter('B')(late)
""",
    ),
    "a module in a package that is handed about": (
        "deep/inner",
        "B = 1",
        "B = 2",
        """
== deep/__init__
== deep/inner
B = 1
== a
import components.deep.inner
from components import deep
def f(module):
    return module.inner.B
def step(x):
    return f(deep)
""",
    ),
    "two modules that import each other": (
        "a",
        "N = 1",
        "N = 2",
        """
== b
from components import a
def f(x):
    return a.N
== a
from components import b
N = 1
def step(x):
    return b.f(x)
""",
    ),
    "a cache in a global": (
        "a",
        "KEPT = None",
        "KEPT = 2",
        """
== a
KEPT = None
def f():
    global KEPT
    KEPT = KEPT or 1
    return KEPT
def step(x):
    return f()
""",
    ),
    "the order of bindings": (
        "a",
        "A = 2\nB = A\n",
        "B = A\nA = 2\n",
        """
== a
A = 1
A = 2
B = A
def step(x):
    return B
""",
    ),
    "the order of a statement and a constant": (
        "a",
        "T['a'] = 1\nB = dict(T)\n",
        "B = dict(T)\nT['a'] = 1\n",
        """
== a
T = {}
T['a'] = 1
B = dict(T)
def step(x):
    return B
""",
    ),
    "the order of statements": (
        "a",
        "T['a'] = 1\nT['a'] = 2\n",
        "T['a'] = 2\nT['a'] = 1\n",
        """
== a
T = {}
T['a'] = 1
T['a'] = 2
def step(x):
    return T
""",
    ),
    "what is done where the file is no script": (
        "a",
        "B = 2",
        "B = 3",
        """
== a
B = 1
if __name__ != '__main__':
    B = 2
def step(x):
    return B
""",
    ),
    "what is done where the file is no script, else": (
        "a",
        "B = 2",
        "B = 3",
        """
== a
B = 1
if __name__ == '__main__':
    pass
else:
    B = 2
def step(x):
    return B
""",
    ),
    "what a comprehension loops over": (
        "a",
        "[1]",
        "[2]",
        """
== a
rows = [1]
def step(x):
    return [rows for rows in rows]
""",
    ),
    "a name that a class's body takes over": (
        "a",
        "size = 1",
        "size = 2",
        """
== a
size = 1
class C:
    size = size
def step(x):
    return C.size
""",
    ),
    "a function's own name": (
        "a",
        "def f():\n    return 1\ndef step(x):\n    return f.",
        "def g():\n    return 1\ndef step(x):\n    return g.",
        """
== a
def f():
    return 1
def step(x):
    return f.__name__
""",
    ),
    "the order of calls whose results are kept": (
        "a",
        "A = next(IDS)\nB = next(IDS)",
        "B = next(IDS)\nA = next(IDS)",
        """
== a
import itertools
IDS = itertools.count()
A = next(IDS)
B = next(IDS)
def step(x):
    return A
""",
    ),
    "the order of calls of a function of another module": (
        "a",
        "A = numbered()\nB = numbered()",
        "B = numbered()\nA = numbered()",
        """
== base
SEEN = []
def numbered():
    SEEN.append(0)
    return len(SEEN)
== a
from components.base import numbered
A = numbered()
B = numbered()
def step(x):
    return A
""",
    ),
    "what a package's function does to a list": (
        "a",
        "heappush(L, 1)",
        "heappush(L, 2)",
        """
== a
import heapq
L = []
_ = heapq.heappush(L, 1)
def step(x):
    return L
""",
    ),
    "the name of a function that is asked through a variable": (
        "a",
        "def f():\n    return 1\nALL = [f]",
        "def g():\n    return 1\nALL = [g]",
        """
== a
def f():
    return 1
ALL = [f]
def step(x):
    return {m.__name__: m() for m in ALL}
""",
    ),
    "the names of a module as it is imported": (
        "a",
        "A = 1",
        "A = 2",
        """
== a
A = 1
ALL = dict(locals())
def step(x):
    return ALL
""",
    ),
    "a docstring that is asked for": (
        "a",
        "Doubles.",
        "Triples.",
        """
== a
def f():
    '''Doubles.'''
def step(x):
    return x.__doc__, f
""",
    ),
    "the source of a function": (
        "deep",
        "# one",
        "# two",
        """
== deep
def f():
    return 1  # one
== a
import inspect
from components.deep import f
def step(x):
    return inspect.getsource(f)
""",
    ),
    "the globals of a function": (
        "deep",
        "A = 1",
        "A = 2",
        """
== deep
A = 1
def f():
    return 1
== a
from components.deep import f
def step(x):
    return f.__globals__[x]
""",
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_found_without_being_named_changes_the_key(root, name):
    before, after = keys_of(root, FOLLOWED[name])

    assert after != before


UNTOUCHED = {
    "a class that its base makes a dataclass": (
        "plug",
        "n: int = 1",
        "n: int = 2",
        """
== base
from dataclasses import dataclass
class Base:
    def __init_subclass__(cls, **rest):
        super().__init_subclass__(**rest)
        dataclass(frozen=True)(cls)
== plug
from components.base import Base
class Late(Base):
    n: int = 1
== a
from components import plug
from components.base import Base
def step(x):
    return Base
""",
    ),
    "another function beside a star": (
        "two",
        "C = 1",
        "C = 2",
        """
== two
B = 1
C = 1
== a
from components.two import *
def step(x):
    return max(B, x)
""",
    ),
    "a class that is a class's like, where nothing registers": (
        "plug",
        "n = 1",
        "n = 2",
        """
== base
class Base:
    pass
== plug
from components.base import Base
class Late(Base):
    n = 1
== a
from components import plug
from components.base import Base
def step(x):
    return Base
""",
    ),
    "a constant that reads a table": (
        "plug",
        "'a', 1",
        "'a', 2",
        """
== base
TABLE = {'a': 1}
== plug
from components.base import TABLE
N = TABLE.get('a', 1)
== a
from components import plug
from components.base import TABLE
def step(x):
    return TABLE, x
""",
    ),
    "a constant that a package makes": (
        "plug",
        "eye(3)",
        "eye(4)",
        """
== plug
import numpy as np
N = np.eye(3)
== a
from components import plug
def step(x):
    return x
""",
    ),
    "an instance of a plain class": (
        "plug",
        "C(1)",
        "C(2)",
        """
== plug
from dataclasses import dataclass
@dataclass
class C:
    n: int
N = C(1)
== a
from components import plug
def step(x):
    return x
""",
    ),
    "a function that is compiled": (
        "plug",
        "return 1",
        "return 2",
        """
== plug
from numba import njit
@njit(cache=True)
def f():
    return 1
== a
from components import plug
def step(x):
    return x
""",
    ),
    "the order of constants": (
        "a",
        "A = 1\nB = 2\n",
        "B = 2\nA = 1\n",
        """
== a
A = 1
B = 2
def step(x):
    return A, B
""",
    ),
    "a name in the quotes of a Literal": (
        "a",
        "stream = 1",
        "stream = 2",
        """
== a
from typing import Annotated, Literal
stream = 1
def step(x: Annotated[Literal['stream', 'other'] | None, 1]) -> Literal['stream']:
    return x
""",
    ),
    "a name in quotes that is no annotation": (
        "a",
        "T = int",
        "T = str",
        """
== a
T = int
def step(x):
    return 'T'
""",
    ),
    "the name of a function that nobody asks for it": (
        "a",
        "def f():\n    return 1\ndef step(x):\n    return f()",
        "def g():\n    return 1\ndef step(x):\n    return g()",
        """
== a
def f():
    return 1
def step(x):
    return f()
""",
    ),
    "what a script does, if the file is one": (
        "a",
        "B = 2",
        "B = 3",
        """
== a
B = 1
if __name__ == '__main__':
    B = 2
def step(x):
    return B
""",
    ),
    "a module beside one whose name a package tells": (
        "deep/inner",
        "B = 1",
        "B = 2",
        """
== deep/__init__
== deep/inner
B = 1
== a
import components.deep.inner
from components import deep
def step(x):
    return deep.__path__
""",
    ),
    "`return None` for `return`": (
        "a",
        "return None",
        "return",
        """
== a
def step(x):
    return None
""",
    ),
    "the order of constants that a package computes": (
        "a",
        "A = np.zeros(1)\nB = np.ones(1)",
        "B = np.ones(1)\nA = np.zeros(1)",
        """
== a
import numpy as np
A = np.zeros(1)
B = np.ones(1)
def step(x):
    return A
""",
    ),
    "a name, or a docstring, in the words of an error and handed on": (
        "a",
        "def f():\n    '''One.'''\n    return 1\ndef step(x):\n    x.__doc__ = f.__doc__\n    f()",
        "def g():\n    '''Two.'''\n    return 1\ndef step(x):\n    x.__doc__ = g.__doc__\n    g()",
        """
== a
def f():
    '''One.'''
    return 1
def step(x):
    x.__doc__ = f.__doc__
    f()
    raise ValueError(f"not {x.__name__}")
""",
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_decides_nothing_changes_no_key(root, name):
    before, after = keys_of(root, UNTOUCHED[name])

    assert after == before


@pytest.mark.parametrize("moved", [f"part_{number}" for number in range(8)])
def test_where_files_lie_that_a_module_imports_when_it_runs_changes_no_key(root, moved):
    """Of a module that is handed about all definitions are in the key, in an order that no file's name decides."""
    functions = "".join(f"def f{n}():\n    from components.{{}} import part\n    return part + {n}\n" for n in range(4))
    step = "from components import deep\ndef step(x):\n    return deep\n"
    before = key_of(root, {"a": step, "part": "part = 1\n", "deep": functions.format(*["part"] * 4)})
    after = key_of(root, {"a": step, moved: "part = 1\n", "deep": functions.format(*[moved] * 4)})

    assert after == before


REFUSED = {
    "an importer that is handed about": """
== a
import importlib
IM = importlib.import_module
def step(x):
    return IM(x)
""",
    "the importing module that is handed about": """
== a
import importlib
def step(x):
    return getattr(importlib, x)(x)
""",
    "a module whose name is computed": """
== a
import runpy
def step(x):
    return runpy.run_module(x)
""",
    "a loaded module whose name is computed": """
== a
import sys
def step(x):
    return sys.modules[x]
""",
    "the loaded modules handed about": """
== a
import sys
def step(x):
    return dict(sys.modules)
""",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_can_read_beforehand_is_refused_with_its_line(root, name):
    with pytest.raises(UsageError, match=r"a name in quotes, for a key holds the module's code, but line \d of comp"):
        key_of(root, files_of(REFUSED[name]))


@pytest.mark.parametrize("what", ['"torch" in sys.modules', "sys.modules[x].__doc__"], ids=["a question", "words"])
def test_what_asks_no_code_of_the_loaded_modules_is_not_refused(root, what):
    assert key_of(root, {"a": f"import sys\n\n\ndef step(x):\n    return {what}\n"})
