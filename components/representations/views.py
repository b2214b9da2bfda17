"""
Pictures of a shape from all sides, with exact cameras: colour, depth, normals, mask.
"""

# F faces, H rows, W columns, S pixels that see the shape

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from components.constraints import Between, Count, Natural, Share
from components.formats.mesh import Mesh
from components.kernels.frames import box, reach, upright
from components.kernels.raster import rasterize
from components.kernels.sampling import interpolate, normals
from components.kernels.srgb import product
from components.representation import Column, Representation

Floats = NDArray[np.float64]

RING = 20  # views: up to as many stand in a ring, as in multi-view CNNs; more are spread over the sphere
LAMPS = np.array([[0.5, 0.7, 0.5], [-0.6, 0.2, -0.8]])  # directions: the main lamp, and one that fills its shadows
POWERS = np.array([0.75, 0.35])


class Views(Representation):
    """
    One row a view, the cameras the same for every shape.

    The shape's box is centred at 0, y up. Up to 20 views stand in a ring, 30 degrees above the middle (Su et al., ICCV
    2015); more lie on a Fibonacci sphere. From where they stand the shape's ball just fits the picture.
    """

    count: Count = 12
    """views of each shape"""
    size: Count = 64
    """rows and columns of each picture, pixels"""
    fov: Annotated[float, Between(1, 179)] = 40.0
    """angle that a picture spans, degrees"""
    supersample: Count = 1
    """colour samples along each side of a pixel; their mean is its colour, so that edges and patterns do not alias"""
    shading: Share = 0.6
    """how much of a colour depends on the lamps, 0 (flat) to 1"""
    metric: bool = False
    """whether lengths are the source's own; else the farthest point of the shape is at 1"""
    hold_out: Natural = 0
    """every so-manyth view is test, and those half-way between are val (from 3 on); 0 leaves the asset's split"""

    def columns(self) -> Mapping[str, Column]:
        square = (self.size, self.size)
        lengths = "the source's lengths" if self.metric else "the shape's ball is 1"
        return {
            "view": Column((), "int32", "place in the arrangement"),
            "color": Column((*square, 3), "uint8", "sRGB, white where nothing is"),
            "depth": Column(square, "float32", f"along the camera's z, 0 where nothing is; {lengths}"),
            "normal": Column((*square, 3), "float32", "world, towards the camera, 0 where nothing is"),
            "mask": Column(square, "uint8", "1 shape, 0 nothing"),
            "camera_to_world": Column((4, 4), "float32", f"OpenCV camera: x right, y down, z forward; {lengths}"),
            "intrinsics": Column((3, 3), "float32", "pixels, the first one's centre at 0.5"),
        }

    def rows(self, asset: Mesh, generator: np.random.Generator) -> Iterator[Mapping[str, Any]]:
        triangles = upright(asset.triangles, asset.up)
        middle, _ = box(triangles)
        radius = reach(triangles, middle)
        triangles = (triangles - middle) / (1 if self.metric else radius)
        distance = (radius if self.metric else 1) / np.sin(np.radians(self.fov) / 2)
        for view, direction in enumerate(directions(self.count)):
            split = {"split": self._split(view)} if self.hold_out else {}
            yield {"view": np.int32(view)} | self._picture(asset, triangles, look_at(distance * direction)) | split

    def _split(self, view: int) -> str:
        place = view % self.hold_out
        return "test" if place == 0 else "val" if self.hold_out > 2 and place == self.hold_out // 2 else "train"

    def _picture(self, mesh: Mesh, triangles: Floats, pose: Floats) -> dict[str, NDArray[Any]]:
        """The columns of one view, from triangles [F, 3, 3] in the world."""
        color, depth, normal, mask = self._sampled(mesh, triangles, pose, self.size)
        if self.supersample > 1:
            fine = self._sampled(mesh, triangles, pose, self.size * self.supersample)[0]
            color = fine.reshape(self.size, self.supersample, self.size, self.supersample, 3).mean((1, 3))
        return {
            "color": color.round().astype(np.uint8),
            "depth": depth,
            "normal": normal.astype(np.float32),
            "mask": mask.astype(np.uint8),
            "camera_to_world": pose.astype(np.float32),
            "intrinsics": self.intrinsics(self.size).astype(np.float32),
        }

    def _sampled(
        self, mesh: Mesh, triangles: Floats, pose: Floats, size: int
    ) -> tuple[Floats, NDArray[np.float32], Floats, NDArray[np.bool_]]:
        """Colour [H, W, 3] on white, depth, normal and mask at the middle of each of `size` by `size` pixels."""
        seen = (triangles - pose[:3, 3]) @ pose[:3, :3]
        near = 1e-3 * float(np.linalg.norm(pose[:3, 3]))
        depth, faces, weights = rasterize(seen, self.intrinsics(size), size, size, near=near)
        mask = faces >= 0
        normal = facing(normals(triangles, faces[mask]), triangles[faces[mask], 0] - pose[:3, 3])
        light = 1 - self.shading + self.shading * lamplight(normal)
        color = albedo(mesh, faces[mask], weights[mask].astype(np.float64)) * light[:, None]
        return scatter(mask, color.clip(0, 255), 255), depth, scatter(mask, normal, 0), mask

    def intrinsics(self, size: int) -> Floats:
        """The camera matrix [3, 3] of a picture of `size` by `size` pixels."""
        focal = size / 2 / np.tan(np.radians(self.fov) / 2)
        return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])


