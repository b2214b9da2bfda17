"""
Sources: what a listing's digest holds, which side an asset is on, and how a source is found by its name.
"""

import errno
import io
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.errors import DataError, UsageError
from components.formats.decode import decode
from components.runtime import resource
from components.source import Asset, Changed, Source, chance, decoders, digest_of, find, names, split_by_hash
from components.sources.folder import Folder
from components.sources.furniture import Furniture
from components.sources.sweethome3d import packed
from components.sources.sweethome3d.catalogue import LIBRARIES
from tests.meshes import shape, write_shapes


class Scenes(Source):
    """Three assets of two scenes."""

    digest_: str = "d"

    def rows(self) -> list[Asset]:
        said = [("a", "hall"), ("b", "hall"), ("c", "yard")]
        return [Asset(name, f"/x/{name}", "thing", "train", self.digest_, {"scene": scene}) for name, scene in said]

    def open(self, asset: Asset) -> str:
        return asset.id.upper()


def assets(count: int, labels: int = 3) -> list[Asset]:
    return [Asset(f"asset-{n}", f"/x/{n}", f"label {n % labels}", "", f"bytes {n}") for n in range(count)]


def of_class(label: str, *contents: str) -> list[Asset]:
    """A class whose assets have these contents, some of them more than once."""
    return [Asset(f"{label}/{n}", "", label, "", content) for n, content in enumerate(contents)]


def dealt(found: list[Asset], fold: int = 0) -> dict[str, str]:
    return splits(split_by_hash(found, fold=fold, folds=5, val=0.12))


def splits(found: list[Asset]) -> dict[str, str]:
    return {asset.id: asset.split for asset in found}


def test_groups_are_the_values_of_an_attribute():
    assert Scenes().groups("scene") == ["hall", "yard"]
    assert Scenes().groups("id") == ["a", "b", "c"]
    assert Scenes().groups("nothing") == []


def test_only_a_part_of_a_source_has_its_own_digest_and_its_sources_decoder():
    hall = Scenes().only(name="scene", value="hall")

    assert [asset.id for asset in hall.rows()] == ["a", "b"]
    assert hall.open(hall.rows()[0]) == "A"
    assert hall.digest() != Scenes().digest()
    assert hall.kinds() == (Scenes,)


class Halved(Source):
    """Every other asset of another source."""

    of: Source

    def rows(self) -> list[Asset]:
        return self.of.rows()[::2]

    def open(self, asset: Asset) -> Any:
        return self.of.open(asset)


def test_the_decoders_of_a_source_that_is_made_of_another_are_those_of_both():
    assert decoders(Halved(of=Scenes())) == (Halved, Scenes)
    assert decoders(Halved(of=Halved(of=Scenes()))) == (Halved, Scenes)
    assert decoders(Halved(of=Scenes()).only(value="a")) == (Halved, Scenes)


def test_the_digest_holds_the_bytes_of_every_asset():
    assert Scenes().digest() == Scenes().digest()
    assert Scenes().digest() != Scenes(digest_="e").digest()


def test_a_side_depends_on_no_order_and_on_no_name():
    renamed = [replace(asset, id=f"other/{asset.id}", uri="/y") for asset in assets(60)]

    assert dealt(assets(60)) == dealt(assets(60)[::-1])
    assert list(dealt(assets(60)).values()) == list(dealt(renamed).values())


def test_a_new_file_moves_no_other_of_a_class_of_twenty_and_more():
    """Dealt by rank, one file moved on average half of a new test set out of the old training set."""
    there = assets(20, labels=1) + [replace(a, id=f"b{a.id}", label="b", digest=f"b{a.digest}") for a in assets(90)]
    before = [dealt(there, fold) for fold in range(5)]
    for number in range(50):
        for label in ("label 0", "b", "another"):
            more = [*there, Asset("new", "", label, "", f"new bytes {number}")]
            for fold in range(5):
                assert before[fold].items() <= dealt(more, fold).items()


def test_a_side_is_a_threshold_on_the_hash_of_the_content():
    """Test is a fifth of all hashes from the fold's on, val 12 % of the rest behind it, around the end of them."""
    for fold in range(5):
        for asset in split_by_hash(assets(400, labels=2), fold=fold, folds=5, val=0.12):
            place = (chance("fold/" + asset.digest) - fold / 5) % 1
            assert asset.split == ("test" if place < 0.2 else "val" if place < 0.2 + 0.8 * 0.12 else "train")


@pytest.mark.parametrize("copies", [2, 20, 40])
@pytest.mark.parametrize("others", [0, 6, 30])
def test_identical_files_lie_on_one_side(copies, others):
    """Twenty copies of one file were dealt 14, 2 and 4."""
    for number in range(20):
        found = of_class("a", *["copied"] * copies, *(f"{number} {n}" for n in range(others)))
        for fold in range(5):
            sides = dealt(found, fold)
            assert len({sides[f"a/{n}"] for n in range(copies)}) == 1


