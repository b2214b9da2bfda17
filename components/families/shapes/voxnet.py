"""
VoxNet: a grid of voxels, classified by two three-dimensional convolutions.

Paper       Maturana, Scherer, IROS 2015
Reference   github dimatura/voxnet @a1c2b44 (Theano); charlesq34/3dcnn.torch @384e64f has a port
Size        921,736 parameters at paper(): 40 classes, 32^3 voxels
Run         rayfield run classify --family voxnet --size tiny
Expect      tiny, bundled furniture, 303 to 322 shapes to learn from, 45 s of one CPU: 0.700 +- 0.015 of the test
            shapes (mean and standard error of 5 folds). The largest class alone gives 0.158, a random forest
            0.677 +- 0.017: below it in four folds of five.
            paper: 0.83 mean over the classes of ModelNet40 (from memory), which was not run here
"""

# B grids, X Y Z voxels along each axis (Y is up), C channels, K classes

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from components import search_space
from components.constraints import AtLeast, Between, Count, Natural, NotNegative, Share
from components.family import Batch, Classifier, Phase, Picture
from components.representation import Representation
from components.representations.voxels import Voxels

SLOPE = 0.1  # of the leaky rectifiers
RATES = (0.2, 0.3, 0.4)  # of the three dropouts, from the input on
FALLS = (1.0, 0.1, 0.05, 0.01)  # of the learning rate, before the first of `falls` and after each


