"""
The verdict over a candidate: thresholds, and not worse than the champion on test assets that neither has seen.

    PROMOTE   it passes the gate, and its score is at least the champion's
    HOLD      it passes the gate, and is worse than the champion or cannot be compared with it; or its score is NaN
    REJECT    it misses a threshold

Of the candidate's frozen list those count that neither was trained or chosen on, by the contents that both wrote down.
Where the champion was not measured on just these it is measured now: the assets are decoded from the source and pass
through the champion's own representation. The standard errors are for people to weigh and are no allowance: champions
that are each within one error of the last would lead downhill.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, isfinite, isnan
from pathlib import Path
from typing import Any

from components.artifacts import Checkpoint, Gate, Scores
from components.runtime.objects import Damaged, digest_of
from components.runtime.redaction import redact
from components.runtime.serialization import canonical, encode
from components.source import Asset
from components.step import Context
from components.steps.evaluate import parts_of
from components.steps.preprocess import Work, make_missing
from components.steps.registry.inference import opened
from components.steps.registry.training_data import contents_of, read, read_beside
from components.training.learner import joined, standard_error

LEAST = 20
"""
unseen assets that a comparison asks for: with these the standard error of an accuracy is 0.11 at most

Of a shorter list half is enough: an error of 1.4 times the list's own, and nobody has more than the list.
"""


@dataclass(frozen=True)
class Champion:
    """The champion of the day, as the registry tells of it."""

    version: str
    family: str
    goal: str
    """such as "accuracy max"; empty where it was not written down"""
    ruler: str
    """what it was measured by: see `ruler`"""
    scores: Mapping[str, float]
    error: Mapping[str, float]
    folder: Callable[[], Path]
    """fetches its weights"""


class Incomparable(Exception):
    """The champion cannot be measured as the candidate was; the message says why."""


@dataclass(frozen=True)
class Compared:
    """Both sides' scores on the same test assets, with their errors."""

    ours: tuple[Mapping[str, float], Mapping[str, float]]
    theirs: tuple[Mapping[str, float], Mapping[str, float]]
    unseen: int
    """test assets that neither has seen: all that were compared on"""
    how: str


def ruler(scores: Scores) -> str:
    """The measure of a score: two of one ruler may be compared as they stand; empty where it was not fair."""
    assert scores.checkpoint is not None
    if scores.tested is None or scores.checkpoint.seen is None or leaked(scores):
        return ""
    by = [
        scores.tested.digest,
        encode(scores.checkpoint.representation),
        scores.extractor.weights.digest if scores.extractor else "",
    ]
    return digest_of(canonical(by).encode())


def leaked(scores: Scores) -> list[str]:
    """The test assets that the model itself was trained or chosen on."""
    assert scores.checkpoint is not None
    if scores.checkpoint.seen is None or scores.assets is None:
        return []
    known, contents = read(scores.checkpoint.seen), contents_of(scores.assets)
    return [name for name, _ in listed(scores) if contents[name] in known]


def listed(scores: Scores) -> list[tuple[str, str]]:
    """The frozen list of test assets: id and digest."""
    return json.loads(scores.tested.read()) if scores.tested else []


def goal_of(scores: Scores) -> str:
    return f"{scores.goal} {scores.direction}"


def judge(scores: Scores, gate: Gate, champion: Champion | None, *, force: bool, context: Context) -> dict[str, Any]:
    """The verdict, its reasons, and both sides' numbers, as JSON would hold them."""
    missed = gate.failures(scores.test)
    theirs, doubts = _compared(scores, champion, context) if champion else (None, unscored(scores))
    if known := leaked(scores):
        doubts.append(
            f"it was trained or chosen on {len(known)} of its {len(listed(scores))} test assets, {known[0]} among them"
        )
    verdict = "PROMOTE" if force or not (missed or doubts) else "REJECT" if missed else "HOLD"
    return {
        "verdict": verdict,
        "reasons": missed + doubts,
        "forced": force,
        "gate": encode(gate),
        "goal": goal_of(scores),
        "tested": {"digest": scores.tested.digest if scores.tested else None, "rows": scores.count},
        "candidate": {"family": scores.name, "scores": numbers(scores.test), "error": numbers(scores.error)},
        "champion": theirs,
    }


def unscored(scores: Scores) -> list[str]:
    """Why a model without a score is not the first champion, thresholds or not."""
    return [f"{scores.goal} is not a number on the test assets"] if isnan(scores.value("test")) else []


def numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, which has none that are not finite."""
    return {name: value if isfinite(value) else None for name, value in values.items()}


def _compared(scores: Scores, champion: Champion, context: Context) -> tuple[dict[str, Any], list[str]]:
    """The champion's numbers beside the candidate's, and why the candidate is not to replace it."""
    said: dict[str, Any] = {"version": champion.version, "family": champion.family}
    try:
        found = _measured(scores, champion, context)
    except Incomparable as why:
        words = redact(f"the champion, version {champion.version}, cannot be compared: {why}")
        return {**said, "how": words}, [words]
    goal, (test, error) = scores.goal, found.theirs
    ours, theirs = found.ours[0][goal], test[goal]
    errors = found.ours[1].get(goal, float("nan")), error.get(goal, float("nan"))
    said |= {"how": found.how, "unseen": found.unseen, "scores": numbers(test), "error": numbers(error)}
    said |= numbers({"candidate": ours, "difference": ours - theirs, "error_of_difference": hypot(*errors)})
    good = ours >= theirs if scores.direction == "max" else ours <= theirs
    if ours == ours and (good or theirs != theirs):
        return said, []
    words = f"{goal} is {_text(ours, errors[0])}, the champion's is {_text(theirs, errors[1])}"
    return said, [f"{words}, on what neither has seen of {found.unseen} test assets"]


def _text(value: float, error: float) -> str:
    return f"{value:.4g} ± {error:.2g}" if isfinite(error) else f"{value:.4g}"


def _measured(scores: Scores, champion: Champion, context: Context) -> Compared:
    """Both on what neither has seen; as they stand where both were measured on just that, in the same way."""
    if champion.goal and champion.goal != goal_of(scores):
        raise Incomparable(f"its goal is {champion.goal}, and this one's is {goal_of(scores)}")
    as_it_is = scores.test, scores.error
    if champion.ruler and champion.ruler == ruler(scores):
        count = len(listed(scores))
        how = f"stored: the same rows of {count} test assets, which neither has seen, in the same representation"
        return Compared(as_it_is, (champion.scores, champion.error), count, how)
    try:
        folder = champion.folder()
        names = unseen(scores, read_beside(folder))
        theirs = measure(scores, opened(folder), names, context)
        ours = as_it_is if len(names) == len(listed(scores)) else measure(scores, _own(scores), names, context)
    except (Incomparable, Damaged, MemoryError):
        raise
    except Exception as error:  # its code, its weights or the data are gone: whatever it was, it cannot be measured
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise  # a server or a disk, which may be well again the next time
        raise Incomparable(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    how = f"measured now, on the {len(names)} of {len(listed(scores))} test assets that neither has seen"
    return Compared(ours, theirs, len(names), f"{how}, in its own representation")


def unseen(scores: Scores, theirs: set[str] | None) -> list[str]:
    """The test assets that neither has seen; refused where they are too few, or where it was not written down."""
    checkpoint, tested = scores.checkpoint, [name for name, _ in listed(scores)]
    if scores.assets is None or not tested:
        raise Incomparable("where the test assets came from is not known")
    if theirs is None:
        raise Incomparable("what it was trained and chosen on was not written down when it was registered")
    if checkpoint is None or checkpoint.seen is None:
        raise Incomparable("what the candidate was trained and chosen on was not written down")
    known, contents = theirs | read(checkpoint.seen), contents_of(scores.assets)
    names = [name for name in tested if contents[name] not in known]
    least = min(LEAST, -(-len(tested) // 2))
    if len(names) < least:
        raise Incomparable(
            f"of the {len(tested)} test assets neither has seen {len(names)}, and at least {least} are asked"
        )
    return names


def _own(scores: Scores) -> tuple[Any, Any, Any]:
    checkpoint = scores.checkpoint
    assert isinstance(checkpoint, Checkpoint)
    return checkpoint.family, checkpoint.representation, checkpoint.network()


def measure(
    scores: Scores, model: tuple[Any, Any, Any], names: Sequence[str], context: Context
) -> tuple[dict[str, float], dict[str, float]]:
    """The scores, and their errors, of a family, its representation and network on some test assets of a candidate."""
    family, representation, net = model
    judged = family
    if scores.extractor is not None:  # its goal is then the extractor's, as the candidate's is
        judged = family.judged_by(scores.extractor.family, scores.extractor.network())
    own = f"{judged.goal.name} {judged.goal.direction}"
    if own != goal_of(scores):
        raise Incomparable(f"its goal is {own}, and this one's is {goal_of(scores)}")
    if family.one_asset:
        raise Incomparable("it has learned one asset, and this is another")
    assets, labels = frozen(scores, names), getattr(family, "labels", ())
    if new := sorted({asset.label for asset in assets} - set(labels)) if labels else []:
        raise Incomparable(f"it does not know the class {new[0]!r}")
    assert scores.source is not None
    work = Work.cut(scores.source, assets, [representation], [representation], context)
    make_missing(work, context, on="auto")
    table = work.table(context)
    if lost := table.counts["quarantined"]:
        raise Incomparable(f"{lost} of the {len(assets)} test assets have no {representation.name}")
    rows = table.open(representation, "test", labels)
    parts = parts_of(judged, net, rows, on="auto", context=context)
    return judged.score(joined(parts)), standard_error(judged, parts)


def frozen(scores: Scores, names: Sequence[str]) -> list[Asset]:
    """Some of the candidate's test assets as its source has them now; refused if one of them is not what it was."""
    if scores.source is None:
        raise Incomparable("where the test assets came from is not known")
    there, wanted = {asset.id: asset for asset in scores.source.rows()}, dict(listed(scores))
    gone = [name for name in names if name not in there or there[name].digest != wanted[name]]
    if gone:
        raise Incomparable(f"{len(gone)} of the {len(names)} test assets are not what they were, {gone[0]} among them")
    return [replace(there[name], split="test") for name in names]
