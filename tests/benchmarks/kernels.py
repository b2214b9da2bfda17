"""
The kernels beside the libraries that do the same, on the same real meshes, in one run.

    pip install -c constraints.txt -e '.[bench]'
    OMP_NUM_THREADS=1 python -m tests.benchmarks.kernels                    # the furniture source
    OMP_NUM_THREADS=1 python -m tests.benchmarks.kernels --folder meshes/   # OBJ files of one's own

CPU time of this process, all threads added up, the best of three passes over all meshes. Only the ratios carry over to
another machine. Each job starts from vertices and faces.
"""

# V vertices, F faces

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open3d
import point_cloud_utils
import trimesh
from scipy import ndimage

from components.formats.mesh import Mesh
from components.kernels.frames import box
from components.kernels.neighbours import farthest
from components.kernels.raster import rasterize
from components.kernels.sampling import normals, sample
from components.kernels.voxels import closed, fill, solid, surface
from components.representations.views import directions, look_at

POINTS = 8192
# Off the shapes' planes of symmetry: of a face just between two voxels Open3D marks neither, ours both.
LOW, SIZE = np.full(3, -0.5317), 1.06
PIXELS, VIEWS = 224, 12
FOCAL = PIXELS / 2 / np.tan(np.radians(20))
INTRINSICS = np.array([[FOCAL, 0, PIXELS / 2], [0, FOCAL, PIXELS / 2], [0, 0, 1]])
POSES = [look_at(2.6 * direction) for direction in directions(VIEWS)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="a folder of OBJ files, instead of the furniture source")
    parser.add_argument("--count", type=int, default=32, help="meshes")
    arguments = parser.parse_args()
    found = folder(arguments.folder) if arguments.folder else furniture()
    meshes = [unit(mesh) for mesh, _ in zip(found, range(arguments.count), strict=False)]
    faces = [len(mesh.faces) for mesh in meshes]
    shut = sum(closed(mesh.triangles) for mesh in meshes)
    print(f"{len(meshes)} meshes, {shut} closed, {np.median(faces):.0f} faces in the middle, {max(faces)} at most\n")
    for job in (sampling, surfaces, fills, solids, views, orders):
        print(job(meshes), flush=True)


def furniture() -> Iterator[Mesh]:
    """Shapes of the furniture source, spread over its listing."""
    from components.sources.furniture import Furniture

    source = Furniture()
    assets = sorted(source.rows(), key=lambda asset: asset.digest)
    return (source.open(asset) for asset in assets)


def folder(path: Path) -> Iterator[Mesh]:
    """The OBJ files below a folder that have faces."""
    for file in sorted(path.rglob("*.obj")):
        mesh = trimesh.load(file, process=False, force="mesh", skip_materials=True)
        if len(mesh.faces):
            yield Mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32))


def unit(mesh: Mesh) -> Mesh:
    """The mesh with its box centred at 0 and its longest side 1."""
    middle, sides = box(mesh.vertices.astype(np.float64))
    return Mesh(((mesh.vertices - middle) / sides.max()).astype(np.float32), mesh.faces)


def corners(mesh: Mesh) -> np.ndarray:
    """The triangles [F, 3, 3], gathered anew: a job pays for them once, as a pipeline does."""
    return Mesh.triangles.func(mesh)


def timed(job: Callable[[Any], Any], inputs: list[Any]) -> tuple[float, list[Any]]:
    """Milliseconds of CPU for each input, and the results."""
    job(inputs[0])
    best, results = np.inf, []
    for _ in range(3):
        begin = time.process_time()
        results = [job(one) for one in inputs]
        best = min(best, time.process_time() - begin)
    return 1000 * best / len(inputs), results


def line(name: str, ours: float, others: dict[str, float], remark: str = "") -> str:
    """One line of the table: our milliseconds, each other's, and how many times ours they are."""
    rest = "".join(f" | {other} {value:8.2f} ms = {value / ours:5.2f}x" for other, value in others.items())
    return f"{name:26} {ours:8.2f} ms{rest}{'  ' + remark if remark else ''}"


def sampling(meshes: list[Mesh]) -> str:
    generator = np.random.default_rng(0)

    def ours(mesh: Mesh) -> Any:
        triangles = corners(mesh)
        points, faces, _ = sample(triangles, POINTS, generator)
        return points, normals(triangles, faces)

    def theirs(mesh: Mesh) -> Any:
        loaded = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        points, faces = trimesh.sample.sample_surface(loaded, POINTS)
        return points, loaded.face_normals[faces]

    def pcu(mesh: Mesh) -> Any:
        vertices = np.array(mesh.vertices, np.float64, order="C")
        faces, weights = point_cloud_utils.sample_mesh_random(vertices, mesh.faces, POINTS)
        points = point_cloud_utils.interpolate_barycentric_coords(mesh.faces, faces, weights, vertices)
        edges = vertices[mesh.faces[faces]]
        cross = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
        return points, cross / np.linalg.norm(cross, axis=1, keepdims=True)

    others = {"trimesh": timed(theirs, meshes)[0], "pcu": timed(pcu, meshes)[0]}
    return line("8,192 points + normals", timed(ours, meshes)[0], others)


