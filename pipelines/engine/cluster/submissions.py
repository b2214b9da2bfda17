"""
Runs on a cluster that this process leaves: handed over as Ray jobs, and known by their records in the store.

    runs/<run>/run.json           what every run has; the job's driver goes on with it
    runs/<run>/submission.json    which job of which cluster works on it, and what was asked for

The record is the truth. The cluster is asked for what the record cannot know: that a driver died before it could write
how it ended. `ray job submit` ends with 1 whatever happened; the code of a run is in its record.
"""

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.errors import RayfieldError, UsageError
from components.runtime.objects import tracking_uri
from components.runtime.redaction import redact, redacted
from components.runtime.user_code import importing
from pipelines.engine.caching.modules import ROOT, companions
from pipelines.engine.cluster.jobs import LIVE, Jobs, Unreachable
from pipelines.engine.cluster.packaging import pack
from pipelines.engine.execution.cancellation import ask
from pipelines.engine.execution.code_snapshot import OWN, PACKED, files, own_files
from pipelines.engine.graph.plan_cache import Request
from pipelines.engine.store.orphans import INTERRUPTED, end, hold
from pipelines.engine.store.run_record import begun, new_name
from pipelines.engine.store.store import Store

PLACES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""what a job is told besides: where things are, never who may see them"""
PAUSE = 1.0  # seconds between looks at a run
LATE = 5.0  # seconds without an answer after which a followed run's record is asked
SILENT = 60.0  # seconds without an answer after which a cluster is given up
LAST = 30  # lines of a driver that died which its run keeps


@dataclass(frozen=True)
class Submission:
    """One run handed to a cluster."""

    run: str
    id: str
    """the name of the Ray job"""
    address: str
    """of the cluster's dashboard"""
    asked: str
    """digest of the request"""
    when: float

    @classmethod
    def of(cls, store: Store, run: str) -> "Submission | None":
        held = store.load(f"runs/{run}/submission.json")
        return cls(**held) if held else None


def submit(
    request: Request, nodes: Sequence[Mapping[str, Any]], store: Store, jobs: Jobs, names: Sequence[str] = ()
) -> tuple[Submission, bool]:
    """
    Hands a request to a cluster, with the variables of these names; True if it was at work there already.
    """
    here = jobs.is_here()
    store = _shared(store, here, jobs.address)
    words = _words(request, here)
    variables = {**_places(store, here), **_named(names)}
    with store.alone(f"submit-{request.digest()}"):
        for found in submissions(store):
            if found.asked == request.digest() and found.address == jobs.address and _lives(store, found, jobs):
                return found, True
        made = _record(request, nodes, store, jobs.address)
        try:
            _hand_over(made, request, nodes, words, jobs, variables)
        except RayfieldError as error:
            end(store, made.run, 1, error=redact(str(error)))
            raise
        return made, False


def submissions(store: Store) -> Iterator[Submission]:
    """Submissions that have not ended, as far as the records know."""
    for run, record in store.runs():
        found = Submission.of(store, run) if record.get("ended") is None else None
        if found is not None:
            yield found


def settle(store: Store, run: str, record: dict[str, Any]) -> dict[str, Any]:
    """A run's record, brought up to date by its cluster if it was handed to one that answers."""
    found = Submission.of(store, run) if record.get("ended") is None else None
    if found is not None:
        try:
            _lives(store, found, Jobs.at(found.address))
        except RayfieldError:
            return record  # what the store says is all that is known
    return store.record(run) or record


def follow(store: Store, found: Submission, jobs: Jobs) -> int:
    """Prints what the job's driver prints, or why there was none, until the run has ended; returns the run's code."""
    shown, heard, works = 0, time.monotonic(), True
    while works or (time.monotonic() - heard < SILENT and not _ended(store, found.run)):
        time.sleep(PAUSE)
        with suppress(Unreachable):
            works = _lives(store, found, jobs)
            shown += _print(jobs.output(found.id)[shown:])
            heard = time.monotonic()
        works = works and time.monotonic() - heard < LATE
    record = store.record(found.run) or {}
    if why := record.get("error"):  # its driver did not live to say how it ended
        print(why.partition("\n")[0] if shown else why, file=sys.stderr)
    if record.get("ended") is None:
        raise Unreachable(f"{found.address} does not answer, and run {found.run} has not ended. Submit again.")
    return int(record["code"])


def _ended(store: Store, run: str) -> bool:
    return (store.record(run) or {}).get("ended") is not None


def stop(store: Store, run: str, seconds: float = 20) -> str:
    """Asks a run to end, and makes sure that it does. Returns what happened, in words."""
    record = store.record(run)
    if record is None:
        raise UsageError(f"No run {run!r} in {store.address}. `rayfield status` lists them.")
    if settle(store, run, record).get("ended") is not None:
        return "has ended already"
    if Submission.of(store, run) is None and (lease := hold(store, run)):
        end(store, run)
        lease.release()
        return "had lost its driver, and is marked as interrupted"
    ask(store, run)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if settle(store, run, record).get("ended") is not None:
            return "stopped"
        time.sleep(PAUSE / 2)
    return _force(store, run)


def _force(store: Store, run: str) -> str:
    """Ends what did not end when it was asked to."""
    found = Submission.of(store, run)
    if found is None:
        return "was asked to stop, and stops when its driver looks for it"
    try:
        Jobs.at(found.address).stop(found.id)
    except RayfieldError:
        end(store, run, error="Its cluster did not answer when it was stopped.")
        return f"is marked as stopped: the cluster at {found.address} does not answer"
    end(store, run)
    return "stopped"


