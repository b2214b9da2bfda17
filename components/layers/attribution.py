"""
Attribution: occlusion maps, deconvnet projections, saliency, receptive fields, strongest activations.

Occlusion and deconvnet are those of Zeiler and Fergus (ECCV 2014, arXiv 1311.2901), guided backpropagation that of
Springenberg et al. (ICLR workshop 2015, arXiv 1412.6806), saliency that of Simonyan et al. (arXiv 1312.6034).
Pictures [B, C, H, W] and grids of voxels [B, C, X, Y, Z] alike: S below is the shape of the places.

Projections from one class's logit look sharp whatever was learned (Adebayo et al. 2018, arXiv 1810.03292): deconvnet
and guided backpropagation say which places are passed through, and only occlusion says what an answer depends on.
"""

# B inputs, C channels, S places along each axis, K classes, M feature maps, N windows

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Score = Callable[[Tensor], Tensor]  # [N, C, S] -> [N]
Signal = Callable[[Tensor], Tensor]  # what a network answers -> what is sent back through it, of the same shape


# What an answer depends on


def class_score(net: Callable[[Tensor], Tensor], label: int, of: Literal["prob", "logit", "logp"] = "prob") -> Score:
    """
    How much a network of logits [N, K] believes in a class, [N].

    Where it is sure, its probability is 1 whatever is covered: the logit and the log-probability still move.
    """
    if of not in ("prob", "logit", "logp"):
        raise ValueError(f"`of` must be prob, logit or logp, but got {of!r}.")

    def score(x: Tensor) -> Tensor:
        logits = net(x)
        return {"prob": logits.softmax, "logp": logits.log_softmax, "logit": lambda _: logits}[of](1)[:, label]

    return score


@torch.no_grad()
def occlusion(
    score: Score,
    x: Tensor,
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    baseline: float | Tensor = 0.0,
    map: Literal["score", "drop"] = "drop",
    batch: int = 64,
) -> Tensor:
    """
    Score of one input [C, S] when a window of it is covered: a value for each place, [S].

    "drop" is how much the score falls, high where it matters; "score" is the score that is left, low where it matters.
    A place has the mean over the windows that cover it. `window` and `stride` are in places, for each axis or for all;
    `baseline` is what covers: a number or a tensor that broadcasts to x. Of normalised inputs 0 is their mean.

    The last window of an axis is cut off by the edge, so every place is covered, as by captum's Occlusion.
    Raises ValueError where windows would leave places between them.
    """
    if map not in ("score", "drop"):
        raise ValueError(f"`map` must be score or drop, but got {map!r}.")
    shape = x.shape[1:]
    windows = list(_windows(shape, _each(window, len(shape)), _each(stride, len(shape))))
    cover = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).expand_as(x)
    total, count = torch.zeros(2, *shape, dtype=torch.float64, device=x.device)
    for start in range(0, len(windows), batch):
        some = windows[start : start + batch]
        covered = x.repeat(len(some), *[1] * x.ndim)  # [N, C, S]
        for one, place in zip(covered, some, strict=True):
            one[:, *place] = cover[:, *place]
        for value, place in zip(score(covered).double(), some, strict=True):
            total[place] += value
            count[place] += 1
    left = total / count
    return (score(x[None]).double() - left if map == "drop" else left).to(x.dtype)


