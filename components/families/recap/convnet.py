"""
ConvNet: rendered views, classified by five convolutions; what its layers see, and what its answers depend on.

Paper       Zeiler, Fergus, ECCV 2014, arXiv 1311.2901; the layers are Krizhevsky et al.'s (NIPS 2012), seen finer
Reference   none of the authors; github pytorch/captum, 0.9.0, is what the tests compare the visualisations with
Size        62,357,608 parameters at paper(): 1,000 classes, colour pictures of 224 pixels
Run         rayfield run classify --family convnet --size tiny
Expect      tiny, bundled furniture at 32 pixels, 303 to 322 shapes to learn from, 60 s of one CPU: 0.656 +- 0.019
            of the test shapes (mean and standard error of 5 folds, one seed), each answered by the mean of its 12
            views. The largest class alone gives 0.158, a random forest on shape descriptors 0.677 on the same folds: it
            is better in two of them, equal in two. The numbers were chosen on fold 0. The first layer's filters are not
            the paper's edges and colours: they correlate with their random first values by 0.97 (fold 0), so
            projections stay speckled. paper() was not run here
Differs     no contrast normalisation and no limit on the filters' norms, which have no parameters; the learning rate
            falls at fixed updates, where the authors lowered it by hand
Workers     dropout draws anew on each: several workers differ from one by that alone
"""

# B views, C channels, H rows, W columns, D units, K classes, M feature maps

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from components import search_space
from components.constraints import Between, Count, Natural, NotNegative, Positive, Share
from components.errors import UsageError
from components.family import Batch, Classifier, Phase, Picture, accuracies
from components.layers.attribution import Strongest, class_score, deconvnet, occlusion, of_unit, receptive_field
from components.representation import Representation
from components.representations.views import Views
from components.table import Rows

MAPS = 3  # feature maps shown of each layer
TOP = 9  # inputs shown of each, as in the paper


