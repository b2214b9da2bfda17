"""
A long search: Optuna's TPE under ASHA on Ray Tune.

It depends on which trial ends first, so it can be neither extended nor repeated exactly; `tune` says so in its help.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isnan
from typing import Any

from components.errors import DataError, RayfieldError, UsageError
from components.family import Family, Goal
from components.runtime import objects
from components.runtime.objects import Damaged
from components.search_space import Choice, Integer, LogUniform
from components.step import Context
from components.steps.ray_workers import keep_secrets_from_trials
from components.steps.stream import judged
from components.table import Table
from components.training.learner import Learner, evaluate

REPORTS = 8  # scores of a trial on its way, at which ASHA may stop it


def search(family: Family, table: Table, trials: int, context: Context) -> list[tuple[Family, dict[str, float]]]:
    """Each trial's family and its last scores, `steps` among them; the best first."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    keep_secrets_from_trials()
    store, goal = objects.told(), family.goal

    def trainable(config: dict[str, Any]) -> None:
        objects.use(store)
        with context.working("trial"):
            climb(replace(family, **config))

    def climb(trial: Family) -> None:
        rows = table.open(trial.representation(), "train")
        held, learner = judged(table, trial, rows), Learner.begin(trial, rows, seed=context.seed)
        for part in range(1, REPORTS + 1):
            until = round(trial.steps * part / REPORTS)
            for _ in learner.run(until=until):
                pass
            if trial.quiet(until):
                scores = trial.score(evaluate(trial, learner.best_net, held))
                tune.report({**scores, "steps": until})

    default = {name: getattr(family, name) for name in family.space()}
    found = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 1}),
        param_space={name: _domain(domain) for name, domain in family.space().items()},
        tune_config=tune.TuneConfig(
            metric=goal.name,
            mode=goal.direction,
            num_samples=trials,
            max_concurrent_trials=max(1, int(context.resources.get("CPU", 1))),
            search_alg=OptunaSearch(seed=context.seed, points_to_evaluate=[default]),
            scheduler=ASHAScheduler(time_attr="steps", max_t=family.steps, grace_period=max(1, family.steps // 4)),
        ),
        run_config=tune.RunConfig(name="optuna", storage_path=f"{context.scratch}/tune", verbose=0),
    ).fit()
    failed = own_errors({number: result.error for number, result in enumerate(found) if result.error})
    ended = [result for result in found if result.metrics and goal.name in result.metrics]
    if not ended:
        reason = next(iter(failed.values()), "See the trials' logs.")
        raise DataError(f"No trial of {family.name} was scored. The first: {reason}")
    if failed:
        context.note({"failed": f"{len(failed)} of {trials} trials failed: {next(iter(failed.values()))}"})
    return ranked([(replace(family, **result.config), _numbers(result.metrics)) for result in ended], goal)


def ranked(scored: list[tuple[Family, dict[str, float]]], goal: Goal) -> list[tuple[Family, dict[str, float]]]:
    """The best first, of those that went furthest: a score on the way is no match for one at the end. NaN is last."""

    def place(one: tuple[Family, dict[str, float]]) -> tuple[bool, float, float]:
        score = one[1][goal.name]
        return isnan(score), -one[1]["steps"], goal.rank(score)

    found = sorted(scored, key=place)
    if isnan(found[0][1][goal.name]):
        raise DataError(f"A search needs a score, but {goal.name} of every trial is NaN. Lower lr, or set clip.")
    return found


def own_errors(errors: Mapping[Any, BaseException]) -> dict[Any, RayfieldError]:
    """
    Errors of the trials themselves: a field's value, or the data.

    Anything else is raised again: a worker that died, memory that ran out or a damaged object would narrow the search
    for good, and the step is tried again where that may help; what others have scored is kept.
    """
    own: dict[Any, RayfieldError] = {}
    for trial, error in errors.items():
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, Damaged) or not isinstance(cause, UsageError | DataError):
            raise cause
        own[trial] = cause
    return own


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def _domain(domain: Any) -> Any:
    """A domain in Ray Tune's words."""
    from ray import tune

    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    if isinstance(domain, Integer):
        return tune.randint(domain.low, domain.high + 1)
    return (tune.loguniform if isinstance(domain, LogUniform) else tune.uniform)(domain.low, domain.high)
