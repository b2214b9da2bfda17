"""
tune: trials that depend on (space, seed, number), and a search that repeats nothing.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components import search_space
from components.errors import DataError, UsageError
from components.families.shapes.pointnet import PointNet
from components.family import Family, Goal
from components.representations.points import Points
from components.runtime.objects import Damaged
from components.step import Printing
from components.steps import tune as module
from components.steps.optuna_search import ranked
from components.steps.tune import (
    Stage,
    TrialScore,
    changed,
    choose,
    finalists,
    folds_of,
    sample,
    split_of,
    stages,
    taken,
    tune,
    verdict,
)
from components.table import Rows, Table
from components.training.learner import Learner, evaluate
from pipelines.engine.execution.context import Running
from pipelines.engine.store.store import Store
from tests.meshes import small_pointnet


class Field(Family):
    """A family that is its fields."""

    steps: int = 8
    width: int = 4
    kind: str = "a"
    count: int = 16

    def representation(self) -> Points:
        return Points(count=self.count)

    def space(self) -> dict[str, search_space.Domain]:
        return {
            "lr": search_space.loguniform(1e-4, 1e-1),
            "width": search_space.integer(1, 8),
            "kind": search_space.choice("a", "b"),
        }


class Wrong(Field):
    def space(self) -> dict[str, search_space.Domain]:
        return {"count": search_space.integer(1, 64)}


# Trials


def test_trial_0_is_the_family_as_it_is():
    assert sample(Field(), 1, 0) == [Field()]
    assert sample(Field(), 5, 0)[0] == Field()


def test_sixteen_trials_begin_with_the_eight_that_have_run():
    sixteen = sample(Field(), 16, 3)

    for fewer in range(1, 16):
        assert sample(Field(), fewer, 3) == sixteen[:fewer]


def test_trials_depend_on_the_seed():
    assert sample(Field(), 8, 0)[1:] != sample(Field(), 8, 1)[1:]


def test_every_other_trial_is_spread_over_the_whole_space():
    """Sobol: each half of each field's range has half of the trials, one more or less."""
    trials = sample(Field(), 65, 0)[2::2]

    assert len(trials) == 32
    assert 15 <= sum(trial.lr < 10**-2.5 for trial in trials) <= 17
    assert 15 <= sum(trial.kind == "a" for trial in trials) <= 17
    assert {trial.width for trial in trials} == set(range(1, 9))


def test_the_others_are_around_the_family_as_it_is():
    trials = sample(Field(lr=1e-2, width=2, kind="b"), 65, 0)[1::2]

    assert all(1e-2 / 5.7 <= trial.lr <= 1e-2 * 5.7 for trial in trials)  # a quarter of three powers of ten
    assert 15 <= sum(trial.lr < 1e-2 for trial in trials) <= 17
    assert {trial.width for trial in trials} == {1, 2, 3, 4}
    assert 23 <= sum(trial.kind == "b" for trial in trials) <= 25  # itself in one half, and half of the other


def test_a_field_that_decides_what_is_preprocessed_is_not_tuned():
    with pytest.raises(UsageError, match="wrong.count decides what is preprocessed: tune it by a loop over families"):
        sample(Wrong(), 4, 0)


# What they are compared by


def rows(ids: list[str], labels: list[int]) -> Rows:
    values = torch.arange(len(ids), dtype=torch.float32)[:, None]
    return Rows({"value": values}, ids, torch.tensor(labels), ("a", "b"))


def test_a_fold_holds_whole_assets_and_as_many_of_each_class():
    ids = [f"{n:02d}" for n in range(18) for _ in range(2)]
    places = folds_of(rows(ids, [n % 2 for n in range(18) for _ in range(2)]))

    assert (places[::2] == places[1::2]).all()
    assert np.bincount(places).tolist() == [12, 12, 12]
    classes = np.array([n % 2 for n in range(18) for _ in range(2)])
    assert [np.bincount(places[classes == label]).tolist() for label in (0, 1)] == [[6, 6, 6], [6, 6, 6]]


def test_an_assets_fold_does_not_depend_on_the_order_of_the_rows():
    ids, labels = [f"{n:02d}" for n in range(10)], [n % 2 for n in range(10)]

    assert folds_of(rows(ids, labels)).tolist() == folds_of(rows(ids[::-1], labels[::-1])).tolist()[::-1]


def test_the_rows_of_a_single_asset_are_dealt_one_by_one():
    assert np.bincount(folds_of(rows(["scene"] * 9, [0] * 9))).tolist() == [3, 3, 3]