class ConvNet(Classifier):
    batch: Count = 128
    """views of an update, over all workers together, at least 1"""
    views: Count = 12
    """pictures of each shape, at least 1; a shape's answer is the mean of theirs"""
    size: Count = 224
    """pixels along a side"""
    widths: tuple[Count, ...] = (96, 256, 384, 384, 256)
    """channels of each convolution"""
    kernels: tuple[Count, ...] = (7, 5, 3, 3, 3)
    """pixels along a side of each convolution's filters"""
    strides: tuple[Count, ...] = (2, 2, 1, 1, 1)
    """pixels between neighbouring places of each convolution"""
    paddings: tuple[Natural, ...] = (1, 0, 1, 1, 1)
    """pixels of the mean colour around what each convolution reads"""
    pooled: tuple[Count, ...] = (1, 2, 5)
    """convolutions, counted from 1, whose maxima are taken over 3 x 3 places, every other place"""
    hidden: Count = 4096
    """units of both full layers before the last, at least 1"""
    dropout: Share = 0.5
    """share of units dropped from both, 0 to 1"""
    mean: tuple[Annotated[float, Between(0, 255)], ...] = (128.0, 128.0, 128.0)
    """grey levels of the mean colour, 0 to 255, subtracted from pictures; read from the training split"""
    unit: Positive = 1.0
    """grey levels that the network reads as 1, above 0"""
    spread: NotNegative = 0.01
    """standard deviation of the first weights; 0 is He et al.'s, by what each unit reads"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd has momentum 0.9, as in the paper"""
    decay: NotNegative = 5e-4
    """weight decay, on all parameters, at least 0; Krizhevsky et al.'s, for this paper states none"""
    falls: tuple[Share, ...] = (0.5, 0.75)
    """shares of the training after each of which the learning rate is a tenth"""
    shift: Natural = 0
    """largest displacement along each axis in training, pixels; what enters is white, as what surrounds shapes is"""
    mirror: bool = True
    """whether half of the training views are reflected, left to right"""
    tint: Share = 0.0
    """largest relative change of each channel's distance from white in training, 0 to 1; white stays white"""

    scores: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy", "loss", "view_accuracy")

    @classmethod
    def paper(cls) -> Self:
        """70 passes over ImageNet's 1,281,167 pictures."""
        return cls(classes=1000, lr=1e-2, steps=700_638)

    @classmethod
    def tiny(cls) -> Self:
        """Narrower, and without the first strides, which 32 pixels do not outlive; AdamW from He's first weights."""
        known = cls(size=32, widths=(16, 32, 48, 48, 32), kernels=(5, 3, 3, 3, 3), strides=(1, 1, 1, 1, 1))
        known = replace(known, paddings=(2, 1, 1, 1, 1), hidden=128, dropout=0.3, unit=64.0, spread=0.0, shift=2)
        return replace(known, optimizer="adamw", lr=2e-3, decay=0.05, smoothing=0.1, batch=64, steps=1500)

    def representation(self) -> Representation:
        return Views(count=self.views, size=self.size)

    def adapt(self, rows: Rows) -> Self:
        """With the classes, and the size and the mean colour of the pictures that there are."""
        color = rows["color"]
        total = torch.stack([part.double().mean((1, 2)).sum(0) for part in color.split(1024)]).sum(0)
        mean = tuple(round(level, 2) for level in (total / len(color)).tolist())
        return replace(super().adapt(rows), size=color.shape[1], mean=mean)

    def network(self) -> nn.Module:
        return Net(self)

    def optimizers(self, net: nn.Module, phase: Phase) -> dict[str, torch.optim.Optimizer]:
        if self.optimizer == "adamw":
            return {"main": torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=self.decay)}
        return {"main": torch.optim.SGD(net.parameters(), lr=self.lr, momentum=0.9, weight_decay=self.decay)}

    def schedule(self, group: str, step: int) -> float:
        return 0.1 ** sum(step >= fall * self.steps for fall in self.falls)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """
        Reflections, shifts and tints.

        A reflected view is a true one of the reflected shape. Nothing is turned: the camera's up is the shape's.
        """
        row, device = batch["row"], generator.device
        mirrored = (torch.rand(self.batch, generator=generator, device=device) < 0.5)[row] & self.mirror
        steps = torch.randint(-self.shift, self.shift + 1, (self.batch, 2), generator=generator, device=device)[row]
        tints = 1 + self.tint * (2 * torch.rand(self.batch, 3, generator=generator, device=device)[row] - 1)
        color = torch.where(mirrored[:, None, None, None], batch["color"].flip(2), batch["color"])
        return {**batch, "color": tinted(shifted(color, steps), tints)}

    def logits(self, net: nn.Module, batch: Batch) -> Tensor:
        return net(self.scaled(batch["color"]))

    def features(self, net: Any, batch: Batch) -> Tensor:
        """Activations of the layer before the last, [B, hidden]."""
        return net.embed(self.scaled(batch["color"]))

    def scaled(self, color: Tensor) -> Tensor:
        """Pictures [B, H, W, 3] of 0 to 255 -> [B, 3, H, W], 0 where they have the mean colour."""
        if color.shape[1] != self.size:
            raise UsageError(
                f"Pictures must have the {self.size} pixels that this network learned from, but got {color.shape[1]}. "
                "Train it on views of the same size."
            )
        mean = torch.tensor(self.mean, dtype=torch.get_default_dtype(), device=color.device)
        return ((color - mean) / self.unit).permute(0, 3, 1, 2)

    def metrics(self, net: nn.Module, batch: Batch) -> dict[str, Any]:
        answers = self.logits(net, batch).double().log_softmax(1)
        named = {"answers": answers, "truth": batch["label"], "shape": batch["id"]}
        return {**{name: [value.cpu().numpy()] for name, value in named.items()}, "count": len(answers)}

    def score(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """
        Accuracy of shapes, whose views' log-probabilities are averaged, and its mean over the classes that occur.

        `loss` and `view_accuracy` are of single views. As of every classifier, what was never learned has no loss.
        """
        answers, truth = np.concatenate(totals["answers"]), np.concatenate(totals["truth"])
        known = np.flatnonzero(truth >= 0)
        return {
            **accuracies(self.confusion(totals)),
            "loss": float(-answers[known, truth[known]].mean()) if len(known) else float("nan"),
            "view_accuracy": float(np.where(np.isnan(answers).any(1), np.nan, answers.argmax(1) == truth).mean()),
        }

    def confusion(self, totals: Mapping[str, Any]) -> np.ndarray:
        """
        How many shapes of each class got each answer, [K + 1, K]; NaN where an answer is.

        The last row is of what was never learned.
        """
        _, first, own = np.unique(np.concatenate(totals["shape"]), return_index=True, return_inverse=True)
        answers = np.zeros((len(first), self.classes))
        np.add.at(answers, own, np.concatenate(totals["answers"]))
        truth = np.concatenate(totals["truth"])[first]
        counts = np.zeros((self.classes + 1, self.classes))
        counted = np.where(np.isnan(answers).any(1), np.nan, 1)
        np.add.at(counts, (np.where(truth < 0, self.classes, truth), answers.argmax(1)), counted)
        return counts

    def space(self) -> dict[str, search_space.Domain]:
        low, high = (2e-4, 5e-3) if self.optimizer == "adamw" else (1e-3, 3e-2)
        return {
            "lr": search_space.loguniform(low, high),
            "decay": search_space.loguniform(1e-4, 2e-1),
            "dropout": search_space.uniform(0, 0.7),
            "shift": search_space.integer(0, self.size // 8),
            "tint": search_space.uniform(0, 0.6),
            "smoothing": search_space.uniform(0, 0.2),
        }

    # What it shows

    def figures(self, net: nn.Module, batch: Batch) -> dict[str, Picture]:
        from components.plotting.figures import confusion_matrix

        learned = {"occlusion": self.occlusion(net, batch)} if (batch["label"] >= 0).any() else {}
        return {
            "confusion": confusion_matrix(self.confusion(self.metrics(net, batch)), self.row_names()),
            "filters": self.filters(net),
            "deconvnet": self.projections(net, batch),
            **learned,
        }

    def filters(self, net: Any) -> Picture:
        """The first layer's filters, each from its least weight to its largest."""
        from components.plotting.figures import contact_sheet, figure

        weight = net.body[0].weight.permute(0, 2, 3, 1)  # [M, H, W, 3]
        low, high = weight.amin((1, 2, 3), keepdim=True), weight.amax((1, 2, 3), keepdim=True)
        sheet = contact_sheet(grey_levels(enlarged((weight - low) / (high - low), 48)))
        made, axes = figure(7, 0.6 + 7 * sheet.shape[0] / sheet.shape[1])
        axes.imshow(sheet)
        axes.set_axis_off()
        made.suptitle(f"layer 1: {len(weight)} filters of {weight.shape[1]} px", fontsize=10)
        return made

    def strongest(self, net: Any, color: Tensor, *, k: int, at_once: int = 64) -> list[Strongest]:
        """The k views of [N, H, W, 3] that excite each feature map of each layer most."""
        found: list[Strongest] = []
        for part in torch.arange(len(color), device=color.device).split(at_once):
            parts = [Strongest.of(maps, part, k) for maps in net.layers(self.scaled(color[part]))]
            found = [one.merge(other) for one, other in zip(found, parts, strict=True)] if found else parts
        return found

    def projections(self, net: Any, batch: Batch) -> Picture:
        """
        Of each layer some feature maps: what in the views that excite them most does so, and those views there.

        What is shown is as large as the receptive field, so deeper layers show more of a view.
        """
        from components.plotting.figures import figure

        # as many as nine shapes have views: of each shape one is shown
        found = self.strongest(net, batch["color"], k=TOP * self.views)
        made, axes = figure(3.3 * MAPS, 1.85 * len(found), nrows=len(found), ncols=2 * MAPS, squeeze=False)
        for layer, (top, row) in enumerate(zip(found, axes, strict=True)):
            layers = net.body[: net.ends[layer]]
            row[0].set_ylabel(f"layer {layer + 1}: {receptive_field(layers).size[0]} px", fontsize=9)
            liveliest = top.value[:, 0].topk(min(MAPS, len(top.value))).indices.tolist()
            for place, feature_map in enumerate(liveliest):
                back, views = self.projected(layers, batch, feature_map, top)
                row[2 * place].imshow(tiled(back))
                row[2 * place].set_title(f"map {feature_map}", fontsize=8)
                row[2 * place + 1].imshow(tiled(views))
                row[2 * place + 1].set_title("the views there", fontsize=8)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        made.suptitle("deconvnet: what excites a feature map most, and where", fontsize=10)
        return made

    def projected(self, layers: nn.Sequential, batch: Batch, feature_map: int, top: Strongest) -> tuple[Tensor, Tensor]:
        """A feature map's strongest places, projected, and the views there, both [k, h, w, 3] from 0 to 1."""
        item, place = one_of_each(top.item[feature_map], top.place[feature_map], batch["id"])
        color = batch["color"][item]
        x = self.scaled(color)
        back = deconvnet(layers, x, of_unit(feature_map, place)).permute(0, 2, 3, 1)  # [k, H, W, 3]
        back = 0.5 + back / (2 * back.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12))
        field, width = receptive_field(layers), layers(x[:1]).shape[3]
        windows = [field.window(divmod(one, width), color.shape[1:3]) for one in place.tolist()]
        side = min(self.size, field.size[0])
        return framed(back, windows, side), framed(color / 255, windows, side)

    def occlusion(self, net: Any, batch: Batch, *, count: int = 6) -> Picture:
        """
        The true class's probability, and the strongest map of the last layer, that remain when a window is covered.

        A square of the mean colour, a quarter of the view wide, is put at every sixteenth. Low is important in both.
        """
        from components.plotting.figures import figure

        right = self.logits(net, batch).argmax(1) == batch["label"]
        chosen = different(batch, right, count)
        made, axes = figure(1.6 * len(chosen) + 1.4, 5.4, nrows=3, ncols=len(chosen), squeeze=False)
        settings: dict[str, Any] = {"window": self.size // 4, "stride": max(1, self.size // 16), "map": "score"}
        for place, column in zip(chosen, axes.T, strict=True):
            x, label = self.scaled(batch["color"][place : place + 1])[0], int(batch["label"][place])
            loudest = int(net.last(x[None]).sum((2, 3)).argmax())
            believed = class_score(net, label)
            left = occlusion(believed, x, **settings)
            sound = occlusion(partial(_loudness, net, loudest), x, **settings)
            column[0].imshow(batch["color"][place].cpu().numpy())
            column[0].set_title(f"{self.named(label)}: {float(believed(x[None])):.2f}", fontsize=9)
            shown = column[1].imshow(left.cpu().numpy(), cmap="viridis", vmin=0, vmax=1)
            column[2].imshow(sound.cpu().numpy(), cmap="magma")
            column[2].set_xlabel(f"map {loudest}", fontsize=8)
        made.colorbar(shown, ax=axes.ravel().tolist(), fraction=0.03, label="probability")
        for axis, name in zip(axes[:, 0], ("view", "probability left", "activation left"), strict=True):
            axis.set_ylabel(name, fontsize=9)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
        made.suptitle(
            "occlusion: what is left of the true class when a square covers a place; low matters", fontsize=10
        )
        return made


class Net(nn.Module):
    """Five convolutions with maxima between them, three full layers."""

    def __init__(self, family: ConvNet) -> None:
        super().__init__()
        side, channels = family.size, 3
        body: list[nn.Module] = []
        self.ends: list[int] = []  # where each layer ends in the body: behind its ReLU
        settings = zip(family.widths, family.kernels, family.strides, family.paddings, strict=True)
        for layer, (width, kernel, stride, padding) in enumerate(settings, 1):
            body += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()]
            self.ends.append(len(body))
            channels, side = width, (side + 2 * padding - kernel) // stride + 1
            if layer in family.pooled:
                body.append(nn.MaxPool2d(3, 2, ceil_mode=True))  # 110 -> 55, as in figure 3 of the paper
                side = -(-(side - 3) // 2) + 1
            if side < 1:
                raise UsageError(f"`size` must leave a place to every layer, but of {family.size} layer {layer} has 0.")
        self.body = nn.Sequential(*body)
        self.full = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * side**2, family.hidden),
            nn.ReLU(),
            nn.Dropout(family.dropout),
            nn.Linear(family.hidden, family.hidden),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(family.dropout), nn.Linear(family.hidden, family.classes))
        for module in self.modules():
            _initialize(module, family.spread)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.embed(x_BCHW))

    def embed(self, x_BCHW: Tensor) -> Tensor:
        return self.full(self.body(x_BCHW))

    def layers(self, x_BCHW: Tensor) -> Iterator[Tensor]:
        """The feature maps of each layer, behind its ReLU, [B, M, h, w]."""
        for place, module in enumerate(self.body, 1):
            x_BCHW = module(x_BCHW)
            if place in self.ends:
                yield x_BCHW

    def last(self, x_BCHW: Tensor) -> Tensor:
        """The feature maps of the last layer, [B, M, h, w]."""
        return self.body[: self.ends[-1]](x_BCHW)


