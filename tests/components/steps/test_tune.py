"""
tune: trials that depend on (space, seed, number), and a search that repeats nothing.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components import space
from components.errors import DataError, UsageError
from components.family import Family
from components.representations.points import Points
from components.runtime.files import Damaged, keep
from components.step import Printing
from components.steps import tune as module
from components.steps.tune import Rung, changed, choose, rungs, sample, taken, tune
from components.table import Table
from components.training import Learner
from pipelines.engine.context import Running
from pipelines.engine.store import Store
from tests.meshes import small_pointnet


class Field(Family):
    """A family that is its fields."""

    steps: int = 8
    width: int = 4
    kind: str = "a"
    count: int = 16

    def representation(self) -> Points:
        return Points(count=self.count)

    def space(self) -> dict[str, space.Domain]:
        return {
            "lr": space.loguniform(1e-4, 1e-1),
            "width": space.integer(1, 8),
            "kind": space.choice("a", "b"),
        }


class Wrong(Field):
    def space(self) -> dict[str, space.Domain]:
        return {"count": space.integer(1, 64)}


class Restless(Field):
    """Its scores are fair at every third update only."""

    def quiet(self, step: int) -> bool:
        return step % 3 == 0


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


def test_trials_are_spread_over_the_space():
    """Sobol: each half of each field's range has half of the trials, one more or less."""
    trials = sample(Field(), 33, 0)[1:]

    assert 15 <= sum(trial.lr < 10**-2.5 for trial in trials) <= 17
    assert 15 <= sum(trial.kind == "a" for trial in trials) <= 17
    assert {trial.width for trial in trials} == set(range(1, 9))


def test_a_field_that_decides_what_is_preprocessed_is_not_tuned():
    with pytest.raises(
        UsageError, match="test_tune.count decides what is preprocessed: tune it by a loop over families"
    ):
        sample(Wrong(), 4, 0)


def test_rungs_double_and_end_at_the_familys_own_steps():
    assert rungs(Field(), 8) == (2, 4, 8)
    assert rungs(Field(), 2) == (4, 8)
    assert rungs(Field(), 1) == (8,)
    assert rungs(Field(steps=1), 8) == (1,)


def test_rungs_wait_until_a_score_is_fair():
    assert rungs(Restless(), 8) == (3, 6, 8)


# Choosing


def ended(steps: int, loss: float, **fields: object) -> Rung:
    return Rung(Field(**fields), steps, {"loss": loss}, keep("state", b""))


def test_the_best_of_those_that_went_the_whole_way_is_chosen():
    results = {
        0: [ended(4, 0.1), ended(8, 0.5, width=1)],
        1: [ended(4, 0.05)],
        2: [ended(4, 0.1), ended(8, 0.3, width=2)],
        3: [ended(8, 0.3, width=3)],
        4: [ended(8, float("nan"), width=4)],
    }

    assert choose(Field(), results).width == 2


def test_only_what_the_space_names_is_taken_over():
    best = replace(Field(), lr=0.05, width=7, steps=3)

    assert taken(Field(batch=5), best) == Field(batch=5, lr=0.05, width=7)
    assert changed(Field(), {"width": 2}).width == 2


def test_no_trials_are_refused(table):
    with pytest.raises(UsageError, match="`trials` of tune must be at least 1, but got 0"):
        tune.run(tune.bind((small_pointnet(), table), {"trials": 0}), Printing())


# The search itself


def running(own_store: Path) -> Running:
    return Running(Store(str(own_store)), "run", "k", ("components.steps.tune",), 0, {"CPU": 2})


def search(table: Table, context: Running, trials: int) -> Family:
    return tune.run(tune.bind((small_pointnet(steps=4), table), {"trials": trials}), context)


@pytest.fixture
def climbed(monkeypatch) -> list[str]:
    """Every climb, made in this process instead of on Ray Tune."""
    names: list[str] = []

    def here(climbs, name, table, context):
        for climb in climbs.values():
            names.append(f"{climb.name} to {climb.steps}")
            climb.run(table, context)
        return {}

    monkeypatch.setattr(module, "_on_tune", here)
    return names


def test_halves_go_on_and_the_best_is_a_trial_or_the_family_itself(table, own_store, climbed):
    best = search(table, running(own_store), 4)

    assert [name for name in climbed if name.endswith("to 1")] == [f"trial {n:02d} to 1" for n in range(4)]
    assert len([name for name in climbed if name.endswith("to 2")]) == 2
    assert len([name for name in climbed if name.endswith("to 4")]) == 1
    tried = [trial.lr for trial in sample(small_pointnet(steps=4), 4, 0)]
    assert any(np.isclose(best.lr, lr) for lr in tried)


def test_a_killed_search_repeats_nothing(table, own_store, climbed, monkeypatch):
    here = module._on_tune

    def killed(climbs, name, table, context):
        if name.startswith("rung-1"):
            raise KeyboardInterrupt
        return here(climbs, name, table, context)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_on_tune", killed)
        with pytest.raises(KeyboardInterrupt):
            search(table, running(own_store), 4)
    first = list(climbed)
    best = search(table, running(own_store), 4)

    assert len(first) == 4
    assert not set(first) & set(climbed[4:])
    climbed.clear()
    assert search(table, running(own_store), 4) == best
    assert climbed == []


