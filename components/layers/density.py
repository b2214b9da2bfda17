"""
Gaussians that come and go while an optimizer learns them: its moments follow the ones that stay.

A cloud is a module whose every parameter has a row for each Gaussian: `means`, `log_scales`, `quaternions`, `logits`
and any others. Optimizers are Adam's kind: `exp_avg` and `exp_avg_sq` for each parameter.
"""

# N Gaussians

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.layers.splats import rotations

MOMENTS = ("exp_avg", "exp_avg_sq")


def best(values: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Those `candidates` [N] that are among the `count` of largest value, and no more of them than that."""
    if int(candidates.sum()) <= count:
        return candidates
    order = torch.where(candidates, values, -torch.inf).argsort(descending=True, stable=True)
    chosen = torch.zeros_like(candidates)
    chosen[order[: max(count, 0)]] = True
    return chosen


@torch.no_grad()
def multiply(
    cloud: nn.Module,
    optimizer: torch.optim.Optimizer,
    clone: Tensor,
    split: Tensor,
    factor: float,
    generator: torch.Generator,
) -> None:
    """Add a copy of each that is cloned; put two smaller ones, drawn from it, in the place of each that is split."""
    parent = {
        name: value.detach()[split].repeat(2, *[1] * (value.ndim - 1)) for name, value in cloud.named_parameters()
    }
    scales = parent["log_scales"].exp()
    draw = scales * torch.randn(scales.shape, generator=generator, device=scales.device)
    parent["means"] += (rotations(parent["quaternions"]) @ draw[:, :, None])[:, :, 0]
    parent["log_scales"] -= math.log(factor)
    added = {name: torch.cat([value[clone], parent[name]]) for name, value in cloud.named_parameters()}
    rearrange(cloud, optimizer, ~split, added)


@torch.no_grad()
def rearrange(cloud: nn.Module, optimizer: torch.optim.Optimizer, keep: Tensor, added: Mapping[str, Tensor]) -> None:
    """Keep those rows of every parameter and put the added ones after them; their moments begin at 0."""
    for name, old in list(cloud.named_parameters()):
        rows = added.get(name, old[:0])
        new = nn.Parameter(torch.cat([old[keep], rows]))
        moments = optimizer.state.pop(old, {})
        for moment in MOMENTS:
            if moment in moments:
                moments[moment] = torch.cat([moments[moment][keep], torch.zeros_like(rows)])
        # a new object, for autograd remembers the size of the old one
        cloud.register_parameter(name, new)
        optimizer.state[new] = moments
        for group in optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]


@torch.no_grad()
def reset(cloud: nn.Module, optimizer: torch.optim.Optimizer, to: float) -> None:
    """Lower every opacity to `to` at most and forget its moments: what is needed grows again, the rest is removed."""
    cloud.logits.clamp_(max=math.log(to / (1 - to)))
    for moment in MOMENTS:
        if moment in optimizer.state[cloud.logits]:
            optimizer.state[cloud.logits][moment].zero_()