class VoxNet(Classifier):
    resolution: Annotated[int, AtLeast(16)] = 32
    """voxels along each axis, at least 16"""
    solid: bool = True
    """whether the inside of a shape is filled"""
    pad: Natural = 4
    """free voxels at each end of a shape's longest side: the paper's shapes are 24 of 32 long"""
    filters: Count = 32
    """channels of both convolutions, at least 1"""
    hidden: Count = 128
    """units of the layer before the last, at least 1"""
    dropout: Annotated[float, Between(0, 2)] = 1.0
    """multiplies the three dropout rates 0.2, 0.3 and 0.4; 0 to 2"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd has momentum 0.9, as in the paper"""
    decay: NotNegative = 1e-3
    """weight decay, on all parameters, at least 0"""
    falls: tuple[Natural, ...] = (60_000, 400_000, 600_000)
    """updates after which the learning rate is 0.1, 0.05 and 0.01 of the first"""
    shift: Natural = 2
    """largest displacement along each axis in training, voxels"""
    mirror: Share = 0.2
    """chance of a reflection along each horizontal axis in training, 0 to 1"""
    turn: bool = True
    """whether grids are turned about the up axis by quarters in training"""

    @classmethod
    def paper(cls) -> Self:
        """80 passes over ModelNet40's 9,843 shapes in 12 orientations each."""
        return cls(classes=40, lr=1e-3, batch=32, steps=295_290)

    @classmethod
    def tiny(cls) -> Self:
        """Half the filters, and AdamW: it needs fewer updates than the paper's descent. Bundled shapes face one way."""
        known = cls(filters=16, turn=False, mirror=0.5, smoothing=0.1)
        return replace(known, optimizer="adamw", lr=2e-3, decay=0.05, steps=500, falls=(350, 430, 480))

    def representation(self) -> Representation:
        return Voxels(resolution=self.resolution, solid=self.solid, pad=self.pad)

    def network(self) -> nn.Module:
        return Net(self.classes, self.resolution, self.filters, self.hidden, self.dropout)

    def optimizers(self, net: nn.Module, phase: Phase) -> dict[str, torch.optim.Optimizer]:
        if self.optimizer == "adamw":
            return {"main": torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=self.decay)}
        return {"main": torch.optim.SGD(net.parameters(), lr=self.lr, momentum=0.9, weight_decay=self.decay)}

    def schedule(self, group: str, step: int) -> float:
        return FALLS[sum(step >= fall for fall in self.falls)]

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """
        Shifts, reflections and quarter turns, all exact on the grid.

        The paper turns shapes by 30 degrees before it makes voxels of them. A grid turned by less than a quarter would
        alias, so here it is quarters or nothing.
        """
        row, device = batch["row"], generator.device
        steps = torch.randint(-self.shift, self.shift + 1, (self.batch, 3), generator=generator, device=device)[row]
        mirrored = (torch.rand(self.batch, 2, generator=generator, device=device) < self.mirror)[row]
        turns = torch.randint(0, 4, (self.batch,), generator=generator, device=device)[row]
        grids = shifted(reflected(batch["voxels"], mirrored), steps)
        return {**batch, "voxels": turned(grids, turns) if self.turn else grids}

    def logits(self, net: nn.Module, batch: Batch) -> Tensor:
        return net(batch["voxels"])

    def features(self, net: Any, batch: Batch) -> Tensor:
        """Activations of the layer before the last, [B, hidden]."""
        return net.embed(batch["voxels"])

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        return {**super().figures(net, batch), "occlusion": self.occlusion(net, batch)}

    def occlusion(self, net: nn.Module, batch: Batch, *, shapes: int = 6, block: int = 4) -> Picture:
        """Front views, coloured by how much the true class loses when the voxels behind a pixel are emptied."""
        from components.plotting.figures import figure

        made, axes = figure(2 * shapes, 4.4, nrows=2, ncols=shapes, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        learned = (batch["label"] >= 0).nonzero()[:shapes, 0].tolist()  # of another there is no probability to lose
        for place, shape in enumerate(learned):
            grid, label = batch["voxels"][shape], int(batch["label"][shape])
            importance = occluded(net, grid, label, block).T.flip(0)  # [Y, X], up at the top
            axes[0, place].imshow(front_view(grid), cmap="Greys")
            axes[0, place].set_title(self.named(label), fontsize=9)
            axes[1, place].imshow(
                importance.cpu().numpy(), cmap="magma", vmin=0, vmax=max(1e-3, float(importance.max()))
            )
        made.suptitle("front view; below: loss of the true class's probability when a column is emptied", fontsize=9)
        return made

    def shortened(self, steps: int) -> Self:
        falls = tuple(round(fall * steps / self.steps) for fall in self.falls)
        return replace(super().shortened(steps), falls=falls)

    def space(self) -> dict[str, search_space.Domain]:
        low, high = (1e-4, 3e-3) if self.optimizer == "adamw" else (1e-3, 3e-2)
        return {
            "lr": search_space.loguniform(low, high),
            "dropout": search_space.uniform(0, 1.5),
            "decay": search_space.loguniform(1e-4, 1e-1),
            "shift": search_space.integer(0, 4),
            "mirror": search_space.uniform(0, 0.5),
        }


class Net(nn.Module):
    """Two convolutions, a maximum, two full layers."""

    def __init__(self, classes: int, resolution: int, filters: int, hidden: int, dropout: float) -> None:
        super().__init__()
        first, second, third = (min(0.9, rate * dropout) for rate in RATES)
        side = ((resolution - 5) // 2 + 1 - 2) // 2  # 32 -> 14 -> 12 -> 6
        self.body = nn.Sequential(
            nn.Conv3d(1, filters, 5, stride=2),  # [B, C, 14, 14, 14]
            nn.LeakyReLU(SLOPE),
            nn.Dropout(first),
            nn.Conv3d(filters, filters, 3),  # [B, C, 12, 12, 12]
            nn.LeakyReLU(SLOPE),
            nn.MaxPool3d(2),  # [B, C, 6, 6, 6]
            nn.Dropout(second),
            nn.Flatten(),
            nn.Linear(filters * side**3, hidden),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(third), nn.Linear(hidden, classes))
        self.apply(_initialize)

    def embed(self, voxels_BXYZ: Tensor) -> Tensor:
        return self.body(voxels_BXYZ.unsqueeze(1).to(next(self.parameters()).dtype))

    def forward(self, voxels_BXYZ: Tensor) -> Tensor:
        return self.head(self.embed(voxels_BXYZ))


def _initialize(module: nn.Module) -> None:
    """He et al.'s normal by the fan out for convolutions, N(0, 0.01) for full layers, zero for biases."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def shifted(grids_BXYZ: Tensor, steps_B3: Tensor) -> Tensor:
    """
    Each grid moved by its own whole number of voxels along each axis; what enters is empty.

    `torch.roll` would let the top of a lamp come in at its foot.
    """
    for axis in range(3):
        side = grids_BXYZ.shape[axis + 1]
        source = torch.arange(side, device=grids_BXYZ.device) - steps_B3[:, axis, None]  # [B, side]
        shape = [len(grids_BXYZ), 1, 1, 1]
        shape[axis + 1] = side
        inside = ((source >= 0) & (source < side)).view(shape)
        grids_BXYZ = grids_BXYZ.take_along_dim(source.clamp(0, side - 1).view(shape), axis + 1) * inside
    return grids_BXYZ


def reflected(grids_BXYZ: Tensor, along_B2: Tensor) -> Tensor:
    """Each grid mirrored along X where the first of its two flags is set, along Z where the second is."""
    along_x, along_z = along_B2[:, :, None, None, None].unbind(1)
    grids_BXYZ = torch.where(along_x, grids_BXYZ.flip(1), grids_BXYZ)
    return torch.where(along_z, grids_BXYZ.flip(3), grids_BXYZ)


def turned(grids_BXYZ: Tensor, quarters_B: Tensor) -> Tensor:
    """Each grid turned about Y by its own number of quarters, 0 to 3."""
    choices = torch.stack([grids_BXYZ.rot90(quarter, (1, 3)) for quarter in range(4)])
    return choices[quarters_B, torch.arange(len(grids_BXYZ), device=grids_BXYZ.device)]


def occluded(net: nn.Module, grid_XYZ: Tensor, label: int, block: int) -> Tensor:
    """How much the probability of `label` falls when each column of block x block x R voxels is emptied, [R/b, R/b]."""
    count = len(grid_XYZ) // block
    cells = torch.cartesian_prod(torch.arange(count), torch.arange(count)) * block
    emptied = grid_XYZ.repeat(len(cells), 1, 1, 1)
    for copy, (x, y) in zip(emptied, cells.tolist(), strict=True):
        copy[x : x + block, y : y + block] = 0
    before = net(grid_XYZ[None]).softmax(1)[0, label]
    after = torch.cat([net(part).softmax(1)[:, label] for part in emptied.split(64)])
    return (before - after).view(count, count)


def front_view(grid_XYZ: Tensor) -> np.ndarray:
    """How many voxels are filled behind each pixel, [Y, X], up at the top."""
    return grid_XYZ.float().sum(2).T.flip(0).cpu().numpy()
