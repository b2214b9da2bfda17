"""Blending in tiles, against every Gaussian at every pixel in torch."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from components.kernels import splatting
from components.layers.splats import STANDARD, Flat, Limits, extents, rasterize
from tests.benchmarks.splatting import rasterize_by_tiles_in_torch, rasterize_by_torch, scene

NAMES = ("centers", "conics", "opacities", "colors", "background")


def gradients(rasterizer, made, limits=STANDARD):
    """The picture, the transmittance, and the gradient of a lopsided sum of both by everything."""
    flat, opacities, colors, background, camera = made
    leaves = [leaf.detach().clone().requires_grad_() for leaf in (*flat[:2], opacities, colors, background)]
    color, rest = rasterizer(Flat(*leaves[:2], flat.depths), *leaves[2:], camera, limits)[:2]
    weights = torch.arange(color.numel(), dtype=color.dtype).view(color.shape).sin()
    (color * weights + rest[:, :, None] * weights.cos()).sum().backward()
    return color.detach(), rest.detach(), {name: leaf.grad for name, leaf in zip(NAMES, leaves, strict=True)}


@pytest.mark.parametrize("limits", [STANDARD, Limits(cut=0, least=0), Limits(most=0.5)])
@pytest.mark.parametrize("twin", [rasterize_by_torch, rasterize_by_tiles_in_torch])
def test_blends_as_torch_does_and_so_does_the_gradient(limits, twin):
    made = scene(200, 40, 33, dtype=torch.float64)
    assert_close(gradients(rasterize, made, limits), gradients(twin, made, limits), rtol=1e-9, atol=1e-9)


def test_blends_in_single_precision():
    made, double = scene(200, 48, 48), scene(200, 48, 48, dtype=torch.float64)
    limits = Limits(cut=0, least=0)  # a cut may fall on either side of a rounded number
    color, rest, found = gradients(rasterize, made, limits)
    truth, left, right = gradients(rasterize_by_torch, double, limits)
    assert_close(color.double(), truth, rtol=0, atol=3e-5)
    assert_close(rest.double(), left, rtol=0, atol=3e-5)
    for name, value in found.items():
        assert float((value.double() - right[name]).norm() / right[name].norm()) < 1e-4, name


def test_pixels_end_where_little_would_shine_through():
    """Many opaque layers: without the rule of the least transmittance the pictures would differ."""
    made = scene(400, 32, 32, dtype=torch.float64)
    made = (made[0], made[1] * 0 + 0.95, *made[2:])
    color, rest, _ = gradients(rasterize, made)
    assert_close((color, rest), gradients(rasterize_by_torch, made)[:2], rtol=1e-9, atol=1e-9)
    assert STANDARD.least <= rest.min() < 20 * STANDARD.least
    assert gradients(rasterize, made, Limits(least=0))[1].min() < STANDARD.least / 10


@pytest.mark.parametrize("tile", [32, 64])
def test_the_picture_does_not_depend_on_the_size_of_tiles(tile):
    made = scene(300, 50, 70)
    one, other = gradients(rasterize, made), gradients(rasterize, made, Limits(tile=tile))
    assert_close(one[:2], other[:2], rtol=0, atol=0)
    assert_close(one[2], other[2], rtol=1e-4, atol=1e-4)


def test_threads_change_nothing(monkeypatch):
    made = scene(300, 64, 64)
    monkeypatch.setattr(splatting, "SHARE", 1)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(rasterize, made))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert_close(found[1], found[0], rtol=0, atol=0)
    assert_close(found[2], found[0], rtol=0, atol=0)


def test_the_order_of_gaussians_does_not_matter():
    flat, opacities, colors, background, camera = scene(300, 48, 48)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    shuffled = Flat(*(part[order] for part in flat)), opacities[order], colors[order], background, camera
    one, other = gradients(rasterize, (flat, opacities, colors, background, camera)), gradients(rasterize, shuffled)
    assert_close(one[:2], other[:2], rtol=0, atol=0)
    assert_close(one[2]["centers"][order], other[2]["centers"], rtol=0, atol=0)


def test_gaussians_of_equal_depth_are_blended_by_their_row():
    flat, opacities, colors, background, camera = scene(40, 16, 16, dtype=torch.float64)
    made = flat._replace(depths=torch.ones_like(flat.depths)), opacities, colors, background, camera
    assert_close(gradients(rasterize, made), gradients(rasterize_by_torch, made), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_hold_every_gaussian_that_reaches_a_pixel_of_theirs(dtype):
    """Those left out would have changed nothing: with tiles that hold everything the picture is the same."""
    made = scene(200, 64, 64, dtype=dtype)
    flat, opacities, colors, background, camera = made
    splats = torch.cat([*flat[:2], opacities[:, None], colors], 1).numpy()
    everywhere = np.full((200, 2), 1e6, splats.dtype)
    reach = extents(flat, opacities, STANDARD.cut).numpy()
    few, all_ = (splatting.tile(splats, flat.depths.numpy(), e, 64, 64) for e in (reach, everywhere))
    settings = {"cut": STANDARD.cut, "most": STANDARD.most, "least": STANDARD.least}
    one, other = (splatting.blend(splats, tiles, background.numpy(), **settings) for tiles in (few, all_))
    assert len(few.splats) < len(all_.splats) == 200 * 16
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_leaves_out_what_is_no_number_and_what_is_elsewhere():
    flat, opacities, colors, background, camera = scene(4, 16, 16)
    flat.centers[0, 0], flat.conics[1, 1] = torch.nan, torch.inf
    flat.centers[2] = torch.tensor([500.0, 8.0])
    flat.depths[3] = 0
    picture = rasterize(flat, opacities, colors, background, camera)
    assert_close(picture.color, background.expand(16, 16, 3), rtol=0, atol=0)
    assert not picture.visible[1:].any()


def test_nothing_shows_the_background():
    flat, opacities, colors, background, camera = scene(0, 20, 20)
    color, rest, found = gradients(rasterize, (flat, opacities, colors, background, camera))
    assert_close(color, background.expand(20, 20, 3), rtol=0, atol=0)
    assert (rest == 1).all()
    assert found["centers"].shape == (0, 2)


def test_short_exp_is_exact_to_two_units_in_the_last_place():
    x = -np.concatenate([np.linspace(0, 6, 20_001), np.linspace(6, 87, 20_001)]).astype(np.float32)
    found = np.array([splatting._short_exp(value) for value in x], np.float64)
    truth = np.exp(x.astype(np.float64))
    assert np.abs(found / truth - 1).max() < 2 * np.finfo(np.float32).eps
    assert splatting._short_exp(np.float32(-1e30)) < 2e-38


def test_refuses_a_tile_that_no_vector_fits():
    with pytest.raises(ValueError, match="multiple of 16, but got 20"):
        rasterize(*scene(4, 16, 16), Limits(tile=20))