def _loudness(net: Any, feature_map: int, x_BCHW: Tensor) -> Tensor:
    return net.last(x_BCHW)[:, feature_map].sum((1, 2))


def _initialize(module: nn.Module, spread: float) -> None:
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return
    if spread:
        nn.init.normal_(module.weight, std=spread)
    else:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.zeros_(module.bias)


def shifted(pictures_BHWC: Tensor, steps_B2: Tensor) -> Tensor:
    """Each picture moved by its own whole number of pixels, down and to the right; what enters is white, 255."""
    for axis in (1, 2):
        side = pictures_BHWC.shape[axis]
        source = torch.arange(side, device=pictures_BHWC.device) - steps_B2[:, axis - 1, None]  # [B, side]
        shape = [len(pictures_BHWC), 1, 1, 1]
        shape[axis] = side
        inside = ((source >= 0) & (source < side)).view(shape)
        moved = pictures_BHWC.take_along_dim(source.clamp(0, side - 1).view(shape), axis)
        pictures_BHWC = torch.where(inside, moved, torch.full_like(moved, 255))
    return pictures_BHWC


def tinted(pictures_BHWC: Tensor, factors_B3: Tensor) -> Tensor:
    """Each channel's distance from white times its own factor, in float, 0 to 255: a lamp, or a paint."""
    return (255 - (255 - pictures_BHWC.to(factors_B3.dtype)) * factors_B3[:, None, None]).clamp(min=0)


