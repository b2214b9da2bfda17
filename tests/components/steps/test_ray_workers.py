"""
Groups of workers: which errors end them, and which are worth another try.
"""

import sys

import pytest
from ray import cloudpickle

from components.errors import DataError, OutOfMemory
from components.steps.ray_workers import _is_final, _outcome


@pytest.mark.parametrize(
    "error",
    [DataError("no label"), OutOfMemory("too large"), ValueError("a bug"), KeyError("a bug"), TypeError("a bug")],
)
def test_what_would_only_be_made_again_ends_a_group(error):
    assert _is_final(error)


@pytest.mark.parametrize("error", [ConnectionError("gone"), OSError("busy"), RuntimeError("gloo: connection closed")])
def test_what_may_pass_and_what_is_heard_of_a_dead_worker_does_not(error):
    assert not _is_final(error)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), MemoryError("no room"), OSError(5, "ill")])
def test_an_error_comes_from_ray_data_with_its_class_its_notes_and_its_traceback(error):
    """As what a task gives: Ray Data itself hands on a text."""

    def fail(item: str) -> None:
        error.add_note(f"(asset {item})")
        raise error

    made, found, trace = cloudpickle.loads(_outcome(fail, "a.obj", ()))

    assert made is None
    assert (type(found), found.args, found.__notes__) == (type(error), error.args, ["(asset a.obj)"])
    assert "in fail" in trace
    assert cloudpickle.loads(_outcome(str.upper, "a.obj", ())) == ("A.OBJ", None, "")


def test_an_error_that_cannot_be_made_again_is_raised_where_it_was_met():
    class Particular(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} {two}")

    def fail(item: int) -> None:
        raise Particular(item, item)

    with pytest.raises(Particular, match="1 1"):
        _outcome(fail, 1, ())


def test_what_calls_exit_gives_an_error_and_ends_no_process():
    made, found, _ = cloudpickle.loads(_outcome(sys.exit, 3, ()))

    assert made is None
    assert "ends by returning or raising, but called sys.exit(3)" in str(found)
