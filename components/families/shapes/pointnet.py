"""
PointNet: a set of points, classified by the maximum over per-point features.

Paper       Qi, Su, Mo, Guibas, CVPR 2017, arXiv 1612.00593
Reference   github charlesq34/pointnet @2618f72; github yanx27/Pointnet_Pointnet2_pytorch @eb64fe0
Size        3,471,473 parameters at paper(): 40 classes, xyz, both T-nets, the trunk 64 | 128, 1024 of yanx27's port;
            the authors' trunk 64, 64 | 64, 128, 1024 is authors(), with 3,480,049
Run         rayfield run classify --family pointnet --size tiny
Expect      tiny, bundled furniture, 303 to 322 shapes to learn from, 64 s of one CPU: 0.714 +- 0.015 of the test
            shapes (mean and standard error of 5 folds). The largest class alone gives 0.158, a random forest
            0.677 +- 0.017: below it in three folds of five, equal to it in two.
            paper: 0.892 on ModelNet40, which was not run here
Workers     normalisation uses each worker's own rows, and dropout draws anew on each: several workers differ from one
"""

# B clouds, N points, C channels, K classes

from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components import search_space
from components.constraints import AtLeast, Between, Count, NotNegative, Positive, Share
from components.family import Batch, Classifier, Phase, Picture, State
from components.representation import Representation
from components.representations.points import Points