def test_twenty_copies_of_one_file_are_a_class_of_one_which_is_learned():
    assert [set(dealt(of_class("a", *["copied"] * 20), fold).values()) for fold in range(5)] == [{"train"}] * 5


@pytest.mark.parametrize(("one", "other"), [(3, 4), (3, 30), (30, 3), (30, 40)])
def test_identical_files_lie_on_one_side_also_under_two_labels(one, other):
    """Of two classes the larger decides where it is large: there a side depends on the file alone."""
    for number in range(20):
        own = of_class("a", "shared", *(f"a{number}{n}" for n in range(one)))
        others = of_class("b", "shared", *(f"b{number}{n}" for n in range(other)))
        for fold in range(5):
            sides = dealt(own + others, fold)
            assert sides["a/0"] == sides["b/0"]
            if max(one, other) >= 20:
                assert (sides["a/0"] == "test") == (int(5 * chance("fold/shared")) == fold)


def test_another_axis_is_the_same_file():
    """`digest` holds the axis, for another axis makes another shape; the side goes by the bytes."""
    turned = [replace(asset, digest=f"{asset.digest}-x", content=asset.digest) for asset in assets(60)]

    assert dealt(turned) == dealt(assets(60))


def test_every_asset_is_the_test_of_one_fold():
    for count in (2, 3, 7, 19, 20, 60, 400):
        tests = [{i for i, s in dealt(assets(count, labels=1), fold).items() if s == "test"} for fold in range(5)]
        assert sum(map(len, tests)) == len(set().union(*tests)) == count


@pytest.mark.parametrize("count", [20, 100, 446, 2000])
def test_the_folds_of_a_large_class_are_as_even_as_a_hash_makes_them(count):
    """A fold's size is binomial: of 200 classes the mean square of its distance, in deviations, is 1."""
    deviation = (count * 0.2 * 0.8) ** 0.5
    far = []
    for number in range(200):
        places = [int(5 * chance(f"fold/{number} {n}")) for n in range(count)]
        far += [(places.count(fold) - count / 5) / deviation for fold in range(5)]

    assert sum(one**2 for one in far) / len(far) == pytest.approx(1, abs=0.15)
    assert max(map(abs, far)) < 4.5


@pytest.mark.parametrize("count", range(2, 20))
def test_the_folds_of_a_small_class_differ_by_one_at_most(count):
    sizes = [Counter(dealt(assets(count, labels=1), fold).values())["test"] for fold in range(5)]

    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == -(-count // 5)


@pytest.mark.parametrize("count", range(3, 20))
def test_in_a_small_class_the_smallest_hashes_fill_test_then_val(count):
    order = sorted(assets(count, labels=1), key=lambda a: chance("fold/" + a.digest))
    sides = [dealt(order)[asset.id] for asset in order]
    tested = -(-count // 5)
    chosen = max(1, round(0.12 * (count - tested)))

    assert sides == ["test"] * tested + ["val"] * chosen + ["train"] * (count - tested - chosen)


def test_in_a_small_class_a_new_file_moves_one_other_across_each_border_at_most():
    for count in range(3, 19):
        for number in range(30):
            before = dealt(assets(count, labels=1))
            after = dealt([*assets(count, labels=1), Asset("new", "", "label 0", "", f"new {number}")])
            assert sum(before[name] != after[name] for name in before) <= 2


def test_a_fold_that_there_is_not_is_refused_when_the_assets_are_listed():
    with pytest.raises(UsageError, match="--fold must be below --folds, but got 9 of 5. Pass --fold 0 to 4."):
        Furniture(fold=9).rows()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("folds", [2, 5])
def test_a_small_class_has_something_to_learn_from(count, folds):
    for fold in range(folds):
        found = split_by_hash(assets(count, labels=1), fold=fold, folds=folds, val=0.12)
        assert "train" in splits(found).values()


def test_chance_is_even_and_depends_on_the_text_alone():
    drawn = [chance(f"x{n}") for n in range(2000)]

    assert chance("x") == chance("x")
    assert all(0 <= one < 1 for one in drawn)
    assert abs(sum(drawn) / len(drawn) - 0.5) < 0.05


def test_a_source_is_found_by_its_files_name_with_fields_read_from_text():
    assert names() == sorted(names())
    assert find("furniture", {"fold": "2", "textured": "true"}) == Furniture(fold=2, textured=True)
    assert find("folder", {"root": "shapes"}) == Folder(root="shapes")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("furnitur", {}, "No source 'furnitur'. Did you mean 'furniture'?"),
        ("furniture", {"fould": "1"}, "Source 'furniture' has no field 'fould'. Did you mean 'fold'?"),
        ("furniture", {"fold": "x"}, "--fold must be a whole number, but got 'x'."),
        ("furniture", {"folds": "0"}, "--folds must be at least 2, but got 0. Pass another --folds."),
        ("folder", {"root": "shapes", "fold": "-1"}, "--fold must be at least 0, but got -1."),
        (
            "furniture",
            {"root": "shapes"},
            "--root is read with --full only, but got 'shapes' without it. Did you mean --source folder --root shapes?",
        ),
        ("folder", {}, "Source 'folder' needs --root, but it was not given."),
    ],
    ids=["name", "field", "value", "range", "another range", "ignored", "missing"],
)
def test_a_source_that_is_not_there_is_refused(name, settings, words):
    with pytest.raises(UsageError) as caught:
        find(name, settings)

    assert words in str(caught.value)