def different(batch: Batch, first: Tensor, count: int) -> list[int]:
    """
    Up to `count` places, each of another shape, of as many classes as there are; those with the flag come first.

    Of classes that training never had there is none: no probability is theirs.
    """
    order = first.logical_not().cpu().numpy().argsort(kind="stable")
    order = order[batch["label"].cpu().numpy()[order] >= 0]
    _, own = np.unique(batch["id"].cpu().numpy()[order], return_index=True)
    order = order[np.sort(own)]
    label = batch["label"].cpu().numpy()[order]
    turn = [int((label[:place] == one).sum()) for place, one in enumerate(label)]  # the how manieth of its class
    return order[np.argsort(turn, kind="stable")][:count].tolist()


def one_of_each(item_k: Tensor, place_k: Tensor, id_B: Tensor) -> tuple[Tensor, Tensor]:
    """Of falling activations the strongest of each shape, nine at most: views of one shape are much alike."""
    known = item_k >= 0
    shapes = id_B[item_k[known]].tolist()
    kept = [rank for rank, shape in enumerate(shapes) if shape not in shapes[:rank]][:TOP]
    return item_k[known][kept], place_k[known][kept]


def framed(pictures_BHWC: Tensor, windows: list[tuple[slice, ...]], side: int) -> Tensor:
    """The window of each picture, in the middle of a grey square, [B, side, side, 3]: at edges windows are cut off."""
    squares = torch.full((len(windows), side, side, 3), 0.5, device=pictures_BHWC.device)
    for square, picture, window in zip(squares, pictures_BHWC, windows, strict=True):
        part = picture[window]
        top, left = (side - part.shape[0]) // 2, (side - part.shape[1]) // 2
        square[top : top + part.shape[0], left : left + part.shape[1]] = part
    return squares


def tiled(pictures_BHWC: Tensor) -> np.ndarray:
    """Up to nine pictures of 0 to 1 on one sheet of three columns, uint8, each at 48 pixels or a little more."""
    from components.plotting.figures import contact_sheet

    large = enlarged(pictures_BHWC, 48)
    white = torch.ones(TOP - len(large), *large.shape[1:], device=large.device)
    return contact_sheet(grey_levels(torch.cat([large, white])), columns=3)


def grey_levels(pictures: Tensor) -> np.ndarray:
    """From 0 to 1 -> uint8."""
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def enlarged(pictures_BHWC: Tensor, side: int) -> Tensor:
    """Each pixel repeated, until pictures have `side` rows at least."""
    times = max(1, -(-side // pictures_BHWC.shape[1]))
    return pictures_BHWC.repeat_interleave(times, 1).repeat_interleave(times, 2)
