"""
Gaussian splatting: a scene as coloured Gaussians, fitted to its photographs, that multiply where detail is missing.

Paper       Kerbl, Kopanas, Leimkuehler, Drettakis, SIGGRAPH 2023, arXiv 2308.04079
Reference   github nerfstudio-project/gsplat (Apache-2.0); the authors' own program may not be used commercially
Size        5,900,000 parameters at paper(): 59 for each of the 100,000 Gaussians that it begins with
Run         rayfield run splat --size tiny
Expect      tiny: 24.7 +- 1.1 dB on 8 held-out views of the textured blendswap-cc-0/little-plant, SSIM 0.917, 2,000
            Gaussians (20.2 dB where pictures are not supersampled); paper: 33.3 dB over NeRF-synthetic's 8 scenes, not
            run here
Exempt      3: one scene is one fit, and scenes fan out
"""

# B views, N Gaussians, K harmonics, H rows, W columns

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from components import search_space
from components.constraints import Above, AtLeast, Between, Count, Natural, NotNegative, Positive, Share
from components.errors import UsageError
from components.family import Batch, Family, Goal, Phase, Picture, State
from components.layers import density, splat_ply, splats
from components.layers.ssim import padded
from components.metrics.images import psnr, rounded, ssim_valid11
from components.representation import Representation
from components.representations.views import Views
from components.table import Rows

WHITE = 1.0  # the background, in the pictures and in every rendering
CUBE = 1.3  # half the side of the cube that random Gaussians fill, in the shape's radii
FAINT = 0.1  # opacity to begin with
HUGE = 0.1  # of the extent: a larger Gaussian is removed, once opacities were reset


