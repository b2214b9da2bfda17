"""
The shape descriptor that a random forest reads: what a network must beat.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from components.constraints import Count
from components.formats.mesh import Mesh
from components.kernels.frames import box, upright
from components.kernels.sampling import sample
from components.representation import Column, Representation

Floats = NDArray[np.float64]


class Descriptors(Representation):
    """
    One row an asset: how its points lie to each other, where they lie, and its proportions.

    The D2 shape distribution (Osada et al., ACM TOG 2002: a histogram of distances between random pairs of surface
    points), then the cells of a coarse grid that hold a point, x slowest, then the box's sides over the longest.
    """

    count: Count = 2048
    """points drawn from each shape"""
    pairs: Count = 16384
    """pairs of them whose distance is taken"""
    bins: Count = 64
    """parts of the distance histogram"""
    resolution: Count = 12
    """cells along each axis of the grid"""

    def columns(self) -> Mapping[str, Column]:
        length = self.bins + self.resolution**3 + 3
        return {"descriptor": Column((length,), "float32", "shares of pairs; 0 or 1 a cell; sides, longest 1; y up")}

    def rows(self, asset: Mesh, generator: np.random.Generator) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        triangles = upright(asset.triangles, asset.up)
        middle, sides = box(triangles)
        points, _, _ = sample(triangles, self.count, generator)
        points = (points - middle) / sides.max()
        parts = (self._distances(points, generator), self._cells(points), sides / sides.max())
        yield {"descriptor": np.concatenate(parts).astype(np.float32)}

    def _distances(self, points: Floats, generator: np.random.Generator) -> Floats:
        """The share of pairs of points [N, 3] in a cube of side 1 at each distance, [bins]."""
        one, two = generator.integers(len(points), size=(2, self.pairs))
        distances = np.linalg.norm(points[one] - points[two], axis=1)
        return np.histogram(distances, bins=self.bins, range=(0, np.sqrt(3)))[0] / self.pairs

    def _cells(self, points: Floats) -> Floats:
        """1 for each cell of the cube of side 1 round 0 that holds one of the points [N, 3], [resolution ** 3]."""
        cells = np.zeros((self.resolution,) * 3)
        cells[tuple(np.clip((points + 0.5) * self.resolution, 0, self.resolution - 1).astype(np.int64).T)] = 1
        return cells.ravel()
