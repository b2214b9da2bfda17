"""
The state of a process: what one step leaves in it no other step sees.
"""

import os
import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from pipelines.engine.execution.process_state import put_back

SCRIPT = """
import functools

COUNT = 0
SEEN = []
TABLE = {"a": 1}


class Thing:
    size = 1


@functools.cache
def squared(n):
    SEEN.append(n)
    return n * n
"""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of one's own that is imported."""
    made = ModuleType("rayfield_made")
    exec(SCRIPT, vars(made))
    made.Thing.__module__ = made.squared.__module__ = "rayfield_made"
    monkeypatch.setitem(sys.modules, "rayfield_made", made)
    return made


def test_globals_class_attributes_and_caches_of_modules_are_put_back(module):
    table = module.TABLE
    with put_back(["rayfield_made"]):
        module.COUNT += 1
        module.NEW = 1
        module.TABLE["b"] = 2
        module.Thing.size = 7
        module.Thing.more = 8
        module.squared(3)

    assert (module.COUNT, module.SEEN, module.TABLE, module.Thing.size) == (0, [], {"a": 1}, 1)
    assert module.TABLE is table
    assert not hasattr(module, "NEW") and not hasattr(module.Thing, "more")
    assert module.squared.cache_info().currsize == 0


def test_the_process_is_put_back_when_a_step_fails(tmp_path):
    before = dict(os.environ), os.getcwd(), list(sys.path), torch.get_default_dtype(), torch.get_num_threads()
    with pytest.raises(ValueError, match="broken"), put_back([]):
        os.environ["LEFT_BEHIND"] = "1"
        os.environ.pop("RAYFIELD_STORE")
        os.chdir(tmp_path)
        sys.path.insert(0, str(tmp_path))
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        np.seterr(all="raise")
        raise ValueError("broken")

    assert (dict(os.environ), os.getcwd(), list(sys.path), torch.get_default_dtype(), torch.get_num_threads()) == before
    assert np.geterr()["under"] != "raise"


LEFT = {
    "a random number's digits": "import decimal; decimal.getcontext().prec = 3",
    "how deep calls may go": "import sys; sys.setrecursionlimit(500)",
    "how long to wait for a network": "import socket; socket.setdefaulttimeout(1.0)",
    "what is no warning": "import warnings; warnings.simplefilter('error')",
    "what is logged": "import logging; logging.disable(logging.ERROR)",
    "the zone of times": "import os, time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "how NumPy prints": "import numpy; numpy.set_printoptions(precision=2)",
    "torch's device": "import torch; torch.set_default_device('meta')",
    "torch's small numbers": "import torch; torch.set_flush_denormal(True)",
    "how torch convolves": "import torch; torch.backends.cudnn.deterministic = True",
    "how torch multiplies": "import torch; torch.set_float32_matmul_precision('medium')",
    "how torch multiplies, by its newer name": "import torch; torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "how torch computes": "import torch; torch.backends.fp32_precision = 'tf32'",
    "what torch convolves with": "import torch; torch.backends.cudnn.allow_tf32 = False",
    "scikit-learn's settings": "import sklearn; sklearn.set_config(assume_finite=True)",
}
SEEN = """
import decimal, logging, os, socket, sklearn, sys, time, warnings
import numpy, torch
seen = [decimal.getcontext().prec, sys.getrecursionlimit(), socket.getdefaulttimeout(), list(warnings.filters)]
seen += [logging.root.manager.disable, time.localtime(0).tm_hour, repr(numpy.array([1 / 3])), torch.zeros(1).device]
seen += [repr((torch.tensor(1e-310, dtype=torch.float64, device="cpu") * 1).item()), torch.backends.cudnn.deterministic]
try:
    seen += [torch.get_float32_matmul_precision()]
except RuntimeError:  # the newer names were used
    seen += ["mixed"]
seen += [torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision, sklearn.get_config()]
"""


@pytest.mark.parametrize("what", LEFT)
def test_a_setting_is_put_back(what):
    def seen():
        exec(SEEN, names := {})
        return names["seen"]

    before = seen()
    with put_back([]):
        exec(LEFT[what])
        assert seen() != before

    assert seen() == before


def test_a_setting_that_a_step_left_alone_is_not_set(monkeypatch):
    """To set some of them imports all of torch's compiler."""
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: pytest.fail("it was set"))
    with put_back([]):
        torch.set_default_dtype(torch.float64)

    assert torch.get_default_dtype() == torch.float32


def test_every_step_begins_with_the_same_random_states():
    drawn = []
    for _ in range(2):
        with put_back([]):
            drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))

    assert drawn[0] == drawn[1]
