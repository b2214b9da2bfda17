"""
tune: the best of some trials, on Ray Tune.

Trial 0 is the family as it is; trial i is point i of a scrambled Sobol sequence over its space, or over the
neighbourhood of the family as it is: a function of (space, seed, i). All trials are compared by short trainings, whole
ones, for a training that is cut on its way has not had its schedule; the best and trial 0 are then compared by more.
Each of these trainings is an entry of the store, so a killed tuning repeats nothing, and sixteen trials begin with the
eight that have run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, isnan
from typing import Any, Literal

import numpy as np

from components.constraints import Count
from components.errors import DataError, RayfieldError, UsageError
from components.family import Family, Goal
from components.metrics.paired import jackknife, paired_error
from components.runtime import objects
from components.runtime.crash_points import point
from components.source import chance
from components.step import Context, step
from components.steps.optuna_search import own_errors
from components.steps.optuna_search import search as long_search
from components.steps.ray_workers import keep_secrets_from_trials
from components.steps.stream import judged
from components.table import Rows, Table
from components.training.learner import Learner, evaluate, groups, joined, left_out

FINALISTS = 3  # trials that are compared to the end, trial 0 among them
SHORT = 5  # a first training has one in so many of the family's updates
PARTS = 6  # of the rows that a training is scored on, for its error: a kernel distance is costly to take without each
FOLDS = 3  # of train and val, where val is small
FEW = 200  # assets in val, or rows of a single asset, below which finalists are compared on folds


@dataclass(frozen=True)
class TrialScore:
    """The score of one trial in one training."""

    steps: int
    """updates that it took"""
    scores: dict[str, float]
    left_out: tuple[float, ...]
    """the goal without each part of the rows that it was scored on in turn"""


@dataclass(frozen=True)
class TrialRun:
    """One trial, trained on some rows and scored on others."""

    family: Family
    steps: int
    """for which the family is shortened"""
    fold: int | None
    """of train and val, to be scored on; None trains on train and scores on val"""
    name: str
    key: str
    """under which the result is remembered"""

    def run(self, table: Table, context: Context) -> TrialScore:
        """Trains from the start to the end, and scores."""
        family = self.family.shortened(self.steps)
        rows, held = split_of(table, family, self.fold)
        learner = Learner.begin(family, rows, seed=context.seed)
        context.note({name: getattr(self.family, name) for name in family.space()}, trial=self.name)
        point("tune: a trial begins a training")
        for logged in learner.run():
            if learner.state.step % max(1, family.steps // 10) == 0:
                context.log({n: float(v) for n, v in logged.items()}, learner.state.step, trial=self.name)
        point("tune: a trial is trained, not judged")
        parts = [evaluate(family, learner.best_net, held, index=group) for group in groups(held, PARTS)]
        scores = family.score(joined(parts))
        context.log({f"val_{n}": v for n, v in scores.items()}, family.steps, trial=self.name)
        trained = TrialScore(family.steps, scores, left_out(family, parts).get(family.goal.name, ()))
        context.remember(self.key, trained)
        point("tune: a training is remembered, its lines wait")
        context.flush()
        return trained


Results = dict[int, list[TrialScore]]
"""trial -> its trainings, in the order of the stages"""

Failed = dict[int, RayfieldError]
"""trial -> what was wrong with it"""


@dataclass(frozen=True)
class Stage:
    """The trainings of each trial that comes so far."""

    steps: int
    folds: tuple[int | None, ...] = (None,)


@step(spreads=True, strict=True)
def tune(
    family: Family,
    table: Table,
    *,
    trials: Count = 8,
    search: Literal["halving", "optuna"] = "halving",
    context: Context,
) -> Family:
    """
    The family with the best score of the trials that were compared to the end, on rows that each did not learn from.

    Trial 0 is the family as it is, and always among the last three. Where val has under 200 assets, these are compared
    on three folds of train and val, in short trainings; else on val, when trained in full. A trial that fails, or whose
    score is NaN, is said; a trial 0 that fails, or trials that all are NaN, fail the search.

    `search="optuna"` is Optuna's TPE under ASHA, for long searches: it can be neither extended nor repeated exactly.
    """
    rows = table.open(family.representation(), "train")
    adapted = family.adapt(rows)
    if search == "optuna":
        found = long_search(adapted, table, trials, context)
        context.figure("search", search_figure(adapted, found))
        return taken(family, found[0][0])
    drawn = sample(adapted, trials, context.seed)
    results, failed = _compare(drawn, stages(adapted, table), table, context)
    if failed:
        context.note({"failed": said(failed, trials)})
    point("tune: every training is remembered, none is chosen")
    best = choose(adapted.goal, results)[0]
    ended = {trial: trained[-1] for trial, trained in results.items() if trained}
    scored = [(drawn[trial], {**last.scores, "steps": last.steps}) for trial, last in ended.items()]
    context.figure("search", search_figure(adapted, scored))
    context.note({"best": {name: getattr(drawn[best], name) for name in adapted.space()}})
    context.note({"search": verdict(drawn, results)})
    return taken(family, drawn[best])


def taken(family: Family, best: Family) -> Family:
    """The family with what its space names taken over; what `adapt` found is found again by `train`."""
    return changed(family, {name: getattr(best, name) for name in best.space()})


def changed(family: Family, values: Mapping[str, Any]) -> Family:
    """The family with other values of some fields."""
    return replace(family, **values)


def sample(family: Family, trials: int, seed: int) -> list[Family]:
    """
    The first `trials` trials. Sobol points are drawn by index, so that more trials begin with fewer.

    Odd trials are from around the family as it is, even ones from the whole space: a preset was chosen with care, and a
    few points that are far from it in every field at once are seldom better.
    """
    space = family.space()
    for name in space:
        if changed(family, {name: space[name].at(0.3)}).representation() != family.representation():
            raise UsageError(f"{family.name}.{name} decides what is preprocessed: tune it by a loop over families.")
    names = sorted(space)
    near, whole = (_sobol(len(names), (trials + 1) // 2, (seed, stream)) for stream in (0, 1))
    chosen = [family]
    for trial in range(1, trials):
        numbers = (near if trial % 2 else whole)[(trial - 1) // 2]
        drawn = {
            name: space[name].near(getattr(family, name), u) if trial % 2 else space[name].at(u)
            for name, u in zip(names, numbers.tolist(), strict=True)
        }
        chosen.append(changed(family, drawn))
    return chosen


def _sobol(dimensions: int, count: int, seed: Sequence[int]) -> np.ndarray:
    from scipy.stats import qmc

    power = 1 << max(0, count - 1).bit_length()
    return qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed)).random(power)


def stages(family: Family, table: Table) -> list[Stage]:
    """The stages that all trials pass through, and those of the finalists after them."""
    short = family.shortened(max(1, family.steps // SHORT)).steps
    val = len(units_of(table.open(family.representation(), "val")))
    if 0 < val < FEW:
        return [Stage(short, (0,)), Stage(short, tuple(range(1, FOLDS)))]
    return [Stage(steps) for steps in dict.fromkeys((short, family.steps))]


def units_of(rows: Rows) -> list[str]:
    """Units that may lie on either side of a fold: an asset with all its rows; of a single asset each row."""
    names = list(dict.fromkeys(rows.ids))
    return names if len(names) > 1 else [str(place) for place in range(len(rows))]


def split_of(table: Table, family: Family, fold: int | None) -> tuple[Rows, Rows]:
    """The rows to learn from, and those to be scored on."""
    labels = getattr(family, "labels", ())
    rows = table.open(family.representation(), "train", labels)
    if fold is None:
        return rows, judged(table, family, rows)
    rows = Rows.joined([rows, table.open(family.representation(), "val", labels)])
    places = folds_of(rows)
    return rows.picked(np.flatnonzero(places != fold)), rows.picked(np.flatnonzero(places == fold))


def folds_of(rows: Rows) -> np.ndarray:
    """The fold of each row, [N]: whole assets, dealt class by class in the order of a hash."""
    units = rows.ids if len(set(rows.ids)) > 1 else units_of(rows)
    label = dict(zip(units, rows.label.tolist(), strict=True))
    dealt = sorted(label, key=lambda unit: (label[unit], chance(f"search/{unit}")))
    fold = {unit: place % FOLDS for place, unit in enumerate(dealt)}
    return np.array([fold[unit] for unit in units])


def _compare(drawn: Sequence[Family], plan: Sequence[Stage], table: Table, context: Context) -> tuple[Results, Failed]:
    """Each trial's trainings, and why some failed: the finalists alone pass through more than the first stage."""
    results: Results = {trial: [] for trial in range(len(drawn))}
    failed: Failed = {}
    alive = list(results)
    for number, stage in enumerate(plan):
        found, errors = _run({trial: drawn[trial] for trial in alive}, stage, number, table, context)
        failed |= errors
        for trial, trained in found.items():
            results[trial] += trained
        alive = finalists(drawn[0].goal, {trial: results[trial] for trial in found})
        context.log({"best_so_far": mean(drawn[0].goal, results[alive[0]])}, number)
        if len(alive) == 1:
            break
    return results, failed


