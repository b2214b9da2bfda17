"""
The state of a process: Ray gives one process to many steps, and none is to see what another left.

What is put back when a step ends: the environment, the folder, Python's path, the settings of Python, NumPy, torch,
scikit-learn and matplotlib, and the globals, class attributes and caches of the project's modules that the step's code
has; modules of one's own are imported anew for each step. Random states begin anew. A process of its own for each step
would put everything back, at the price of a start: tests/benchmarks/state.py measures both.
"""

import copy
import decimal
import locale
import logging
import os
import random
import socket
import sys
import time
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

CONTAINERS = (dict, list, set, bytearray, deque, OrderedDict, defaultdict)
"""what is changed in place: it is put back with what it held"""
SET = {"torch": "torch", "scikit-learn": "sklearn", "matplotlib": "matplotlib"}
"""package -> the module whose settings are put back: what a step's code uses is imported before they are looked at"""
INNER = ("matmul", "conv", "rnn")
"""parts of a backend of torch that have a precision of their own"""
SEED = 0


@contextmanager
def put_back(modules: Iterable[str]) -> Iterator[None]:
    """Begins with random states that are known, and leaves the process as it was, with these modules' globals."""
    variables, folder, path, mask = dict(os.environ), os.getcwd(), list(sys.path), os.umask(0)
    os.umask(mask)
    settings = {name: (get(), get, put) for name, (get, put) in _settings().items()}
    names = [Names.of(sys.modules[name]) for name in modules if name in sys.modules]
    _seed()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        time.tzset()  # a step may have set TZ
        os.umask(mask)
        with suppress(OSError):  # somebody removed it
            os.chdir(folder)
        sys.path[:] = path
        for value, get, put in settings.values():
            # only where it differs: to set deterministic algorithms imports all of torch's compiler, a second's work
            if get() != value:
                put(value)
        if matplotlib := sys.modules.get("matplotlib"):
            matplotlib.rcdefaults()
        for one in names:
            one.put_back()


def _seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    if hasattr(torch := sys.modules.get("torch"), "manual_seed"):
        torch.manual_seed(SEED)  # type: ignore[union-attr]


Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
"""what reads a value, and what gives it back"""


def _settings() -> dict[str, Setting]:
    """The settings of Python, and of those packages that are imported, that decide what code does or prints."""
    found: dict[str, Setting] = {
        "decimal": (lambda: decimal.getcontext().copy(), decimal.setcontext),
        "recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
        "locale": (partial(locale.setlocale, locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)),
        "timeout": (socket.getdefaulttimeout, socket.setdefaulttimeout),
        "warnings": (lambda: list(warnings.filters), _filter),
        "logging": (lambda: logging.root.manager.disable, logging.disable),
        "numpy errors": (np.geterr, lambda value: np.seterr(**value)),
        "numpy prints": (np.get_printoptions, lambda value: np.set_printoptions(**value)),
    }
    if hasattr(torch := sys.modules.get("torch"), "set_default_dtype"):
        found |= _of_torch(torch)
    if hasattr(sklearn := sys.modules.get("sklearn"), "get_config"):
        found["sklearn"] = sklearn.get_config, lambda value: sklearn.set_config(**value)  # type: ignore[union-attr]
    return found


def _of_torch(torch: Any) -> dict[str, Setting]:
    def device() -> Any:
        """None for "cpu", which it is where nobody set it: to set it would cost each call of torch."""
        found = torch.get_default_device()
        return None if found.type == "cpu" else found

    def precision() -> str:
        """torch refuses to tell once a step has set the newer fp32_precision."""
        with suppress(RuntimeError):
            return str(torch.get_float32_matmul_precision())
        return ""

    backends = torch.backends
    parts = [
        (backends, "fp32_precision"),
        *((backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
    ]
    for part in (backends.cuda.matmul, backends.cudnn, backends.mkldnn):
        parts += [(one, "fp32_precision") for one in (part, *(getattr(part, name, None) for name in INNER)) if one]
    return {
        "torch dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch device": (device, torch.set_default_device),
        "torch threads": (torch.get_num_threads, torch.set_num_threads),
        "torch gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
        "torch deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        # torch tells nobody how it treats small numbers
        "torch denormal": (lambda: bool(1e-310 * np.ones(1)[0] == 0), torch.set_flush_denormal),
        "torch precision": (precision, torch.set_float32_matmul_precision),
        **{  # after that: it sets some of them
            f"torch part {place}": (partial(getattr, part, name), partial(setattr, part, name))
            for place, (part, name) in enumerate(parts)
            if hasattr(part, name)
        },
    }


def _filter(filters: list[Any]) -> None:
    """Gives warnings the filters that they had."""
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


@dataclass
class Names:
    """The values of a module's names, or of a class's."""

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