def _windows(shape: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> Any:
    """The slices of each window: ceil((S - w) / s) + 1 along each axis."""
    for side, wide, step in zip(shape, window, stride, strict=True):
        if not 1 <= step <= wide <= side:
            raise ValueError(f"1 <= stride <= window <= {side} must hold, but got {step} and {wide}.")
    axes = [
        [slice(step * n, step * n + wide) for n in range(math.ceil((side - wide) / step) + 1)]
        for side, wide, step in zip(shape, window, stride, strict=True)
    ]
    return itertools.product(*axes)


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


@torch.no_grad()
def point_occlusion(score: Score, points: Tensor, *, neighbours: int, batch: int = 64) -> Tensor:
    """
    How much the score of a cloud [P, 3] falls when a point goes with its nearest neighbours, a value for each, [P].

    Each point is the middle of a patch of `neighbours` points, itself among them; it has the mean over the patches
    that it belongs to. Points are taken away, not moved: a cloud has no grey that would cover them.
    `score` takes [N, P - neighbours, 3]. Raises ValueError where nothing would be left.
    """
    count = len(points)
    if not 1 <= neighbours < count:
        raise ValueError(f"1 <= neighbours < {count} must hold, but got {neighbours}.")
    order = torch.cdist(points, points).argsort(1)  # [P, P]
    kept = order[:, neighbours:].sort(1).values
    left = torch.cat([score(points[part]) for part in kept.split(batch)]).double()  # [P]
    patch = torch.zeros(count, count, dtype=torch.float64, device=points.device)
    patch.scatter_(1, order[:, :neighbours], 1)  # [patch, point]
    return (score(points[None]).double() - (left @ patch) / patch.sum(0)).to(points.dtype)


# What passes back


def saliency(net: Callable[[Tensor], Tensor], x: Tensor, signal: Signal) -> Tensor:
    """The absolute gradient at inputs [B, C, S] of what `signal` chooses."""
    return _sent_back(net, x, signal).abs()


def deconvnet(net: Callable[[Tensor], Tensor], x: Tensor, signal: Signal) -> Tensor:
    """
    Project what `signal` chooses to the inputs [B, C, S]: unpooled, rectified, by the transposed filters.

    The rectifier is put on what goes back, whatever the sign of what went forward: R (R > 0). Maxima go back to where
    they came from, and where pools overlap they add up, which `max_unpool` leaves open and gradients do exactly: so
    no switches need be kept. Raises ValueError where the network has other units than ReLU, or none.
    """
    with _Rectifiers(_Deconvnet):
        return _sent_back(net, x, signal)


def guided(net: Callable[[Tensor], Tensor], x: Tensor, signal: Signal) -> Tensor:
    """Guided backpropagation to inputs [B, C, S]: R (x > 0) (R > 0) at each ReLU. Raises as `deconvnet` does."""
    with _Rectifiers(_Guided):
        return _sent_back(net, x, signal)


def of_class(label: int | Tensor) -> Signal:
    """1 at the logit of a class, or of each row's own [B]; 0 elsewhere."""

    def signal(logits: Tensor) -> Tensor:
        return F.one_hot(torch.as_tensor(label, device=logits.device).expand(len(logits)), logits.shape[1]).to(logits)

    return signal


def of_unit(feature_map: int | Tensor, place: int | Tensor) -> Signal:
    """The activation at a place (counted along the rows) of a feature map, or of each row's own [B]; 0 elsewhere."""

    def signal(maps: Tensor) -> Tensor:  # [B, M, S]
        flat, rows = maps.flatten(2), torch.arange(len(maps), device=maps.device)
        chosen = torch.zeros_like(flat)
        chosen[rows, feature_map, place] = flat[rows, feature_map, place]
        return chosen.view_as(maps)

    return signal


def _sent_back(net: Callable[[Tensor], Tensor], x: Tensor, signal: Signal) -> Tensor:
    # of a slice of a Sequential only the parts know their mode: the slice itself is new, and in training
    parts = net.modules() if isinstance(net, nn.Module) else ()
    if any(part.training for part in parts if next(part.children(), None) is None):
        raise ValueError("A network must be in evaluation mode, but is in training: call eval(), or dropout is drawn.")
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        answer = net(x)
        # not backward(), which would leave gradients in the parameters
        return torch.autograd.grad(answer, x, signal(answer.detach()))[0]


class _Deconvnet(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(context: Any, *back: Tensor) -> Tensor:
        return back[0].clamp(min=0)


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context: Any, *back: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return back[0].clamp(min=0) * (x > 0)


class _Rectifiers(TorchFunctionMode):
    """
    While it is open, every ReLU has another backward.

    Hooks on modules pass over F.relu, count a module that is used twice once, and break on in-place units, all without
    a word. What torch itself is asked for cannot be passed over.
    """

    RELU = (F.relu, torch.relu, Tensor.relu)
    IN_PLACE = (F.relu_, torch.relu_, Tensor.relu_)
    OTHERS = (F.leaky_relu, F.elu, F.gelu, F.silu, F.selu, F.celu, F.softplus, F.mish, F.hardswish, F.relu6, F.prelu)

    def __init__(self, rule: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.rule, self.met = rule, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.RELU:
            self.met += 1
            return self.rule.apply(args[0] if args else kwargs["input"])
        if func in self.OTHERS or func in self.IN_PLACE:
            raise ValueError(f"Every unit must be a ReLU, nn.ReLU or torch.relu, but got {func.__name__}.")
        return func(*args, **(kwargs or {}))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if kind is None and not self.met:
            raise ValueError("A network must ask torch for ReLU, but met none: take `saliency`, or do not compile it.")


# Where a unit looks


@dataclass(frozen=True)
class ReceptiveField:
    """The part of their input that one unit of some layers sees, in places along each axis."""

    size: tuple[int, ...]
    """places that a unit sees"""
    jump: tuple[int, ...]
    """places between neighbouring units' fields"""
    start: tuple[int, ...]
    """the first place that the first unit sees; below 0 where layers are padded"""

    def window(self, unit: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
        """The places of an input of that shape which a unit sees: padding and edges are cut off."""
        first = [start + jump * place for start, jump, place in zip(self.start, self.jump, unit, strict=True)]
        return tuple(
            slice(max(0, low), min(side, low + size)) for low, size, side in zip(first, self.size, shape, strict=True)
        )


def receptive_field(layers: Sequence[nn.Module], axes: int = 2) -> ReceptiveField:
    """
    The field of convolutions and pools, one after another: it grows by (k - 1) d jump, and the jump by the stride.

    Units and dropout see what they are given. It is never too small; too large at an edge, where a unit reads padding
    or a stride leaves a rest. Raises ValueError for layers that see everything, or are not known.
    """
    size, jump, start = [1] * axes, [1] * axes, [0] * axes
    pointwise = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.modules.dropout._DropoutNd)
    pools = (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)
    for layer in layers:
        if isinstance(layer, pointwise):
            continue
        if not isinstance(layer, (nn.Conv2d, nn.Conv3d, *pools)):
            raise ValueError(f"Layers must be convolutions, pools or units, but got {type(layer).__name__}.")
        own: Any = layer
        settings = (own.kernel_size, own.stride, own.padding, getattr(own, "dilation", 1))
        for axis, (wide, stride, pad, dilation) in enumerate(
            zip(*(_each(setting, axes) for setting in settings), strict=True)
        ):
            size[axis] += (wide - 1) * dilation * jump[axis]
            start[axis] -= pad * jump[axis]
            jump[axis] *= stride
    return ReceptiveField(tuple(size), tuple(jump), tuple(start))


# Which inputs excite a feature map


@dataclass(frozen=True)
class Strongest:
    """
    The inputs that excite each of M feature maps most, and where: one place for each input, k inputs, falling.

    `merge` is associative and commutative, ties included, so parts of a data set may be seen in any order, anywhere.
    """

    value: Tensor
    """the activation, [M, k]; -inf where fewer inputs were seen"""
    item: Tensor
    """the input's number in the data set, [M, k]; -1 where fewer were seen"""
    place: Tensor
    """the place in its feature map, counted along the rows, [M, k]"""

    @classmethod
    def of(cls, maps: Tensor, item: Tensor, k: int) -> "Strongest":
        """Of the feature maps [B, M, S] of inputs with numbers [B], each of which is seen once in all parts."""
        value, place = maps.flatten(2).max(2)  # [B, M]
        shape = (maps.shape[1], k)
        none = cls(
            torch.full(shape, -torch.inf, dtype=value.dtype, device=value.device),
            torch.full(shape, -1, device=value.device),
            torch.full(shape, -1, device=value.device),
        )
        return none.merge(cls(value.T, item.to(value.device).expand(maps.shape[1], -1), place.T))

    def merge(self, other: "Strongest") -> "Strongest":
        """The strongest of both."""
        k = self.value.shape[1]
        value, item, place = (
            torch.cat(pair, 1)
            for pair in zip((self.value, self.item, self.place), (other.value, other.item, other.place), strict=True)
        )
        # by number first, then, keeping that order, by value: equals come in one order whoever is merged with whom
        by_item = item.argsort(dim=1, stable=True)
        by_value = value.gather(1, by_item).argsort(dim=1, descending=True, stable=True)
        order = by_item.gather(1, by_value)[:, :k]
        return Strongest(value.gather(1, order), item.gather(1, order), place.gather(1, order))