def finalists(goal: Goal, results: Results) -> list[int]:
    """The best trials, in their order, and trial 0, with which what is chosen is to be compared; none that is NaN."""
    scores = {trial: mean(goal, trained) for trial, trained in results.items()}
    order = sorted((t for t in scores if not isnan(scores[t])), key=lambda t: (goal.rank(scores[t]), t))
    if not order:
        raise DataError(f"A search needs a score, but {goal.name} of every trial is NaN. Lower lr, or set clip.")
    others = [trial for trial in order if trial][: FINALISTS - 1]
    return [trial for trial in order if trial in (0, *others)]


def longest(trained: Sequence[TrialScore]) -> list[TrialScore]:
    """The trainings that a trial is compared by: of those of unlike lengths the longest."""
    steps = max((one.steps for one in trained), default=0)
    return [one for one in trained if one.steps == steps]


def mean(goal: Goal, trained: Sequence[TrialScore]) -> float:
    """The goal's mean over the folds of what a trial is compared by."""
    return float(np.mean([one.scores[goal.name] for one in longest(trained)]))


def error_of(trained: Sequence[TrialScore]) -> float:
    """The standard error of that mean, from the samples that the folds are."""
    own = longest(trained)
    return hypot(*(jackknife(one.left_out) for one in own)) / len(own)


