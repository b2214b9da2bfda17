"""
Workers that die: a family whose worker is killed in the middle of an update, and a context that writes down who ran it.

They are imported by Ray's workers too, so they cannot live in the file of a test.
"""

import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from components.errors import DataError
from components.families.shapes.voxnet import VoxNet
from components.family import Batch, State
from components.step import Printing
from components.training.learner import World
from tests.meshes import small_voxnet


class Mortal(VoxNet):
    """A VoxNet whose worker `rank` is killed at update `at`: once, or again and again."""

    grave: str = ""
    """folder where each death leaves a file"""
    rank: int = 1
    """worker that dies"""
    at: int = 5
    """update in which it dies"""
    deaths: int = 1
    """times that it dies"""

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        dead = len(list(Path(self.grave).glob("*")))
        if state.step == self.at and World.here().rank == self.rank and dead < self.deaths:
            (Path(self.grave) / f"{time.time_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().update(state, batch)


class Refusing(VoxNet):
    """A VoxNet that finds its data wanting on worker `rank`, and counts how often it was tried."""

    grave: str = ""
    """folder where each try leaves a file"""
    rank: int = 1
    """worker that refuses"""

    def update(self, state: State, batch: Batch) -> dict[str, Tensor]:
        if World.here().rank == self.rank:
            (Path(self.grave) / f"{time.time_ns()}").touch()
            raise DataError("A shape must have a surface, but 17 has none. Leave it out.")
        return super().update(state, batch)


class Witness(Printing):
    """Writes a line for each update that is logged: its number, and how many workers took part."""

    def log(self, metrics: Mapping[str, float], step: int, *, trial: str = "") -> None:
        if "loss" in metrics:
            workers = dist.get_world_size() if dist.is_initialized() else 1
            with open(f"{self.scratch}/witness.jsonl", "a") as lines:
                lines.write(json.dumps({"step": step, "workers": workers, "process": os.getpid()}) + "\n")
        super().log(metrics, step, trial=trial)

    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(f"{self.scratch}/witness.jsonl").read_text().splitlines()]


def without_chance_of(kind: type[VoxNet], **more: Any) -> VoxNet:
    """A small VoxNet of a kind, with no dropout: workers draw that each for themselves."""
    small = small_voxnet(dropout=0.0, steps=12)
    own = {one.name: getattr(small, one.name) for one in fields(small)}
    return kind(**{**own, **more})
