"""
The words of a search space.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import search_space

unit = st.floats(0, 1, exclude_max=True)


@given(unit)
def test_every_value_lies_in_its_domain(u):
    assert 2 <= search_space.uniform(2, 5).at(u) <= 5
    assert 0.99e-4 <= search_space.loguniform(1e-4, 1e-1).at(u) <= 1.01e-1
    assert search_space.integer(2, 5).at(u) in (2, 3, 4, 5)
    assert search_space.choice("a", "b").at(u) in ("a", "b")


def test_a_domain_is_walked_from_its_low_end_to_its_high_end():
    assert [search_space.integer(1, 4).at(u) for u in (0, 0.25, 0.5, 0.999)] == [1, 2, 3, 4]
    assert [search_space.choice("a", "b", "c").at(u) for u in (0, 0.34, 0.99)] == ["a", "b", "c"]
    assert search_space.loguniform(1e-4, 1e-2).at(0.5) == pytest.approx(1e-3)
    assert search_space.uniform(0, 10).at(0.25) == 2.5


def test_a_domain_that_is_empty_is_refused():
    with pytest.raises(ValueError, match=r"`low <= high` must hold, but got \(low=3, high=1\)"):
        search_space.uniform(3, 1)
    with pytest.raises(ValueError, match="low end of a loguniform must be above 0, but got 0"):
        search_space.loguniform(0, 1)
    with pytest.raises(ValueError, match="a choice needs a value"):
        search_space.choice()


# Around a value


@given(unit)
def test_what_is_near_a_value_is_within_a_quarter_of_its_range(u):
    assert abs(search_space.uniform(0, 8).near(4, u) - 4) <= 2
    assert 10**-0.51 <= search_space.loguniform(1e-2, 1).near(0.1, u) / 0.1 <= 10**0.51
    assert abs(search_space.integer(0, 8).near(4, u) - 4) <= 3


@given(unit, st.floats(-10, 20))
def test_what_is_near_lies_in_the_domain_wherever_the_value_does(u, value):
    assert 0 <= search_space.uniform(0, 8).near(value, u) <= 8
    assert 0.99e-2 <= search_space.loguniform(1e-2, 1).near(value, u) <= 1.01
    assert search_space.integer(0, 8).near(round(value), u) in range(9)


def test_the_middle_of_what_is_near_is_the_value_itself():
    assert search_space.uniform(0, 8).near(3, 0.5) == pytest.approx(3)
    assert search_space.loguniform(1e-4, 1).near(0.03, 0.5) == pytest.approx(0.03)
    assert search_space.integer(0, 8).near(3, 0.5) == 3


def test_near_a_choice_half_of_the_points_are_it_and_the_others_are_any():
    domain = search_space.choice("a", "b")

    assert [domain.near("b", u) for u in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == ["b", "b", "a", "a", "b", "b"]
    assert search_space.choice(0.0, 0.9).near(0.5, 0.1) == 0.5  # a preset's own value need not be among them


def test_a_domain_of_one_value_has_nothing_else_near():
    assert search_space.uniform(3, 3).near(3, 0.9) == 3
    assert search_space.loguniform(3, 3).near(3, 0.9) == pytest.approx(3)
    assert search_space.integer(3, 3).near(3, 0.99) == 3
