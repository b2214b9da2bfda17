"""Structural similarity against definitions written differently."""

import pytest
import torch
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from components.layers.ssim import padded, valid11
from components.metrics.images import psnr, rounded, ssim_valid11


def pair(height=24, width=30, noise=0.1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    one = torch.stack([(x / 4).sin(), (y / 5).cos(), ((x + y) / 7).sin()], -1)[None].to(dtype) * 0.4 + 0.5
    return one, (one + noise * torch.randn(one.shape, generator=generator, dtype=dtype)).clamp(0, 1)


def by_skimage(one, other):
    """scikit-image with the settings of Wang et al.; it scores the places whose window fits."""
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return structural_similarity(one[0].numpy(), other[0].numpy(), channel_axis=2, **settings)


def by_windows(one, other, y, x):
    """The similarity at one place, by the definition, zeros beyond the border."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for channel in range(3):
        a, b = (
            torch.nn.functional.pad(p[0, :, :, channel], (5, 5, 5, 5))[y : y + 11, x : x + 11] for p in (one, other)
        )
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * a * a).sum() - mean_a**2, (window * b * b).sum() - mean_b**2
        both = (window * a * b).sum() - mean_a * mean_b
        light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        found.append(light * (2 * both + 9e-4) / (var_a + var_b + 9e-4))
    return torch.stack(found).mean()


def test_the_valid_variant_is_that_of_scikit_image():
    one, other = pair()
    assert float(valid11(one, other)) == pytest.approx(by_skimage(one, other), abs=1e-9)
    assert float(ssim_valid11(one, other)) == pytest.approx(by_skimage(one, other), abs=1e-9)


def test_the_padded_variant_takes_zeros_from_beyond_the_border():
    one, other = pair(12, 13)
    truth = torch.stack([by_windows(one, other, y, x) for y in range(12) for x in range(13)]).mean()
    assert_close(padded(one, other)[0], truth, rtol=0, atol=1e-12)


def test_the_variants_differ():
    one, other = pair()
    assert abs(float(padded(one, other) - valid11(one, other))) > 0.01


@pytest.mark.parametrize("ssim", [padded, valid11])
def test_a_picture_is_like_itself_and_less_like_others(ssim):
    one, other = pair()
    assert_close(ssim(one, one), torch.ones(1, dtype=one.dtype))
    assert ssim(one, other) < 0.95
    assert_close(ssim(one, other), ssim(other, one))


@pytest.mark.parametrize("ssim", [padded, valid11])
def test_its_gradient_is_that_of_finite_differences(ssim):
    one, other = pair(11, 12)
    assert torch.autograd.gradcheck(lambda p: ssim(p, other), one.requires_grad_())


def test_pictures_are_scored_one_by_one():
    one, other = pair()
    both = padded(torch.cat([one, one]), torch.cat([one, other]))
    assert_close(both, torch.cat([padded(one, one), padded(one, other)]))


def test_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="11 rows and columns at least"):
        valid11(*pair(10, 20))


def test_psnr_is_averaged_over_pictures_and_not_over_errors():
    truth = torch.zeros(2, 4, 4, 3)
    pictures = torch.stack([torch.full((4, 4, 3), 0.01), torch.full((4, 4, 3), 0.1)])
    assert_close(psnr(pictures, truth), torch.tensor([40.0, 20.0], dtype=torch.float64), rtol=0, atol=1e-4)
    assert psnr(truth, truth).tolist() == [100.0, 100.0]


def test_pictures_are_scored_as_they_would_be_stored():
    assert_close(rounded(torch.tensor([-0.2, 0.4999 / 255, 1.5])), torch.tensor([0.0, 0.0, 1.0]))
    assert_close(rounded(torch.tensor([100.4 / 255])), torch.tensor([100 / 255]))
