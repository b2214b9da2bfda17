"""
How fast splats are blended: our kernels against the same mathematics in torch, and how their time grows.

    OMP_WAIT_POLICY=passive python -m tests.benchmarks.splatting

Each line is the best of several runs, forward and backward, all in one process; the machine should do nothing else.
Without that variable torch's idle threads spin for a while after each of its operations, on the cores that our kernels
would share.
"""

# N Gaussians, T pixels of a tile

import argparse
import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components.layers.splats import STANDARD, Camera, Flat, Limits, extents, rasterize


def blend_by_torch(flat: Flat, opacities: Tensor, colors: Tensor, background: Tensor, pixels: Tensor, limits: Limits):
    """
    The picture [P, 3] and the transmittance [P] at pixel centres [P, 2], of Gaussians sorted by depth: the slow twin.

    All Gaussians at all pixels, cumulative products, autograd.
    """
    dx, dy = (flat.centers[:, None] - pixels).unbind(-1)  # [N, P]
    a, b, c = flat.conics.unbind(1)
    power = -(0.5 * (a[:, None] * dx * dx + c[:, None] * dy * dy) + b[:, None] * dx * dy)
    alpha = (opacities[:, None] * power.exp()).clamp_max(limits.most)
    alpha = torch.where((alpha >= limits.cut) & (power <= 0), alpha, 0)
    after = (1 - alpha).cumprod(0)
    # a pixel ends before the splat that would make it too dark to see through
    alpha = torch.where(after >= limits.least, alpha, 0)
    through = torch.cat([torch.ones_like(alpha[:1]), (1 - alpha).cumprod(0)])
    color = torch.einsum("np,nc->pc", alpha * through[:-1], colors)
    return color + through[-1][:, None] * background, through[-1]


def sort_by_depth(flat: Flat, opacities: Tensor, colors: Tensor) -> tuple[Flat, Tensor, Tensor]:
    """Those that are seen, the nearest first, equal ones by row."""
    order = flat.depths.detach().argsort(stable=True)
    order = order[flat.depths[order] > 0]
    return Flat(*(part[order] for part in flat)), opacities[order], colors[order]


def rasterize_by_torch(
    flat: Flat, opacities: Tensor, colors: Tensor, background: Tensor, camera: Camera, limits: Limits = STANDARD
) -> tuple[Tensor, Tensor]:
    """`splats.rasterize` without tiles: every Gaussian at every pixel."""
    y, x = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    pixels = torch.stack([x, y], -1).to(flat.centers).flatten(0, 1) + 0.5
    color, rest = blend_by_torch(*sort_by_depth(flat, opacities, colors), background, pixels, limits)
    return color.view(camera.height, camera.width, 3), rest.view(camera.height, camera.width)


def rasterize_by_tiles_in_torch(
    flat: Flat, opacities: Tensor, colors: Tensor, background: Tensor, camera: Camera, limits: Limits = STANDARD
) -> tuple[Tensor, Tensor]:
    """`splats.rasterize` as a loop over tiles, each with the Gaussians that reach it: eager torch at its best."""
    flat, opacities, colors = sort_by_depth(flat, opacities, colors)
    reach = extents(flat, opacities.detach(), limits.cut).detach()
    low, high = flat.centers.detach() - reach, flat.centers.detach() + reach
    y, x = torch.meshgrid(torch.arange(limits.tile), torch.arange(limits.tile), indexing="ij")
    inside = torch.stack([x, y], -1).to(flat.centers).flatten(0, 1) + 0.5
    rows = []
    for top in range(0, camera.height, limits.tile):
        row = []
        for left in range(0, camera.width, limits.tile):
            corner = inside.new_tensor([left, top])
            here = ((high > corner) & (low < corner + limits.tile)).all(1).nonzero()[:, 0]
            part = Flat(*(value[here] for value in flat))
            color, rest = blend_by_torch(part, opacities[here], colors[here], background, inside + corner, limits)
            row.append(torch.cat([color, rest[:, None]], 1).view(limits.tile, limits.tile, 4))
        rows.append(torch.cat(row, 1))
    whole = torch.cat(rows)[: camera.height, : camera.width]
    return whole[:, :, :3], whole[:, :, 3]


def scene(count: int, height: int, width: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple:
    """Random flat Gaussians, 1 to 4 pixels wide, all over a picture: everything that `rasterize` takes."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    centers = draw(count, 2) * torch.tensor([width, height])
    widths, angle = (1 + 3 * draw(count, 2) ** 2) ** 2, 3.14 * draw(count)
    cos, sin = angle.cos(), angle.sin()
    a = cos * cos / widths[:, 0] + sin * sin / widths[:, 1]
    b = cos * sin * (1 / widths[:, 0] - 1 / widths[:, 1])
    c = sin * sin / widths[:, 0] + cos * cos / widths[:, 1]
    flat = Flat(centers, torch.stack([a, b, c], 1), 1 + draw(count))
    camera = Camera(torch.eye(4), torch.eye(3), height, width)
    return flat, 0.9 * draw(count), draw(count, 3), draw(3), camera


def seconds(rasterizer: Callable, count: int, size: int, *, threads: int, repeats: int = 5) -> float:
    """The best time of a forward and a backward pass."""
    torch.set_num_threads(threads)
    flat, opacities, colors, background, camera = scene(count, size, size)
    leaves = [*flat[:2], opacities, colors]
    times = []
    for _ in range(repeats):
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        start = time.perf_counter()
        color, rest = rasterizer(flat, opacities, colors, background, camera)[:2]
        torch.autograd.backward([color, rest], [color.detach(), torch.ones_like(rest)])
        times.append(time.perf_counter() - start)
    return min(times)


def table(title: str, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    print(f"\n{title}")
    for line in (head, *lines):
        print("  " + "".join(f"{f'{cell:.4g}' if isinstance(cell, float) else cell!s:>16}" for cell in line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="Gaussians")
    parser.add_argument("--size", type=int, default=128, help="pixels along each side")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    cores = os.cpu_count() or 1
    seconds(rasterize, 10, 16, threads=1)  # compiles

    twin = seconds(rasterize_by_tiles_in_torch, asked.count, asked.size, threads=1, repeats=max(2, asked.repeats // 2))
    lines = [("torch, tile by tile", 1, 1e3 * twin, 1.0)]
    for threads in sorted({1, min(2, cores), cores}):
        own = seconds(rasterize, asked.count, asked.size, threads=threads, repeats=asked.repeats)
        lines.append(("our kernels", threads, 1e3 * own, twin / own))
    table(
        f"{asked.count} Gaussians, {asked.size} x {asked.size} pixels, forward and backward; target 2.5 x on a thread",
        ("", "threads", "ms", "x torch"),
        [(f"{name:>20}", *rest) for name, *rest in lines],
    )
    for title, pairs in (
        ("growth with Gaussians", [(n, asked.size) for n in (1000, 3000, 10_000, 30_000)]),
        ("growth with pixels", [(asked.count, side) for side in (64, 128, 256, 512)]),
    ):
        found = [(n, side, seconds(rasterize, n, side, threads=1, repeats=asked.repeats)) for n, side in pairs]
        table(
            f"{title}, one thread",
            ("Gaussians", "side", "ms", "us/Gaussian", "ns/pixel"),
            [(n, side, 1e3 * t, 1e6 * t / n, 1e9 * t / side**2) for n, side, t in found],
        )


if __name__ == "__main__":
    main()
