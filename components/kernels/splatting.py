"""
Blending of flat Gaussians in the order of their depth, and the gradient of it, tile by tile.

A splat is [x, y, a, b, c, opacity, red, green, blue]: the centre in pixels, the inverse covariance ((a, b), (b, c)) in
1 / pixel^2. The centre of the top left pixel is (0.5, 0.5). At a pixel a splat covers alpha = min(most, opacity
exp(-q / 2)), q being the squared distance by that inverse covariance, and the pixel shows

    sum of color_i alpha_i T_i + T_end background,   T_i = product over the j before i of (1 - alpha_j).

What covers less than `cut` is left out, and a pixel ends before the splat that would make T less than `least`.

Tiles are computed in parallel and each writes to its own places, so results do not depend on the number of threads.
Arithmetic is that of the splats' dtype: float32 for work, float64 for proofs.
"""

# N splats, M hits (a splat in a tile), T tiles, S segments of a tile: LANES pixels of one row

import math
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from components.kernels.compiled import kernel

Floats = NDArray[np.floating]
Integers = NDArray[np.int32]

SHARE = 4096  # hits that are worth a thread of their own
LANES = 16  # pixels that the inner loops take at a time: the compiler makes vectors of them
LOG2E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
LOWEST, HIGHEST, HALF = np.float32(-87), np.float32(0), np.float32(0.5)
TAYLOR = tuple(np.float32(1 / math.factorial(n)) for n in range(7, -1, -1))

# What a tile remembers of its pixels: LANES numbers of each
PIXEL, REST, BAR, RED, GREEN, BLUE, LAST = (LANES * n for n in range(7))
BEHIND = BAR  # in the gradient: what all that lies behind contributes
FORCE, TURN, SPREAD, TINT = 0, LANES, 2 * LANES, 3 * LANES  # of its sums over rows


@dataclass(frozen=True)
class Tiles:
    """Which splats each tile must look at, the nearest first."""

    splats: Integers  # [M]
    starts: Integers  # [T + 1], rows of `splats`
    boxes: Integers  # [N, 4] the pixels that a splat may reach: left, top, right, bottom; the last two are beyond
    size: int
    height: int
    width: int


def tile(splats: Floats, depths: Floats, extents: Floats, height: int, width: int, size: int = 16) -> Tiles:
    """
    Sort splats [N, 9] by depth [N], equal ones by row, into square tiles of `size` pixels, a multiple of 16.

    `extents` [N, 2] says how far a splat reaches along x and y, in pixels; 0 or NaN leaves it out.
    """
    if size < LANES or size % LANES:
        raise ValueError(f"`size` must be a multiple of {LANES}, but got {size}.")
    order = np.argsort(depths, kind="stable").astype(np.int32)
    boxes = _boxes(splats, extents, height, width)
    starts = _starts(boxes, size, _along(height, size), _along(width, size))
    return Tiles(_hits(boxes, order, starts, size, _along(width, size)), starts, boxes, size, height, width)


def blend(
    splats: Floats, tiles: Tiles, background: Floats, *, cut: float, most: float, least: float, threads: int = 1
) -> tuple[Floats, Floats, Integers]:
    """The image [H, W, 3], the transmittance [H, W] that is left, and the last hit [H, W] that counts, -1 for none."""
    real = splats.dtype.type
    image = np.empty((tiles.height, tiles.width, 3), splats.dtype)
    rest = np.empty((tiles.height, tiles.width), splats.dtype)
    last = np.empty((tiles.height, tiles.width), np.int32)
    limits = real(cut), real(most), real(least)
    lists = tiles.splats, tiles.starts, tiles.boxes, tiles.size
    _share(_blend, threads, splats, *lists, background, *limits, image, rest, last)
    return image, rest, last


def blend_gradient(
    splats: Floats,
    tiles: Tiles,
    rest: Floats,
    last: Integers,
    by_image: Floats,
    behind: Floats,
    *,
    cut: float,
    most: float,
    threads: int = 1,
) -> Floats:
    """
    The gradient by each splat, [N, 9].

    `by_image` [H, W, 3] is the gradient by the image. `behind` [H, W] is T_end times the gradient by T_end, with what
    reaches T_end by way of the background.
    """
    real = splats.dtype.type
    by_hit = np.zeros((len(tiles.splats), 9), splats.dtype)
    lists = tiles.splats, tiles.starts, tiles.boxes, tiles.size
    _share(_unblend, threads, splats, *lists, rest, last, by_image, behind, real(cut), real(most), by_hit)
    return _gather(by_hit, tiles.splats, len(splats))