def directions(count: int) -> Floats:
    """Unit vectors [count, 3] to where the cameras stand: a ring, or a Fibonacci sphere (Gonzalez 2010)."""
    places = np.arange(count)
    if count <= RING:
        height = np.full(count, np.sin(np.radians(30)))
        angle = 2 * np.pi * places / count
    else:
        height = 1 - (2 * places + 1) / count
        angle = places * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.sin(angle), height, flat * np.cos(angle)], axis=1)


def look_at(position: Floats) -> Floats:
    """Camera to world [4, 4] of an OpenCV camera at `position` [3] that looks at 0, y up; not from straight above."""
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return pose


def facing(normal: Floats, sight: Floats) -> Floats:
    """The normals [S, 3], turned against the lines of sight [S, 3]: the faces of found meshes look either way."""
    return np.where((normal * sight).sum(axis=1, keepdims=True) > 0, -normal, normal)


def lamplight(normal: Floats) -> Floats:
    """The light [S] on faces with these normals [S, 3]; the same on both sides, so that no view changes a colour."""
    lamps = LAMPS / np.linalg.norm(LAMPS, axis=1, keepdims=True)
    return np.abs(normal @ lamps.T) @ POWERS


def albedo(mesh: Mesh, faces: NDArray[np.int32], weights: Floats) -> Floats:
    """
    The unlit sRGB colours [S, 3] at `weights` [S, 2] in `faces` [S]: a texture's, else the vertices', else plain.

    Where a mesh is tinted, its textures are seen through the colours of its vertices.
    """
    materials = mesh.materials[faces]
    color = mesh.colors[materials].astype(np.float64)
    if mesh.vertex_colors is not None:
        color = interpolate(mesh.vertex_colors[mesh.faces[faces]].astype(np.float64), np.arange(len(faces)), weights)
    for material, texture in enumerate(mesh.textures):
        here = materials == material
        if texture is not None and mesh.uv is not None and here.any():
            uv = mesh.uv[faces[here]].astype(np.float64)
            seen = look_up(texture, interpolate(uv, np.arange(len(uv)), weights[here]))
            color[here] = product(seen, color[here]) if mesh.tinted else seen
    return color


def look_up(texture: NDArray[np.uint8], uv: Floats) -> Floats:
    """The picture [H, W, 3] at coordinates [S, 2] from its lower left, repeated beyond it, bilinear: [S, 3]."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, down = (x - column)[:, None], (y - row)[:, None]
    above, below = row % height, (row + 1) % height
    left, after = column % width, (column + 1) % width
    top = texture[above, left] * (1 - right) + texture[above, after] * right
    return top * (1 - down) + (texture[below, left] * (1 - right) + texture[below, after] * right) * down


def scatter(mask: NDArray[np.bool_], values: NDArray[Any], rest: float) -> NDArray[Any]:
    """A picture [H, W, 3] with `values` [S, 3] where the mask [H, W] is true, and `rest` elsewhere."""
    out = np.full((*mask.shape, 3), rest, values.dtype)
    out[mask] = values
    return out
