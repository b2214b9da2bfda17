"""
sRGB and light: colours are kept as sRGB bytes, and multiply as linear light.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_linear(colors: NDArray[Any]) -> NDArray[np.float64]:
    """The light, 0 to 1, of sRGB from 0 to 255 (IEC 61966-2-1)."""
    unit = colors.astype(np.float64).clip(0, 255) / 255
    return np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)


def from_linear(light: NDArray[Any]) -> NDArray[np.float64]:
    """The sRGB, 0 to 1, of light from 0 to 1."""
    light = light.astype(np.float64).clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def product(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Two sRGB colours from 0 to 255, the one seen through the other."""
    return 255 * from_linear(to_linear(one) * to_linear(other))
