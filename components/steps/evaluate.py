"""
evaluate: how good a checkpoint is on the splits that it has not learned from; baselines on the same rows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save as save_tensors

from components.artifacts import Checkpoint, Rival, Scores
from components.errors import DataError, UsageError
from components.family import Classifier, Goal
from components.metrics.paired import difference, jackknife, surpasses
from components.representations.descriptors import Descriptors
from components.runtime.crash_points import point
from components.runtime.objects import File, digest_of, keep
from components.runtime.serialization import canonical
from components.step import Context, step
from components.steps.ray_workers import spread
from components.steps.registry.training_data import seen
from components.table import Rows, Table
from components.training.learner import evaluate as measured
from components.training.learner import groups, joined, left_out

GROUPS = 20  # parts of a split that the jackknife leaves out in turn
SHOWN = 512  # rows of which figures are drawn


@step(aside=("on",), spreads=True, strict=True)
def evaluate(
    checkpoint: Checkpoint,
    table: Table,
    *,
    extractor: Checkpoint | None = None,
    on: Literal["auto", "ray", "here"] = "auto",
    context: Context,
) -> Scores:
    """
    The scores of a checkpoint on val and test, with the standard error of each test score.

    `extractor` is a checkpoint whose features a generative family is judged by. `on` is where: see `preprocess`.
    """
    family, net = checkpoint.family, checkpoint.network()
    if extractor is not None:
        family = family.judged_by(extractor.family, extractor.network())
    labels = getattr(family, "labels", ())
    parts, named, held_out = {}, {}, {}
    for split in ("val", "test"):
        rows = held_out[split] = _rows(table, checkpoint, split, labels)
        parts[split], named[split] = parts_of(family, net, rows, on=on, context=context), digest_of_groups(rows)
    without = {split: left_out(family, own) for split, own in parts.items()}
    unlearned = never_learned(table, held_out.values()) if isinstance(family, Classifier) else {}
    point("evaluate: measured, nothing said")
    with torch.no_grad():
        pictures = family.figures(net, rows.batch(shown(rows)))
    for name, picture in pictures.items():
        context.figure(name, picture)
    scores = Scores(
        name=family.name,
        goal=family.goal.name,
        direction=family.goal.direction,
        val=family.score(joined(parts["val"])),
        test=family.score(joined(parts["test"])),
        error={name: jackknife(values) for name, values in without["test"].items()},
        count=len(rows),
        checkpoint=replace(checkpoint, seen=seen(table, checkpoint.representation, checkpoint, ["val"])),
        assets=table.assets,
        example=_example(checkpoint, rows),
        tested=keep("tested.json", tested(table, rows)),
        source=table.source,
        extractor=extractor,
        unlearned=unlearned,
        left_out={split: own.get(family.goal.name, ()) for split, own in without.items()},
        parts=named,
    )
    if unlearned:
        context.note({"never_learned": unlearned})
    context.log({f"test_{n}": v for n, v in scores.test.items()} | {f"val_{n}": v for n, v in scores.val.items()}, 0)
    context.note({f"error_{n}": v for n, v in scores.error.items()})
    point("evaluate: scored, nothing committed")
    return scores


def parts_of(family: Any, net: Any, rows: Rows, *, on: str, context: Context) -> list[dict[str, Any]]:
    """The totals of each of the parts that the jackknife leaves out in turn."""
    parts = [tuple(index) for index in groups(rows, GROUPS)]
    found = spread(_totals, parts, (family, net, rows), on=on, context=context)
    return [totals for _, totals in sorted(found, key=lambda pair: pair[0])]


def never_learned(table: Table, parts: Iterable[Rows]) -> dict[str, int]:
    """The classes that training never had, and how many assets of these rows are of each."""
    strangers = {name for rows in parts for name, label in zip(rows.ids, rows.label.tolist(), strict=True) if label < 0}
    listed = pq.read_table(table.assets.path(), columns=["id", "label"]).to_pylist()
    return dict(sorted(Counter(row["label"] for row in listed if row["id"] in strangers).items()))


def shown(rows: Rows) -> np.ndarray:
    """Up to `SHOWN` rows that figures are drawn of: whole assets, from one end of the split to the other."""
    parts = groups(rows, len(rows))
    count = min(len(parts), max(1, SHOWN * len(parts) // len(rows)))
    chosen = np.linspace(0, len(parts) - 1, count).round().astype(int)
    return np.concatenate([parts[place] for place in chosen])[:SHOWN]


def digest_of_groups(rows: Rows) -> str:
    """A digest that two scores share whose parts are the same assets: see `paired.difference`."""
    names = [sorted({rows.ids[place] for place in group}) for group in groups(rows, GROUPS)]
    return digest_of(canonical(names).encode())


def tested(table: Table, rows: Rows) -> bytes:
    """The assets that rows came from, each with its digest: two models are compared on one such list only."""
    digests = {row["id"]: row["digest"] for row in pq.read_table(table.assets.path()).to_pylist()}
    return canonical([[name, digests[name]] for name in sorted(set(rows.ids))]).encode()


def _example(checkpoint: Checkpoint, rows: Rows) -> File:
    """A question to the model, by column: what its signature is read from."""
    asked = checkpoint.family.example(rows)
    own = {name: value.contiguous() for name, value in asked.items() if name not in ("id", "index", "label", "row")}
    return keep("example.safetensors", save_tensors(own))


def _rows(table: Table, checkpoint: Checkpoint, split: str, labels: Sequence[str]) -> Rows:
    """The rows of a split; the training rows where a method has no others (t-SNE), which a classifier must have."""
    rows = table.open(checkpoint.representation, split, labels)
    if isinstance(checkpoint.family, Classifier):
        return held(rows, split, table)
    return rows if len(rows) else table.open(checkpoint.representation, "train", labels)


def held(rows: Rows, split: str, table: Table) -> Rows:
    """The rows of a split, of which there must be some: a score of none is no number."""
    if len(rows):
        return rows
    there = ", ".join(f"{table.counts.get(name, 0)} {name}" for name in ("train", "val", "test"))
    raise DataError(
        f"A score needs assets in train, val and test, but {split} has none; there are {there}. "
        "Give each label at least 3 files that can be read, or pass another --fold."
    )


def _totals(index: tuple[int, ...], family: Any, net: Any, rows: Rows) -> dict[str, Any]:
    return measured(family, net, rows, index=np.array(index))


@step(strict=True)
def baseline(table: Table, *, method: Literal["majority", "forest"] = "forest", context: Context) -> Scores:
    """
    Classical competitors on the same rows: the commonest class, or a random forest on shape descriptors.

    The forest has 300 trees and learns from `Descriptors`, which the table must hold.
    """
    train, val, test = (held(table.open(Descriptors(), split), split, table) for split in ("train", "val", "test"))
    answer = _majority(train) if method == "majority" else _forest(train, context.seed)
    held_out = {"val": val, "test": test}
    right = {name: answer(rows) == rows.label.numpy() for name, rows in held_out.items()}
    scores = Scores(
        name=method,
        goal="accuracy",
        direction="max",
        val={"accuracy": float(right["val"].mean())},
        test={"accuracy": float(right["test"].mean())},
        error={"accuracy": float(right["test"].std() / np.sqrt(len(test)))},
        count=len(test),
        left_out={name: _without_each(right[name], groups(rows, GROUPS)) for name, rows in held_out.items()},
        parts={name: digest_of_groups(rows) for name, rows in held_out.items()},
    )
    context.log({"test_accuracy": scores.test["accuracy"], "val_accuracy": scores.val["accuracy"]}, 0)
    return scores


def _without_each(right: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[float, ...]:
    """The accuracy without each part of the rows in turn."""
    if len(groups) < 2:
        return ()
    return tuple(float(np.delete(right, group).mean()) for group in groups)


def _majority(train: Rows) -> Any:
    commonest = int(np.bincount(train.label.numpy()).argmax())
    return lambda rows: np.full(len(rows), commonest)


def _forest(train: Rows, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(300, random_state=seed, n_jobs=1)
    forest.fit(train["descriptor"].numpy(), train.label.numpy())
    return lambda rows: forest.predict(rows["descriptor"].numpy())


@step(outputs=("scores", "checkpoint"), strict=True)
def best_of(entries: Sequence[Scores]) -> tuple[Scores, Checkpoint]:
    """
    The entry with the best validation score, and its checkpoint: test is for reporting, not for choosing.

    Of those that are within one standard error of the best, by the difference over the same assets, the one with the
    fewest parameters is taken.
    """
    learned = [entry for entry in entries if entry.checkpoint is not None]
    goals = {(entry.goal, entry.direction) for entry in learned}
    if len(goals) != 1:
        raise UsageError(f"best_of compares models by one goal, but got {sorted(goals)}.")
    goal = Goal(*goals.pop())
    ranked = sorted(learned, key=lambda entry: goal.rank(entry.value("val")))
    if isnan(ranked[0].value("val")):
        names = ", ".join(entry.name for entry in learned)
        raise DataError(f"A choice needs a score, but {goal.name} on val is NaN for {names}. Lower their lr.")
    tied = [entry for entry in ranked if _ties(ranked[0], entry, goal)]
    best = min(tied, key=_size)
    rivals = tuple(_rival(best, entry, entry in tied) for entry in learned if entry is not best)
    assert best.checkpoint is not None
    return replace(best, over=rivals), best.checkpoint


def _ties(leader: Scores, entry: Scores, goal: Goal) -> bool:
    """True if the best on val is better than an entry by no more than the difference's standard error."""
    if isnan(entry.value("val")):
        return False
    return not surpasses(*difference(vars(leader), vars(entry), "val"), goal.direction)


