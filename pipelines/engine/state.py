"""
The state of a process: Ray gives one process to many steps, and none is to see what another left.

What is put back when a step ends: the environment, the folder, Python's path, torch's settings, matplotlib's, and the
globals, class attributes and caches of the modules that the step's code has. Random states begin anew. A process of its
own for each step would put everything back, at the price of a start: tests/benchmarks/state.py measures both.
"""

import copy
import os
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

CONTAINERS = (dict, list, set, bytearray, deque, OrderedDict, defaultdict)
"""what is changed in place: it is put back with what it held"""
SEED = 0


@contextmanager
def put_back(modules: Iterable[str]) -> Iterator[None]:
    """Begins with random states that are known, and leaves the process as it was, with these modules' globals."""
    variables, folder, path, mask = dict(os.environ), os.getcwd(), list(sys.path), os.umask(0)
    os.umask(mask)
    errors, torch = np.geterr(), _settings()
    names = [Names.of(sys.modules[name]) for name in modules if name in sys.modules]
    _seed()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        os.umask(mask)
        with suppress(OSError):  # somebody removed it
            os.chdir(folder)
        sys.path[:] = path
        np.seterr(**errors)  # type: ignore[arg-type]
        now = _settings()
        for setting, value in torch.items():
            if (
                now[setting] != value
            ):  # to set deterministic algorithms imports all of torch's compiler, a second's work
                setting(value)
        if matplotlib := sys.modules.get("matplotlib"):
            matplotlib.rcdefaults()
        for one in names:
            one.put_back()


def _seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    if hasattr(torch := sys.modules.get("torch"), "manual_seed"):
        torch.manual_seed(SEED)  # type: ignore[union-attr]


def _settings() -> dict[Callable[[Any], Any], Any]:
    """What sets a setting of torch -> its value now; nothing where torch was not imported."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "set_default_dtype"):
        return {}
    return {
        torch.set_default_dtype: torch.get_default_dtype(),
        torch.set_num_threads: torch.get_num_threads(),
        torch.set_grad_enabled: torch.is_grad_enabled(),
        torch.use_deterministic_algorithms: torch.are_deterministic_algorithms_enabled(),
        torch.set_float32_matmul_precision: torch.get_float32_matmul_precision(),
    }


@dataclass
class Names:
    """What the names of a module, or of a class, stood for."""

    owner: Any
    values: dict[str, Any]
    held: dict[str, Any]
    """name -> a copy of what a container held"""
    classes: list["Names"]

    @classmethod
    def of(cls, owner: ModuleType | type) -> "Names":
        values = _values(owner)
        inner = [one for one in values.values() if isinstance(one, type) and one.__module__ == owner.__name__]
        return cls(
            owner,
            values,
            {name: copy.copy(value) for name, value in values.items() if type(value) in CONTAINERS},
            [cls.of(one) for one in inner] if isinstance(owner, ModuleType) else [],
        )

    def put_back(self) -> None:
        """Gives the names what they stood for, and containers what they held; what is new goes, and caches forget."""
        now = _values(self.owner)
        for name in now.keys() - self.values.keys():
            if not isinstance(now[name], ModuleType):  # a submodule that was imported since
                delattr(self.owner, name)
        for name, value in self.values.items():
            if now.get(name, self) is not value:
                setattr(self.owner, name, value)
            if name in self.held:
                _refill(value, self.held[name])
            if hasattr(value, "cache_clear"):
                value.cache_clear()
        for one in self.classes:
            one.put_back()


def _values(owner: ModuleType | type) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if not name.startswith("__")}


def _refill(container: Any, held: Any) -> None:
    container.clear()
    if hasattr(container, "update"):
        container.update(held)
    else:
        container.extend(held)
