"""
tune: the best of some trials, on Ray Tune.

Trial 0 is the family as it is; trial i is point i of a scrambled Sobol sequence over its space: a function of (space,
seed, i). Rungs are successive halving over each group of trials, on the validation split. Each (trial, rung) is an
entry of the store, so a killed tuning repeats nothing, and sixteen trials begin with the eight that have run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from components.errors import DataError, RayfieldError, UsageError
from components.family import Family
from components.ranges import Count
from components.runtime import files
from components.runtime.crash import point
from components.runtime.files import File, keep
from components.step import Context, step
from components.steps.cluster import keep_secrets_from_trials
from components.steps.optuna_search import own_errors
from components.steps.optuna_search import search as long_search
from components.steps.stream import judged
from components.table import Table
from components.training import Learner, evaluate

GROUP = 8  # trials that are halved together


@dataclass(frozen=True)
class Rung:
    """One trial, trained to one number of steps."""

    family: Family
    steps: int
    scores: dict[str, float]
    state: File | None
    """everything that the next update depends on; none where the trial will not go on"""


@dataclass(frozen=True)
class Climb:
    """One trial's way from its last rung to the next."""

    family: Family
    steps: int
    name: str
    key: str
    """under which the rung is remembered"""
    state: File | None
    """where the rung before left off; none at the first"""

    def run(self, table: Table, context: Context) -> Rung:
        """Trains to the rung, and scores the trial on the validation split."""
        family = self.family
        rows = table.open(family.representation(), "train")
        learner = Learner.begin(family, rows, seed=context.seed)
        if self.state is not None:
            learner.load(self.state.read())
        context.note({name: getattr(family, name) for name in family.space()}, trial=self.name)
        point("tune: a trial begins its rung")
        for logged in learner.run(until=self.steps):
            if learner.state.step % max(1, family.steps // 40) == 0:
                context.log({n: float(v) for n, v in logged.items()}, learner.state.step, trial=self.name)
        point("tune: a trial is at its rung, not judged")
        scores = family.score(evaluate(family, learner.best_net, judged(table, family, rows)))
        context.log({f"val_{n}": v for n, v in scores.items()}, self.steps, trial=self.name)
        rung = Rung(family, self.steps, scores, keep("trial.safetensors", learner.dump()))
        context.remember(self.key, rung)
        point("tune: a rung is remembered, its lines wait")
        context.flush()
        return rung


@dataclass(frozen=True)
class Plan:
    """Which trials there are, and at which steps they are compared."""

    families: tuple[Family, ...]
    rungs: tuple[int, ...]
    """steps, the last one being the family's own"""


Failed = dict[int, RayfieldError]
"""trial -> what was wrong with it"""


@step(spreads=True)
def tune(
    family: Family,
    table: Table,
    *,
    trials: Count = 8,
    search: Literal["halving", "optuna"] = "halving",
    context: Context,
) -> Family:
    """
    The family with the best validation score of the trials that are trained to the end.

    Trial 0 is the family as it is. Rungs halve on scores of the way: it is chosen if it lasts and none is better, but
    may be cut early though it would have been. A trial that fails by itself is said; trial 0 fails the search.

    `search="optuna"` is Optuna's TPE under ASHA, for long searches: it can be neither extended nor repeated exactly.
    """
    rows = table.open(family.representation(), "train")
    adapted = family.adapt(rows)
    if search == "optuna":
        found = long_search(adapted, table, trials, context)
        results = {n: [Rung(one, int(scores["steps"]), scores, None)] for n, (one, scores) in enumerate(found)}
        context.figure("search", search_figure(adapted, results))
        return taken(family, found[0][0])
    plan = Plan(tuple(sample(adapted, trials, context.seed)), rungs(adapted, min(trials, GROUP)))
    results, failed = _halve(plan, table, context)
    if failed:
        context.note({"failed": said(failed, trials)})
    point("tune: every rung is remembered, none is chosen")
    best = choose(adapted, results)
    context.figure("search", search_figure(adapted, results))
    context.note({"best": {name: getattr(best, name) for name in adapted.space()}})
    return taken(family, best)


def taken(family: Family, best: Family) -> Family:
    """The family with what its space names taken over; what `adapt` found is found again by `train`."""
    return changed(family, {name: getattr(best, name) for name in best.space()})


def changed(family: Family, values: Mapping[str, Any]) -> Family:
    """The family with other values of some fields."""
    return replace(family, **values)


def sample(family: Family, trials: int, seed: int) -> list[Family]:
    """The first `trials` trials. Sobol points are drawn by index, so that more trials begin with fewer."""
    from scipy.stats import qmc

    space = family.space()
    for name in space:
        if changed(family, {name: space[name].at(0.3)}).representation() != family.representation():
            raise UsageError(f"{family.name}.{name} decides what is preprocessed: tune it by a loop over families.")
    names = sorted(space)
    count = 1 << max(0, (trials - 1)).bit_length()
    points = qmc.Sobol(len(names), scramble=True, rng=np.random.default_rng(seed)).random(max(count, 1))
    chosen = [{n: space[n].at(float(u)) for n, u in zip(names, point, strict=True)} for point in points[: trials - 1]]
    return [family, *(changed(family, values) for values in chosen)]


def rungs(family: Family, group: int) -> tuple[int, ...]:
    """Halvings: half as many trials, twice as many steps; each moved on to where the family's score is fair."""
    count = max(1, min(3, int(np.log2(max(group, 1))) + 1))
    steps = [max(1, family.steps // 2**n) for n in range(count)][::-1]
    return tuple(dict.fromkeys(_quiet(family, s) for s in steps))


def _quiet(family: Family, step: int) -> int:
    while step < family.steps and not family.quiet(step):
        step += 1
    return step


def _halve(plan: Plan, table: Table, context: Context) -> tuple[dict[int, list[Rung]], Failed]:
    """Trial -> its rungs, and why some failed. Each group is halved by itself: a later one changes no earlier one."""
    results: dict[int, list[Rung]] = {trial: [] for trial in range(len(plan.families))}
    failed: Failed = {}
    for first in range(0, len(plan.families), GROUP):
        alive = list(range(first, min(first + GROUP, len(plan.families))))
        for level, steps in enumerate(plan.rungs):
            states = {trial: results[trial][-1].state if level else None for trial in alive}
            found, errors = _run(plan, states, level, table, context)
            failed |= errors
            for trial, rung in found.items():
                results[trial].append(rung)
            alive = [trial for trial in alive if len(results[trial]) == level + 1]
            if not alive:
                break
            goal = plan.families[0].goal
            order = sorted(alive, key=lambda t: _rank(results[t][-1].scores[goal.name], goal.direction))
            alive = sorted(order[: max(1, len(order) // 2)])
            context.log({"best_so_far": results[order[0]][-1].scores[goal.name]}, steps)
    return results, failed


def _rank(value: float, direction: str) -> float:
    if value != value:
        return float("inf")
    return -value if direction == "max" else value


def _run(
    plan: Plan, states: Mapping[int, File | None], level: int, table: Table, context: Context
) -> tuple[dict[int, Rung], Failed]:
    """Brings trials from where they left off to a rung: those that are not in the store yet, on Ray Tune."""
    keys = {trial: context.key(family=plan.families[trial], table=table, steps=plan.rungs[level]) for trial in states}
    climbs = {
        trial: Climb(
            family=plan.families[trial],
            steps=plan.rungs[level],
            name=f"trial {trial:02d}",
            key=key,
            state=states[trial],
        )
        for trial, key in keys.items()
        if context.recall(key) is None
    }
    failed = own_errors(_on_tune(climbs, f"rung-{level}-{min(climbs)}", table, context)) if climbs else {}
    found = {trial: rung for trial, key in keys.items() if (rung := context.recall(key)) is not None}
    if 0 in failed:
        raise type(failed[0])(f"{plan.families[0].name} as it is, which is trial 0, failed: {failed[0]}")
    if not found:
        reason = next(iter(failed.values()), "See the trials' logs.")
        raise DataError(f"No trial of {plan.families[0].name} reached step {plan.rungs[level]}. The first: {reason}")
    return found, failed


def said(failed: Failed, trials: int) -> str:
    """How many trials failed, and why the first did."""
    first, error = min(failed.items())
    return f"{len(failed)} of {trials} trials failed; trial {first:02d}: {error}"


def _on_tune(climbs: dict[int, Climb], name: str, table: Table, context: Context) -> dict[int, BaseException]:
    """Runs them, each to its rung; what comes back is why some of them did not reach it."""
    from ray import tune as ray_tune

    keep_secrets_from_trials()
    store, steps = files.root(), next(iter(climbs.values())).steps

    def trainable(config: dict[str, Any]) -> None:
        files.use(store)
        climb = climbs[config["trial"]]
        with context.working(climb.name):
            scores = climb.run(table, context).scores
        ray_tune.report(dict(scores))

    class Progress(ray_tune.Callback):
        ended = 0

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.ended += 1
            context.progress(self.ended, len(climbs), f"trials to step {steps}")

    results = ray_tune.Tuner(
        ray_tune.with_resources(trainable, {"CPU": 1}),
        param_space={"trial": ray_tune.grid_search(list(climbs))},
        tune_config=ray_tune.TuneConfig(
            max_concurrent_trials=max(1, int(context.resources.get("CPU", 1))), reuse_actors=True
        ),
        run_config=ray_tune.RunConfig(
            name=name, storage_path=f"{context.scratch}/tune", verbose=0, callbacks=[Progress()]
        ),
    ).fit()
    return {trial: error for trial, result in zip(climbs, results, strict=True) if (error := result.error)}


def choose(family: Family, results: dict[int, list[Rung]]) -> Family:
    """The best of the trials that went the whole way; on a tie the earlier one."""
    whole = {trial: rungs for trial, rungs in results.items() if rungs and rungs[-1].steps == family.steps}
    best = min(whole, key=lambda t: (_rank(whole[t][-1].scores[family.goal.name], family.goal.direction), t))
    return whole[best][-1].family


def search_figure(family: Family, results: dict[int, list[Rung]]) -> Any:
    """
    The goal against each field of the space, and against its cost: a dot for each trial at its last rung.

    A ring marks the family as it was; the colour says how many steps a trial was given.
    """
    from components.plotting.figures import scatter_panels

    ended = {trial: rungs[-1] for trial, rungs in results.items() if rungs}
    panels = {n: [getattr(rung.family, n) for rung in ended.values()] for n in sorted(family.space())}
    if family.cost:
        panels = {family.cost: [rung.scores[family.cost] for rung in ended.values()], **panels}
    return scatter_panels(
        panels,
        [rung.scores[family.goal.name] for rung in ended.values()],
        colors=[rung.steps for rung in ended.values()],
        ring=list(ended).index(0) if 0 in ended else None,
        ylabel=f"{family.goal.name} on val",
        clabel="steps",
    )
