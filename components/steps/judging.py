"""
The verdict over a candidate: thresholds, and not worse than the champion on the same frozen list of test assets.

    PROMOTE   it passes the gate, and its score is at least the champion's
    HOLD      it passes the gate, and is worse than the champion or cannot be compared with it
    REJECT    it misses a threshold

Where the champion was not measured on this list it is measured now: the assets are decoded from the source and pass
through the champion's own representation. The standard errors are for people to weigh and are no allowance: champions
that are each within one error of the last would lead downhill.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import hypot, isfinite
from pathlib import Path
from typing import Any

from components.artifacts import Gate, Scores
from components.runtime.files import Damaged, digest_of
from components.runtime.plain import canonical, encode
from components.runtime.secrets import redact
from components.source import Asset
from components.step import Context
from components.steps.answering import opened
from components.steps.evaluate import parts_of
from components.steps.preprocess import Work, make_missing
from components.training import joined, standard_error


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


def ruler(scores: Scores) -> str:
    """What a score was measured by: two of one ruler may be compared as they stand."""
    assert scores.checkpoint is not None
    by = [
        scores.tested.digest if scores.tested else "",
        encode(scores.checkpoint.representation),
        scores.extractor.weights.digest if scores.extractor else "",
    ]
    return digest_of(canonical(by).encode())


def goal_of(scores: Scores) -> str:
    return f"{scores.goal} {scores.direction}"


def judge(scores: Scores, gate: Gate, champion: Champion | None, *, force: bool, context: Context) -> dict[str, Any]:
    """The verdict, its reasons, and both sides' numbers, as JSON would hold them."""
    missed = gate.failures(scores.test)
    theirs, doubts = _compared(scores, champion, context) if champion else (None, [])
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


def numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, which has none that are not finite."""
    return {name: value if isfinite(value) else None for name, value in values.items()}


def _compared(scores: Scores, champion: Champion, context: Context) -> tuple[dict[str, Any], list[str]]:
    """The champion's numbers on the candidate's test assets, and why the candidate is not to replace it."""
    said: dict[str, Any] = {"version": champion.version, "family": champion.family}
    try:
        test, error, how = _measured(scores, champion, context)
    except Incomparable as why:
        words = redact(f"the champion, version {champion.version}, cannot be compared: {why}")
        return {**said, "how": words}, [words]
    goal = scores.goal
    ours, theirs = scores.test[goal], test[goal]
    errors = scores.error.get(goal, float("nan")), error.get(goal, float("nan"))
    said |= {"how": how, "scores": numbers(test), "error": numbers(error)}
    said |= numbers({"difference": ours - theirs, "error_of_difference": hypot(*errors)})
    good = ours >= theirs if scores.direction == "max" else ours <= theirs
    if good or theirs != theirs:
        return said, []
    words = f"{goal} is {_text(ours, errors[0])}, the champion's is {_text(theirs, errors[1])} on the same test assets"
    return said, [words]


def _text(value: float, error: float) -> str:
    return f"{value:.4g} ± {error:.2g}" if isfinite(error) else f"{value:.4g}"


def _measured(
    scores: Scores, champion: Champion, context: Context
) -> tuple[Mapping[str, float], Mapping[str, float], str]:
    """Scores, errors, and where they come from."""
    if champion.goal and champion.goal != goal_of(scores):
        raise Incomparable(f"its goal is {champion.goal}, and this one's is {goal_of(scores)}")
    if champion.ruler == ruler(scores):
        return champion.scores, champion.error, "stored: the same test assets in the same representation"
    try:
        return *measure(scores, champion.folder(), context), "measured now, in its own representation"
    except (Incomparable, Damaged, MemoryError):
        raise
    except Exception as error:  # its code, its weights or the data are gone: whatever it was, it cannot be measured
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise  # a server or a disk, which may be well again the next time
        raise Incomparable(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def measure(scores: Scores, folder: Path, context: Context) -> tuple[dict[str, float], dict[str, float]]:
    """The scores, and their errors, of the model in a folder on the test assets of a candidate."""
    family, representation, net = opened(folder)
    judged = family
    if scores.extractor is not None:  # its goal is then the extractor's, as the candidate's is
        judged = family.judged_by(scores.extractor.family, scores.extractor.network())
    own = f"{judged.goal.name} {judged.goal.direction}"
    if own != goal_of(scores):
        raise Incomparable(f"its goal is {own}, and this one's is {goal_of(scores)}")
    if family.one_asset:
        raise Incomparable("it has learned one asset, and this is another")
    assets, labels = frozen(scores), getattr(family, "labels", ())
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


def frozen(scores: Scores) -> list[Asset]:
    """The candidate's test assets as its source has them now; refused if one of them is not what it was."""
    if scores.source is None or scores.tested is None:
        raise Incomparable("where the test assets came from is not known")
    listed = {asset.id: asset for asset in scores.source.rows()}
    wanted = json.loads(scores.tested.read())
    gone = [name for name, digest in wanted if name not in listed or listed[name].digest != digest]
    if gone:
        raise Incomparable(f"{len(gone)} of the {len(wanted)} test assets are not what they were, {gone[0]} among them")
    return [replace(listed[name], split="test") for name, _ in wanted]
