"""
Work that takes its time, so that a test can come in between: Ray's workers import it too.
"""

import time
from dataclasses import fields, replace

from torch import Tensor

from components.artifacts import Checkpoint
from components.families.shapes.voxnet import VoxNet
from components.family import Batch, State
from components.formats.mesh import Mesh
from components.source import Asset
from components.sources.folder import Folder
from components.step import Context, step
from components.steps import train
from components.steps.preprocess import preprocess
from components.table import Table
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


def steady(steps: int) -> VoxNet:
    """Without dropout, which each worker would draw for itself."""
    return small_voxnet(dropout=0.0, steps=steps)


@step(spreads=True)
def unhurried(root: str, *, each: float, context: Context) -> Table:
    """`preprocess` on Ray Data, of shapes that take a moment."""
    source = Unhurried(root=root, rest=each)
    table = preprocess.run(preprocess.bind((source, [small_voxnet().representation()]), {"on": "ray"}), context)
    return replace(table, source=None)  # a manifest names dataclasses of components/ and of the pipeline


@step(aside=("workers",), spreads=True)
def patient(table: Table, *, rest: float, steps: int, workers: int | tuple[int, int], context: Context) -> Checkpoint:
    """`train` of a family that rests; what it makes is that of one that does not."""
    own = steady(steps)
    family = Patient(**{one.name: getattr(own, one.name) for one in fields(own)}, rest=rest)
    made = train.train.run(train.train.bind((family, table), {"workers": workers}), context)
    return replace(made, family=own)
