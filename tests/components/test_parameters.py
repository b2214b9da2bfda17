"""
How text becomes a value, and which values there may be.
"""

from typing import Annotated, Literal

import pytest

from components.constraints import Above, AtLeast, Between, Count
from components.errors import UsageError
from components.parameters import check, read


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("1e3", int, 1000),
        ("-3", int, -3),
        ("3e-4", float, 3e-4),
        ("3", float, 3.0),
        ("yes", bool, True),
        ("FALSE", bool, False),
        ("0", bool, False),
        ("a b", str, "a b"),
        ("both", Literal["none", "both"], "both"),
        ("2", Literal[1, 2], 2),
        ("none", int | None, None),
        ("3", int | None, 3),
        ("x", int | str, "x"),
        ("1,2, 3", tuple[int, ...], (1, 2, 3)),
        ("", tuple[int, ...], ()),
        ("4", int | tuple[int, int], 4),
        ("1,4", int | tuple[int, int], (1, 4)),
        ("pointnet,voxnet", tuple[str, ...], ("pointnet", "voxnet")),
        ("3", Count, 3),
        ("1,2", tuple[Count, ...], (1, 2)),
    ],
)
def test_the_annotation_decides_how_text_is_read(text, kind, value):
    found = read(text, kind, "--x")

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("three", int, "--x must be a whole number, but got 'three'."),
        ("3.5", int, "--x must be a whole number, but got '3.5'."),
        ("inf", int, "--x must be a whole number, but got 'inf'."),
        ("nan", float, "--x must be a number, but got 'nan'."),
        ("nan", int, "--x must be a whole number, but got 'nan'."),
        ("fast", float, "--x must be a number, but got 'fast'."),
        ("maybe", bool, "--x must be true or false, but got 'maybe'."),
        ("bot", Literal["none", "both"], "--x must be none or both, but got 'bot'. Did you mean 'both'?"),
        ("x", int | None, "--x must be a whole number, but got 'x'."),
        ("1,two", tuple[int, ...], "--x must be a whole number, but got 'two'."),
        ("1,2,3", tuple[int, int], "--x must be 2 values with commas between, but got '1,2,3'."),
        ("x", dict, "--x is a dict, which cannot be written as text."),
    ],
)
def test_a_wrong_value_is_refused_with_the_law_and_the_value(text, kind, words):
    with pytest.raises(UsageError) as caught:
        read(text, kind, "--x")

    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("good", "bad", "kind", "law"),
    [
        (0, -1, Annotated[int, AtLeast(0)], "at least 0"),
        (0.1, 0, Annotated[float, Above(0)], "above 0"),
        (1, 1.5, Annotated[float, Between(0, 1)], "0 to 1"),
        (0, float("nan"), Annotated[float, Between(0, 1)], "0 to 1"),
        (2, float("inf"), Annotated[float, AtLeast(0)], "at least 0"),
        (1, 0, Annotated[Annotated[float, Above(0)], Between(0, 1)], "above 0"),
        ((1, 2), (1, 0), tuple[Count, ...], "at least 1"),
        ("both", "bot", Literal["none", "both"], "none or both"),
        (8, 9, Literal[8, 16], "8 or 16"),
    ],
)
def test_a_value_that_its_annotation_rules_out_is_refused(good, bad, kind, law):
    check(good, kind, "--x")
    with pytest.raises(UsageError, match=f"--x must be {law}, but got "):
        check(bad, kind, "--x")


@pytest.mark.parametrize("text", ["a\0b", "a\udcffb"])
@pytest.mark.parametrize("kind", [str, str | None, tuple[str, ...], Annotated[str, "a name"]])
def test_text_that_no_file_can_hold_is_refused(text, kind):
    with pytest.raises(UsageError, match=r"--x is UTF-8 without null bytes, but got 'a\\.*b'. Write it"):
        read(text, kind, "--x")
