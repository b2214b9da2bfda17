"""
Steps outside a pipeline: they run at once, so that tests and notebooks need no engine.
"""

from functools import partial
from typing import Literal

import pytest

from components.constraints import Count
from components.errors import DataError, UsageError
from components.step import Context, Handle, Printing, Step, current_drawing, step


@step(aside=("workers",))
def scaled(number: int, *, by: int = 2, workers: int = 1, context: Context) -> int:
    """Multiplies."""
    context.log({"by": by}, 0)
    return number * by


class Recording:
    """A drawing that notes what is drawn on it."""

    def __init__(self) -> None:
        self.added: list[tuple[str, dict]] = []

    def add(self, step: Step, arguments: dict) -> Handle:
        self.added.append((step.name, dict(arguments)))
        return Handle(step.name, "k")


def test_a_step_runs_at_once_where_nothing_is_drawn():
    assert scaled(3) == 6
    assert scaled(3, by=5) == 15


def test_a_step_is_noted_and_not_run_while_a_pipeline_is_drawn():
    drawing = Recording()
    token = current_drawing.set(drawing)
    try:
        made = scaled(3, workers=4)
    finally:
        current_drawing.reset(token)

    assert isinstance(made, Handle)
    assert drawing.added == [("scaled", {"number": 3, "by": 2, "workers": 4})]


def test_a_step_keeps_its_functions_name_and_words():
    assert (scaled.name, scaled.__doc__, scaled.aside) == ("scaled", "Multiplies.", ("workers",))


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [((), {}, "number"), ((1,), {"bye": 2}, "bye"), ((1, 2, 3), {}, "too many")],
    ids=["missing", "unknown", "too many"],
)
def test_a_wrong_call_says_what_the_step_takes(args, kwargs, words):
    with pytest.raises(UsageError, match=r"scaled\(\) takes number, by, workers: ") as caught:
        scaled(*args, **kwargs)

    assert words in str(caught.value)


@step
def drawn(way: Literal["by hand", "by rule"] = "by rule", times: Count = 1) -> str:
    return way * times


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"way": "by ruler"}, "`way` of drawn must be by hand or by rule, but got 'by ruler'. Did you mean 'by rule'?"),
        ({"times": 0}, "`times` of drawn must be at least 1, but got 0."),
    ],
)
def test_an_argument_that_its_annotation_rules_out_is_refused(arguments, words):
    with pytest.raises(UsageError) as caught:
        drawn(**arguments)

    assert str(caught.value) == words


def test_what_a_step_will_make_is_taken_for_any_argument():
    assert drawn.bind((Handle("train", "k"),), {})["times"] == 1


def test_the_printing_context_keeps_what_it_is_told_while_it_lives():
    context = Printing()
    scaled.run({"number": 1, "by": 3, "workers": 1}, context)
    context.file("words.txt", b"words")
    context.note({"size": "tiny"})
    context.remember("part", 4)

    assert context.logged == [(0, {"by": 3})]
    assert context.files == {"words.txt": b"words"}
    assert context.notes == {"size": "tiny"}
    assert context.recall("part") == 4
    assert context.recall("other") is None
    assert context.scratch == context.scratch


def test_the_printing_contexts_keys_differ_with_their_parts():
    context = Printing()

    assert context.key(a=1, b=2) == context.key(b=2, a=1)
    assert context.key(a=1) != context.key(a=2)


def test_handles_are_found_in_sets_and_dicts_by_their_key():
    one = Handle("train", "k")

    assert {one: 1}[one] == 1
    assert len({one, Handle("train", "other")}) == 2


def yields(value: int):
    yield value


async def later(value: int) -> int:
    return value


async def yields_later(value: int):
    yield value


def gathers(*values: int) -> int:
    return sum(values)


def takes_any(value: int, **more: int) -> int:
    return value


def nameless(value: int, /) -> int:
    return value


class Net:
    def score(self, value: int) -> int:
        return value


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (yields, "A step returns when its work is done, but yields yields. Write it without yield"),
        (yields_later, "but yields_later yields. Write it without yield"),
        (later, "A step returns when its work is done, but later is async. Write it without"),
        (lambda value: value, "A step is a function with a name, but got a <lambda>. Write it with def."),
        (partial(takes_any, 1), "A step is a function with a name, but got a partial. Write it with def."),
        (Net.score, "A step is a function at the top of a file, but Net.score is in a class. Move it out of Net."),
        (gathers, r"names each of its parameters, but gathers has `\*values: int`"),
        (takes_any, r"but takes_any has `\*\*more: int`"),
        (nameless, r"but nameless has `value: int`, .* Write each out, without \* and /"),
    ],
    ids=["generator", "async generator", "async", "lambda", "partial", "method", "args", "kwargs", "positional"],
)
def test_what_could_never_run_is_no_step(function, words):
    for made in (step, step(outputs=("a", "b"))):
        with pytest.raises(UsageError, match=words):
            made(function)


@step(outputs=("low", "high"))
def several(result: object) -> object:
    return result


@pytest.mark.parametrize(
    ("result", "got"), [((1,), "1 values"), ([1, 2, 3], "3 values"), (7, "int"), ("ab", "str"), (None, "NoneType")]
)
def test_a_step_returns_one_value_for_each_of_its_outputs(result, got):
    assert several((1, 2)) == (1, 2)
    with pytest.raises(DataError) as caught:
        several(result)
    assert str(caught.value).startswith(f"several has 2 outputs, low, high, but returned {got}. Return one value for")