def test_an_attribute_is_in_the_digest_and_a_place_is_not():
    """A licence goes into the model's card, a scene's name into a graph: another one is another listing."""
    one = Asset("a", "/here/a", "chair", "train", "d", {"scene": "1"})

    assert digest_of([one]) == digest_of([replace(one, uri="/there/a")])
    assert digest_of([one]) != digest_of([replace(one, attributes={"scene": "2"})])
    assert digest_of([one]) != digest_of([replace(one, content="c")])


# What every source keeps: `open` decodes the bytes that the digest is of


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    for library in LIBRARIES:
        row = "name#1=Chair\ncategory#1=Kitchen\nmodel#1=/c/c.obj\nwidth#1=40\ndepth#1=50\nheight#1=90\ncreator#1=I\n"
        with zipfile.ZipFile(tmp_path / f"{library}.sh3f", "w") as archive:
            archive.writestr("PluginFurnitureCatalog.properties", row)
            archive.writestr("c/c.obj", shape("flat", 1))
    return tmp_path


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled files, which may be spoilt."""
    copy = shutil.copytree(resource.FOLDER, tmp_path / "data")
    monkeypatch.setattr(resource, "FOLDER", copy)
    return copy


def spoil(file: Path, at: int, value: bytes) -> None:
    """Other bytes, and the times of before."""
    before, data = file.stat(), file.read_bytes()
    file.write_bytes(data[:at] + value + data[at + len(value) :])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def a_folder(request: pytest.FixtureRequest) -> tuple[Source, Callable[[], None]]:
    root = write_shapes(request.getfixturevalue("tmp_path") / "shapes", each=3)
    return Folder(root=str(root)), lambda: spoil(root / "flat" / "0.obj", 2, b"7")


def a_part(request: pytest.FixtureRequest) -> tuple[Source, Callable[[], None]]:
    whole, change = a_folder(request)
    return whole.only(value="flat/0.obj"), change


def the_bundle(request: pytest.FixtureRequest) -> tuple[Source, Callable[[], None]]:
    file = request.getfixturevalue("bundled") / "furniture.bin"
    return Furniture(), lambda: packed.write(file, [({"id": "blendswap-cc-0/bench", "label": "chair"}, CUBE, [])])


def the_textured(request: pytest.FixtureRequest) -> tuple[Source, Callable[[], None]]:
    file = request.getfixturevalue("bundled") / "textured.bin"
    return Furniture(textured=True), lambda: spoil(file, file.stat().st_size - 9, b"spoilt")


def the_package(request: pytest.FixtureRequest) -> tuple[Source, Callable[[], None]]:
    root = request.getfixturevalue("libraries")

    def change() -> None:
        with zipfile.ZipFile(root / "Scopia.sh3f", "a") as archive:
            archive.writestr("c/c.mtl", "newmtl a")

    return Furniture(full=True, root=str(root)), change


CUBE = decode(shape("flat", 1).encode(), "obj")
SOURCES = {
    "folder": [a_folder, a_part],
    "furniture": [the_bundle, the_textured, the_package],
}
CASES = [make for cases in SOURCES.values() for make in cases]


def test_every_source_has_its_cases():
    assert SOURCES.keys() == set(names())


@pytest.mark.parametrize("make", CASES)
def test_every_asset_opens_as_it_was_listed_and_none_whose_bytes_changed(make, request):
    source, change = make(request)
    assets = source.rows()
    for asset in assets[:20]:
        source.open(asset)
    change()

    with pytest.raises(DataError, match="What is decoded is what was listed|must be those that its digest names"):
        for asset in assets:
            source.open(asset)


@pytest.mark.parametrize("make", CASES)
def test_no_source_takes_an_asset_of_another_digest(make, request):
    source, _ = make(request)

    with pytest.raises(Changed, match="changed since then"):
        source.open(replace(source.rows()[0], digest="0" * 32))


@pytest.mark.parametrize("make", CASES)
def test_no_source_blames_an_asset_for_what_a_disk_says(make, request, monkeypatch):
    source, _ = make(request)
    asset = source.rows()[0]

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(io, "open", fail)
    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)

    with pytest.raises(OSError, match="Input/output error"):
        source.open(asset)


@pytest.mark.parametrize("field", ["id", "uri", "label", "attributes"])
def test_an_asset_has_no_text_that_utf_8_cannot_hold(field):
    texts = {
        "id": "a",
        "uri": "/x/a",
        "label": "thing",
        field: {"scene": "\udcff"} if field == "attributes" else "\udcff",
    }
    with pytest.raises(DataError, match="The texts of an asset are UTF-8, but those of .* are not. Rename"):
        Asset(**texts, split="", digest="d")
