"""
Sources: what a listing's digest holds, how splits are dealt, and how a source is found by its name.
"""

from collections import Counter
from dataclasses import replace

import pytest

from components.errors import UsageError
from components.source import Asset, Source, chance, digest_of, find, names, split_by_hash
from components.sources.folder import Folder
from components.sources.furniture import Furniture


class Scenes(Source):
    """Three assets of two scenes."""

    digest_: str = "d"

    def rows(self) -> list[Asset]:
        said = [("a", "hall"), ("b", "hall"), ("c", "yard")]
        return [Asset(name, f"/x/{name}", "thing", "train", self.digest_, {"scene": scene}) for name, scene in said]

    def open(self, asset: Asset) -> str:
        return asset.id.upper()


def assets(count: int, labels: int = 3) -> list[Asset]:
    return [Asset(f"asset-{n}", f"/x/{n}", f"label {n % labels}", "", "d") for n in range(count)]


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


def test_the_digest_holds_the_bytes_of_every_asset():
    assert Scenes().digest() == Scenes().digest()
    assert Scenes().digest() != Scenes(digest_="e").digest()


def test_a_split_depends_on_no_order():
    dealt = split_by_hash(assets(60), fold=0, folds=5, val=0.1)
    turned = split_by_hash(assets(60)[::-1], fold=0, folds=5, val=0.1)

    assert splits(dealt) == splits(turned)


def test_folds_share_the_assets_out_and_every_class_is_in_each():
    tests = [
        {a.id for a in split_by_hash(assets(60), fold=fold, folds=5, val=0.1) if a.split == "test"} for fold in range(5)
    ]
    one = split_by_hash(assets(60), fold=2, folds=5, val=0.1)

    assert sum(map(len, tests)) == len(set().union(*tests)) == 60
    for split in ("train", "val", "test"):
        assert Counter(a.label for a in one if a.split == split).keys() == {"label 0", "label 1", "label 2"}


def test_a_fold_that_there_is_not_is_refused_when_the_assets_are_listed():
    with pytest.raises(UsageError, match="--fold must be below --folds, but got 9 of 5. Pass --fold 0 to 4."):
        Furniture(fold=9).rows()


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_a_small_class_has_something_to_learn_from(count):
    dealt = split_by_hash(assets(count, labels=1), fold=0, folds=5, val=0.12)

    assert "train" in splits(dealt).values()


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
