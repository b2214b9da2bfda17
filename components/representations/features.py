"""
Features: one vector for each asset, which `predict` reads off a trained network: the mean over the asset's rows.
"""

# D features

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from components.constraints import Natural
from components.errors import UsageError
from components.representation import Column, Representation


class Features(Representation):
    dim: Natural = 0
    """features in a vector; 0 until `predict` knows"""

    def columns(self) -> Mapping[str, Column]:
        return {"features": Column((self.dim,), "float32", "activations")}

    def rows(self, asset: Any, generator: np.random.Generator) -> Iterator[Mapping[str, Any]]:
        raise UsageError(
            "Features come from a trained network, not from a shape: make their table with "
            "`predict(checkpoint, table)` in place of `preprocess`."
        )
