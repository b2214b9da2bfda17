"""
Points drawn evenly over the surface of a shape, as PointNet reads it.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.constraints import Count
from components.formats.mesh import Mesh
from components.kernels.frames import box, reach, upright
from components.kernels.neighbours import farthest
from components.kernels.sampling import normals, sample
from components.representation import Column, Representation

UNITS = {
    "sphere": "centroid at 0, farthest point at 1, y up",
    "box": "box centred at 0, longest side 1, y up",
    "metric": "the source's lengths, box centred at 0, y up",
}


class Points(Representation):
    """One row an asset: `count` points of its surface, uniform by area. Any prefix of them covers the whole shape."""

    count: Count = 1024
    """points drawn from each shape"""
    normals: bool = False
    """whether each point has its face's unit normal besides, outward where the mesh's faces are"""
    farthest: bool = False
    """whether they are the farthest points among four times as many: evenly spaced, and ordered from coarse to fine"""
    unit: Literal["sphere", "box", "metric"] = "sphere"
    """sphere (centroid 0, largest norm 1), box (longest side 1) or metric (the source's lengths)"""

    def columns(self) -> Mapping[str, Column]:
        points = {"points": Column((self.count, 3), "float32", UNITS[self.unit])}
        return points | ({"normals": Column((self.count, 3), "float32", "unit length")} if self.normals else {})

    def rows(self, asset: Mesh, generator: np.random.Generator) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        triangles = upright(asset.triangles, asset.up)
        points, faces, _ = sample(triangles, self.count * (4 if self.farthest else 1), generator)
        chosen = generator.permutation(len(points))
        if self.farthest:
            chosen = chosen[farthest(points[chosen], self.count)]
        row = {"points": self._placed(points[chosen], triangles).astype(np.float32)}
        if self.normals:
            row["normals"] = normals(triangles, faces[chosen]).astype(np.float32)
        yield row

    def _placed(self, points: NDArray[np.float64], triangles: NDArray[np.float64]) -> NDArray[np.float64]:
        """The points [N, 3] in the declared unit."""
        if self.unit == "sphere":
            middle = points.mean(axis=0)
            return (points - middle) / reach(points, middle)
        middle, sides = box(triangles)
        return (points - middle) / (1 if self.unit == "metric" else sides.max())