def surfaces(meshes: list[Mesh]) -> str:
    def theirs(mesh: Mesh) -> Any:
        peer = legacy(mesh)
        return open3d.geometry.VoxelGrid.create_from_triangle_mesh_within_bounds(peer, SIZE / 64, LOW, LOW + SIZE)

    other, grids = timed(theirs, meshes)
    ours, actual = timed(lambda mesh: surface(corners(mesh), 64, LOW, SIZE), meshes)
    expected = [np.zeros((64, 64, 64), bool) for _ in grids]
    for grid, peer in zip(expected, grids, strict=True):
        grid[tuple(np.array([voxel.grid_index for voxel in peer.get_voxels()]).T)] = True
    same = sum((a & e).sum() for a, e in zip(actual, expected, strict=True))
    either = sum((a | e).sum() for a, e in zip(actual, expected, strict=True))
    return line("64^3 surface", ours, {"Open3D": other}, f"IoU {same / either:.6f}")


def fills(meshes: list[Mesh]) -> str:
    def theirs(grid: np.ndarray) -> np.ndarray:
        labels, _ = ndimage.label(np.pad(~grid, 1, constant_values=True))
        return (labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1]

    grids = [surface(mesh.triangles, 64, LOW, SIZE) for mesh in meshes]
    other, expected = timed(theirs, grids)
    ours, actual = timed(fill, grids)
    return line("64^3 fill", ours, {"scipy label": other}, f"equal {np.array_equal(actual, expected)}")


def solids(meshes: list[Mesh]) -> str:
    """Open meshes of at most 2,500 faces at 32^3, against point-cloud-utils' fast winding number at the same voxels."""
    few = [mesh for mesh in meshes if len(mesh.faces) <= 2500 and not closed(mesh.triangles)]

    def theirs(mesh: Mesh) -> np.ndarray:
        triangles = corners(mesh)
        grid = fill(surface(triangles, 32, LOW, SIZE))
        free = np.argwhere(~grid)
        centres = LOW + (free + 0.5) * (SIZE / 32)
        within = (np.abs(centres) < np.abs(triangles).max(axis=(0, 1))).all(axis=1)  # the box is centred at 0
        vertices = np.array(mesh.vertices, np.float64, order="C")
        if within.any():
            wound = point_cloud_utils.triangle_soup_fast_winding_number(vertices, mesh.faces, centres[within])
            grid[tuple(free[within].T)] = np.abs(wound) > 0.5
        return grid

    other, expected = timed(theirs, few)
    ours, actual = timed(lambda mesh: solid(corners(mesh), 32, LOW, SIZE), few)
    differ = sum(int((a != e).sum()) for a, e in zip(actual, expected, strict=True))
    return line(
        f"32^3 solid, {len(few)} open", ours, {"pcu": other}, f"{differ} voxels of {sum(map(np.size, actual))} differ"
    )


def views(meshes: list[Mesh]) -> str:
    def ours(mesh: Mesh) -> list[Any]:
        triangles = corners(mesh)
        cameras = [(triangles - pose[:3, 3]) @ pose[:3, :3] for pose in POSES]
        return [rasterize(camera, INTRINSICS, PIXELS, PIXELS) for camera in cameras]

    def embree(mesh: Mesh) -> list[Any]:
        scene = open3d.t.geometry.RaycastingScene(nthreads=1)
        scene.add_triangles(open3d.core.Tensor(mesh.vertices), open3d.core.Tensor(mesh.faces.astype(np.uint32)))
        pictures = []
        for pose in POSES:
            cast = scene.create_rays_pinhole(INTRINSICS, np.linalg.inv(pose), PIXELS, PIXELS)
            hits = scene.cast_rays(cast, nthreads=1)
            pictures.append([hits[key].numpy() for key in ("t_hit", "primitive_ids", "primitive_uvs")])
        return pictures

    other, expected = timed(embree, meshes)
    mine, actual = timed(ours, meshes)
    hit = np.isfinite([picture[0] for shape in expected for picture in shape])
    seen = np.array([picture[1] >= 0 for shape in actual for picture in shape])
    depth = np.array([picture[0] for shape in actual for picture in shape])
    with np.errstate(invalid="ignore"):
        error = np.abs(depth - [picture[0] for shape in expected for picture in shape])[hit & seen]
    remark = f"same mask {(hit == seen).mean():.7f}, depth p99.9 {np.quantile(error, 0.999):.1e}"
    return line("12 views of 224^2", mine, {"Open3D Embree": other}, remark)


def orders(meshes: list[Mesh]) -> str:
    generator = np.random.default_rng(0)
    clouds = [generator.permutation(sample(mesh.triangles, 2048, generator)[0]) for mesh in meshes]
    peers = [open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud)) for cloud in clouds]
    other, expected = timed(lambda peer: np.asarray(peer.farthest_point_down_sample(1024).points), peers)
    ours, actual = timed(lambda cloud: farthest(cloud, 1024), clouds)
    # Open3D gives the chosen points in the order of its input.
    same = all(np.array_equal(c[np.sort(a)], e) for c, a, e in zip(clouds, actual, expected, strict=True))
    return line("1,024 farthest of 2,048", ours, {"Open3D": other}, f"equal {same}")


def legacy(mesh: Mesh) -> Any:
    vertices = open3d.utility.Vector3dVector(np.array(mesh.vertices, np.float64, order="C"))
    return open3d.geometry.TriangleMesh(vertices, open3d.utility.Vector3iVector(mesh.faces))


if __name__ == "__main__":
    main()
