"""
evaluate: scores of what was not learned from, baselines on the same rows, and choices that never look at test.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from components.artifacts import Checkpoint, Scores
from components.errors import DataError, UsageError
from components.metrics.paired import jackknife
from components.representations.descriptors import Descriptors
from components.runtime.files import keep
from components.sources.folder import Folder
from components.step import Printing
from components.steps.evaluate import baseline, best_of, compare, digest_of_groups, evaluate, groups_of
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Rows, Table
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
    ("each", "split", "there"), [(1, "train", "0 train, 0 val, 2 test"), (2, "val", "2 train, 0 val")]
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


def of(*ids: str) -> Rows:
    return Rows({}, list(ids), torch.zeros(len(ids), dtype=torch.int64), ("a",))


def test_what_the_jackknife_leaves_out_are_whole_assets():
    """Views of one shape are not independent: half of them in a part would make an error too small."""
    groups = groups_of(of(*(f"{n:02d}" for n in range(30) for _ in range(3))))

    assert len(groups) == 20
    assert sorted(place for group in groups for place in group) == list(range(90))
    assert all(len(group) % 3 == 0 for group in groups)
    assert groups[0] == (0, 1, 2, 3, 4, 5)


def test_the_rows_of_one_asset_are_parts_by_themselves():
    assert groups_of(of("scene", "scene", "scene")) == [(0,), (1,), (2,)]


def test_representations_of_the_same_assets_have_the_same_parts():
    points, views, others = of("a", "b", "c"), of("a", "a", "b", "b", "c", "c"), of("a", "b", "d")

    assert digest_of_groups(points) == digest_of_groups(views) != digest_of_groups(others)


def test_a_model_and_a_baseline_are_scored_on_the_same_parts(table, checkpoint):
    scores, forest = evaluate(checkpoint, table, on="here"), baseline(table)

    assert scores.parts == forest.parts
    for one in (scores, forest):
        assert {split: len(values) for split, values in one.left_out.items()} == {"val": 3, "test": 6}
        assert jackknife(one.left_out["test"]) == pytest.approx(one.error["accuracy"], abs=0.1)


# Choices


def scored(name: str, val: float, test: float, **more: object) -> Scores:
    file = keep("weights", b"")
    size = more.pop("parameters", 1)
    checkpoint = Checkpoint(small_pointnet(), small_pointnet().representation(), file, 1, 1, "cpu", size)
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

    assert describe(chosen) == "b (val accuracy 0.700), over a 0.600, c 0.700 (a tie: +0.000, with no fewer parameters)"


def test_where_less_is_better_the_least_is_chosen():
    best, _ = best_of([scored("a", 0.6, 0, direction="min"), scored("b", 0.5, 0, direction="min")])

    assert best.name == "b"


def answered(name: str, right: str, parts: str = "same", **more: object) -> Scores:
    """Scores on val by the answers to its assets, each of them a part: 1 is right."""
    values = np.array([float(one) for one in right])
    without = tuple(float(np.delete(values, place).mean()) for place in range(len(values)))
    return scored(name, float(values.mean()), 0.5, left_out={"val": without}, parts={"val": parts}, **more)


def test_within_a_standard_error_of_the_best_the_cheaper_is_taken_and_the_tie_is_said():
    """They differ on two assets of ten: 0.0 +- 0.15 apart, and the third is 0.3 +- 0.15 behind."""
    large, small, worse = (
        answered(name, right, parameters=size)
        for name, right, size in (("large", "1111111100", 9), ("small", "1111111001", 2), ("worse", "1111100000", 1))
    )
    best, _ = best_of([large, small, worse])

    assert best.describe() == (
        "small (val accuracy 0.800), over large 0.800 (a tie: +0.000 ± 0.149, with no fewer parameters), worse 0.500"
    )


def test_what_is_better_for_sure_is_taken_though_it_costs_more():
    """Right on the same assets and three more: 0.3 +- 0.15."""
    best, _ = best_of([answered("small", "1111100000"), answered("large", "1111111100", parameters=9)])

    assert best.name == "large"


def test_scores_on_other_assets_are_compared_as_independent_samples():
    """The same answers as above, of two validation splits: 0.3 +- 0.22."""
    entries = [answered("small", "1111100000"), answered("large", "1111111100", "others", parameters=9)]
    (rival,) = best_of([*entries])[0].over

    assert rival.error == pytest.approx(np.hypot(0.4216 / np.sqrt(10), 0.5270 / np.sqrt(10)), abs=1e-4)


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_score_that_is_no_number_wins_from_no_place(direction, order):
    entries = [scored("nan", float("nan"), 0.5, direction=direction), scored("b", 0.5, 0.5, direction=direction)]
    best, _ = best_of(entries[::order])

    assert best.name == "b"
    assert "nan nan (no number, so it cannot win)" in best.describe()


def test_scores_that_are_all_no_numbers_leave_nothing_to_choose():
    with pytest.raises(DataError, match="A choice needs a score, but accuracy on val is NaN for a, b. Lower their lr."):
        best_of([scored("a", float("nan"), 0.5), scored("b", float("nan"), 0.5)])


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


def test_a_mean_that_is_no_number_is_told_last():
    found = compare([scored("a", 0, float("nan")), scored("a", 0, 0.5), scored("b", 0, 0.4), scored("b", 0, 0.4)])

    assert found.describe().startswith("accuracy over 2 folds: b 0.400")
