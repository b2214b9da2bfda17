"""
A decoded 3D shape: what a source opens and a representation reads.
"""

# V vertices, F faces, M materials

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Mesh:
    """
    Triangles with what is needed to colour them.

    Lengths are the source's own unit; `up` says which axis points up. Colours are sRGB, uint8.
    """

    vertices: NDArray[np.float32]  # [V, 3]
    faces: NDArray[np.int32]  # [F, 3], rows of `vertices`
    materials: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))  # [F], rows of `colors`
    colors: NDArray[np.uint8] = field(default_factory=lambda: np.full((1, 3), 178, np.uint8))  # [M, 3]
    vertex_colors: NDArray[np.uint8] | None = None  # [V, 3], wins over `colors`
    uv: NDArray[np.float32] | None = None  # [F, 3, 2] a coordinate for each corner, origin at the lower left
    textures: tuple[NDArray[np.uint8] | None, ...] = ()  # M pictures [H, W, 3] or None; a picture wins over a colour
    up: str = "y"
    tinted: bool = False  # whether a picture is seen through `vertex_colors`, as in glTF, and does not win over them

    def __post_init__(self) -> None:
        if len(self.materials) != len(self.faces):
            object.__setattr__(self, "materials", np.zeros(len(self.faces), np.int32))

    @cached_property
    def triangles(self) -> NDArray[np.float64]:
        """The corners of every face, [F, 3, 3], in double precision: what the kernels take."""
        return np.take(self.vertices.astype(np.float64), self.faces, axis=0)  # 3.5 times as fast as indexing

    def problem(self) -> str | None:
        """The reason why this mesh is unusable, in a sentence; None when there is none."""
        if not len(self.faces):
            return f"it has no faces ({len(self.vertices)} vertices)"
        if not np.isfinite(self.vertices).all():
            bad = int((~np.isfinite(self.vertices).all(axis=1)).sum())
            return f"{bad} of its {len(self.vertices)} vertices are not finite numbers"
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            worst = int(self.faces.min() if self.faces.min() < 0 else self.faces.max())
            return f"a face names vertex {worst}, counted from 0, but it has {len(self.vertices)}"
        if not (self.vertices != self.vertices[0]).any():
            return "all of its vertices are one point"
        from components.kernels.sampling import has_area  # numba takes longer to import than a shape to read

        if not has_area(self.vertices, self.faces):
            return f"none of its {len(self.faces)} faces has an area: the corners of each lie on one line"
        return None
