"""
Gaussians in space, seen by a camera: projection, colour and blending, all differentiable.

Zwicker, Pfister, van Baar, Gross, IEEE Visualization 2001 (EWA splatting); Kerbl, Kopanas, Leimkuehler, Drettakis,
SIGGRAPH 2023. Cameras are OpenCV's: x right, y down, z forward; the centre of the top left pixel is (0.5, 0.5).
"""

# N Gaussians, K harmonics, H rows, W columns

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.errors import UsageError

NEAR = 0.01  # what is nearer than this to the camera's plane is not seen
BLUR = 0.3  # pixel^2, added to every projected variance: a splat is never narrower than about a pixel
MARGIN = 0.3  # of half the picture: how far beyond its border the projection is still followed

C0 = math.sqrt(1 / (4 * math.pi))
C1 = math.sqrt(3 / (4 * math.pi))
C2 = tuple(0.25 * math.sqrt(x / math.pi) for x in (60, 5, 15))
C3 = tuple(0.25 * math.sqrt(x / math.pi) for x in (17.5, 420, 10.5, 7, 105))


class Camera(NamedTuple):
    """Where a picture is taken from, and how large it is."""

    pose: Tensor  # [4, 4] camera to world
    intrinsics: Tensor  # [3, 3] pixels
    height: int
    width: int


class Flat(NamedTuple):
    """Gaussians on a camera's plane."""

    centers: Tensor  # [N, 2] pixels
    conics: Tensor  # [N, 3] the inverse covariance ((a, b), (b, c)), 1 / pixel^2
    depths: Tensor  # [N] along the camera's z


class Limits(NamedTuple):
    """Thresholds below which blending leaves Gaussians out."""

    cut: float = 1 / 255
    """a splat that covers less of a pixel than this; 0 leaves out none"""
    most: float = 0.99
    """of a pixel that one splat may cover"""
    least: float = 1e-4
    """transmittance that a pixel keeps at least; 0 blends every splat"""
    tile: int = 16
    """rows and columns of a tile, pixels: a multiple of 16"""


class Picture(NamedTuple):
    """A camera's picture."""

    color: Tensor  # [H, W, 3]
    rest: Tensor  # [H, W] transmittance: the share of the background
    visible: Tensor  # [N] whether a Gaussian may reach the picture


STANDARD = Limits()


# Shape


def rotations(quaternions: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4], (w, x, y, z) of any length but 0."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def covariances(scales: Tensor, quaternions: Tensor) -> Tensor:
    """R S S^T R^T, [N, 3, 3], of standard deviations [N, 3] and quaternions [N, 4]."""
    axes = rotations(quaternions) * scales[:, None, :]
    return axes @ axes.mT


