"""
Asking a model: what is an answer, and what is none.
"""

import numpy as np
import pytest

from components.errors import DataError
from pipelines.engine.asking import _shares


def test_the_views_of_an_asset_are_answered_by_the_mean_of_their_probabilities():
    assert _shares({"probabilities": np.array([[0.5, 0.5], [1.0, 0.0]])}).tolist() == [0.75, 0.25]


def test_a_model_that_answers_nan_is_refused_and_has_not_said_the_first_class():
    """`argmax` takes NaN for the most."""
    with pytest.raises(DataError, match="An answer must be probabilities, but the model gives NaN"):
        _shares({"probabilities": np.array([[0.5, 0.5], [np.nan, np.nan]])})
