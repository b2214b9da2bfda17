"""
Groups of workers: which errors end them, and which are worth another try.
"""

import pytest

from components.errors import DataError, OutOfMemory
from components.steps.cluster import _is_final


@pytest.mark.parametrize(
    "error",
    [DataError("no label"), OutOfMemory("too large"), ValueError("a bug"), KeyError("a bug"), TypeError("a bug")],
)
def test_what_would_only_be_made_again_ends_a_group(error):
    assert _is_final(error)


@pytest.mark.parametrize("error", [ConnectionError("gone"), OSError("busy"), RuntimeError("gloo: connection closed")])
def test_what_may_pass_and_what_is_heard_of_a_dead_worker_does_not(error):
    assert not _is_final(error)
