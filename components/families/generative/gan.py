"""
DCGAN: a generator learns pictures from a discriminator that learns to tell them from real ones.

    min_G max_D  E log D(x) + E log(1 - D(G(z)))

Each stabilisation of the lecture notes (7.4) is a field; `diagnose` reads the training curves that result (7.3).

Paper       Goodfellow et al. 2014, arXiv 1406.2661; Radford, Metz, Chintala 2016, arXiv 1511.06434
Reference   github pytorch/examples/dcgan @77f55b9
Size        6,342,272 parameters at paper(), 64 pixels: generator 3,576,704, discriminator 2,765,568
Run         rayfield run imagine --size tiny
Expect      tiny, 3,000 updates in 100 CPU seconds, one seed: kid_random 0.011 +- 0.005 on 1,128 unseen views of 94
            pieces of furniture. On the 1,140 views of 95 pieces that version 0.2 held out:

    kid_random           fd_random        what it is
    0.0045 +- 0.0033     0.26 +- 0.10     tiny()
    0.0008 +- 0.0018     0.10 +- 0.06     views of other pieces: no model is expected below
    0.0526 +- 0.0101     1.50 +- 0.18     a Gaussian over 50 principal components
    0.1280 +- 0.0108     5.81 +- 0.26     a Gaussian of every pixel

            Errors leave out a twentieth of the views at a time, not the seed. Halves of the unseen pieces are 0.0056
            apart: kid_random cannot tell tiny() from real. ImageNet's features can, of 400 views: kid_effl0 is 0.57,
            beside 0.01 of other pieces and 1.73 of 20 principal components. Outlines and colours are furniture's;
            parts and edges are not.
Workers     BatchNorm uses the statistics of a worker's own rows, so a result depends on the number of workers
"""

# B pictures, Z entries of the noise, C channels, H rows, W columns

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from components import search_space
from components.constraints import Between, Count, NotNegative, Positive, Share
from components.errors import DataError
from components.family import Batch, Family, Goal, Phase, Picture, State
from components.metrics.extractors import Judged, compared, distances, features_of, names, random_features
from components.representation import Representation
from components.representations.views import Views
from components.table import Rows

Norm = Literal["batch", "spectral", "none"]

# where `diagnose` draws its lines
WON = 0.97  # share of both kinds of pictures that the discriminator gets right
LOST = 0.4
COLLAPSED = 0.5  # deviation of samples, as a share of the data's


