"""
register: the transaction that makes a checkpoint a version of a registered model, and perhaps its champion.

    upload      found again by its key                       kill it anywhere: what was done is found, the rest is done
    version     one for each key
    verdict     written to the version before anything moves, with the evidence
    champion    moved once, if the verdict says so and the champion is still the one that was compared with
"""

import json
from collections.abc import Mapping
from typing import Any

from components.artifacts import Checkpoint, Gate, Model, Scores
from components.errors import UsageError
from components.runtime.crash_points import point
from components.runtime.objects import File, keep
from components.runtime.redaction import redacted
from components.runtime.serialization import decode, encode
from components.step import Context, step
from components.steps.registry.gate import Champion, goal_of, judge, numbers, ruler
from components.steps.registry.model_card import model_card
from components.steps.registry.packaging import uploaded
from components.steps.registry.versions import (
    aliased,
    asked,
    back,
    by_key,
    client,
    ensure,
    evidence_of,
    folder_of,
    move,
    reachable,
    signed,
    version_of,
)

OPEN = Gate()


@step(strict=True, registers=True)
def register(scores: Scores, *, name: str, gate: Gate = OPEN, force: bool = False, context: Context) -> Model:
    """
    Registers the checkpoint behind some scores as a version of the model `name`.

    The version becomes champion if its test scores pass the gate and are not worse than the champion's on those test
    assets that neither has seen. `force` moves the alias whatever the gate says, and is recorded.
    """
    checkpoint = scores.checkpoint
    if checkpoint is None:
        raise UsageError(f"A baseline cannot be registered, but got {scores.name}. Pass a trained model's scores.")
    missing = [n for n in gate.names() if n not in scores.test]
    if missing:
        raise UsageError(f"The gate asks for {missing[0]!r}, but {scores.name} has {', '.join(scores.test)}.")
    key = context.key(scores=scores, name=name)
    with reachable():
        point("register: before anything")
        api = client()
        ensure(api, name)
        point("register: the model has its name, no version")
        version = by_key(api, name, key) or _create(api, scores, checkpoint, name, key, context)
        point("register: the version is there, no verdict")
        evidence = _decide(api, scores, name, version, gate, force, context)
    return _model(scores, name, version, evidence, key, context)


def _model(scores: Scores, name: str, version: str, evidence: Mapping[str, Any], key: str, context: Context) -> Model:
    kept = decode(evidence["kept"])
    context.file("evidence.json", kept["evidence"].read())
    compared = {"compared": evidence["champion"]["how"]} if evidence["champion"] else {}
    context.note({"verdict": evidence["verdict"], "version": version, "reasons": evidence["reasons"], **compared})
    verdict, reasons, uri = evidence["verdict"], tuple(evidence["reasons"]), f"models:/{name}/{version}"
    what = f"{scores.name}, {scores.goal} {scores.text()}"
    return Model(name, version, verdict, reasons, uri, key, kept["evidence"], kept["scores"], what)


def _create(api: Any, scores: Scores, checkpoint: Checkpoint, name: str, key: str, context: Context) -> str:
    """Uploads the model, and creates its version if nobody has meanwhile."""
    uri, run = uploaded(api, scores, checkpoint, name, key)
    point("register: uploaded, no version")
    tags = {
        "rayfield.key": key,
        "rayfield.family": checkpoint.family.name,
        "rayfield.goal": goal_of(scores),
        "rayfield.scores": json.dumps(numbers(scores.test)),
        "rayfield.error": json.dumps(numbers(scores.error)),
        "rayfield.test": scores.tested.digest if scores.tested else "",
        "rayfield.ruler": ruler(scores),
    }
    card = model_card(scores, checkpoint, name, key)
    with context.alone(f"model {name}"):
        found = by_key(api, name, key)
        if found is None:
            # a server takes the address of a logged model only beside its id
            logged = uri.removeprefix("models:/")
            made = api.create_model_version(name, uri, run, tags=tags, description=card, model_id=logged)
            found = str(made.version)
        point("register: a version, the lease still held")
        return found


# The verdict, and what it moves


