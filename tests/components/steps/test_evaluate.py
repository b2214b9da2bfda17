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
from components.families.convnet import ConvNet
from components.representations.descriptors import Descriptors
from components.runtime.files import keep
from components.sources.folder import Folder
from components.step import Printing
from components.steps.evaluate import baseline, best_of, compare, evaluate, parts_of, shown
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Rows, Table
from components.training import evaluate as measured
from components.training import standard_error
from pipelines.engine.work import describe
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
