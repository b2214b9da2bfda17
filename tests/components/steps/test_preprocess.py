"""
preprocess: shards that are made once, rows that depend on nothing but their asset, and a quarantine.
"""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.errors import DataError
from components.representation import Column, Representation
from components.representations.descriptors import Descriptors
from components.representations.points import Points
from components.representations.voxels import Voxels
from components.runtime import objects
from components.runtime.objects import File
from components.source import Asset, Changed, Source, Unreadable
from components.sources.folder import Folder
from components.step import Printing
from components.steps import preprocess as module
from components.steps.preprocess import preprocess, shards
from components.table import Table
from pipelines.engine.execution.context import Running
from pipelines.engine.store.store import Store
from tests.meshes import shape, write_shapes

POINTS, VOXELS = Points(count=16), Voxels(resolution=8, pad=1)


class Texts(Source):
    """Texts from nowhere; one of them cannot be read."""

    ids: tuple[str, ...] = tuple(f"text-{n}" for n in range(12))
    bad: str = ""

    def rows(self) -> list[Asset]:
        return [Asset(name, f"/x/{name}", "label", "train", "d") for name in self.ids]

    def open(self, asset: Asset) -> str:
        if asset.id == self.bad:
            raise Unreadable("it is torn")
        return asset.id


class Lengths(Representation):
    scale: int = 1
    offset: int = 0
    """what `adapt` learns"""

    def columns(self):
        return {"length": Column((), "int64"), "draw": Column((), "float64")}

    def rows(self, asset, generator):
        yield {"length": self.scale * len(asset) + self.offset, "draw": generator.random()}

    def adapt(self, assets):
        return Lengths(scale=self.scale, offset=sum(len(asset) for asset in assets))


class Fixed(Lengths):
    """Learns nothing first."""

    adapt = Representation.adapt


LENGTHS = Fixed(scale=2)


def run(source: Source, *representations: Representation, context: Any = None) -> Table:
    arguments = {"source": source, "representations": representations, "on": "here"}
    return preprocess.run(arguments, context or Printing())


def rows(table: Table, representation: Representation) -> dict[str, list[Any]]:
    found = [pq.read_table(shard.path()).to_pylist() for shard in table.set(representation).shards]
    return {row["id"]: row for shard in found for row in shard}


def quarantined(table: Table) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in pq.read_table(table.quarantine.path()).to_pylist()}


# Shards


def test_a_new_asset_makes_one_shard_anew_and_leaves_the_others_bit_for_bit(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 4)
    context = Printing()
    few = Texts(ids=tuple(f"text-{n}" for n in range(30)))
    more = Texts(ids=(*few.ids, "text-new"))
    before = {file.digest for file in run(few, LENGTHS, context=context).sets[0].shards}
    remembered = set(context.remembered)
    after = {file.digest for file in run(more, LENGTHS, context=context).sets[0].shards}

    assert len(before) == len(after) > 4
    assert len(after - before) == 1
    assert len(set(context.remembered) - remembered) == 1


def test_a_growing_source_makes_one_shard_anew_or_two_where_one_is_halved(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 4)
    ids = tuple(f"text-{n}" for n in range(120))
    before: set[tuple[str, ...]] = set()
    for count in range(1, len(ids) + 1):
        now = {tuple(asset.id for asset in group) for group in shards(Texts(ids=ids[:count]).rows())}

        assert (len(now - before), len(before - now)) in {(1, 0), (1, 1), (2, 1)}
        assert max(map(len, now)) <= 6
        before = now


def test_a_killed_preprocessing_makes_only_the_shards_that_it_had_not(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 4)

    class Dying(Printing):
        def remember(self, key: str, artifact: Any) -> None:
            if len(self.remembered) == 2:
                raise KeyboardInterrupt
            super().remember(key, artifact)

    dying = Dying()
    with pytest.raises(KeyboardInterrupt):
        run(Texts(), LENGTHS, context=dying)
    opened: list[str] = []
    monkeypatch.setattr(Texts, "open", lambda self, asset: opened.append(asset.id) or asset.id)
    table = run(Texts(), LENGTHS, context=Printing(remembered=dying.remembered))
    done = {
        id for shard in list(dying.remembered.values())[:2] for id in pq.read_table(shard.rows.path())["id"].to_pylist()
    }

    assert table.counts["train"] == 12
    assert 0 < len(opened) < 12
    assert not done & set(opened)


