"""
When a batch does not fit: it is cut into pieces, one after another, whose gradients add up to those of the whole.

A loss is a mean over rows, so the numbers stay. Chance is drawn for the whole batch and taken by `row`, so each piece
sees its own part of one draw; dropout alone draws anew in each piece, as it does on each worker. Where rows see each
other in a pass (BatchNorm), or a family writes its own `update`, nothing is cut: it would be another training.
"""

# B rows of a batch

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from components.table import taken

if TYPE_CHECKING:
    from components.family import Batch, Family, State

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA's; the CPU allocator's, by system


class TooLarge(Exception):
    """A batch did not fit, and may be cut: nothing but gradients was changed."""


def gradients(family: "Family", state: "State", batch: "Batch") -> dict[str, Tensor]:
    """Adds the gradients of a batch's loss to the parameters, in `state.pieces`; returns what is logged."""
    try:
        return _whole(family, state, batch) if state.pieces == 1 else _in_pieces(family, state, batch)
    except (RuntimeError, MemoryError) as error:
        if ran_out(error) and may_cut(family, state.net) and state.pieces < len(batch["row"]):
            raise TooLarge from None
        raise


def _whole(family: "Family", state: "State", batch: "Batch") -> dict[str, Tensor]:
    loss, parts = family.loss(state.net, batch, state.generator)
    loss.backward()
    return {"loss": loss.detach(), **parts}


def _in_pieces(family: "Family", state: "State", batch: "Batch") -> dict[str, Tensor]:
    logged: dict[str, Tensor] = {}
    chance, rows = state.generator.get_state(), len(batch["row"])
    for index in torch.arange(rows, device=batch["row"].device).chunk(state.pieces):
        state.generator.set_state(chance)
        loss, parts = family.loss(state.net, cut(batch, index), state.generator)
        share = len(index) / rows
        (loss * share).backward()
        for name, value in {"loss": loss, **parts}.items():
            logged[name] = logged.get(name, torch.zeros(())) + torch.as_tensor(value).detach().cpu() * share
    return logged


def cut(batch: "Batch", index: Tensor) -> "Batch":
    """Some rows of a batch: of all that has a value for each row, ragged columns included."""
    rows = len(batch["row"])
    return {name: taken(column, index) if _by_row(column, rows) else column for name, column in batch.items()}


def _by_row(column: Any, rows: int) -> bool:
    if isinstance(column, tuple):
        return len(column[1]) == rows + 1
    return isinstance(column, Tensor) and column.ndim > 0 and len(column) == rows


def may_cut(family: "Family", net: nn.Module) -> bool:
    """True if the pieces of a batch have the gradients of the whole, and leave the network as the whole does."""
    return family.separable and not any(module.training and _mixes(module) for module in net.modules())


def _mixes(module: nn.Module) -> bool:
    """True if rows see each other in a pass, or leave a trace in the module."""
    return isinstance(module, _BatchNorm) or bool(getattr(module, "track_running_stats", False))


def ran_out(error: BaseException) -> bool:
    """True if an error says that memory ran out: of a GPU's, or of the CPU's allocator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def release() -> None:
    """Gives back what torch keeps of a GPU for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
