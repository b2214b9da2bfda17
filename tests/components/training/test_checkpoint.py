"""
The checkpoints of a training under way: what a disk has changed is not trained on.
"""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from components.runtime import filesystem
from components.runtime.objects import Damaged
from components.training.checkpoint import LIST, Checkpoints
from components.training.learner import World


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """After updates 1 to 4; the best weights are those of update 2 from then on."""
    checkpoints = Checkpoints(str(tmp_path))
    for step in (1, 2, 3, 4):
        checkpoints.add(step, parts(step))
    return tmp_path


def parts(step: int) -> dict[str, tuple[str, bytes]]:
    best = min(step, 2)
    return {
        "best": (f"best-{best}.safetensors", f"best of {best}".encode()),
        "log": (f"log-{step}.json", f"lines of {step}".encode()),
        "state": (f"state-{step}.safetensors", f"state of {step}".encode()),
    }


def latest(folder: Path) -> dict[str, bytes] | None:
    return Checkpoints(str(folder)).latest(World())


def bytes_of(step: int) -> dict[str, bytes]:
    return {part: data for part, (_, data) in parts(step).items()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_last_is_continued_from_and_two_are_kept(folder):
    names = {LIST, *(name.format(step) for step in (3, 4) for name in ("log-{}.json", "state-{}.safetensors"))}

    assert latest(folder) == bytes_of(4)
    assert {path.name for path in folder.iterdir()} == {*names, "best-2.safetensors"}


@pytest.mark.parametrize("name", ["state-4.safetensors", "log-4.json"])
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_where_the_last_is_damaged_the_one_before_it_is_and_this_is_said(folder, name, harm, capsys):
    flip(folder / name) if harm == "changed" else (folder / name).unlink()

    assert latest(folder) == bytes_of(3)
    assert capsys.readouterr().out == (
        "The checkpoint of update 4 is damaged and is not trained on: it goes on from that of update 3.\n"
    )


def test_where_none_is_whole_the_training_begins_anew_and_this_is_said(folder, capsys):
    flip(folder / "best-2.safetensors")  # which both have

    assert latest(folder) is None
    assert "update 3 is damaged and is not trained on: it begins anew.\n" in capsys.readouterr().out


def test_where_the_list_is_damaged_the_training_begins_anew_and_this_is_said(folder, capsys):
    flip(folder / LIST)

    assert latest(folder) is None
    assert "The list of this training's checkpoints is damaged: it begins anew." in capsys.readouterr().out


def test_a_training_that_fell_back_writes_its_own_checkpoints_over_the_damaged(folder):
    flip(folder / "state-4.safetensors")
    flip(folder / "best-2.safetensors")
    checkpoints = Checkpoints(str(folder))
    assert checkpoints.latest(World()) is None
    checkpoints.add(4, parts(4))

    assert latest(folder) == bytes_of(4)


def test_what_was_damaged_on_the_way_alone_is_read_again(folder, monkeypatch):
    read, waiting = filesystem.read, ["state-4.safetensors", LIST]

    def once(address: str) -> bytes | None:
        data = read(address)
        name = address.rpartition("/")[2]
        if name in waiting:
            waiting.remove(name)
            return b"cut"
        return data

    monkeypatch.setattr(filesystem, "read", once)

    assert latest(folder) == bytes_of(4)
    assert waiting == []


def together(folder: Path, monkeypatch: pytest.MonkeyPatch, harm: Any) -> list[Any]:
    """What two workers continue from; `harm` is done once the first has chosen."""
    told, chosen, found = [], threading.Event(), [None, None]

    def broadcast(words: list[Any]) -> None:
        if threading.current_thread().name == "0":
            told.extend(words)
            harm()
            chosen.set()
        else:
            assert chosen.wait(30)
            words[:] = told

    def work(rank: int) -> None:
        try:
            found[rank] = Checkpoints(str(folder)).latest(World(rank, 2))
        except Damaged as error:
            found[rank] = error

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    threads = [threading.Thread(target=work, args=(rank,), name=str(rank)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_workers_continue_from_the_one_that_the_first_has_chosen(folder, monkeypatch):
    flip(folder / "state-4.safetensors")

    assert together(folder, monkeypatch, lambda: None) == [bytes_of(3), bytes_of(3)]


def test_a_worker_that_cannot_read_it_does_not_train_on_another(folder, monkeypatch):
    first, second = together(folder, monkeypatch, lambda: flip(folder / "log-4.json"))

    assert first == bytes_of(4)
    assert str(second) == f"Worker 1 must read checkpoint 4 of {folder}, as the first one did."
