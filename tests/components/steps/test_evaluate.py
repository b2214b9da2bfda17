"""
evaluate: scores of what was not learned from, baselines on the same rows, and choices that never look at test.
"""

from dataclasses import replace

import numpy as np
import pytest

from components.artifacts import Checkpoint, Scores
from components.errors import DataError, UsageError
from components.representations.descriptors import Descriptors
from components.runtime.files import keep
from components.sources.folder import Folder
from components.step import Printing
from components.steps.evaluate import baseline, best_of, compare, evaluate
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Table
from components.training import evaluate as measured
from pipelines.engine.work import describe
from tests.meshes import small_pointnet, small_voxnet, write_shapes


@pytest.fixture
def checkpoint(table: Table) -> Checkpoint:
    return train(small_voxnet(steps=12), table, workers=0)


def test_scores_are_those_of_the_split(table, checkpoint):
    scores = evaluate(checkpoint, table, on="here")
    family = checkpoint.family
    rows = table.open(checkpoint.representation, "test", family.labels)
    whole = family.score(measured(family, checkpoint.network(), rows))

    assert scores.count == len(rows) == 6
    assert scores.test == pytest.approx(whole)
    assert scores.error.keys() == scores.test.keys()
    assert scores.text() == f"{whole['accuracy']:.3f} ± {scores.error['accuracy']:.3f}"


def test_validation_and_test_are_two_splits(table, checkpoint):
    family = checkpoint.family
    scores = evaluate(checkpoint, table, on="here")
    rows = table.open(checkpoint.representation, "val", family.labels)

    assert scores.val == pytest.approx(family.score(measured(family, checkpoint.network(), rows)))


def test_figures_and_scores_are_shown_and_an_example_is_kept(table, checkpoint):
    context = Printing()
    scores = evaluate.run(evaluate.bind((checkpoint, table), {"on": "here"}), context)

    assert "confusion" in context.figures
    assert {"test_accuracy", "val_accuracy"} <= context.logged[0][1].keys()
    assert scores.example is not None and scores.example.read()


def test_a_baseline_learns_from_the_same_rows(table):
    majority, forest = (baseline(table, method=method) for method in ("majority", "forest"))

    assert majority.test["accuracy"] == pytest.approx(1 / 3)
    assert forest.test["accuracy"] == 1.0
    assert majority.count == forest.count == 6


def test_a_baseline_is_scored_on_the_rows_of_each_split(tmp_path):
    """Half of the shapes are flat: 11 of 21 in train, 4 of 8 in test, 1 of 3 in val."""
    root = write_shapes(write_shapes(tmp_path / "many"), each=16, labels=("flat",))
    scores = baseline(preprocess(Folder(root=str(root)), [Descriptors()], on="here"), method="majority")

    assert scores.test["accuracy"] == 0.5
    assert scores.val["accuracy"] == pytest.approx(1 / 3)
    assert scores.count == 8


@pytest.mark.parametrize(
    ("each", "split", "there"), [(1, "val", "2 train, 0 val, 0 test"), (2, "val", "2 train, 0 val")]
)
def test_a_split_without_assets_is_refused_before_anything_is_scored(tmp_path, each, split, there):
    """The commonest class of none, or an accuracy that is no number."""
    root = write_shapes(tmp_path / "few", each=each, labels=("flat", "long"))
    table = preprocess(Folder(root=str(root)), [Descriptors()], on="here")
    with pytest.raises(DataError, match=f"but {split} has none; there are {there}.* at least 3 files"):
        baseline(table, method="majority")


def test_a_classifier_is_not_scored_on_what_it_learned_from(checkpoint, tmp_path):
    """A test split that is empty gave the training rows' score as the test's."""
    few = Folder(root=str(write_shapes(tmp_path / "few", each=2)))
    with pytest.raises(DataError, match="A score needs assets in train, val and test, but val has none"):
        evaluate(checkpoint, preprocess(few, [small_voxnet().representation()], on="here"), on="here")


def test_a_method_that_is_no_baseline_is_refused_with_the_nearest(table):
    with pytest.raises(UsageError, match="`method` of baseline must be majority or forest, but got 'forrest'. Did you"):
        baseline(table, method="forrest")


def test_a_baseline_without_its_descriptors_is_refused(table):
    without = replace(table, sets=tuple(one for one in table.sets if one.declared != Descriptors()))
    with pytest.raises(UsageError, match="This table has no Descriptors"):
        baseline(without)


# Choices


def scored(name: str, val: float, test: float, **more: object) -> Scores:
    file = keep("weights", b"")
    checkpoint = Checkpoint(small_pointnet(), small_pointnet().representation(), file, 1, 1, "cpu", 1)
    return Scores(
        **{
            "name": name,
            "goal": "accuracy",
            "direction": "max",
            "val": {"accuracy": val},
            "test": {"accuracy": test},
            "error": {},
            "count": 4,
            "checkpoint": checkpoint,
            **more,
        }
    )


def test_the_best_is_chosen_on_val_though_another_is_better_on_test():
    best, checkpoint = best_of([scored("a", 0.6, 0.9), scored("b", 0.7, 0.1), scored("c", 0.5, 1.0)])

    assert best.name == "b"
    assert checkpoint is best.checkpoint


def test_what_was_chosen_is_said_and_over_what():
    chosen = best_of([scored("a", 0.6, 0.9), scored("b", 0.7, 0.1), scored("c", 0.7, 0.3)])

    assert describe(chosen) == "b (val accuracy 0.700), over a 0.600, c 0.700 (a tie: the first)"


def test_where_less_is_better_the_least_is_chosen():
    best, _ = best_of([scored("a", 0.6, 0, direction="min"), scored("b", 0.5, 0, direction="min")])

    assert best.name == "b"


def test_a_baseline_is_never_chosen():
    best, _ = best_of([scored("forest", 0.9, 0.9, checkpoint=None), scored("b", 0.7, 0.1)])

    assert best.name == "b"


def test_models_of_unlike_goals_are_not_compared():
    with pytest.raises(UsageError, match="best_of compares models by one goal"):
        best_of([scored("a", 0.6, 0.9), scored("b", 0.7, 0.1, goal="kid")])


def test_folds_are_compared_by_their_mean_and_its_error():
    context = Printing()
    entries = [scored("a", 0, value) for value in (0.5, 0.7, 0.6)] + [scored("b", 0, 0.4) for _ in range(3)]
    found = compare.run({"entries": entries}, context)

    assert found.names == ("a", "b")
    assert found.means == pytest.approx((0.6, 0.4))
    assert found.errors == pytest.approx((0.1 / np.sqrt(3), 0))
    assert "a 0.600 ± 0.058, b 0.400" in found.describe()
    assert "comparison" in context.figures


def test_a_method_that_missed_a_fold_is_refused():
    with pytest.raises(DataError, match="must have been scored on every fold"):
        compare([scored("a", 0, 0.5), scored("a", 0, 0.6), scored("b", 0, 0.4)])