def project(means: Tensor, scales: Tensor, quaternions: Tensor, camera: Camera, *, blur: float = BLUR) -> Flat:
    """
    Gaussians [N, 3], [N, 3], [N, 4] on the camera's plane: covariance J W Sigma W^T J^T + blur I.

    J is the projection's derivative at the mean, or, where that lies more than MARGIN beyond the border, at the nearest
    direction that does not: the derivative there is no guide any more. Depths of what is not seen are 0.
    """
    turn = camera.pose[:3, :3].mT  # world to camera
    seen = (means - camera.pose[:3, 3]) @ turn.mT
    depths = seen[:, 2]
    front = depths > NEAR
    x, y, z = seen[:, 0], seen[:, 1], torch.where(front, depths, torch.ones_like(depths))
    fx, fy, cx, cy = (camera.intrinsics[i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    along, up = _within(x / z, fx, cx, camera.width), _within(y / z, fy, cy, camera.height)
    axes = turn @ (rotations(quaternions) * scales[:, None, :])  # [N, 3, 3], rows in the camera's axes
    first = (fx / z)[:, None] * (axes[:, 0] - along[:, None] * axes[:, 2])  # [N, 3]: the covariance's root, J W R S
    second = (fy / z)[:, None] * (axes[:, 1] - up[:, None] * axes[:, 2])
    a, b, c = (first * first).sum(1) + blur, (first * second).sum(1), (second * second).sum(1) + blur
    determinant = a * c - b * b
    sound = front & (determinant > 0)  # of a huge needle it may be rounded to less
    determinant = torch.where(sound, determinant, torch.ones_like(determinant))
    conics = torch.stack([c, -b, a], 1) / determinant[:, None]
    centers = torch.stack([fx * x / z + cx, fy * y / z + cy], 1)
    return Flat(centers, conics, torch.where(sound, depths, torch.zeros_like(depths)))


def _within(slope: Tensor, focal: Tensor, center: Tensor, size: int) -> Tensor:
    """A slope [N], moved to within the picture and its margin."""
    margin = MARGIN * 0.5 * size / focal
    return slope.clamp(-center / focal - margin, (size - center) / focal + margin)


# Colour


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of degrees 0 to `degree` (at most 3) at unit vectors [N, 3]: [N, (degree + 1)^2]."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    found = [torch.full_like(x, C0)]
    if degree > 0:
        found += [-C1 * y, C1 * z, -C1 * x]
    if degree > 1:
        found += [C2[0] * x * y, -C2[0] * y * z, C2[1] * (2 * zz - xx - yy), -C2[0] * x * z, C2[2] * (xx - yy)]
    if degree > 2:
        found += [-C3[0] * y * (3 * xx - yy), C3[1] * x * y * z, -C3[2] * y * (4 * zz - xx - yy)]
        found += [C3[3] * z * (2 * zz - 3 * xx - 3 * yy), -C3[2] * x * (4 * zz - xx - yy)]
        found += [C3[4] * z * (xx - yy), -C3[0] * x * (xx - 3 * yy)]
    return torch.stack(found, -1)


def colors(means: Tensor, coefficients: Tensor, camera: Camera, degree: int) -> Tensor:
    """Colours [N, 3] towards the camera's centre, at least 0, from coefficients [N, K, 3], or the first of them."""
    basis = harmonics(torch.nn.functional.normalize(means - camera.pose[:3, 3], dim=-1), degree)
    return ((basis[:, :, None] * coefficients[:, : basis.shape[1]]).sum(1) + 0.5).clamp_min(0)


def constant_of(rgb: Tensor) -> Tensor:
    """The coefficient of the constant harmonic that shows a colour from 0 to 1."""
    return (rgb - 0.5) / C0


# Blending


def rasterize(
    flat: Flat, opacities: Tensor, colors: Tensor, background: Tensor, camera: Camera, limits: Limits = STANDARD
) -> Picture:
    """
    The picture sum_i c_i alpha_i T_i + T_end background, T_i = prod_{j<i} (1 - alpha_j), the nearest first.

    alpha_i = min(most, opacity_i w_i), w_i being the value of the flat Gaussian at the pixel's centre. (The formula is
    sometimes written without w_i in the first factor; those weights add up to more than 1.)

    On a CPU our own kernels, differentiable by everything but depths, in float32 or float64; on a GPU those of gsplat.
    """
    with torch.no_grad():
        reach = extents(flat, opacities, limits.cut)
        sides = flat.centers.new_tensor([camera.width, camera.height])
        visible = ((reach > 0) & (flat.centers + reach > 0) & (flat.centers - reach < sides)).all(1)
    if flat.centers.is_cuda:
        return Picture(*_on_gpu(flat, opacities, colors, background, reach, camera, limits), visible)
    size = camera.height, camera.width
    color, rest = _Blend.apply(
        flat.centers, flat.conics, opacities, colors, background, flat.depths, reach, size, limits
    )
    return Picture(color, rest, visible)


def extents(flat: Flat, opacities: Tensor, cut: float) -> Tensor:
    """How far from its centre each Gaussian covers `cut` or more along x and y, [N, 2] pixels; 0 if it is not seen."""
    a, b, c = flat.conics.unbind(1)
    determinant = a * c - b * b
    seen = (flat.depths > 0) & (determinant > 0) & determinant.isfinite()
    spread = torch.stack([c, a], 1) / determinant[:, None]
    within = (2 * torch.log(opacities / cut)).clamp_min(0) if cut > 0 else torch.full_like(opacities, torch.inf)
    return torch.where(seen[:, None], (within[:, None] * spread).sqrt(), torch.zeros_like(spread))


class _Blend(torch.autograd.Function):
    """components/kernels/splatting.py, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        centers: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        background: Tensor,
        depths: Tensor,
        reach: Tensor,
        size: tuple[int, int],
        limits: Limits,
    ) -> tuple[Tensor, Tensor]:
        from components.kernels import splatting

        splats = torch.cat([centers, conics, opacities[:, None], colors], 1).contiguous()
        tiles = splatting.tile(splats.numpy(), depths.numpy(), reach.numpy(), *size, limits.tile)
        image, rest, last = splatting.blend(
            *(splats.numpy(), tiles, background.contiguous().numpy()),
            **_settings(limits),
            least=limits.least,
        )
        ctx.save_for_backward(splats, background, torch.from_numpy(rest))
        ctx.tiles, ctx.last, ctx.limits = tiles, last, limits
        return torch.from_numpy(image), torch.from_numpy(rest)

    @staticmethod
    def backward(ctx: Any, by_image: Tensor, by_rest: Tensor) -> tuple[Tensor | None, ...]:
        from components.kernels import splatting

        splats, background, rest = ctx.saved_tensors
        behind = rest * (by_image @ background + by_rest)
        gradient = splatting.blend_gradient(
            *(splats.numpy(), ctx.tiles, rest.numpy(), ctx.last),
            *(by_image.contiguous().numpy(), behind.numpy()),
            **_settings(ctx.limits),
        )
        centers, conics, opacities, colors = torch.from_numpy(gradient).split([2, 3, 1, 3], 1)
        by_background = (rest[:, :, None] * by_image).sum((0, 1)) if ctx.needs_input_grad[4] else None
        return centers, conics, opacities[:, 0], colors, by_background, None, None, None, None


def _settings(limits: Limits) -> dict[str, Any]:
    return {"cut": limits.cut, "most": limits.most, "threads": torch.get_num_threads()}


def _on_gpu(
    flat: Flat, opacities: Tensor, colors: Tensor, background: Tensor, reach: Tensor, camera: Camera, limits: Limits
) -> tuple[Tensor, Tensor]:
    """The same by gsplat 1.5, whose limits are its own: 1/255, 0.999 and 1e-4."""
    try:
        import gsplat
    except ImportError:
        raise UsageError(
            "Splats on a GPU need gsplat, which is not installed. Run `pip install 'rayfield[gpu]'`, or use the CPU."
        ) from None
    columns, rows = -(-camera.width // limits.tile), -(-camera.height // limits.tile)
    radii = reach.nan_to_num(posinf=2.0 * (camera.width + camera.height)).ceil().int()[None]
    centers, depths = flat.centers[None], flat.depths[None]
    _, keys, order = gsplat.isect_tiles(centers.detach(), radii, depths.detach(), limits.tile, columns, rows)
    starts = gsplat.isect_offset_encode(keys, 1, columns, rows)
    color, alpha = gsplat.rasterize_to_pixels(
        *(centers, flat.conics[None], colors[None], opacities[None]),
        *(camera.width, camera.height, limits.tile, starts, order),
        backgrounds=background[None],
    )
    return color[0], 1 - alpha[0, :, :, 0]


# First values


def nearest_distances(points: np.ndarray, neighbours: int = 3) -> np.ndarray:
    """The root mean squared distance of each point [N, 3] to its nearest others, [N]."""
    from scipy.spatial import cKDTree

    neighbours = min(neighbours, len(points) - 1)
    if neighbours < 1:
        return np.ones(len(points))
    distances, _ = cKDTree(points).query(points, neighbours + 1)
    return np.sqrt((distances[:, 1:] ** 2).mean(1).clip(1e-7))