def test_folds_are_disjoint_and_make_up_train_and_val(table):
    family = small_pointnet()
    held = [split_of(table, family, fold) for fold in range(3)]
    both = sorted(table.open(family.representation(), "train").ids + table.open(family.representation(), "val").ids)

    assert sorted(name for _, part in held for name in part.ids) == both
    assert all(sorted(learned.ids + part.ids) == both for learned, part in held)


def test_a_small_val_is_compared_on_folds_and_a_large_one_in_full(table, monkeypatch):
    family = small_pointnet(steps=20)
    assert stages(family, table) == [Stage(4, (0,)), Stage(4, (1, 2))]
    monkeypatch.setattr(module, "FEW", 1)
    assert stages(family, table) == [Stage(4), Stage(20)]
    assert stages(small_pointnet(steps=1), table) == [Stage(1)]


# Choosing

LOSS = Goal("loss", "min")


def scored(*losses: float, steps: int = 4) -> list[TrialScore]:
    return [TrialScore(steps, {"loss": loss}, (loss - 0.1, loss, loss + 0.1)) for loss in losses]


def test_the_best_of_those_that_were_compared_to_the_end_is_chosen_with_the_rest_in_order():
    results = {0: scored(0.5, 0.5, 0.5), 1: scored(0.05), 2: scored(0.9, 0.1, 0.2), 3: scored(0.4, 0.4, 0.4)}

    assert choose(LOSS, results) == [2, 3, 0]


def test_of_equal_trials_the_earlier_is_chosen():
    assert choose(LOSS, {0: scored(0.5), 1: scored(0.3), 2: scored(0.3)}) == [1, 2, 0]


def test_a_trial_is_compared_by_its_longest_training_alone():
    results = {0: [*scored(0.1), *scored(0.5, steps=20)], 1: [*scored(0.9), *scored(0.4, steps=20)]}

    assert choose(LOSS, results) == [1, 0]


def test_the_preset_is_a_finalist_however_it_did():
    results = {trial: scored(loss) for trial, loss in enumerate((0.9, 0.3, 0.2, 0.1, 0.4))}

    assert finalists(LOSS, results) == [3, 2, 0]
    assert finalists(LOSS, results | {0: scored(0.05)}) == [0, 3, 2]


@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_score_that_is_no_number_wins_nothing(direction):
    results = {0: scored(0.5), 1: scored(float("nan")), 2: scored(0.2, float("nan")), 3: scored(0.6)}

    assert set(finalists(Goal("loss", direction), results)) == {0, 3}
    assert finalists(LOSS, results | {0: scored(float("nan"))}) == [3]


def test_trials_that_all_score_nan_fail_the_search_with_the_reason():
    with pytest.raises(DataError, match="A search needs a score, but loss of every trial is NaN. Lower lr"):
        finalists(LOSS, {0: scored(float("nan")), 1: scored(float("nan"))})


def test_the_error_of_a_mean_over_folds_is_that_of_independent_samples():
    """Without each of three parts a loss is 0.1 less, the same, 0.1 more: its error is the root of 2/3 x 0.02."""
    single = np.sqrt(2 / 3 * 0.02)

    assert module.error_of(scored(0.5)) == pytest.approx(single)
    assert module.error_of(scored(0.5, 0.2, 0.4)) == pytest.approx(single / np.sqrt(3))
    assert module.error_between(scored(0.5, 0.2, 0.4), scored(0.1, 0.1, 0.1)) == pytest.approx(0)


def test_what_won_is_said_with_its_values_and_what_it_won_over():
    drawn = [Field(), Field(lr=0.05), Field(width=7)]
    results = {0: scored(0.5, 0.5, 0.5), 1: scored(0.7), 2: scored(0.4, 0.4, 0.4)}

    assert verdict(drawn, results) == (
        "trial 2 won, of 3 trials: loss 0.400 ± 0.067; the preset loss 0.500 ± 0.067, the difference -0.100 ± 0.000; "
        "each on 3 folds of train and val; width 7 for 4"
    )


def test_where_the_preset_won_the_best_other_is_said_and_what_was_nan():
    drawn = [Field(), Field(lr=0.05), Field(width=7)]
    results = {0: scored(0.3), 1: scored(0.7), 2: scored(float("nan"))}

    assert verdict(drawn, results) == (
        "the preset won, of 3 trials: loss 0.300 ± 0.115; trial 1 loss 0.700 ± 0.115, the difference -0.400 ± 0.000; "
        "each in one training; 1 of them scored NaN"
    )


def test_only_what_the_space_names_is_taken_over():
    best = replace(Field(), lr=0.05, width=7, steps=3)

    assert taken(Field(batch=5), best) == Field(batch=5, lr=0.05, width=7)
    assert changed(Field(), {"width": 2}).width == 2


