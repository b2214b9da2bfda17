"""
Work that takes its time, so that a test can come in between: Ray's workers import it too.
"""

import time
from typing import Any

from torch import Tensor

from components.families.voxnet import VoxNet
from components.family import Batch, State
from components.mesh import Mesh
from components.source import Asset
from components.sources.folder import Folder
from components.steps import train
from tests.meshes import small_voxnet

train.SAVE = 0.5  # a checkpoint every half second: in every process that this is imported in


class Patient(VoxNet):
    """A VoxNet that rests after each update."""

    rest: float = 0.0
    """seconds"""

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        time.sleep(self.rest)
        return super().update(state, batch)


class Unhurried(Folder):
    """A folder of shapes that takes a moment to open each."""

    rest: float = 0.0
    """seconds"""

    def open(self, asset: Asset) -> Mesh:
        time.sleep(self.rest)
        return super().open(asset)


def patient(rest: float, **more: Any) -> Patient:
    """Without dropout, which each worker would draw for itself."""
    own = small_voxnet(dropout=0.0, **more)
    return Patient(**{name: getattr(own, name) for name in vars(own)}, rest=rest)