def _lives(store: Store, found: Submission, jobs: Jobs) -> bool:
    """True if a job is at work. The run of one that is not is ended, if its driver did not get to it."""
    state = jobs.state(found.id)
    if state in LIVE:
        return True
    code = INTERRUPTED if state in (None, "STOPPED") else 1
    why = f"The cluster at {found.address} knows no job {found.id} any more." if state is None else ""
    if state == "FAILED":
        why = "\n".join([jobs.message(found.id).partition(" Last available logs")[0], *_last(jobs.output(found.id))])
    end(store, found.run, code, **({"error": redact(why)} if why else {}))
    return False


def _last(output: str) -> list[str]:
    return output.splitlines()[-LAST:]


def _print(text: str) -> int:
    print(text, end="", file=sys.stderr, flush=True)
    return len(text)


# What a job needs


def _shared(store: Store, here: bool, address: str) -> Store:
    """The store as the job will name it; one that only this machine has is refused."""
    if store.remote:
        return store
    if not here:
        raise UsageError(
            f"A store is shared with the cluster, but {store.address} is a folder of this machine and {address} is "
            "elsewhere. Pass --store s3://BUCKET/rayfield, and give the cluster's nodes its keys."
        )
    return store


def _places(store: Store, here: bool) -> dict[str, str]:
    """Where the store and MLflow are."""
    found = {name: os.environ[name] for name in PLACES if name in os.environ}
    uri = tracking_uri() if here or os.environ.get("MLFLOW_TRACKING_URI") else ""
    if uri and redact(uri) != uri:
        raise UsageError(
            "Ray shows what a job is told, but MLFLOW_TRACKING_URI holds a password. Put it into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, on the cluster's nodes too."
        )
    if uri.startswith(("sqlite", "file:", "/")) and not here:
        raise UsageError(
            f"MLflow is shared with the cluster, but MLFLOW_TRACKING_URI is {uri}, of this machine. Set the address of "
            "a server, or unset it if the cluster's nodes have it."
        )
    return found | ({"MLFLOW_TRACKING_URI": uri} if uri else {}) | {"RAYFIELD_STORE": store.address}


def _named(names: Sequence[str]) -> dict[str, str]:
    """Variables of this process that the user wants the job to have."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UsageError(f"--env passes on a variable of this shell, but {missing[0]} is not set. Export it first.")
    return {name: os.environ[name] for name in names}


def _record(request: Request, nodes: Sequence[Mapping[str, Any]], store: Store, address: str) -> Submission:
    now = time.time()
    run = new_name(request)
    made = Submission(run, f"{request.name}-{request.digest()[:8]}-{run}", address, request.digest(), now)
    # nobody's yet: no process of this machine is to end it
    record = {**begun(request, nodes), "owner": {"host": address, "boot": "", "pid": 0, "start": ""}}
    store.save(f"runs/{run}/submission.json", asdict(made))
    store.save(f"runs/{run}/run.json", redacted(record))
    return made


def _hand_over(
    made: Submission,
    request: Request,
    nodes: Sequence[Mapping[str, Any]],
    words: Sequence[str],
    jobs: Jobs,
    variables: Mapping[str, str],
) -> None:
    """Sends the project and what the keys cover: a file that git does not track goes along where a key has it."""
    with importing(*request.own):
        covered, own = files(list(nodes)), {f"{OWN}/{name}": path for name, path in own_files(nodes).items()}
    own |= {f"{OWN}/{name}": path for file in request.own for name, path in companions(file)}
    if request.pipeline not in request.own:
        own |= {str(request.pipeline.relative_to(ROOT)): request.pipeline}
    with tempfile.TemporaryDirectory() as folder:
        package = pack(ROOT, Path(folder) / "project.zip", {**covered, **own})
        jobs.submit(made.id, shlex.join(words), package, {**variables, "RAYFIELD_RUN": made.run, PACKED: "1"})


def _words(request: Request, here: bool) -> list[str]:
    """The command of the job: what was asked for here, in the project as it is unpacked there."""
    name = _sent(request, request.pipeline)
    own = [f"--{name}={_named_there(request, value)}" for name, value in request.texts.items()]
    own += [f"--{name}={_reachable(name, value, here)}" for name, value in request.source.items()]
    for family, fields in request.settings.items():
        own += [word for field, value in fields.items() for word in ("--set", f"{family}.{field}={value}")]
    # a cluster of this machine has this Python; on another one it is the image's
    return [sys.executable if here else "python", "-m", "pipelines", "run", name, *own]


def _sent(request: Request, path: Path) -> str:
    """Where a file of code lies in a job."""
    return f"{OWN}/{path.name}" if path in request.own else str(path.relative_to(ROOT))


def _named_there(request: Request, text: str) -> str:
    """A parameter as the job is to read it: files of one's own code are named where they lie there."""
    for path in request.own:
        text = text.replace(str(path), _sent(request, path))
    return text


def _reachable(name: str, value: str, here: bool) -> str:
    """A field of the source, a path in full; one that only this machine has is refused."""
    if "://" in value or not Path(value).exists():
        return value
    if not here:
        raise UsageError(f"--{name} must be where the cluster reads it, but {value} lies on this machine. Use s3://.")
    return str(Path(value).resolve())