def _size(entry: Scores) -> int:
    assert entry.checkpoint is not None
    return entry.checkpoint.parameters


def _rival(best: Scores, entry: Scores, tie: bool) -> Rival:
    value, error = difference(vars(best), vars(entry), "val")
    return Rival(entry.name, entry.value("val"), value, error, tie)


@dataclass(frozen=True)
class Comparison:
    """Several methods over the same folds: mean test score and its standard error."""

    goal: str
    names: tuple[str, ...]
    means: tuple[float, ...]
    errors: tuple[float, ...]
    folds: int

    def describe(self) -> str:
        found = zip(self.means, self.names, self.errors, strict=True)
        rows = sorted(found, key=lambda row: (isnan(row[0]), -row[0]))
        said = ", ".join(f"{name} {mean:.3f} ± {error:.3f}" for mean, name, error in rows)
        return f"{self.goal} over {self.folds} folds: {said}"


@step(strict=True)
def compare(entries: Sequence[Scores], *, context: Context) -> Comparison:
    """Mean and standard error over folds, by method: the folds' tests are disjoint, their training sets are not."""
    goals = sorted({entry.goal for entry in entries})
    if len(goals) != 1:
        raise UsageError(f"compare takes scores of one goal, but got {' and '.join(goals) or 'none'}.")
    names, (goal,) = sorted({entry.name for entry in entries}), goals
    values = {name: np.array([e.test[goal] for e in entries if e.name == name]) for name in names}
    folds = {len(v) for v in values.values()}
    if len(folds) != 1:
        raise DataError(
            f"Each method must have been scored on every fold, but got { ({n: len(v) for n, v in values.items()}) }."
        )
    found = Comparison(
        goal=goal,
        names=tuple(names),
        means=tuple(float(values[n].mean()) for n in names),
        errors=tuple(float(values[n].std(ddof=1) / np.sqrt(len(values[n]))) for n in names),
        folds=folds.pop(),
    )
    context.figure("comparison", _bars(found, values))
    context.log(dict(zip(names, found.means, strict=True)), 0)
    return found


def _bars(found: Comparison, values: Mapping[str, np.ndarray]) -> Any:
    from components.plotting.figures import figure

    made, axes = figure(1.6 + 1.3 * len(found.names), 3.6)
    axes.bar(found.names, found.means, yerr=found.errors, capsize=4, color="#9db8d9")
    for place, name in enumerate(found.names):
        axes.scatter(np.full(found.folds, place), values[name], s=14, color="#223", zorder=3)
    axes.set(ylabel=f"{found.goal} on test", title=f"{found.folds} folds: mean, standard error, each fold")
    return made
