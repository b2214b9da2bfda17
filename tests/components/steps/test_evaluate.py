"""
evaluate: scores of what was not learned from, baselines on the same rows, and choices that never look at test.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.artifacts import Checkpoint, Scores
from components.errors import DataError, UsageError
from components.families.recap.convnet import ConvNet
from components.metrics.paired import jackknife
from components.representations.descriptors import Descriptors
from components.runtime.objects import keep
from components.sources.folder import Folder
from components.step import Printing
from components.steps.evaluate import baseline, best_of, compare, digest_of_groups, evaluate, parts_of, shown
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Rows, Table
from components.training.learner import evaluate as measured
from components.training.learner import standard_error
from pipelines.engine.execution.task import describe
from tests.meshes import small_pointnet, small_voxnet, write_shapes


def seen_from_sides() -> ConvNet:
    """A ConvNet, of which an asset is three rows."""
    return replace(ConvNet.tiny(), size=16, views=3, widths=(4, 4, 4, 4, 4), hidden=8, steps=2)


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


@pytest.mark.parametrize("family", [small_voxnet(), small_pointnet(), seen_from_sides()], ids=lambda one: one.name)
def test_a_class_that_training_never_had_is_counted_as_wrong_and_named(tmp_path, family):
    """It was counted as the last class, or ended in an IndexError."""
    known = Folder(root=str(write_shapes(tmp_path / "known", labels=("flat", "long"))))
    more = Folder(root=str(write_shapes(tmp_path / "more")))
    (tmp_path / "more" / "round").rename(tmp_path / "more" / "a ball")
    tables = [preprocess(source, [family.representation()], on="here") for source in (known, more)]
    checkpoint, context = train(family, tables[0], workers=0), Printing()
    scores = evaluate.run(evaluate.bind((checkpoint, tables[1]), {"on": "here"}), context)
    without = evaluate(checkpoint, tables[0], on="here")

    assert scores.test["accuracy"] == pytest.approx(without.test["accuracy"] * 4 / 6)
    assert scores.test["balanced_accuracy"] == pytest.approx(without.test["balanced_accuracy"] * 2 / 3)
    assert scores.test["loss"] == pytest.approx(without.test["loss"])
    assert (scores.unlearned, without.unlearned) == ({"a ball": 3}, {})
    assert scores.describe().endswith("; never learned, so counted as wrong: a ball (3)")
    assert context.notes["never_learned"] == {"a ball": 3}
    rows = context.figures["confusion"].axes[0].get_yticklabels()
    assert [text.get_text() for text in rows] == ["flat", "long", "never learned"]


def test_figures_are_drawn_of_whole_assets_from_all_over_a_split():
    """The first 512 of 1,140 views were those of the first classes."""
    ids = [f"{n:03}" for n in range(95) for _ in range(12)]
    chosen = shown(Rows({}, ids, torch.zeros(len(ids), dtype=torch.int64), ("a",)))
    drawn = [ids[place] for place in chosen]

    assert len(chosen) == 504
    assert set(Counter(drawn).values()) == {12}
    assert (drawn[0], drawn[-1]) == ("000", "094")
    assert shown(Rows({}, ids[:24], torch.zeros(24, dtype=torch.int64), ("a",))).tolist() == list(range(24))


def test_two_views_that_are_one_make_no_score_surer():
    """An asset of a split is what might have been another, so errors are over assets."""
    family = replace(seen_from_sides(), classes=3, labels=tuple("abc"))
    net, color = family.network(), torch.randint(0, 255, (30, 16, 16, 3), dtype=torch.uint8)
    label, errors = torch.arange(30) % 3, []
    for views in (1, 2):
        ids = [f"{n:02}" for n in range(30) for _ in range(views)]
        rows = Rows({"color": color.repeat_interleave(views, 0)}, ids, label.repeat_interleave(views), family.labels)
        errors.append(standard_error(family, parts_of(family, net, rows, on="here", context=Printing())))

    assert errors[0] == pytest.approx(errors[1])


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


def of(*ids: str) -> Rows:
    return Rows({}, list(ids), torch.zeros(len(ids), dtype=torch.int64), ("a",))


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


def test_folds_of_unlike_goals_are_not_compared():
    with pytest.raises(UsageError, match="compare takes scores of one goal, but got accuracy and kid"):
        compare([scored("a", 0.6, 0.9), scored("b", 0.7, 0.1, goal="kid")])


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