class PointNet(Classifier):
    stored: Count = 2048
    """points of each shape in the table, at least 1; wise from `points` on"""
    points: Count = 1024
    """points drawn from those for an update; as many, the first, when it answers"""
    width: Positive = 1.0
    """multiplies the channels of every layer but the last, above 0"""
    deep: bool = False
    """whether the trunk has the two more layers of the authors' code"""
    transforms: Literal["none", "input", "both"] = "both"
    """which T-nets there are: of the points, and of their features"""
    orthogonality: NotNegative = 1e-3
    """weight of the term that keeps the feature transform near a rotation, at least 0"""
    dropout: Share = 0.3
    """share of units dropped from both hidden layers of the head, 0 to 1"""
    decay: NotNegative = 0.0
    """weight decay, at least 0"""
    fall: Share = 0.7
    """factor of the learning rate at each stage, 0 to 1"""
    stage: Count = 200_000
    """samples from one fall of the learning rate, and of the normalisation's momentum, to the next"""
    turn: Annotated[float, Between(0, 180)] = 180.0
    """largest rotation about the up axis in training, degrees"""
    jitter: NotNegative = 0.01
    """standard deviation of the noise on points in training, radii of the shape; cut at five of it"""
    stretch: Annotated[float, AtLeast(1)] = 1.0
    """largest scale along each axis in training, at least 1; the smallest is its inverse"""

    @classmethod
    def paper(cls) -> Self:
        """250 passes over ModelNet40's 9,840 shapes in batches of 32."""
        return cls(classes=40, lr=1e-3, batch=32, steps=76_875)

    @classmethod
    def authors(cls) -> Self:
        """`paper()` with the trunk of the authors' code."""
        return replace(cls.paper(), deep=True)

    @classmethod
    def tiny(cls) -> Self:
        """A quarter of the width, 256 points, no feature transform: on 300 shapes it costs more than it gives."""
        known = cls(stored=1024, points=256, width=0.25, transforms="input", turn=0.0, stretch=1.25, smoothing=0.1)
        return replace(known, lr=2e-3, steps=450, stage=4000)

    def representation(self) -> Representation:
        return Points(count=self.stored)

    def network(self) -> nn.Module:
        return Net(self.classes, self.width, self.transforms, self.deep, self.dropout)

    def optimizers(self, net: nn.Module, phase: Phase) -> dict[str, torch.optim.Optimizer]:
        return {"main": torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=self.decay)}

    def schedule(self, group: str, step: int) -> float:
        """The official staircase, which ends at a hundredth."""
        return max(0.01, self.fall ** (step * self.batch // self.stage))

    def momentum(self, step: int) -> float:
        """
        How much normalisation takes from a batch: 0.5, halved at each stage, at least 0.01.

        TensorFlow's decay is one minus this. With torch's constant 0.1 the running statistics lag early in training.
        """
        return max(0.01, 0.5 * 0.5 ** (step * self.batch // self.stage))

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A random subset of the stored points, turned about Y, stretched, and moved a little."""
        points, row = batch["points"], batch["row"]  # [B, N, 3]

        def draw(*shape: int) -> Tensor:
            return torch.rand(self.batch, *shape, generator=generator, device=generator.device)[row]

        chosen = draw(points.shape[1]).argsort(1)[:, : self.points]
        points = points.take_along_dim(chosen[..., None], 1)
        angle = (2 * draw() - 1) * (self.turn * torch.pi / 180)
        scale = self.stretch ** (2 * draw(1, 3) - 1)
        noise = torch.randn(self.batch, self.points, 3, generator=generator, device=generator.device)[row]
        points = rotated(points, angle) * scale + self.jitter * noise[:, : points.shape[1]].clamp(-5, 5)
        return {**batch, "points": points.to(batch["points"].dtype)}

    def logits(self, net: nn.Module, batch: Batch) -> Tensor:
        return net(self._given(batch)).logits

    def loss(self, net: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        answer = net(self._given(batch))
        entropy = F.cross_entropy(answer.logits, batch["label"], label_smoothing=self.smoothing)
        # The authors sum the term over the batch, so it grows with it. Written as the global batch times a mean over
        # rows, it is a mean like the rest, and workers that average their gradients do as one does.
        term = self.batch * irregularity(answer.transform).mean()
        right = (answer.logits.argmax(1) == batch["label"]).float().mean()
        parts = {"entropy": entropy.detach(), "irregularity": term.detach(), "accuracy": right}
        return entropy + self.orthogonality * term, parts

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        for module in state.net.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = self.momentum(state.step)
        return super().update(state, batch)

    def features(self, net: Any, batch: Batch) -> Tensor:
        """The global feature: the maximum over points, [B, C]."""
        return net(self._given(batch)).feature

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        return {**super().figures(net, batch), "critical_points": self.critical_points(net, batch)}

    def critical_points(self, net: Any, batch: Batch, *, shapes: int = 6) -> Picture:
        """Front views: grey, every point; red, those that alone decide the global feature."""
        from components.plotting.figures import figure

        shapes = min(shapes, len(batch["label"]))
        points = self._given(batch)[:shapes]
        most, winners = net.pointwise(points).values.cpu().max(2)  # [B, C]
        made, axes = figure(2.2 * shapes, 2.6, ncols=shapes, squeeze=False)
        for place, axis in enumerate(axes.flat):
            cloud, label = points[place].cpu().numpy(), int(batch["label"][place])
            critical = (
                winners[place, most[place] > 0].unique().numpy()
            )  # a channel that is zero everywhere has no winner
            axis.scatter(cloud[:, 0], cloud[:, 1], s=4, color="#ccc", linewidths=0)
            axis.scatter(*cloud[critical, :2].T, s=6, color="#c22", linewidths=0)
            axis.set_title(f"{self.named(label)}: {len(critical)}", fontsize=9)
            axis.set_aspect("equal")
            axis.set_axis_off()
        made.suptitle(f"critical points among {points.shape[1]}", fontsize=9)
        return made

    def shortened(self, steps: int) -> Self:
        return replace(super().shortened(steps), stage=max(1, round(self.stage * steps / self.steps)))

    def space(self) -> dict[str, search_space.Domain]:
        return {
            "lr": search_space.loguniform(1e-4, 5e-3),
            "orthogonality": search_space.loguniform(1e-5, 1e-2),
            "dropout": search_space.uniform(0.2, 0.6),
            "jitter": search_space.uniform(0, 0.03),
            "smoothing": search_space.uniform(0, 0.2),
            "transforms": search_space.choice("none", "input", "both"),
        }

    def _given(self, batch: Batch) -> Tensor:
        return batch["points"][:, : self.points]


class Answer(NamedTuple):
    """The network's outputs for a batch of clouds."""

    logits: Tensor  # [B, K]
    feature: Tensor  # [B, C]
    transform: Tensor  # [B, 64, 64] of the features; the identity where there is no such T-net


class Pointwise(NamedTuple):
    """The outputs for every point."""

    values: Tensor  # [B, C, N]
    transform: Tensor  # [B, 64, 64]


class Net(nn.Module):
    """Two T-nets, a perceptron shared by all points, a maximum, and three full layers."""

    def __init__(self, classes: int, width: float, transforms: str, deep: bool, dropout: float) -> None:
        super().__init__()
        low, middle, high, wide, narrow = (max(8, round(c * width / 8) * 8) for c in (64, 128, 1024, 512, 256))
        extra = [low] if deep else []
        sizes = (low, middle, high, wide, narrow)
        self.turn_points = TNet(3, *sizes) if transforms != "none" else None
        self.lower = shared(3, low, *extra)
        self.turn_features = TNet(low, *sizes) if transforms == "both" else None
        self.upper = shared(low, *extra, middle, high)
        self.head = nn.Sequential(
            *full(high, wide), nn.Dropout(dropout), *full(wide, narrow), nn.Dropout(dropout), nn.Linear(narrow, classes)
        )

    def forward(self, points_BN3: Tensor) -> Answer:
        values, transform = self.pointwise(points_BN3)
        feature = values.amax(2)
        return Answer(self.head(feature), feature, transform)

    def pointwise(self, points_BN3: Tensor) -> Pointwise:
        """The features of every point, before the maximum."""
        x = points_BN3.transpose(1, 2)  # [B, 3, N]
        if self.turn_points is not None:
            x = turn(x, self.turn_points(x))
        x = self.lower(x)  # [B, 64, N]
        transform = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        if self.turn_features is not None:
            transform = self.turn_features(x)
            x = turn(x, transform)
        return Pointwise(self.upper(x), transform)


class TNet(nn.Module):
    """A small PointNet that answers with a matrix, at first the identity, whatever it is given."""

    def __init__(self, channels: int, low: int, middle: int, high: int, wide: int, narrow: int) -> None:
        super().__init__()
        self.body = shared(channels, low, middle, high)
        self.head = nn.Sequential(*full(high, wide), *full(wide, narrow))
        self.last = nn.Linear(narrow, channels * channels)
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias.copy_(torch.eye(channels).flatten())

    def forward(self, x_BCN: Tensor) -> Tensor:
        channels = x_BCN.shape[1]
        return self.last(self.head(self.body(x_BCN).amax(2))).view(-1, channels, channels)


def shared(channels: int, *widths: int) -> nn.Sequential:
    """A perceptron that is the same at every point: [B, C, N] to [B, widths[-1], N]."""
    layers: list[nn.Module] = []
    for one, other in zip((channels, *widths), widths, strict=False):
        layers += [nn.Conv1d(one, other, 1), nn.BatchNorm1d(other), nn.ReLU()]
    return nn.Sequential(*layers)


def full(channels: int, width: int) -> list[nn.Module]:
    return [nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU()]


def turn(x_BCN: Tensor, matrix_BCC: Tensor) -> Tensor:
    """Points are rows in the paper, X @ T; here they are columns, so T is transposed."""
    return matrix_BCC.transpose(1, 2) @ x_BCN


def irregularity(matrix_BCC: Tensor) -> Tensor:
    """Half of ||A A^T - I||^2 for each matrix, [B]: the authors' `l2_loss` has the half."""
    difference = matrix_BCC @ matrix_BCC.transpose(1, 2) - torch.eye(matrix_BCC.shape[1]).to(matrix_BCC)
    return difference.square().sum((1, 2)) / 2


def rotated(points_BN3: Tensor, angle_B: Tensor) -> Tensor:
    """Each cloud turned about Y by its own angle, radians."""
    x, y, z = points_BN3.unbind(2)
    cos, sin = angle_B.cos()[:, None], angle_B.sin()[:, None]
    return torch.stack([cos * x + sin * z, y, cos * z - sin * x], 2)