class Gan(Family):
    lr: Positive = 2e-4
    """learning rate of the generator, above 0"""
    lr_d: Positive = 2e-4
    """learning rate of the discriminator, above 0"""
    batch: Count = 128
    """pictures of an update, over all workers together; with n_disc > 1, of each step of the discriminator"""
    size: Literal[8, 16, 32, 64, 128, 256] = 64
    """pixels along a side"""
    views: Count = 12
    """pictures of each shape, at least 1"""
    width: Count = 64
    """channels next to the picture, in both networks; they double with each halving of the side"""
    z: Count = 100
    """entries of the noise, at least 1"""
    noise: Literal["gaussian", "uniform"] = "gaussian"
    """what the noise is drawn from: N(0, 1), or from -1 to 1"""
    output: Literal["tanh", "sigmoid"] = "tanh"
    """the generator's last function, and with it the range of all pictures: -1 to 1, or 0 to 1"""
    slope: NotNegative = 0.0
    """slope below 0 of the generator's units: 0 is the paper's ReLU, 0.2 the LeakyReLU of the lecture notes"""
    norm_d: Norm = "batch"
    """what keeps the discriminator in bounds: the paper's BatchNorm, spectral normalisation, or nothing"""
    objective: Literal["heuristic", "minimax"] = "heuristic"
    """what the generator does: maximise log D(G(z)), or minimise log(1 - D(G(z))), which vanishes when D is sure"""
    smoothing: Annotated[float, Between(0, 0.5)] = 0.0
    """one-sided: the discriminator is told 1 - smoothing of real pictures, and 0 of made ones; 0 to 0.5"""
    optimizer_d: Literal["adam", "sgd"] = "adam"
    """the discriminator's optimizer; sgd wants 100 times the learning rate"""
    beta1: Share = 0.5
    """Adam's first decay, and the momentum of sgd; 0 to 1"""
    r1: NotNegative = 0.0
    """weight of the squared gradient of D at real pictures (Mescheder et al. 2018), half of it; at least 0"""
    n_disc: Count = 1
    """steps of the discriminator, each on pictures of its own, to one of the generator; at least 1"""
    separate: bool = True
    """whether D sees real and made pictures in two passes: in one, BatchNorm mixes their statistics"""
    mirror: bool = True
    """whether half of the training pictures are reflected, left to right"""
    ema: Share = 0.0
    """
    share of the averaged generator that an update keeps, 0 to 1; 0 keeps no average.

    The lecture notes average D. The practice averages G, and only G of the averaged network is ever used here.
    """

    goal: ClassVar[Goal] = Goal("kid_random", "min")
    scores: ClassVar[tuple[str, ...]] = names("random")
    watched: ClassVar[tuple[str, ...]] = ("samples",)

    @classmethod
    def paper(cls) -> Self:
        """The paper's network and rates; 25 passes over 200,000 pictures, as they are."""
        return cls(steps=39_000, mirror=False)

    @classmethod
    def tiny(cls) -> Self:
        return cls(size=32, width=16, z=64, batch=32, steps=3000, lr=1e-3, lr_d=4e-4, ema=0.995, slope=0.2)

    def representation(self) -> Representation:
        return Views(count=self.views, size=self.size)

    def adapt(self, rows: Rows) -> Self:
        """With the size of the pictures that there are."""
        return replace(self, size=rows["color"].shape[1])

    def network(self) -> nn.Module:
        return Net(self.size, self.width, self.z, slope=self.slope, output=self.output, norm=self.norm_d)

    def phases(self) -> Sequence[Phase]:
        return [Phase("train", self.steps, batch=self.batch * self.n_disc, columns=("color",))]

    def optimizers(self, net: nn.Module, phase: Phase) -> dict[str, torch.optim.Optimizer]:
        made, judged = net.generator.parameters(), net.discriminator.parameters()
        adam = torch.optim.Adam(made, self.lr, (self.beta1, 0.999))
        if self.optimizer_d == "sgd":
            return {"generator": adam, "discriminator": torch.optim.SGD(judged, self.lr_d, momentum=self.beta1)}
        return {"generator": adam, "discriminator": torch.optim.Adam(judged, self.lr_d, (self.beta1, 0.999))}

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.mirror:
            return batch
        drawn = torch.rand(self.batch * self.n_disc, generator=generator, device=generator.device)
        mirrored = (drawn < 0.5)[batch["row"], None, None, None]
        return {**batch, "color": torch.where(mirrored, batch["color"].flip(2), batch["color"])}

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """`n_disc` steps of D, then one of G against the D that results, on the last pictures that D was shown."""
        real, turn = self.scaled(batch["color"]), batch["row"] // self.batch
        z = self.draw(self.batch * self.n_disc, state.generator)[batch["row"]]  # [B, Z]
        for one in range(self.n_disc):
            fake = state.net.generator(z[turn == one])
            judged = self.discriminate(state, real[turn == one], fake.detach())
        return {**judged, **self.deceive(state, fake)}

    def discriminate(self, state: State, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator. `fake` is without history, so the generator is not touched."""
        net, optimizer = state.net.discriminator, state.optimizers["discriminator"]
        real.requires_grad_(self.r1 > 0)
        on_real, on_fake = (net(real), net(fake)) if self.separate else net(torch.cat([real, fake])).split(len(real))
        loss = discriminator_loss(on_real, on_fake, self.smoothing)
        penalty = gradient_penalty(on_real, real) if self.r1 else torch.zeros(())
        optimizer.zero_grad()
        (loss + self.r1 / 2 * penalty).backward()
        optimizer.step()
        return {
            "discriminator_loss": loss.detach(),
            "real_accuracy": (on_real > 0).float().mean(),
            "fake_accuracy": (on_fake < 0).float().mean(),
            "data_std": real.detach().std(0, correction=0).mean(),
            "sample_std": fake.std(0, correction=0).mean(),
            "r1": penalty.detach(),
        }

    def deceive(self, state: State, fake: Tensor) -> dict[str, Tensor]:
        """One step of the generator, through a discriminator that takes no gradients."""
        optimizer = state.optimizers["generator"]
        with frozen(state.net.discriminator):
            loss = generator_loss(state.net.discriminator(fake), self.objective)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {"generator_loss": loss.detach()}

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise, [count, Z]."""
        shape, device = (count, self.z), generator.device
        if self.noise == "uniform":
            return torch.rand(shape, generator=generator, device=device) * 2 - 1
        return torch.randn(shape, generator=generator, device=device)

    def scaled(self, color: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> [B, 3, H, W] in the range of the generator's output."""
        unit = color.permute(0, 3, 1, 2) / 255
        return unit * 2 - 1 if self.output == "tanh" else unit

    def pictures(self, net: nn.Module, z: Tensor) -> Tensor:
        """Pictures that the generator makes of noise [B, Z]: uint8 [B, H, W, 3], rounded as real pictures are."""
        x = net.generator(z)
        if x.isnan().any():  # which a byte cannot hold: it would be black, and be judged as a picture
            raise DataError("Pictures must be numbers, but the generator makes NaN. Lower lr and lr_d, or set clip.")
        unit = (x + 1) / 2 if self.output == "tanh" else x
        return (unit * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def noise_of(self, index: Tensor) -> Tensor:
        """The noise that belongs to rows [B], [B, Z]: always the same, so that trials and steps compare."""
        # not from `id`, which the views of a shape share
        drawn = [self.draw(1, torch.Generator().manual_seed(seed)) for seed in index.tolist()]
        return torch.cat(drawn).to(index.device)

    def made(self, net: nn.Module, batch: Batch) -> Tensor:
        """A sample for each row, uint8 [B, H, W, 3]."""
        return self.pictures(net, self.noise_of(batch["index"]))

    def metrics(self, net: nn.Module, batch: Batch) -> dict[str, Any]:
        return compared(batch["color"], self.made(net, batch), random_features())

    def score(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """How far the samples are from the rows; neither loss says how good they are."""
        return distances(totals, "random")

    def diagnose(self, curves: Mapping[str, Sequence[float]]) -> list[str]:
        return diagnose(curves)

    def judged_by(self, family: Family, net: nn.Module) -> Judged:
        """Scores of `evaluate` when it is given another checkpoint, whose features also compare."""
        return Judged(self, features_of(family, net))

    def predict(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """`color` [B, H, W, 3], uint8, from noise `z` [B, Z]; of rows without, from the noise of their places."""
        z = batch["z"].to(torch.get_default_dtype()) if "z" in batch else self.noise_of(batch["index"])
        return {"color": self.pictures(net, z)}

    def example(self, rows: Rows) -> Batch:
        batch = rows.batch([0, 1], columns=())
        return {**batch, "z": self.noise_of(batch["index"])}

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        """Always from the same noise: the sheets of several steps show one sample growing up."""
        from components.plotting.figures import contact_sheet

        z = self.noise_of(torch.arange(64, device=batch["index"].device))
        between = torch.stack([slerp(z[:6], z[6:12], t) for t in np.linspace(0, 1, 8)], 1)  # [6, 8, Z]
        samples, real = self.pictures(net, z), batch["color"][:16]
        sheets = {
            "samples": samples,
            "interpolation": self.pictures(net, between.flatten(0, 1)),
            "real above made": torch.cat([real, samples[: len(real)]]),
        }
        large = {name: sheet.repeat_interleave(2, 1).repeat_interleave(2, 2) for name, sheet in sheets.items()}
        return {name: contact_sheet(sheet.cpu().numpy()) for name, sheet in large.items()}

    def space(self) -> dict[str, search_space.Domain]:
        return {
            "lr": search_space.loguniform(1e-4, 2e-3),
            "lr_d": search_space.loguniform(1e-4, 2e-3),
            "beta1": search_space.choice(0.0, 0.5, 0.9),
            "smoothing": search_space.choice(0.0, 0.1, 0.2),
            "r1": search_space.choice(0.0, 0.1, 1.0),
            "ema": search_space.choice(0.0, 0.99, 0.999),
        }


class Net(nn.Module):
    """Both networks. Called, it answers with what the generator makes."""

    def __init__(self, size: int, width: int, z: int, *, slope: float, output: str, norm: Norm) -> None:
        super().__init__()
        halvings = size.bit_length() - 3  # from `size` down to 4
        channels = [width * 2**level for level in range(halvings)]
        self.generator = Generator(channels[::-1], z, slope, output)
        self.discriminator = Discriminator(channels, norm)
        self.apply(_initialize)
        if norm == "spectral":
            for module in [m for m in self.discriminator if isinstance(m, nn.Conv2d)]:
                spectral_norm(module)

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)


class Generator(nn.Sequential):
    """Noise [B, Z] -> pictures [B, 3, H, W]: transposed convolutions, each doubling the side."""

    def __init__(self, channels: Sequence[int], z: int, slope: float, output: str) -> None:
        layers: list[nn.Module] = [nn.Unflatten(1, (z, 1, 1))]
        for level, (inward, outward) in enumerate(zip([z, *channels], channels, strict=False)):
            stride, padding = (2, 1) if level else (1, 0)
            layers.append(nn.ConvTranspose2d(inward, outward, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(outward), nn.LeakyReLU(slope) if slope else nn.ReLU()]
        last = nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1, bias=False)
        super().__init__(*layers, last, nn.Tanh() if output == "tanh" else nn.Sigmoid())


class Discriminator(nn.Sequential):
    """Pictures [B, 3, H, W] -> logits [B], above 0 for real: convolutions, each halving the side."""

    def __init__(self, channels: Sequence[int], norm: Norm) -> None:
        layers: list[nn.Module] = []
        for level, (inward, outward) in enumerate(zip([3, *channels], channels, strict=False)):
            layers.append(nn.Conv2d(inward, outward, 4, 2, 1, bias=False))
            if norm == "batch" and level > 0:
                layers.append(nn.BatchNorm2d(outward))
            layers.append(nn.LeakyReLU(0.2))
        super().__init__(*layers, nn.Conv2d(channels[-1], 1, 4, bias=False), nn.Flatten(0))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def discriminator_loss(on_real: Tensor, on_fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits against 1 - smoothing for real and 0 for made; smoothing both sides keeps bad modes."""
    return (F.softplus(-on_real) + smoothing * on_real).mean() + F.softplus(on_fake).mean()


def generator_loss(on_fake: Tensor, objective: str) -> Tensor:
    """-log D, whose gradient at a logit l is -sigmoid(-l); or log(1 - D), whose gradient -sigmoid(l) vanishes."""
    return F.softplus(-on_fake).mean() if objective == "heuristic" else -F.softplus(on_fake).mean()


def gradient_penalty(on_real: Tensor, real: Tensor) -> Tensor:
    """The mean squared norm of D's gradient at real pictures (R1)."""
    (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """While it is open, gradients pass through the network and stay in none of its parameters."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """
    From a to b [..., Z] along a great circle: the direction turns evenly, the radius changes evenly.

    A straight line between Gaussian samples passes through radii that never occur (White 2016, arXiv 1609.04468).
    """
    radius_a, radius_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    one, two = a / radius_a, b / radius_b
    angle = (one * two).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    turned = (((1 - t) * angle).sin() * one + (t * angle).sin() * two) / sine
    direction = torch.where(sine < 1e-4, (1 - t) * one + t * two, turned)
    return ((1 - t) * radius_a + t * radius_b) * direction


def diagnose(history: Mapping[str, Sequence[float]]) -> list[str]:
    """
    Faults of the curves that `update` logs, a sentence each; "healthy" where there is none.

    A value for each update, or for every so-manyth; judged is the last quarter. Falling losses are no sign of health.
    """
    curves = {name: np.asarray(values, np.float64) for name, values in history.items()}
    for name, values in curves.items():
        if not np.isfinite(values).all():
            return [f"diverged: {name} is not finite from value {np.argmin(np.isfinite(values))} on; lower lr and lr_d"]
    late = {name: float(values[-max(1, len(values) // 4) :].mean()) for name, values in curves.items()}
    least, most = sorted((late["real_accuracy"], late["fake_accuracy"]))
    variety = late["sample_std"] / max(late["data_std"], 1e-12)
    checks = {
        f"the discriminator wins: {least:.0%} right; lower lr_d, or raise smoothing or r1": least > WON,
        f"the discriminator is lost: {most:.0%} right; raise lr_d or n_disc": most < LOST,
        f"mode collapse: samples vary {variety:.0%} as much as data; raise r1, or lower lr": variety < COLLAPSED,
        "oscillation: the generator's loss swings to and fro; lower lr or beta1": swings(curves["generator_loss"]),
    }
    return [sentence for sentence, wrong in checks.items() if wrong] or ["healthy"]


def swings(values: np.ndarray) -> bool:
    """True if a curve, smoothed, passes from well above its level to well below it and back again, and again."""
    window = max(1, len(values) // 40)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    smooth = smooth[len(smooth) // 4 :]  # what comes first is on its way to the level
    away = smooth - np.median(smooth)
    sides = np.sign(away[np.abs(away) > 0.25 * abs(np.median(smooth))])
    return bool((np.diff(sides) != 0).sum() >= 4)