def test_no_trials_are_refused(table):
    with pytest.raises(UsageError, match="`trials` of tune must be at least 1, but got 0"):
        tune.run(tune.bind((small_pointnet(), table), {"trials": 0}), Printing())


# The search itself


def running(own_store: Path) -> Running:
    return Running(Store(str(own_store)), "run", "k", (("components.steps.tune", "tune"),), 0, {"CPU": 2})


def search(table: Table, context: Running, trials: int) -> Family:
    return tune.run(tune.bind((small_pointnet(steps=4), table), {"trials": trials}), context)


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Every training, made in this process instead of on Ray Tune."""
    names: list[str] = []

    def here(wanted, name, table, context):
        for training in wanted.values():
            names.append(training.name)
            training.run(table, context)
        return {}

    monkeypatch.setattr(module, "_on_tune", here)
    return names


def test_all_pass_the_first_fold_and_three_the_others(table, own_store, made):
    best = search(table, running(own_store), 6)
    later = [name for name in made if not name.endswith("fold 0")]

    assert [name for name in made if name.endswith("fold 0")] == [f"trial {n:02d} fold 0" for n in range(6)]
    assert {"trial 00 fold 1", "trial 00 fold 2"} < set(later)
    assert len(later) == 3 * 2
    tried = [trial.lr for trial in sample(small_pointnet(steps=4), 6, 0)]
    assert any(np.isclose(best.lr, lr) for lr in tried)


def test_one_that_is_left_alone_is_compared_with_nothing(table, own_store, made):
    assert search(table, running(own_store), 1) == small_pointnet(steps=4)
    assert made == ["trial 00 fold 0"]


def test_a_large_val_has_the_finalists_trained_in_full(table, own_store, monkeypatch):
    taken = []

    def here(wanted, name, table, context):
        taken.extend(one.run(table, context).steps for one in wanted.values())
        return {}

    monkeypatch.setattr(module, "_on_tune", here)
    monkeypatch.setattr(module, "FEW", 1)
    tune.run(tune.bind((small_pointnet(steps=10), table), {"trials": 5}), running(own_store))

    assert taken == [2] * 5 + [10] * 3


def test_a_killed_search_repeats_nothing(table, own_store, made, monkeypatch):
    here = module._on_tune

    def killed(wanted, name, table, context):
        if name == "stage-1":
            raise KeyboardInterrupt
        return here(wanted, name, table, context)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_on_tune", killed)
        with pytest.raises(KeyboardInterrupt):
            search(table, running(own_store), 4)
    first = list(made)
    best = search(table, running(own_store), 4)

    assert len(first) == 4
    assert not set(first) & set(made[4:])
    made.clear()
    assert search(table, running(own_store), 4) == best
    assert made == []


def test_a_longer_search_runs_only_the_trials_that_are_new(table, own_store, made):
    search(table, running(own_store), 8)
    first = list(made)
    made.clear()
    search(table, running(own_store), 12)

    assert len(first) == 8 + 2 * 3
    assert not set(first) & set(made)
    assert [name for name in made if name.endswith("fold 0")] == [f"trial {n:02d} fold 0" for n in range(8, 12)]


def test_a_trial_is_a_whole_short_training(table, own_store, made):
    """Five updates of which each is a fifth of the schedule, not the first of twenty-five."""
    family = small_pointnet(steps=25, stage=100)
    family = family.adapt(table.open(family.representation(), "train"))
    trained = module.TrialRun(family, 5, 0, "alone", "alone").run(table, running(own_store))
    rows, held = split_of(table, family, 0)
    learner = Learner.begin(replace(family, steps=5, stage=20), rows)
    for _ in learner.run():
        pass

    assert trained.steps == 5
    assert trained.scores == pytest.approx(family.score(evaluate(family, learner.best_net, held)), rel=1e-6)


def failing(monkeypatch, errors: dict[int, Exception]) -> None:
    """Trials of these numbers fail at their first training; the others train in this process."""

    def here(wanted, name, table, context):
        for (trial, _), training in wanted.items():
            if trial not in errors:
                training.run(table, context)
        return {place: errors[place[0]] for place in wanted if place[0] in errors}

    monkeypatch.setattr(module, "_on_tune", here)


def test_trials_that_all_fail_are_an_error_in_one_line(table, own_store, monkeypatch):
    monkeypatch.setattr(module, "_on_tune", lambda *_: {(1, 0): DataError("the loss is no number")})

    with pytest.raises(DataError, match="No trial of pointnet was trained. The first: the loss is no number"):
        search(table, running(own_store), 4)


def test_a_preset_that_fails_fails_the_search_with_its_own_words(table, own_store, monkeypatch):
    """What is wrong with the family as it is would else be seen in the training after the search."""
    failing(monkeypatch, {0: UsageError("`lr` is too large."), 2: DataError("another")})

    with pytest.raises(UsageError, match="pointnet as it is, which is trial 0, failed: `lr` is too large."):
        search(table, running(own_store), 4)


def test_another_trial_that_fails_is_said(table, own_store, monkeypatch):
    failing(monkeypatch, {2: DataError("the loss is no number")})
    context = Printing()
    tune.run(tune.bind((small_pointnet(steps=4), table), {"trials": 4}), context)

    assert context.notes["failed"] == "1 of 4 trials failed; trial 02: the loss is no number"


def test_nine_trials_whose_ninth_fails_are_a_search_of_eight(table, own_store, monkeypatch):
    failing(monkeypatch, {8: DataError("the loss is no number")})
    context = Printing()
    tune.run(tune.bind((small_pointnet(steps=4), table), {"trials": 9}), context)

    assert context.notes["failed"] == "1 of 9 trials failed; trial 08: the loss is no number"


def test_networks_of_nan_fail_the_search_with_the_reason(table, own_store, made, monkeypatch):
    monkeypatch.setattr(PointNet, "logits", lambda self, net, batch: torch.full((len(batch["label"]), 3), torch.nan))

    with pytest.raises(DataError, match="A search needs a score, but accuracy of every trial is NaN"):
        search(table, running(own_store), 3)


def test_the_search_says_what_won_and_over_what(table, own_store, made):
    context = Printing()
    tune.run(tune.bind((small_pointnet(steps=4), table), {"trials": 3}), context)

    assert "won, of 3 trials: accuracy" in context.notes["search"]
    assert context.notes["search"].count("each on 3 folds of train and val") == 1


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), ConnectionError("gone"), ValueError("a mistake"), Damaged("lost")]
)
def test_a_trial_that_was_lost_is_raised_again_and_the_others_trainings_are_kept(table, own_store, monkeypatch, error):
    """A search without it would be poorer, and kept under the key of the whole one."""
    with monkeypatch.context() as patch:
        failing(patch, {1: error})
        with pytest.raises(type(error), match=str(error)):
            search(table, running(own_store), 2)
    made = []
    monkeypatch.setattr(
        module,
        "_on_tune",
        lambda wanted, name, table, context: (
            made.append(list(wanted)) or [one.run(table, context) for one in wanted.values()] and {}
        ),
    )
    search(table, running(own_store), 2)

    assert made[0] == [(1, 0)]


def test_ray_tune_finds_what_this_process_finds(table, own_store, ray_session, monkeypatch, tmp_path):
    on_ray = search(table, running(own_store), 2)
    with monkeypatch.context() as patch:
        patch.setenv("RAYFIELD_STORE", str(own_store))
        patch.setattr(
            module,
            "_on_tune",
            lambda wanted, name, table, context: [one.run(table, context) for one in wanted.values()] and {},
        )
        other = Running(
            Store(str(own_store)),
            "run",
            "k",
            (("components.steps.tune", "tune"), ("components.steps.train", "train")),
            0,
            {"CPU": 2},
        )
        here = search(table, other, 2)

    assert here == on_ray


def test_ray_tune_says_which_trial_failed_and_why(table, own_store, ray_session):
    class Broken(module.TrialRun):
        def run(self, table, context):
            raise DataError(f"{self.name} is broken")

    family = small_pointnet(steps=1)
    family = family.adapt(table.open(family.representation(), "train"))
    wanted = {
        (trial, 0): kind(family, 1, 0, f"trial {trial:02d}", f"k{trial}")
        for trial, kind in ((2, module.TrialRun), (3, Broken))
    }
    errors = module._on_tune(wanted, "stage", table, running(own_store))

    assert {place: str(error) for place, error in module.own_errors(errors).items()} == {(3, 0): "trial 03 is broken"}


# A long search


def test_of_a_long_search_the_best_of_those_that_went_furthest_wins():
    """A score on the way is no match for one at the end, and NaN for neither."""
    runs = [(0.1, 4), (float("nan"), 8), (0.5, 8), (0.3, 8), (float("nan"), 4)]
    found = ranked([(Field(), {"loss": loss, "steps": float(steps)}) for loss, steps in runs], LOSS)

    assert [(scores["loss"], scores["steps"]) for _, scores in found[:3]] == [(0.3, 8), (0.5, 8), (0.1, 4)]
    assert all(np.isnan(scores["loss"]) for _, scores in found[3:])


def test_a_long_search_whose_trials_all_score_nan_fails_with_the_reason():
    with pytest.raises(DataError, match="A search needs a score, but loss of every trial is NaN"):
        ranked([(Field(), {"loss": float("nan"), "steps": 8.0})] * 2, LOSS)
