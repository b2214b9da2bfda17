"""
What a champion and a candidate are compared on: test assets that neither has seen, if there are enough.
"""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.artifacts import Checkpoint, Scores
from components.runtime.objects import keep
from components.steps.registry.gate import Incomparable, unseen
from tests.meshes import small_pointnet


def over(count: int, known: int = 0) -> Scores:
    """Scores over so many test assets, of which the model itself has seen the last."""
    names = [f"{n:03}" for n in range(count)]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": names, "content": [f"bytes {name}" for name in names]}), buffer)
    own = keep("seen.json", json.dumps([f"bytes {name}" for name in names[count - known :]]).encode())
    family, nothing = small_pointnet(), keep("weights", b"")
    return Scores(
        name="pointnet",
        goal="accuracy",
        direction="max",
        val={},
        test={},
        error={},
        count=count,
        checkpoint=Checkpoint(family, family.representation(), nothing, 1, 1, "cpu", 1, seen=own),
        assets=keep("assets.parquet", buffer.getvalue()),
        tested=keep("tested.json", json.dumps([[name, f"digest {name}"] for name in names]).encode()),
    )


def first(count: int) -> set[str]:
    return {f"bytes {n:03}" for n in range(count)}


def test_what_either_has_seen_does_not_count():
    """Of 95 test assets the champion had trained on 36."""
    assert unseen(over(95), first(36)) == [f"{n:03}" for n in range(36, 95)]
    assert unseen(over(95, known=5), first(36)) == [f"{n:03}" for n in range(36, 90)]


@pytest.mark.parametrize(("count", "known", "left"), [(95, 75, 20), (40, 20, 20), (6, 3, 3), (7, 3, 4), (1, 0, 1)])
def test_twenty_are_enough_and_half_of_fewer_than_forty(count, known, left):
    assert len(unseen(over(count), first(known))) == left


@pytest.mark.parametrize(
    ("count", "known", "words"),
    [
        (95, 95, "of the 95 test assets neither has seen 0, and at least 20 are asked"),
        (95, 76, "of the 95 test assets neither has seen 19, and at least 20 are asked"),
        (6, 4, "of the 6 test assets neither has seen 2, and at least 3 are asked"),
    ],
)
def test_fewer_are_too_few(count, known, words):
    with pytest.raises(Incomparable, match=words):
        unseen(over(count), first(known))
