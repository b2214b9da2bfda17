"""
A cube of voxels: which of them a shape meets, or fills.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from components.constraints import Count, Natural, NotNegative
from components.errors import UsageError
from components.formats.mesh import Mesh
from components.kernels.frames import box, upright
from components.kernels.voxels import solid, surface
from components.representation import Column, Representation


class Voxels(Representation):
    """One row an asset: a grid of 0 and 1, entry [x, y, z] with y up, the shape's box in its middle, unstretched."""

    resolution: Count = 32
    """voxels along each axis"""
    solid: bool = True
    """whether the inside counts, and not the surface alone"""
    pad: Natural = 2
    """free voxels at each end of the shape's longest side"""
    edge: NotNegative = 0.0
    """edge of the grid in the source's lengths, what lies beyond being cut off; 0 fits the grid to each shape"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 * self.pad < self.resolution:
            raise UsageError(
                f"2 * `pad` must be below `resolution`, but got pad={self.pad}, resolution={self.resolution}. "
                "Make `pad` smaller."
            )

    def columns(self) -> Mapping[str, Column]:
        scale = f"a voxel is {self.edge / self.resolution:g} of the source's lengths"
        fitted = f"the longest side is {self.resolution - 2 * self.pad} voxels"
        unit = f"1 solid, 0 free; x, y up, z; {scale if self.edge else fitted}"
        return {"voxels": Column((self.resolution,) * 3, "uint8", unit)}

    def rows(self, asset: Mesh, generator: np.random.Generator) -> Iterator[Mapping[str, NDArray[np.uint8]]]:
        triangles = upright(asset.triangles, asset.up)
        middle, sides = box(triangles)
        size = self.edge or sides.max() * self.resolution / (self.resolution - 2 * self.pad)
        fill = solid if self.solid else surface
        yield {"voxels": fill(triangles, self.resolution, middle - size / 2, size).view(np.uint8)}