class Gaussians(Family):
    views: Annotated[int, AtLeast(4)] = 100
    """pictures of the scene, held-out ones included; at least 4"""
    size: Annotated[int, AtLeast(11)] = 128
    """rows and columns of each picture, pixels, at least 11"""
    hold_out: Annotated[int, AtLeast(2)] = 8
    """every so-manyth picture is held out, at least 2"""
    supersample: Count = 4
    """colour samples along each side of a pixel, at least 1: aliased pictures contradict each other"""
    init: Literal["depth", "random"] = "depth"
    """first Gaussians: on the surface that the training pictures' depth shows, or anywhere in the cube"""
    points: Annotated[int, AtLeast(4)] = 5000
    """Gaussians to begin with, at least 4; no more than pixels that see the shape"""
    extent: Positive = 1.0
    """radius of the cameras' ball, in the scene's lengths; read from the training split"""
    batch: Count = 1
    """pictures of an update, over all workers together, at least 1"""
    lr: Positive = 1.6e-4
    """learning rate of the means, in extents, above 0"""
    fall: Annotated[Positive, Between(0, 1)] = 0.01
    """what the means' learning rate has fallen to at the last update, exponentially; above 0, at most 1"""
    lr_color: Positive = 2.5e-3
    """learning rate of the constant harmonic, above 0; the others have a twentieth"""
    lr_opacity: Positive = 0.05
    """learning rate of the opacities' logits, above 0"""
    lr_scale: Positive = 5e-3
    """learning rate of the scales' logarithms, above 0"""
    lr_rotation: Positive = 1e-3
    """learning rate of the quaternions, above 0"""
    dssim: Share = 0.2
    """share of 1 - SSIM in the loss, 0 to 1; the rest is the mean absolute error"""
    sh_degree: Annotated[int, Between(0, 3)] = 3
    """largest degree of the harmonics, 0 (the same colour from all sides) to 3"""
    sh_every: Count = 1000
    """updates after which the degree grows by one, at least 1"""
    densify_gradient: NotNegative = 2e-4
    """mean gradient by a centre, per half picture width, above which a Gaussian multiplies; more for small pictures"""
    percent_dense: Positive = 0.01
    """scale, in extents, up to which a Gaussian is cloned and above which it is split; above 0"""
    split_factor: Annotated[float, Above(1)] = 1.6
    """what the scale of a split Gaussian's two halves is divided by, above 1"""
    prune_opacity: Share = 0.005
    """opacity below which a Gaussian is removed, 0 to 1"""
    refine_start: Count = 500
    """updates before Gaussians first multiply, at least 1"""
    refine_every: Count = 100
    """updates between one time and the next, at least 1"""
    refine_stop: Share = 0.5
    """share of all updates after which their number stays, 0 (it always does) to 1"""
    reset_every: Natural = 3000
    """updates between one reset of the opacities and the next; 0 for none"""
    reset_to: Positive = 0.01
    """opacity that a reset leaves at most, above 0"""
    max_gaussians: Count = 5_000_000
    """number above which Gaussians do not multiply, at least 1; wise above `points`"""

    goal: ClassVar[Goal] = Goal("psnr", "max")
    scores: ClassVar[tuple[str, ...]] = ("psnr", "ssim", "gaussians")
    cost: ClassVar[str] = "gaussians"
    one_asset: ClassVar[bool] = True

    @classmethod
    def paper(cls) -> Self:
        """The settings for NeRF-synthetic: 100 training pictures, no points to begin with."""
        return cls(views=200, size=800, hold_out=2, init="random", points=100_000, steps=30_000)

    @classmethod
    def tiny(cls) -> Self:
        """Few small pictures: gradients are larger, and opacities have no time to grow again after a reset."""
        cloud = cls(views=48, size=64, hold_out=6, points=1000, max_gaussians=2000, steps=1200, lr=1e-3, sh_degree=1)
        often = replace(cloud, sh_every=1, refine_start=100, refine_every=50, refine_stop=0.6, reset_every=0)
        return replace(often, densify_gradient=1e-3, prune_opacity=0.02, lr_scale=0.01, lr_rotation=0.01)

    # What it learns from

    def representation(self) -> Representation:
        return Views(count=self.views, size=self.size, hold_out=self.hold_out, supersample=self.supersample)

    def adapt(self, rows: Rows) -> Self:
        scenes = sorted(set(rows.ids))
        if len(scenes) != 1:
            raise UsageError(
                f"A splat is of one scene, but the training split has {len(scenes)}: {', '.join(scenes[:3])}... "
                "Fit one for each: `rayfield run splat` fans out over them."
            )
        centers = rows["camera_to_world"][:, :3, 3]
        extent = 1.1 * float((centers - centers.mean(0)).norm(dim=1).max())
        points = min(self.points, int((rows["mask"] > 0).sum())) if self.init == "depth" else self.points
        return replace(self, extent=extent, points=points)

    def network(self) -> nn.Module:
        if self.ema:
            raise UsageError("`ema` of gaussians must be 0: Gaussians that come and go have no average.")
        return Net(self.points, self.sh_degree)

    def initialize(self, net: nn.Module, rows: Rows, generator: torch.Generator) -> None:
        """Round Gaussians, as wide as the way to their three nearest."""
        found = surface if self.init == "depth" else scattered
        points, rgb = found(rows, self.points, generator)
        spread = torch.from_numpy(splats.nearest_distances(points.cpu().double().numpy())).to(points)
        with torch.no_grad():
            net.means.copy_(points)
            net.constant.copy_(splats.constant_of(rgb)[:, None])
            net.log_scales.copy_(spread.log()[:, None].expand(-1, 3))
            net.quaternions.copy_(points.new_tensor([1, 0, 0, 0]).expand(len(points), 4))
            net.logits.fill_(math.log(FAINT / (1 - FAINT)))

    # How it learns

    def optimizers(self, net: nn.Module, phase: Phase) -> dict[str, torch.optim.Optimizer]:
        rates = {
            "means": self.lr * self.extent,
            "constant": self.lr_color,
            "harmonics": self.lr_color / 20,
            "logits": self.lr_opacity,
            "log_scales": self.lr_scale,
            "quaternions": self.lr_rotation,
        }
        groups = [{"name": name, "params": [getattr(net, name)], "lr": rate} for name, rate in rates.items()]
        # a Gaussian's gradients are far smaller than the usual 1e-8, so that must not decide its steps
        return {"main": torch.optim.Adam(groups, eps=1e-15)}

    def schedule(self, group: str, step: int) -> float:
        return self.fall ** (step / self.steps) if group == "means" else 1.0

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        """A step down, then, at its time, a change in number; the optimizer's moments follow."""
        net, step = state.net, state.step
        (optimizer,) = state.optimizers.values()
        net.degree.fill_(min(self.sh_degree, step // self.sh_every))
        optimizer.zero_grad()
        losses, gradient, seen = self.descend(net, batch)
        optimizer.step()
        parts = {"cloned": 0, "split": 0, "pruned": 0}
        if step < self.refine_stop * self.steps:
            self.remember(state, gradient, seen)
            if step >= self.refine_start and step % self.refine_every == 0:
                parts = self.refine(state, optimizer)
            if self.reset_every and step and step % self.reset_every == 0:
                density.reset(net, optimizer, self.reset_to)
        logged = {**parts, "gaussians": len(net.means), "degree": int(net.degree)}
        return {"loss": losses.mean(), **{name: torch.tensor(float(value)) for name, value in logged.items()}}

    def descend(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Losses [B]; the sum over views of the gradient by each Gaussian's centre, [N]; how many views see it, [N]."""
        views = len(batch["index"])
        losses, gradient, seen = [], torch.zeros_like(net.logits), torch.zeros_like(net.logits)
        for view in range(views):
            camera = self.camera(batch, view)
            flat, picture = net(camera)
            flat.centers.retain_grad()
            loss = self.difference(picture.color, batch["color"][view])
            (loss / views).backward()
            losses.append(loss.detach())
            gradient += (flat.centers.grad * views * camera.width / 2).norm(dim=1) * picture.visible
            seen += picture.visible
        if not views:  # a worker without a view still takes part in the average
            for parameter in net.parameters():
                parameter.grad = torch.zeros_like(parameter)
        return torch.stack(losses) if losses else gradient.new_zeros(1), gradient, seen

    def difference(self, picture: Tensor, truth: Tensor) -> Tensor:
        """The loss of a picture [H, W, 3] against the truth, uint8."""
        truth = truth.to(picture.dtype) / 255
        similar = padded(picture[None], truth[None]).mean() if self.dssim else picture.new_zeros(())
        return (1 - self.dssim) * (picture - truth).abs().mean() + self.dssim * (1 - similar)

    def remember(self, state: State, gradient: Tensor, seen: Tensor) -> None:
        """Add to the sums since the last refinement: the same on every worker, so that all decide alike."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(gradient)
            dist.all_reduce(seen)
        for name, value in (("gradient", gradient), ("seen", seen)):
            state.memory[name] = state.memory[name] + value if name in state.memory else value

    def refine(self, state: State, optimizer: torch.optim.Optimizer) -> dict[str, int]:
        """Multiply and remove. How many were cloned, split and removed: N grows by the first two less the third."""
        net = state.net
        mean = state.memory.pop("gradient") / state.memory.pop("seen").clamp_min(1)
        wanting = density.best(mean, mean > self.densify_gradient, self.max_gaussians - len(mean))
        large = net.log_scales.detach().exp().amax(1) > self.percent_dense * self.extent
        clone, split = wanting & ~large, wanting & large
        density.multiply(net, optimizer, clone, split, self.split_factor, state.generator)
        keep = net.logits.detach().sigmoid() >= self.prune_opacity
        if self.reset_every and state.step > self.reset_every:
            keep &= net.log_scales.detach().exp().amax(1) <= HUGE * self.extent
        pruned = int((~keep).sum()) if keep.any() else 0
        if pruned:
            density.rearrange(net, optimizer, keep, {})
        return {"cloned": int(clone.sum()), "split": int(split.sum()), "pruned": pruned}

    def quiet(self, step: int) -> bool:
        """True if a score at `step` can be trusted: for some time after a reset of opacities it cannot."""
        if not self.reset_every or step <= self.reset_every:
            return True
        last = min(step - 1, math.ceil(self.refine_stop * self.steps) - 1) // self.reset_every * self.reset_every
        return step - last > self.reset_every // 3

    # How well it learned

    def metrics(self, net: nn.Module, batch: Batch) -> dict[str, Any]:
        count = len(batch["index"])
        truth = batch["color"].double() / 255
        pictures = rounded(self.pictures(net, batch).double())
        if any(parameter.isnan().any() for parameter in net.parameters()):
            pictures = pictures * torch.nan  # a Gaussian that is NaN is seen by no camera: what is left is no score
        found = {"psnr": psnr(pictures, truth), "ssim": ssim_valid11(pictures, truth)}
        return {**{k: v.sum() for k, v in found.items()}, "gaussians": len(net.means) * count, "count": count}

    def score(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Means over pictures: PSNR in dB, SSIM with 11 x 11 windows within the picture; the number of Gaussians."""
        return super().score(totals)

    # What it answers

    def predict(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """`color` [B, H, W, 3], uint8: what cameras at `camera_to_world`, with these `intrinsics`, see."""
        return {"color": (rounded(self.pictures(net, batch)) * 255).to(torch.uint8)}

    def camera(self, batch: Batch, view: int) -> splats.Camera:
        """The camera of one row; its picture is as large as the row's own, where it has one."""
        height, width = batch["color"].shape[1:3] if "color" in batch else (self.size, self.size)
        return splats.Camera(batch["camera_to_world"][view], batch["intrinsics"][view], height, width)

    def pictures(self, net: nn.Module, batch: Batch) -> Tensor:
        """Pictures [B, H, W, 3] from the batch's cameras."""
        return torch.stack([net(self.camera(batch, n))[1].color for n in range(len(batch["camera_to_world"]))])

    def example(self, rows: Rows) -> Batch:
        return rows.batch(np.arange(min(2, len(rows))), columns=("camera_to_world", "intrinsics"))

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        from components.plotting.figures import contact_sheet

        shown = {name: batch[name][:8] for name in ("color", "camera_to_world", "intrinsics")}
        pairs = torch.stack([shown["color"], self.predict(net, shown)["color"]], 1).flatten(0, 1)
        around = self.predict(net, turntable(batch))["color"]
        sheets = {"truth_beside_splats": (pairs, 4), "turntable": (around, 6)}
        return {name: contact_sheet(pictures.cpu().numpy(), columns=n) for name, (pictures, n) in sheets.items()}

    def files(self, net: nn.Module) -> dict[str, bytes]:
        names = ("means", "log_scales", "quaternions", "logits", "constant", "harmonics")
        return {"splats.ply": splat_ply.write(*(getattr(net, name).detach().cpu().numpy() for name in names))}

    # How it is tuned

    def shortened(self, steps: int) -> Self:
        """As many refinements and resets, closer together."""
        names = ("sh_every", "refine_start", "refine_every", *(["reset_every"] if self.reset_every else []))
        shares = {name: max(1, round(getattr(self, name) * steps / self.steps)) for name in names}
        return replace(super().shortened(steps), **shares)

    def space(self) -> dict[str, search_space.Domain]:
        """Around this size's own settings: gradients by a centre grow as pictures shrink, and so must the threshold."""
        return {
            "densify_gradient": search_space.loguniform(self.densify_gradient / 4, self.densify_gradient * 8),
            "percent_dense": search_space.loguniform(3e-3, 5e-2),
            "prune_opacity": search_space.loguniform(1e-3, 1e-1),
            "refine_every": search_space.choice(*(round(self.refine_every * factor) for factor in (0.5, 1, 2, 3))),
            "refine_stop": search_space.choice(0.3, 0.5, 0.7),
            "split_factor": search_space.uniform(1.2, 2.0),
            "lr": search_space.loguniform(self.lr / 10, self.lr * 10),
            "lr_opacity": search_space.loguniform(1e-2, 1e-1),
            "lr_scale": search_space.loguniform(1e-3, 1e-2),
            "dssim": search_space.uniform(0, 0.5),
        }


class Net(nn.Module):
    """Gaussians, as numbers without bounds: scales are exp of theirs, opacities sigmoid."""

    degree: Tensor

    def __init__(self, count: int, sh_degree: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.zeros(count, 3))
        self.log_scales = nn.Parameter(torch.zeros(count, 3))
        self.quaternions = nn.Parameter(torch.ones(count, 4))
        self.logits = nn.Parameter(torch.zeros(count))
        self.constant = nn.Parameter(torch.zeros(count, 1, 3))
        self.harmonics = nn.Parameter(torch.zeros(count, (sh_degree + 1) ** 2 - 1, 3))
        self.register_buffer("degree", torch.zeros((), dtype=torch.int64))

    def forward(self, camera: splats.Camera) -> tuple[splats.Flat, splats.Picture]:
        """The Gaussians on the camera's plane, and what it sees of them."""
        flat = splats.project(self.means, self.log_scales.exp(), self.quaternions, camera)
        coefficients = torch.cat([self.constant, self.harmonics], 1)
        colors = splats.colors(self.means, coefficients, camera, int(self.degree))
        white = torch.full((3,), WHITE, dtype=self.means.dtype, device=self.means.device)
        return flat, splats.rasterize(flat, self.logits.sigmoid(), colors, white, camera)


# First values


def surface(rows: Rows, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points [count, 3] of the surface that the pictures see, and their colours from 0 to 1: what SfM would find."""
    seen = rows["mask"].nonzero()  # [pixels, 3] view, row, column
    chosen = torch.randperm(len(seen), generator=generator, device=seen.device)[:count]
    view, row, column = seen[chosen].unbind(1)
    pose, intrinsics = rows["camera_to_world"][view], rows["intrinsics"][view]
    depth = rows["depth"][view, row, column]
    x = (column + 0.5 - intrinsics[:, 0, 2]) / intrinsics[:, 0, 0] * depth
    y = (row + 0.5 - intrinsics[:, 1, 2]) / intrinsics[:, 1, 1] * depth
    points = (pose[:, :3, :3] @ torch.stack([x, y, depth], 1)[:, :, None])[:, :, 0] + pose[:, :3, 3]
    return points, rows["color"][view, row, column].float() / 255


def scattered(rows: Rows, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points [count, 3] anywhere in the cube, and any colours."""
    points, rgb = torch.rand(2, count, 3, generator=generator, device=rows.label.device)
    return CUBE * (2 * points - 1), rgb


# Cameras


def turntable(batch: Batch, count: int = 12) -> Batch:
    """That camera of the batch that looks down most nearly by 30 degrees, carried around the y axis."""
    places = batch["camera_to_world"][:, :3, 3]
    pose = batch["camera_to_world"][(places[:, 1] / places.norm(dim=1) - 0.5).abs().argmin()]
    poses, angles = [], torch.arange(count) * (2 * math.pi / count)
    for cos, sin in zip(angles.cos().tolist(), angles.sin().tolist(), strict=True):
        turn = pose.new_tensor([[cos, 0, sin, 0], [0, 1, 0, 0], [-sin, 0, cos, 0], [0, 0, 0, 1]])
        poses.append(turn @ pose)
    return {"camera_to_world": torch.stack(poses), "intrinsics": batch["intrinsics"][:1].expand(count, 3, 3)}