def error_between(one: Sequence[TrialScore], other: Sequence[TrialScore]) -> float:
    """The standard error of the difference of two such means, over the same rows."""
    pairs = list(zip(longest(one), longest(other), strict=True))
    return hypot(*(paired_error(a.left_out, b.left_out) for a, b in pairs)) / len(pairs)


def choose(goal: Goal, results: Results) -> list[int]:
    """The trials that were compared to the end, the best first; on a tie the earlier one."""
    most = max(map(len, results.values()))
    return finalists(goal, {trial: trained for trial, trained in results.items() if len(trained) == most})


def _run(
    families: Mapping[int, Family], stage: Stage, number: int, table: Table, context: Context
) -> tuple[Results, Failed]:
    """The trainings of a stage: those that are not in the store yet on Ray Tune."""
    wanted = {
        (trial, fold): TrialRun(
            family=family,
            steps=stage.steps,
            fold=fold,
            name=f"trial {trial:02d}" + ("" if fold is None else f" fold {fold}"),
            key=context.key(family=family, table=table, steps=stage.steps, fold=fold),
        )
        for trial, family in families.items()
        for fold in stage.folds
    }
    missing = {place: one for place, one in wanted.items() if context.recall(one.key) is None}
    errors = own_errors(_on_tune(missing, f"stage-{number}", table, context)) if missing else {}
    failed = {trial: why for (trial, _), why in reversed(errors.items())}
    if 0 in failed:
        raise type(failed[0])(f"{families[0].name} as it is, which is trial 0, failed: {failed[0]}")
    made = {trial: [context.recall(wanted[trial, fold].key) for fold in stage.folds] for trial in families}
    found = {trial: trained for trial, trained in made.items() if None not in trained}
    if not found:
        reason = next(iter(failed.values()), "See the trials' logs.")
        raise DataError(f"No trial of {next(iter(families.values())).name} was trained. The first: {reason}")
    return found, failed


