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

from pipelines.engine.state import put_back

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