def test_a_longer_search_runs_only_the_trials_that_are_new(table, own_store, climbed):
    search(table, running(own_store), 8)
    first = list(climbed)
    climbed.clear()
    search(table, running(own_store), 12)

    assert len(first) == 8 + 4 + 2
    assert not set(first) & set(climbed)
    assert [name for name in climbed if name.endswith("to 1")] == [f"trial {n:02d} to 1" for n in range(8, 12)]


def test_a_rung_continues_from_the_one_below(table, own_store, climbed):
    """Two updates and two more are four: bit for bit."""
    context = running(own_store)
    search(table, context, 2)
    state = {}
    for key in context.store.names("keys"):
        rung = context.recall(key.removesuffix(".json"))
        if isinstance(rung, Rung) and rung.steps == 4:
            state[rung.family.lr] = rung
    (whole,) = state.values()
    alone = module.Climb(whole.family, 4, "alone", "alone", None).run(table, context)

    assert alone.scores == whole.scores
    assert alone.state.digest == whole.state.digest


def test_no_update_is_made_twice(table, own_store, climbed, monkeypatch):
    """Two trials of two updates, and two more for the better one."""
    made: list[int] = []
    update = Learner.update
    monkeypatch.setattr(Learner, "update", lambda self, step: made.append(step) or update(self, step))
    search(table, running(own_store), 2)

    assert sorted(made) == [0, 0, 1, 1, 2, 3]


def failing(monkeypatch, errors: dict[int, Exception]) -> None:
    """Trials of these numbers fail at their first rung; the others climb in this process."""

    def here(climbs, name, table, context):
        for trial, climb in climbs.items():
            if trial not in errors:
                climb.run(table, context)
        return {trial: errors[trial] for trial in climbs if trial in errors}

    monkeypatch.setattr(module, "_on_tune", here)


def test_trials_that_all_fail_are_an_error_in_one_line(table, own_store, monkeypatch):
    monkeypatch.setattr(module, "_on_tune", lambda *_: {1: DataError("the loss is no number")})

    with pytest.raises(DataError, match="No trial of pointnet reached step 1. The first: the loss is no number"):
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


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), ConnectionError("gone"), ValueError("a mistake"), Damaged("lost")]
)
def test_a_trial_that_was_lost_is_raised_again_and_the_others_rungs_are_kept(table, own_store, monkeypatch, error):
    """A search without it would be poorer, and kept under the key of the whole one."""
    with monkeypatch.context() as patch:
        failing(patch, {1: error})
        with pytest.raises(type(error), match=str(error)):
            search(table, running(own_store), 2)
    made = []
    monkeypatch.setattr(
        module,
        "_on_tune",
        lambda climbs, name, table, context: (
            made.append(list(climbs)) or [c.run(table, context) for c in climbs.values()] and {}
        ),
    )
    search(table, running(own_store), 2)

    assert made[0] == [1]


def test_ray_tune_finds_what_this_process_finds(table, own_store, ray_session, monkeypatch, tmp_path):
    on_ray = search(table, running(own_store), 2)
    with monkeypatch.context() as patch:
        patch.setenv("RAYFIELD_STORE", str(own_store))
        patch.setattr(
            module,
            "_on_tune",
            lambda climbs, name, table, context: [c.run(table, context) for c in climbs.values()] and {},
        )
        other = Running(
            Store(str(own_store)), "run", "k", ("components.steps.tune", "components.steps.train"), 0, {"CPU": 2}
        )
        here = search(table, other, 2)

    assert here == on_ray


def test_ray_tune_says_which_trial_failed_and_why(table, own_store, ray_session):
    class Broken(module.Climb):
        def run(self, table, context):
            raise DataError(f"{self.name} is broken")

    family = small_pointnet(steps=1)
    family = family.adapt(table.open(family.representation(), "train"))
    climbs = {
        trial: kind(family, 1, f"trial {trial:02d}", f"k{trial}", None)
        for trial, kind in ((2, module.Climb), (3, Broken))
    }
    errors = module._on_tune(climbs, "rung", table, running(own_store))

    assert {trial: str(error) for trial, error in module.own_errors(errors).items()} == {3: "trial 03 is broken"}


def test_sixteen_trials_after_eight_run_eight(table, own_store, climbed):
    search(table, running(own_store), 8)
    first = {name.partition(" to ")[0] for name in climbed}
    climbed.clear()
    best = search(table, running(own_store), 16)
    second = {name.partition(" to ")[0] for name in climbed}
    climbed.clear()

    assert first == {f"trial {n:02d}" for n in range(8)}
    assert second == {f"trial {n:02d}" for n in range(8, 16)}
    assert search(table, running(own_store), 16) == best
    assert climbed == []