def said(failed: Failed, trials: int) -> str:
    """How many trials failed, and why the first did."""
    first, error = min(failed.items())
    return f"{len(failed)} of {trials} trials failed; trial {first:02d}: {error}"


def verdict(drawn: Sequence[Family], results: Results) -> str:
    """Which trial won, in words: its score and values, and the score of the preset, or of the best that it won over."""
    goal = drawn[0].goal
    best, *others = choose(goal, results)
    number = len(longest(results[best]))
    unlike = sum(isnan(mean(goal, trained)) for trained in results.values() if trained)
    said = [
        f"{_named(best)} won, of {len(drawn)} trials: {_scored(goal, results[best])}",
        *(_against(goal, results, best, rival) for rival in ([0] if 0 in others else others[:1])),
        f"each on {number} folds of train and val" if number > 1 else "each in one training",
        *([_unlike(drawn[best], drawn[0])] if best else []),
        *([f"{unlike} of them scored NaN"] if unlike else []),
    ]
    return "; ".join(said)


def _named(trial: int) -> str:
    return f"trial {trial}" if trial else "the preset"


def _against(goal: Goal, results: Results, best: int, rival: int) -> str:
    apart = mean(goal, results[best]) - mean(goal, results[rival])
    error = error_between(results[best], results[rival])
    return f"{_named(rival)} {_scored(goal, results[rival])}, the difference {apart:+.3f} ± {error:.3f}"


def _unlike(best: Family, preset: Family) -> str:
    """The values that were chosen, beside the preset's."""
    pairs = {name: (getattr(best, name), getattr(preset, name)) for name in preset.space()}
    return ", ".join(f"{name} {_short(new)} for {_short(old)}" for name, (new, old) in pairs.items() if new != old)


def _scored(goal: Goal, trained: Sequence[TrialScore]) -> str:
    return f"{goal.name} {mean(goal, trained):.3f} ± {error_of(trained):.3f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _on_tune(wanted: Mapping[Any, TrialRun], name: str, table: Table, context: Context) -> dict[Any, BaseException]:
    """Runs them; what comes back is why some of them did not end."""
    from ray import tune as ray_tune

    keep_secrets_from_trials()
    store, places = objects.told(), list(wanted)

    def trainable(config: dict[str, Any]) -> None:
        objects.use(store)
        training = wanted[places[config["place"]]]
        with context.working(training.name):
            scores = training.run(table, context).scores
        ray_tune.report(dict(scores))

    class Progress(ray_tune.Callback):
        ended = 0

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.ended += 1
            context.progress(self.ended, len(wanted), "trainings")

    results = ray_tune.Tuner(
        ray_tune.with_resources(trainable, {"CPU": 1}),
        param_space={"place": ray_tune.grid_search(list(range(len(places))))},
        tune_config=ray_tune.TuneConfig(
            max_concurrent_trials=max(1, int(context.resources.get("CPU", 1))), reuse_actors=True
        ),
        run_config=ray_tune.RunConfig(
            name=name, storage_path=f"{context.scratch}/tune", verbose=0, callbacks=[Progress()]
        ),
    ).fit()
    return {place: why for place, result in zip(places, results, strict=True) if (why := result.error)}


def search_figure(family: Family, scored: Sequence[tuple[Family, Mapping[str, float]]]) -> Any:
    """
    The goal against each field of the space, and against its cost: a dot for each trial, by its last training.

    A ring marks the family as it was; the colour says how many steps a trial was given.
    """
    from components.plotting.figures import scatter_panels

    trials = [trial for trial, _ in scored]
    panels = {name: [getattr(trial, name) for trial in trials] for name in sorted(family.space())}
    if family.cost:
        panels = {family.cost: [scores[family.cost] for _, scores in scored], **panels}
    own = [{name: getattr(trial, name) for name in family.space()} for trial in trials]
    preset = {name: getattr(family, name) for name in family.space()}
    return scatter_panels(
        panels,
        [scores[family.goal.name] for _, scores in scored],
        colors=[scores["steps"] for _, scores in scored],
        ring=own.index(preset) if preset in own else None,
        ylabel=f"{family.goal.name} held out",
        clabel="steps",
    )
