"""
Scores of pictures against the truth.
"""

# B pictures, H rows, W columns

import torch
from torch import Tensor

from components.layers.ssim import valid11


def rounded(pictures: Tensor) -> Tensor:
    """Pictures as a file would hold them: values from 0 to 1 in 255ths. What is scored is what could be stored."""
    return (pictures.clamp(0, 1) * 255).round() / 255


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """
    Peak signal to noise ratio of each picture, [B] in dB: -10 log10 of the mean squared error of values from 0 to 1.

    Average these, and not the errors: over pictures with errors 1e-4 and 1e-2 that gives 30 dB, not 23. A perfect
    picture has infinitely many; it counts as 100.
    """
    error = ((pictures - truth).double() ** 2).flatten(1).mean(1)
    return -10 * torch.log10(error.clamp_min(1e-10))


def ssim_valid11(pictures: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each picture [B, H, W, 3], [B]: an 11 x 11 Gaussian window, within the picture only."""
    return valid11(pictures.double(), truth.double())
