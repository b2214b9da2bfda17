"""
Asking a model's folder: the family, the representation and the network that it holds, and their answer.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from components.errors import DataError
from components.runtime.objects import digest_of
from components.runtime.serialization import canonical, decode
from components.runtime.user_code import own_code
from components.training.learner import load_weights


def opened(folder: Path) -> tuple[Any, Any, torch.nn.Module]:
    """The family, the representation and the network that a model's folder holds."""
    said, weights = (
        json.loads((folder / "model.json").read_text(encoding="utf-8")),
        (folder / "model.safetensors").read_bytes(),
    )
    # a model that was registered before these were written down has neither
    whole = said.pop("seal", None) in (None, seal(said)) and said.get("weights") in (None, digest_of(weights))
    if not whole:
        raise DataError(f"A model must be as it was registered, but the one in {folder} is damaged. Fetch it anew.")
    with own_code(said.get("own", []), folder.parent / "code"):
        family, representation = decode(said["family"]), decode(said["representation"])
        net = family.network()
    load_weights(net, load_tensors(weights))
    return family, representation, net.eval()


def seal(said: Mapping[str, Any]) -> str:
    """The digest of what a model's folder says of it."""
    return digest_of(canonical({name: value for name, value in said.items() if name != "seal"}).encode())


def answer(family: Any, net: torch.nn.Module, question: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Apply a family's network to columns of arrays."""
    columns = {name: torch.from_numpy(np.array(value)) for name, value in question.items()}
    count = len(next(iter(columns.values())))
    batch = {**columns, "index": torch.arange(count), "row": torch.arange(count), "id": torch.arange(count)}
    with torch.no_grad():
        return {name: value.cpu().numpy() for name, value in family.predict(net, batch).items()}


def joined(probabilities: np.ndarray) -> np.ndarray:
    """
    One answer of a classifier for an asset of several rows, [B, K] -> [K]: the geometric mean, that its sum be 1.

    As such a classifier is scored: an asset's class is the one with the largest mean of log-probabilities.
    """
    mean = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float64).tiny)).mean(0)
    shares = np.exp(mean - mean.max())
    return (shares / shares.sum()).astype(probabilities.dtype)