def _share(compute: Callable[..., None], threads: int, splats: Floats, hits: Integers, *others: Any) -> None:
    """
    Run a kernel on each so-manyth tile in a thread of its own, where there is enough to do; kernels hold no lock.

    Not numba's prange: its first use sets OpenMP's threads, which are torch's too, and forbids to fork.
    """
    threads = min(threads, 1 + len(hits) // SHARE)
    helpers = [Thread(target=compute, args=(splats, hits, *others, first, threads)) for first in range(1, threads)]
    for helper in helpers:
        helper.start()
    compute(splats, hits, *others, 0, threads)
    for helper in helpers:
        helper.join()


# Tiles


@kernel
def _along(pixels: int, size: int) -> int:
    return -(-pixels // size)


@kernel
def _boxes(splats: Floats, extents: Floats, height: int, width: int) -> Integers:
    """The pixels that each splat may reach, [N, 4], a pixel to spare on each side; right = left where none."""
    out = np.zeros((len(splats), 4), np.int32)
    for n in range(len(splats)):
        x, y, reach, rise = splats[n, 0], splats[n, 1], extents[n, 0], extents[n, 1]
        if not (reach > 0 and rise > 0 and np.isfinite(splats[n]).all()):
            continue
        left, right = max(x - reach - 1, 0.0), min(x + reach + 1, float(width))
        top, bottom = max(y - rise - 1, 0.0), min(y + rise + 1, float(height))
        if left < right and top < bottom:
            out[n, 0], out[n, 1] = int(np.floor(left)), int(np.floor(top))
            out[n, 2], out[n, 3] = int(np.ceil(right)), int(np.ceil(bottom))
    return out


@kernel
def _starts(boxes: Integers, size: int, rows: int, columns: int) -> Integers:
    """Where the hits of each tile begin, [T + 1]."""
    counts = np.zeros(rows * columns + 1, np.int32)
    for n in range(len(boxes)):
        left, top, right, bottom = boxes[n]
        if left < right:
            for row in range(top // size, (bottom - 1) // size + 1):
                for column in range(left // size, (right - 1) // size + 1):
                    counts[row * columns + column + 1] += 1
    return np.cumsum(counts).astype(np.int32)


@kernel
def _hits(boxes: Integers, order: Integers, starts: Integers, size: int, columns: int) -> Integers:
    """The splats of each tile, [M], in the given order."""
    out, ends = np.empty(starts[-1], np.int32), starts.copy()
    for n in order:
        left, top, right, bottom = boxes[n]
        if left < right:
            for row in range(top // size, (bottom - 1) // size + 1):
                for column in range(left // size, (right - 1) // size + 1):
                    place = row * columns + column
                    out[ends[place]] = n
                    ends[place] += 1
    return out


# The image


@kernel
def _blend(splats, hits, starts, boxes, size, background, cut, most, least, image, rest, last, begin, step):
    across = _along(image.shape[1], size)
    for place in range(begin, len(starts) - 1, step):
        top, left = place // across * size, place % across * size
        lanes = _pixels(top, left, size, rest, least)
        for hit in range(starts[place], starts[place + 1]):
            if (hit - starts[place]) % LANES == 0 and _finished(lanes):
                break
            n = hits[hit]
            first, beyond = max(boxes[n, 1] - top, 0), min(boxes[n, 3] - top, size)
            _cover(splats[n], lanes, top, first, beyond, size // LANES, hit - starts[place], cut, most)
        _show(lanes, starts[place], top, left, size, background, image, rest, last)


@kernel
def _pixels(top, left, size, like, least):
    """A tile's memory, [S, 7 LANES], before the first splat; pixels beyond the picture have ended already."""
    height, width = like.shape
    across = size // LANES
    lanes = np.zeros((size * across, 7 * LANES), like.dtype)
    for row in range(len(lanes)):
        y, begin = top + row // across, left + row % across * LANES
        for x in range(LANES):
            lanes[row, PIXEL + x] = begin + x + 0.5
            lanes[row, REST + x] = 1
            lanes[row, BAR + x] = least if y < height and begin + x < width else 2
            lanes[row, LAST + x] = -1
    return lanes


@kernel
def _finished(lanes):
    """True if every pixel of the tile has ended."""
    for row in range(len(lanes)):
        for x in range(LANES):
            if lanes[row, BAR + x] <= 1:
                return False
    return True


@kernel
def _cover(splat, lanes, top, first, beyond, across, hit, cut, most):
    """
    Blend one splat over rows `first` to `beyond` of a tile.

    `bar` is the least transmittance that a pixel may come to; one that has ended has a bar that none reaches.
    """
    x0, y0, a, b, c, opacity, red, green, blue = splat
    one, zero, never = _as(a, 1), _as(a, 0), _as(a, 2)
    half = _as(a, 0.5)
    for row in range(first * across, beyond * across):
        v = lanes[row]
        dy = y0 - (_as(a, top + row // across) + half)
        b_dy, c_dy = b * dy, half * c * dy * dy
        for x in range(LANES):
            dx = x0 - v[PIXEL + x]
            power = -((half * a * dx + b_dy) * dx + c_dy)
            alpha = opacity * _exp(power)
            alpha = most if alpha > most else alpha
            left = v[REST + x] * (one - alpha)
            seen = (alpha >= cut) & (power <= zero)
            counts = seen & (left >= v[BAR + x])
            v[BAR + x] = never if seen & (left < v[BAR + x]) else v[BAR + x]
            weight = alpha * v[REST + x] if counts else zero
            v[REST + x] = left if counts else v[REST + x]
            v[RED + x] += red * weight
            v[GREEN + x] += green * weight
            v[BLUE + x] += blue * weight
            v[LAST + x] = _as(a, hit) if counts else v[LAST + x]


@kernel
def _show(lanes, start, top, left, size, background, image, rest, last):
    """Write a tile's pixels to the picture."""
    across = size // LANES
    for y in range(top, min(top + size, image.shape[0])):
        for x in range(left, min(left + size, image.shape[1])):
            v, lane = lanes[(y - top) * across + (x - left) // LANES], (x - left) % LANES
            rest[y, x] = v[REST + lane]
            last[y, x] = start + int(v[LAST + lane]) if v[LAST + lane] >= 0 else -1
            for channel in range(3):
                image[y, x, channel] = v[RED + channel * LANES + lane] + v[REST + lane] * background[channel]


# Its gradient


@kernel
def _unblend(splats, hits, starts, boxes, size, rest, last, by_image, behind, cut, most, by_hit, begin, step):
    across = _along(rest.shape[1], size)
    for place in range(begin, len(starts) - 1, step):
        top, left = place // across * size, place % across * size
        lanes, final = _recall(top, left, size, starts[place], rest, last, by_image, behind)
        sums = np.empty(6 * LANES, splats.dtype)
        for hit in range(starts[place] + final, starts[place] - 1, -1):
            n = hits[hit]
            first, beyond = max(boxes[n, 1] - top, 0), min(boxes[n, 3] - top, size)
            for column in range(size // LANES):
                sums[:] = 0
                shape = (top, first, beyond, size // LANES, column)
                _uncover(splats[n], lanes, shape, hit - starts[place], cut, most, sums)
                _reduce(splats[n], lanes[column], sums, by_hit[hit])


@kernel
def _recall(top, left, size, start, rest, last, by_image, behind):
    """A tile's memory, [S, 7 LANES], after its last splat, and the last hit of the tile that counts anywhere."""
    height, width = rest.shape
    across = size // LANES
    lanes = np.zeros((size * across, 7 * LANES), rest.dtype)
    final = -1
    for row in range(len(lanes)):
        y, begin = top + row // across, left + row % across * LANES
        for x in range(LANES):
            lanes[row, PIXEL + x] = begin + x + 0.5
            lanes[row, LAST + x] = -1
            if y < height and begin + x < width:
                lanes[row, REST + x] = rest[y, begin + x]
                lanes[row, BEHIND + x] = behind[y, begin + x]
                for channel in range(3):
                    lanes[row, RED + channel * LANES + x] = by_image[y, begin + x, channel]
                if last[y, begin + x] >= 0:
                    lanes[row, LAST + x] = last[y, begin + x] - start
                    final = max(final, last[y, begin + x] - start)
    return lanes, final


@kernel(error_model="numpy")  # a test for division by zero would keep vectors out
def _uncover(splat, lanes, shape, hit, cut, most, sums):
    """
    Take one splat off again, and add what it receives to `sums`, [6 LANES]: g, g dy, g dy^2 and the colour's gradient.

    g is the gradient by the exponent. Every number that decides is computed as in `_cover`, so the same pixels count.
    """
    x0, y0, a, b, c, opacity, red, green, blue = splat
    top, first, beyond, across, column = shape
    one, zero, hit = _as(a, 1), _as(a, 0), _as(a, hit)
    half = _as(a, 0.5)
    for line in range(first, beyond):
        v = lanes[line * across + column]
        dy = y0 - (_as(a, top + line) + half)
        b_dy, c_dy = b * dy, half * c * dy * dy
        for x in range(LANES):
            dx = x0 - v[PIXEL + x]
            power = -((half * a * dx + b_dy) * dx + c_dy)
            alpha = opacity * _exp(power)
            free = alpha <= most
            alpha = alpha if free else most
            counts = (alpha >= cut) & (power <= zero) & (hit <= v[LAST + x])
            more = one / (one - alpha)
            rest = v[REST + x] * more
            shade = red * v[RED + x] + green * v[GREEN + x] + blue * v[BLUE + x]
            weight = alpha * rest if counts else zero
            force = alpha * (rest * shade - v[BEHIND + x] * more) if counts & free else zero
            v[REST + x] = rest if counts else v[REST + x]
            v[BEHIND + x] += weight * shade
            sums[FORCE + x] += force
            sums[TURN + x] += force * dy
            sums[SPREAD + x] += force * dy * dy
            sums[TINT + x] += weight * v[RED + x]
            sums[TINT + LANES + x] += weight * v[GREEN + x]
            sums[TINT + 2 * LANES + x] += weight * v[BLUE + x]


@kernel
def _reduce(splat, lanes, sums, out):
    """Add the sums over columns to a hit's gradient: with p = -(a dx^2 / 2 + b dx dy + c dy^2 / 2), the rules of p."""
    x0, _, a, b, c, opacity, _, _, _ = splat
    g = gx = gy = gxx = gxy = gyy = red = green = blue = x0 - x0
    for x in range(LANES):
        dx = x0 - lanes[PIXEL + x]
        g += sums[FORCE + x]
        gx += sums[FORCE + x] * dx
        gxx += sums[FORCE + x] * dx * dx
        gy += sums[TURN + x]
        gxy += sums[TURN + x] * dx
        gyy += sums[SPREAD + x]
        red += sums[TINT + x]
        green += sums[TINT + LANES + x]
        blue += sums[TINT + 2 * LANES + x]
    out[0] -= a * gx + b * gy
    out[1] -= b * gx + c * gy
    out[2] -= gxx / 2
    out[3] -= gxy
    out[4] -= gyy / 2
    out[5] += g / opacity if opacity > 0 else g
    out[6] += red
    out[7] += green
    out[8] += blue


@kernel
def _gather(by_hit: Floats, hits: Integers, count: int) -> Floats:
    """The sums over a splat's hits, [N, 9], always in the order of tiles."""
    out = np.zeros((count, 9), by_hit.dtype)
    for hit in range(len(hits)):
        for entry in range(9):
            out[hits[hit], entry] += by_hit[hit, entry]
    return out


# Arithmetic in one type: a Python number among float32 would make all of it float64


def _as(like: float, value: float) -> float:
    """`value` in the type of `like`."""
    return type(like)(value)


@overload(_as)
def _compile_as(like, value):
    if like == types.float32:
        return lambda like, value: np.float32(value)
    return lambda like, value: np.float64(value)


def _exp(x: float) -> float:
    """exp(x) for x <= 0."""
    return math.exp(x)


@overload(_exp)
def _compile_exp(x):
    return _short_exp if x == types.float32 else lambda x: math.exp(x)


def _short_exp(x):
    """
    exp(x) in float32 to two units in the last place, for -87 <= x <= 0; what is beyond is moved there.

    2^n exp(r) with |r| <= ln(2) / 2 and Taylor's polynomial: unlike the library's, a compiler makes vectors of it.
    """
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    n = np.floor(x * LOG2E + HALF)
    r = x - n * LN2_HIGH - n * LN2_LOW
    p = TAYLOR[0]
    for k in range(1, 8):
        p = p * r + TAYLOR[k]
    bits = (np.int32(n) + np.int32(127)) << np.int32(23)
    return p * np.int32(bits).view(np.float32)
