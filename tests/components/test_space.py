"""
The words of a search space.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import space

unit = st.floats(0, 1, exclude_max=True)


@given(unit)
def test_every_value_lies_in_its_domain(u):
    assert 2 <= space.uniform(2, 5).at(u) <= 5
    assert 0.99e-4 <= space.loguniform(1e-4, 1e-1).at(u) <= 1.01e-1
    assert space.integer(2, 5).at(u) in (2, 3, 4, 5)
    assert space.choice("a", "b").at(u) in ("a", "b")


def test_a_domain_is_walked_from_its_low_end_to_its_high_end():
    assert [space.integer(1, 4).at(u) for u in (0, 0.25, 0.5, 0.999)] == [1, 2, 3, 4]
    assert [space.choice("a", "b", "c").at(u) for u in (0, 0.34, 0.99)] == ["a", "b", "c"]
    assert space.loguniform(1e-4, 1e-2).at(0.5) == pytest.approx(1e-3)
    assert space.uniform(0, 10).at(0.25) == 2.5


def test_a_domain_that_is_empty_is_refused():
    with pytest.raises(ValueError, match=r"`low <= high` must hold, but got \(low=3, high=1\)"):
        space.uniform(3, 1)
    with pytest.raises(ValueError, match="low end of a loguniform must be above 0, but got 0"):
        space.loguniform(0, 1)
    with pytest.raises(ValueError, match="a choice needs a value"):
        space.choice()