def test_what_another_step_makes_meanwhile_is_not_made_again(monkeypatch):
    """As where folds of one source are prepared side by side: while this one makes a shard, another makes them all."""
    monkeypatch.setattr(module, "SHARD", 4)
    shared: dict[str, Any] = {}
    opened: list[str] = []

    def opening(self: Texts, asset: Asset) -> str:
        opened.append(asset.id)
        if len(opened) == 1:
            run(Texts(), Fixed(scale=1), context=Printing(remembered=shared))
        return asset.id

    monkeypatch.setattr(Texts, "open", opening)
    table = run(Texts(), Fixed(scale=1), context=Printing(remembered=shared))

    assert table.counts["train"] == 12
    assert set(opened) == set(Texts().ids)
    assert 0 < len(opened) - 12 <= 6, "one shard was made by both"


def test_every_asset_is_in_one_shard_whatever_the_order():
    assets = Texts(ids=tuple(f"text-{n}" for n in range(200))).rows()
    one, other = shards(assets), shards(assets[::-1])

    assert one == other
    assert sorted(a.id for group in one for a in group) == sorted(a.id for a in assets)
    assert all(len(group) <= 1.5 * module.SHARD for group in one)
    assert sum(map(len, one)) / len(one) > module.SHARD / 2


def test_each_asset_is_opened_once_for_all_representations(monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(Texts, "open", lambda self, asset: opened.append(asset.id) or asset.id)
    run(Texts(), Fixed(scale=1), Fixed(scale=2), Fixed(scale=1))

    assert sorted(opened) == sorted(Texts().ids)


class Loud(Texts):
    def open(self, asset: Asset) -> str:
        return f"{super().open(asset)}!"


class Handed(Source):
    """What another source has, as that opens it."""

    of: Source

    def rows(self) -> list[Asset]:
        return self.of.rows()

    def open(self, asset: Asset) -> str:
        return self.of.open(asset)


def test_shards_of_a_source_that_another_opens_are_those_of_both_their_code(own_store):
    context = Running(Store(str(own_store)), "run", "key", (), 0, {})
    quiet, loud = (rows(run(Handed(of=one), LENGTHS, context=context), LENGTHS) for one in (Texts(), Loud()))

    assert loud["text-1"]["length"] == quiet["text-1"]["length"] + LENGTHS.scale


def test_a_new_representation_leaves_those_that_are_made(monkeypatch):
    context = Printing()
    run(Texts(), Fixed(scale=1), context=context)
    before = dict(context.remembered)
    run(Texts(), Fixed(scale=1), Fixed(scale=2), context=context)

    assert all(context.remembered[key] is shard for key, shard in before.items())
    assert len(context.remembered) == 2 * len(before)


def test_a_draw_depends_on_the_seed_and_the_asset_alone():
    whole = rows(run(Texts(), LENGTHS), LENGTHS)
    part = rows(run(Texts(ids=("text-3",)), LENGTHS), LENGTHS)
    other = rows(run(Texts(), LENGTHS, context=Printing(seed=1)), LENGTHS)

    assert part["text-3"] == whole["text-3"]
    assert other["text-3"]["draw"] != whole["text-3"]["draw"]
    assert len({row["draw"] for row in whole.values()}) == 12


def test_what_a_representation_learns_first_is_kept_in_the_table():
    table = run(Texts(ids=("one", "three")), Lengths())

    assert table.sets[0].declared == Lengths()
    assert table.sets[0].adapted == Lengths(offset=8)
    assert rows(table, Lengths())["one"]["length"] == 11


# Bad input


def test_two_assets_of_one_id_are_refused():
    """The rows of both would have found the label and the side of the last."""
    with pytest.raises(DataError, match="Each asset of a source has an id of its own, but 2 have 'a'"):
        preprocess(Texts(ids=("a", "b", "a")), [Lengths()], on="here")


def test_a_source_without_assets_is_refused():
    with pytest.raises(DataError, match="A source must have assets, but this one is empty"):
        run(Texts(ids=()), LENGTHS)


BAD = {
    "flat/truncated.obj": (shape("flat", 1)[:-20] + "f 1 2", "cut short|names vertex|line"),
    "flat/empty.obj": ("v 0 0 0\nv 1 0 0\n", "no faces"),
    "long/nan.obj": (shape("long", 1).replace("v 0.000000", "v nan", 1), "not finite|number"),
    "round/nothing.obj": ("", "no bytes"),
    "round/point.obj": ("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "one point"),
    "round/lost.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "vertex|vertices"),
    "round/words.stl": ("this is no mesh at all", "."),
}


@pytest.fixture
def spoilt(shapes: Path) -> Path:
    for name, (text, _) in BAD.items():
        (shapes / name).write_text(text)
    return shapes


def test_what_cannot_be_used_is_quarantined_with_its_reason_and_the_rest_goes_on(spoilt):
    import re

    table = run(Folder(root=str(spoilt)), POINTS, VOXELS)
    found = quarantined(table)

    assert found.keys() == BAD.keys()
    assert table.counts["quarantined"] == len(BAD)
    assert sum(table.counts[split] for split in ("train", "val", "test")) == 24
    assert len(rows(table, POINTS)) == len(rows(table, VOXELS)) == 24
    for name, (_, reason) in BAD.items():
        assert re.search(reason, found[name]["reason"]), (name, found[name]["reason"])
        assert len(found[name]["reason"].splitlines()) == 1
        assert "Traceback" in found[name]["traceback"]
        assert found[name]["uri"].endswith(name)


class Picky(Fixed):
    """Can say nothing of one text."""

    def rows(self, asset, generator):
        if asset == "text-5":
            raise Unreadable("of no length")
        yield from super().rows(asset, generator)


class Choosy(Picky):
    """And nothing of the same."""


def test_what_one_representation_refuses_is_in_no_set_of_the_table():
    table = run(Texts(bad="text-7"), LENGTHS, Picky(scale=3), Choosy(scale=3))
    found = quarantined(table)

    assert (found["text-5"]["reason"], found["text-5"]["by"]) == ("of no length", "picky, choosy")
    assert (found["text-7"]["reason"], found["text-7"]["by"]) == ("it is torn", "")
    assert table.counts == {"train": 10, "val": 0, "test": 0, "quarantined": 2}
    assert [one.rows for one in table.sets] == [10, 10, 10]
    assert table.describe() == "10 train, 2 quarantined; 10 rows of fixed, 10 rows of picky, 10 rows of choosy"
    opened = [table.open(one, "train").ids for one in (LENGTHS, Picky(scale=3), Choosy(scale=3))]
    assert opened[0] == opened[1] == opened[2] == sorted(set(Texts().ids) - {"text-5", "text-7"})


def test_a_table_of_what_refuses_nothing_shares_the_shards_of_one_that_lacks_an_asset():
    context = Printing()
    few, alone = run(Texts(), LENGTHS, Picky(scale=3), context=context), run(Texts(), LENGTHS, context=context)

    assert few.set(LENGTHS).shards == alone.set(LENGTHS).shards
    assert (few.set(LENGTHS).rows, alone.set(LENGTHS).rows) == (11, 12)
    assert len(alone.open(LENGTHS, "train")) == 12


PASSING = [
    ConnectionResetError("reset by peer"),
    MemoryError("no room"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many open files"),
    PermissionError(errno.EACCES, "Permission denied"),
    TypeError("a bug"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["source", "representation", "adapt"])
def test_an_error_that_tells_nothing_of_the_bytes_keeps_no_shard_and_its_class(monkeypatch, error, where):
    """As much as the machine was ill, as well it is the next time: nothing is left of it."""

    def ill(self: Any, asset: Any, *_: Any) -> Any:
        raise error

    context = Printing()
    with monkeypatch.context() as patch:
        patch.setattr(*((Lengths, "rows") if where == "representation" else (Texts, "open")), ill)
        with pytest.raises(type(error)) as caught:
            run(Texts(), Lengths() if where == "adapt" else LENGTHS, context=context)

    assert caught.value is error
    assert error.__notes__[-1].startswith("(asset text-")
    assert context.remembered == {}
    assert run(Texts(), LENGTHS, context=context).counts["quarantined"] == 0


def test_what_a_representation_learns_first_it_learns_from_what_can_be_used(monkeypatch):
    assert run(Texts(ids=("one", "three"), bad="three"), Lengths()).sets[0].adapted == Lengths(offset=3)


def test_a_file_that_is_saved_while_its_shard_is_made_ends_the_step_and_leaves_no_row_of_it(shapes, monkeypatch):
    context, real = Printing(), Folder.open

    def save_first(self: Folder, asset: Asset) -> Any:
        Path(asset.uri).write_text(shape("flat", 99))
        return real(self, asset)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "open", save_first)
        with pytest.raises(Changed, match="What is decoded is what was listed, but .* changed since then. Run again"):
            run(Folder(root=str(shapes)), POINTS, context=context)

    assert context.remembered == {}
    assert run(Folder(root=str(shapes)), POINTS, context=context).counts["quarantined"] == 0


def test_a_file_that_becomes_readable_leaves_the_quarantine(shapes):
    context = Printing()
    (shapes / "flat" / "bad.obj").write_text("v 0")
    before = run(Folder(root=str(shapes)), POINTS, context=context)
    (shapes / "flat" / "bad.obj").write_text(shape("flat", 3))
    after = run(Folder(root=str(shapes)), POINTS, context=context)

    assert (before.counts["quarantined"], after.counts["quarantined"]) == (1, 0)


def test_when_nothing_can_be_read_the_first_reason_is_told(tmp_path):
    folder = tmp_path / "spoilt"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        (folder / label / "x.obj").write_text("")

    with pytest.raises(DataError, match=r"No asset could be read. The first, .*x.obj: the file has no bytes"):
        run(Folder(root=str(folder)), POINTS)


def test_a_full_disk_stops_at_once_and_keeps_what_was_done(shapes, monkeypatch):
    """It is nobody's asset that is bad: nothing of it may end in quarantine."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    context = Printing()
    source = Folder(root=str(shapes))
    source.rows()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run(source, POINTS, context=context)

    assert run(source, POINTS, context=context).counts["quarantined"] == 0


# What others read


def test_rows_are_read_by_pyarrow_alone_with_their_shapes(shapes):
    table = run(Folder(root=str(shapes)), POINTS, VOXELS)
    code = (
        "import sys, json, pyarrow.parquet as pq\n"
        "said = {}\n"
        "for path in sys.argv[1:]:\n"
        "    for field in pq.read_table(path).schema:\n"
        "        said[field.name] = list(getattr(field.type, 'shape', []))\n"
        "print(json.dumps([said, 'components' in sys.modules, 'torch' in sys.modules]))\n"
    )
    paths = [str(one.shards[0].path()) for one in table.sets]
    said, components, torch = json.loads(subprocess.check_output([sys.executable, "-c", code, *paths], cwd="/"))

    assert said == {"id": [], "split": [], "points": [16, 3], "voxels": [8, 8, 8]}
    assert not components
    assert not torch


def test_the_listing_holds_what_is_known_of_each_asset(shapes):
    listed = pq.read_table(run(Folder(root=str(shapes)), POINTS).assets.path()).to_pylist()

    assert [row["id"] for row in listed] == sorted(row["id"] for row in listed)
    assert {row["label"] for row in listed} == {"flat", "long", "round"}
    assert all(row["digest"] and row["split"] in ("train", "val", "test") for row in listed)
    assert dict(listed[0]["attributes"])["format"] == "obj"


def test_the_same_shapes_give_the_same_bytes(tmp_path):
    tables = [run(Folder(root=str(write_shapes(tmp_path / name, each=3))), POINTS) for name in ("one", "other")]

    assert tables[0].sets == tables[1].sets


def test_a_table_is_files_of_the_store(shapes):
    table = run(Folder(root=str(shapes)), POINTS)
    every = [table.assets, table.quarantine, *table.sets[0].shards]

    assert all(isinstance(file, File) and file.digest == objects.digest_of(file.read()) for file in every)
    assert pq.ParquetFile(io.BytesIO(table.assets.read())).metadata.num_rows == 24


def test_a_mesh_added_to_a_folder_makes_one_shard_anew(tmp_path, own_store, monkeypatch):
    """With the engine's own keys, on a folder whose listing deals the new shape into a split."""
    monkeypatch.setattr(module, "SHARD", 6)
    root = write_shapes(tmp_path / "shapes", each=8)
    opened: list[str] = []
    real = Folder.open
    monkeypatch.setattr(Folder, "open", lambda self, asset: opened.append(asset.id) or real(self, asset))
    context = Running(
        Store(str(own_store)), "run", "k", (("components.steps.preprocess", "preprocess"),), 0, {"CPU": 2}
    )
    before = run(Folder(root=str(root)), Descriptors(), context=context)
    opened.clear()
    (root / "flat" / "new.obj").write_text(shape("flat", 99))
    after = run(Folder(root=str(root)), Descriptors(), context=context)
    (anew,) = set(after.sets[0].shards) - set(before.sets[0].shards)

    assert len(after.sets[0].shards) == len(before.sets[0].shards) > 2
    assert sorted(opened) == sorted(pq.read_table(anew.path())["id"].to_pylist())
    assert "flat/new.obj" in opened
    assert after.sets[0].rows == before.sets[0].rows + 1


def test_a_file_whose_name_is_not_utf_8_is_in_quarantine_and_the_rest_goes_on(own_store, tmp_path):
    root = write_shapes(tmp_path / "shapes", each=4)
    (root / "flat" / "0.obj").rename(os.fsdecode(os.fsencode(root / "flat") + b"/\xff.obj"))
    table = run(Folder(root=str(root)), POINTS)

    assert (sum(table.counts.values()), table.counts["quarantined"]) == (12, 1)
    (line,) = pq.read_table(table.quarantine.path()).to_pylist()
    assert line["id"] == "flat/\\xff.obj"
    assert line["reason"] == "A file's name is UTF-8, but flat/\\xff.obj is not. Rename it."