def _decide(
    api: Any, scores: Scores, name: str, version: str, gate: Gate, force: bool, context: Context, what: str = "register"
) -> dict[str, Any]:
    """The evidence of a verdict that has been carried out."""
    asked = {"what": what, "gate": encode(gate), "force": force}
    found = api.get_model_version(name, version)
    evidence = evidence_of(found) if what == "register" else None
    if evidence is not None and evidence["asked"] == asked:
        if found.tags.get("rayfield.settled") == evidence["when"]:
            return evidence
    else:
        evidence = None
    while True:
        if evidence is None:
            judged = judge(scores, gate, _champion(api, name, version), force=force, context=context)
            point("register: judged, nothing recorded")
            evidence = _record(api, scores, name, found, {**judged, "asked": asked})
            point("register: the verdict is written, no alias moved")
        with context.alone(f"model {name}"):
            if _carried_out(api, name, version, evidence):
                return evidence
        evidence = None  # another driver has made another champion: compare with that one


def _champion(api: Any, name: str, version: str) -> Champion | None:
    """The champion to compare a version with; None where there is none, or where it is the version itself."""
    found = aliased(api, name, "champion")
    if found is None or str(found.version) == version:
        return None
    tags, uri = found.tags, f"models:/{name}/{found.version}"

    def told(tag: str) -> dict[str, float]:
        values = json.loads(tags.get(tag, "{}"))
        return {n: float("nan") if v is None else v for n, v in values.items()}

    def fetched() -> Any:
        with reachable():
            return folder_of(uri)

    family, goal, by = (tags.get(f"rayfield.{n}", "") for n in ("family", "goal", "ruler"))
    return Champion(str(found.version), family, goal, by, told("rayfield.scores"), told("rayfield.error"), fetched)


def _record(api: Any, scores: Scores, name: str, found: Any, judged: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps the evidence in the store, in the model's run and on its version; the version's tag is what counts."""
    version, tags = str(found.version), found.tags
    said = redacted({"model": name, "version": version, "key": tags["rayfield.key"], **judged})
    text = json.dumps(said, indent=1)
    kept = {"evidence": keep("evidence.json", text.encode()), "scores": keep("scores.json", _whole(scores))}
    if found.run_id:
        api.log_text(found.run_id, text, "evidence.json")
    evidence = {**said, "kept": encode(kept), **signed()}
    point("register: evidence kept, not on the version")
    if judged["asked"]["what"] == "promote":  # the evidence of its registration stays beside it
        api.set_model_version_tag(name, version, "rayfield.promotion", json.dumps(evidence))
        return evidence
    api.set_model_version_tag(name, version, "rayfield.verdict", said["verdict"])
    api.set_model_version_tag(name, version, "rayfield.evidence", json.dumps(evidence))
    return evidence


def _whole(scores: Scores) -> bytes:
    return json.dumps(encode(scores)).encode()


def _carried_out(api: Any, name: str, version: str, evidence: Mapping[str, Any]) -> bool:
    """Moves the champion if the verdict says so. False, and nothing moves, if it was given over another champion."""
    champion, previous = aliased(api, name, "champion"), aliased(api, name, "previous")
    now = str(champion.version) if champion else None
    compared = (evidence["champion"] or {}).get("version")
    replaced = now != compared and previous is not None and str(previous.version) == version  # it was, and is no more
    if evidence["verdict"] == "PROMOTE" and not replaced:
        if now not in (compared, version):
            return False
        move(api, name, version, compared, evidence["asked"]["what"], forced=evidence["forced"])
        point("register: moved, not settled")
    if evidence["asked"]["what"] == "register":
        api.set_model_version_tag(name, version, "rayfield.settled", evidence["when"])
    return True


# What a person asks for


def promote(name: str, version: str, *, force: bool, context: Context) -> dict[str, Any]:
    """Compares a version with the champion of now, by the gate that it was registered with; moves the champion."""
    with reachable():
        api = asked()
        found = version_of(api, name, version)
        evidence = evidence_of(found)
        if evidence is None:
            raise UsageError(f"Model {name!r} version {version} was not registered by `register`: it has no evidence.")
        held: File = decode(evidence["kept"]["scores"])
        scores, gate = decode(json.loads(held.read())), decode(evidence["gate"])
        return _decide(api, scores, name, str(found.version), gate, force, context, "promote")


def rollback(name: str, *, context: Context) -> dict[str, Any]:
    """Makes the previous champion the champion again, and says so in the model's history."""
    with reachable(), context.alone(f"model {name}"):
        return back(asked(), name)
