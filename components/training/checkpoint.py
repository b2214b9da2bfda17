"""
The checkpoints of a training under way: a step's scratch holds the last two, and a list of their files' digests.

    state-<step>.safetensors   log-<step>.json   best-<step>.safetensors   checkpoints.json, written last

A damaged checkpoint is not trained on: an earlier one is, or the training begins anew, and says so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from components.runtime import filesystem
from components.runtime.crash_points import point
from components.runtime.objects import Damaged, digest_of
from components.runtime.serialization import canonical

if TYPE_CHECKING:
    from components.training.learner import World

KEPT = 2  # checkpoints: one to fall back to
TRIES = 3  # readings of what may have been damaged on the way alone
LIST = "checkpoints.json"

Parts = dict[str, bytes]
"""state, log and best, as far as there is one"""


@dataclass
class Checkpoints:
    """Those in a folder, the oldest first."""

    folder: str
    held: list[dict[str, Any]] = field(default_factory=list)
    """step, and part -> name and digest"""

    def add(self, step: int, parts: Mapping[str, tuple[str, bytes]]) -> None:
        """Writes the files of one more (part -> name and bytes), then the list, and removes what it no longer has."""
        before = self._names()
        for part, (name, data) in parts.items():
            if name not in before or part != "best":
                filesystem.write(f"{self.folder}/{name}", data)
            point("train: a file of a checkpoint is saved, not in the list")
        digests = {part: [name, digest_of(data)] for part, (name, data) in parts.items()}
        self.held = [*(one for one in self.held if one["step"] != step), {"step": step, "parts": digests}][-KEPT:]
        filesystem.write(f"{self.folder}/{LIST}", _sealed(self.held))
        point("train: a checkpoint is saved")
        for name in before - self._names():
            filesystem.delete(f"{self.folder}/{name}")

    def _names(self) -> set[str]:
        return {name for one in self.held for name, _ in one["parts"].values()}

    def latest(self, world: "World") -> Parts | None:
        """The files of the last whole one; None if there is none. All workers continue from the one of the first."""
        self.held = self._listed()
        if world.size == 1:
            return self._whole()
        parts = None if world.rank else self._whole()
        import torch.distributed as dist  # not by who only looks at a store

        told = [self.held[-1]["step"] if self.held else None]
        dist.broadcast_object_list(told)
        return self._of(told[0], world) if world.rank else parts

    def _of(self, step: int | None, world: "World") -> Parts | None:
        """The files of the checkpoint that the first worker has chosen."""
        parts = next((self._read(one) for one in self.held if one["step"] == step), None)
        if step is not None and parts is None:
            raise Damaged(f"Worker {world.rank} must read checkpoint {step} of {self.folder}, as the first one did.")
        return parts

    def _listed(self) -> list[dict[str, Any]]:
        for _ in range(TRIES):
            data = filesystem.read(f"{self.folder}/{LIST}")
            if data is None:
                return []
            if (held := _unsealed(data)) is not None:
                return held
        _say("The list of this training's checkpoints is damaged: it begins anew.")
        return []

    def _whole(self) -> Parts | None:
        """The files of the last one that is whole; those after it are no longer listed."""
        while self.held:
            if parts := self._read(self.held[-1]):
                return parts
            step = self.held.pop()["step"]
            rest = f"it goes on from that of update {self.held[-1]['step']}" if self.held else "it begins anew"
            _say(f"The checkpoint of update {step} is damaged and is not trained on: {rest}.")
        return None

    def _read(self, one: Mapping[str, Any]) -> Parts | None:
        """The files of a checkpoint, each compared with its digest; None if one of them is damaged or gone."""
        parts = {part: self._file(name, digest) for part, (name, digest) in one["parts"].items()}
        return {part: data for part, data in parts.items() if data is not None} if all(parts.values()) else None

    def _file(self, name: str, digest: str) -> bytes | None:
        for _ in range(TRIES):
            data = filesystem.read(f"{self.folder}/{name}")
            if data is not None and digest_of(data) == digest:
                return data
        return None


def damaged_files(folder: str, names: list[str]) -> list[str]:
    """Which files of a folder of checkpoints, by its list, are damaged or gone; the list itself where that is."""
    if LIST not in names:
        return []
    held = _unsealed(filesystem.read(f"{folder}/{LIST}") or b"")
    if held is None:
        return [LIST]
    one = Checkpoints(folder)
    files = {name: digest for checkpoint in held for name, digest in checkpoint["parts"].values()}
    return [name for name, digest in files.items() if one._file(name, digest) is None]


def _sealed(held: list[dict[str, Any]]) -> bytes:
    return json.dumps({"seal": digest_of(canonical(held).encode()), "checkpoints": held}).encode()


def _unsealed(data: bytes) -> list[dict[str, Any]] | None:
    """The list, if it is as it was written."""
    try:
        said = json.loads(data)
        held: list[dict[str, Any]] = said["checkpoints"]
        return held if said["seal"] == digest_of(canonical(held).encode()) else None
    except (ValueError, TypeError, KeyError):
        return None


def _say(words: str) -> None:
    """To the step's logs, which are what its processes print."""
    print(words, flush=True)
