"""
What a model answers to an asset of several rows.
"""

import numpy as np
import pytest

from components.families.convnet import ConvNet
from components.steps.answering import joined


def test_views_are_joined_as_they_are_scored():
    """One view is sure and two doubt: the mean of probabilities says the second class, that of their logs the first."""
    views = np.array([[0.999, 0.001], [0.2, 0.8], [0.2, 0.8]], np.float32)
    shape, truth = np.zeros(3, np.int64), np.zeros(3, np.int64)
    scored = ConvNet(classes=2).confusion({"answers": [np.log(views)], "truth": [truth], "shape": [shape]})

    assert views.mean(0).argmax() == 1
    assert joined(views).argmax() == scored[0].argmax() == 0
    assert joined(views).sum() == pytest.approx(1)


def test_one_row_is_answered_as_it_is():
    assert joined(np.array([[0.25, 0.75, 0.0]])).tolist() == pytest.approx([0.25, 0.75, 0.0])
