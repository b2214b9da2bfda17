"""
What a model has seen: contents, which no name, side or fold changes.
"""

from dataclasses import replace

import pytest

from components.artifacts import Checkpoint
from components.representations.views import Views
from components.sources.folder import Folder
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.registry import packaging
from components.steps.registry.training_data import read, read_beside, seen
from components.steps.train import train
from components.table import Table
from tests.meshes import small_voxnet


def contents(table: Table, *splits: str) -> set[str]:
    assert table.source is not None
    return {asset.content for asset in table.source.rows() if asset.split in splits}


@pytest.fixture
def checkpoint(table: Table) -> Checkpoint:
    return train(small_voxnet(), table, workers=0)


@pytest.fixture
def other(shapes) -> Table:
    """The same shapes, of which another fold is the test."""
    return preprocess(Folder(root=str(shapes), fold=1), [small_voxnet().representation()], on="here")


def test_a_checkpoint_has_seen_what_it_was_trained_and_chosen_on(table, checkpoint):
    assert read(checkpoint.seen) == contents(table, "train", "val")
    assert len(read(checkpoint.seen)) == 18


def test_a_checkpoint_that_starts_from_another_has_seen_what_that_one_has(table, other, checkpoint):
    tuned = train(small_voxnet(), other, start=checkpoint, workers=0)

    assert read(tuned.seen) == contents(table, "train", "val") | contents(other, "train", "val")


def test_what_starts_from_a_checkpoint_that_does_not_know_does_not_know_either(table, checkpoint):
    assert seen(table, checkpoint.representation, replace(checkpoint, seen=None)) is None


def test_who_is_scored_for_a_choice_has_seen_what_the_choice_is_made_on(table, other, checkpoint):
    """`best_of` takes the best on the val of the table that they were evaluated on."""
    assert evaluate(checkpoint, table, on="here").checkpoint == checkpoint
    scored = evaluate(checkpoint, other, on="here").checkpoint

    assert read(scored.seen) == contents(table, "train", "val") | contents(other, "val")


def test_an_asset_some_of_whose_views_are_held_out_is_not_listed(shapes):
    """All views of it are test, val or train by their place: which were learned the representation says."""
    views = Views(count=4, size=8, hold_out=4)
    table = preprocess(Folder(root=str(shapes)), [views], on="here")

    assert read(seen(table, views, None)) == set()


def test_a_file_that_was_moved_or_turned_is_the_same_one(shapes, table, checkpoint):
    (shapes / "flat").rename(shapes / "thin")
    turned = preprocess(Folder(root=str(shapes), up="z"), [small_voxnet().representation()], on="here")

    assert contents(turned, "train", "val", "test") == contents(table, "train", "val", "test")


def test_a_models_folder_says_what_it_has_seen(checkpoint, tmp_path):
    folder = packaging.written(tmp_path / "model", checkpoint, "key")
    unknown = packaging.written(tmp_path / "other", replace(checkpoint, seen=None), "key")

    assert read_beside(folder) == read(checkpoint.seen)
    assert read_beside(unknown) is None
