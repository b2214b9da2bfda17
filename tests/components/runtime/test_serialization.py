"""
What is written down is read back equal, and reading a manifest runs nothing but a dataclass's constructor.
"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.artifacts import Gate, Scores, at_least
from components.errors import DataError
from components.families.shapes.voxnet import VoxNet
from components.representations.points import Points
from components.runtime.objects import File
from components.runtime.serialization import canonical, class_of, decode, encode, readable
from components.table import Set

VALUES = [
    Points(count=5, normals=True),
    VoxNet.tiny(),
    at_least(accuracy=0.5),
    File("a.bin", "00", 3),
    Set(Points(), Points(count=2), (File("a", "0", 1), File("b", "1", 2)), 7),
    Scores("voxnet", "accuracy", "max", {"accuracy": 0.5}, {"accuracy": 0.25}, {}, 4),
    (1, "two", 3.5, None, True, ("nested",)),
    {"a": 1, "b": {"c": (1, 2)}},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_written_down_is_read_back_equal(value):
    assert decode(json.loads(json.dumps(encode(value)))) == value


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.tuples(inner, inner) | st.dictionaries(st.text().filter(lambda k: k != "@"), inner, max_size=3),
    max_leaves=10,
)


@given(plain)
def test_any_nest_of_plain_values_is_read_back_equal(value):
    assert decode(json.loads(json.dumps(encode(value)))) == value


@given(st.dictionaries(st.text(), st.integers()))
def test_one_value_has_one_text(value):
    assert canonical(value) == canonical(dict(reversed(value.items())))


def test_numbers_of_numpy_become_numbers():
    found = encode({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)})

    assert found == {"a": 0.5, "b": 3, "c": True}
    assert [type(value) for value in found.values()] == [float, int, bool]


@pytest.mark.parametrize("value", [np.zeros(3), {1, 2}, object(), b"bytes"], ids=["array", "set", "object", "bytes"])
def test_what_could_not_be_read_back_is_refused(value):
    with pytest.raises(DataError, match="What is kept is text, numbers, lists, dicts and dataclasses, but got "):
        encode(value)


@pytest.mark.parametrize("value", ["\udcff", ["\udcff"], {"\udcff": 1}, File("\udcff", "00", 3)])
def test_text_that_utf_8_cannot_hold_is_refused(value):
    with pytest.raises(DataError, match=r"Text that is kept is UTF-8, but got '\\udcff'. Leave out"):
        encode(value)


def test_a_text_of_others_is_made_readable():
    assert readable("käse \udcff") == "käse \\udcff"


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "componentsx.evil:Thing", "builtins:eval"])
def test_a_manifest_names_nothing_outside_the_components(name):
    with pytest.raises(DataError, match="dataclasses of components/ and of the pipeline"):
        decode({"@": name})


@pytest.mark.parametrize("name", ["components.runtime.serialization:decode", "components.family:importlib"])
def test_a_manifest_names_dataclasses_only(name):
    with pytest.raises(DataError, match="dataclasses of components/"):
        class_of(name)


def test_a_gate_says_each_threshold_that_is_missed():
    gate = Gate(least={"accuracy": 0.5}, most={"loss": 1.0})

    assert gate.failures({"accuracy": 0.6, "loss": 0.9}) == []
    assert gate.failures({"accuracy": 0.4, "loss": 1.5}) == [
        "accuracy is 0.4, at least 0.5 is asked",
        "loss is 1.5, at most 1 is asked",
    ]
    assert len(gate.failures({"accuracy": float("nan"), "loss": float("nan")})) == 2
