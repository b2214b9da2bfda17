"""
The context of a step that the engine runs: small, picklable, and writing nowhere but to the store.

What a step logs goes to files of lines under runs/<run>/events/<key>/. The driver reads them for the display and sends
them to MLflow, so a tracking server that does not answer stops nothing, and a killed driver loses nothing.
"""

import io
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.errors import RayfieldError
from components.runtime.crash_points import point
from components.runtime.objects import keep
from components.runtime.redaction import hide_in, redacted
from components.runtime.serialization import allow, canonical, decode, encode
from components.source import Asset, Changed, Source, digest_of
from pipelines.engine.caching.cache_key import digest, fingerprint_of, in_key, in_plan, ingredients, root_of
from pipelines.engine.caching.fingerprint import Root
from pipelines.engine.execution.usage import spending
from pipelines.engine.monitoring.events import events
from pipelines.engine.monitoring.logs import captured
from pipelines.engine.store.store import Store, sealed_lines

__all__ = ["Running", "events", "png"]

FLUSH = 1.0  # seconds that a line may wait


@dataclass
class Running:
    """Implements `components.step.Context` on a store."""

    store: Store
    run: str
    step_key: str
    roots: tuple[Root, ...]
    """the step's function: its code is in the key of every part"""
    seed: int
    resources: Mapping[str, float]
    own: tuple[str, ...] = ()
    """modules of one's own, whose classes results may name"""
    sources: Mapping[str, str] = field(default_factory=dict)
    """the digest of the listing of each source that the step was given, as its key holds it; see `name_of_source`"""
    asked: set[str] = field(default_factory=set)
    """those of them that were listed"""
    writer: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    waiting: list[dict[str, Any]] = field(default_factory=list)
    written: int = 0
    flushed: float = field(default_factory=time.monotonic)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a copy in another process is another writer, even of one pickle: two writers never share a file
        self.__dict__.update(state, waiting=[], written=0, writer=uuid.uuid4().hex[:8])
        allow(self.own)

    @property
    def scratch(self) -> str:
        return f"{self.store.address}/scratch/{self.step_key}"

    def log(self, metrics: Mapping[str, float], step: int, *, trial: str = "") -> None:
        values = {k: float(v) for k, v in metrics.items()}
        self._say(kind="metrics", step=step, trial=trial, values=values)
        # into the step's logs, where people look for how a training goes
        print(_sentence(values, step, trial), file=sys.stderr, flush=True)

    def note(self, params: Mapping[str, Any], *, trial: str = "") -> None:
        self._say(kind="params", trial=trial, values=redacted(encode(params)))

    def figure(self, name: str, picture: Any, *, step: int | None = None) -> None:
        stem = name if step is None else f"{name}_{step:06d}"
        self._hand_over(f"{stem}.png", png(picture), "figures")

    def file(self, name: str, data: bytes) -> None:
        self._hand_over(name, data, "files")

    def _hand_over(self, name: str, data: bytes, folder: str) -> None:
        file = keep(name, data)
        # what the step's manifest will name: see `handed_over`
        self.store.save(f"runs/{self.run}/files/{self.step_key}/{file.digest}.json", encode(file))
        self._say(kind="file", name=name, folder=folder, file=encode(file))
        self.flush()

    def progress(self, done: float, total: float, unit: str = "") -> None:
        self._say(kind="progress", done=done, total=total, unit=unit)

    def listed(self, source: Source) -> list[Asset]:
        assets, name = source.rows(), name_of_source(source)
        if digest_of(assets) != self.sources.get(name, digest_of(assets)):
            raise Changed(
                "A step reads what its source listed when the plan was drawn, but files were added, changed or removed "
                "since then. Run again when nothing writes to them: the plan is drawn anew."
            )
        self.asked.add(name)
        return assets

    def key(self, *, of: Callable[..., Any] | None = None, **parts: Any) -> str:
        counted = {name: in_key(value) for name, value in parts.items()}
        return digest(ingredients(fingerprint_of((root_of(of),) if of else self.roots, parts), counted, self.seed))

    def recall(self, key: str) -> Any:
        manifest = self.store.manifest(key)
        return None if manifest is None else decode(manifest["result"])

    def remember(self, key: str, artifact: Any) -> None:
        point("context: a part is made, not remembered")
        self.store.commit(key, {"part_of": self.step_key, "result": encode(artifact), "when": time.time()})
        point("context: a part is remembered")

    @contextmanager
    def working(self, name: str, gpus: float = 0) -> Iterator[None]:
        with (
            captured(self.store, f"runs/{self.run}/logs/{self.step_key}", name),
            spending(self.store, f"runs/{self.run}/spent/{self.step_key}", gpus),
        ):
            try:
                yield
            except BaseException as error:
                hide_in(error)
                with suppress(OSError, RayfieldError):  # the first error is the one to tell
                    self.flush()
                raise
            self.flush()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        with self.store.alone(name):
            yield

    def _say(self, **line: Any) -> None:
        self.waiting.append({"time": time.time(), **encode(line)})
        if time.monotonic() - self.flushed > FLUSH:
            self.flush()

    def flush(self) -> None:
        """Writes the lines that wait."""
        lines, self.waiting = _without_old_progress(self.waiting), []
        self.flushed = time.monotonic()
        if lines:
            point("context: lines wait")
            name = f"runs/{self.run}/events/{self.step_key}/{self.writer}-{self.written:06d}.jsonl"
            self.store.write(name, sealed_lines("".join(json.dumps(line) + "\n" for line in lines).encode()))
            self.written += 1
            point("context: lines are written")


def name_of_source(source: Source) -> str:
    """A name that tells a source from others."""
    return canonical(in_plan(source))


def handed_over(store: Store, run: str, key: str) -> list[dict[str, Any]]:
    """The figures and files of a step in a run, whichever of its processes made them, as a manifest names them."""
    folder = f"runs/{run}/files/{key}"
    return [said for name in store.names(folder) if (said := store.load(f"{folder}/{name}"))]


def _sentence(values: Mapping[str, float], step: int, trial: str) -> str:
    """Logged values as a line for people: step 40  loss 1.23  accuracy 0.5."""
    numbers = (f"{name} {value:.4g}" for name, value in values.items())
    return "  ".join([*([f"trial {trial}"] if trial else []), f"step {step}", *numbers])


def _without_old_progress(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of several lines that say how far a step is, the last one is enough."""
    last = max((n for n, line in enumerate(lines) if line["kind"] == "progress"), default=-1)
    return [line for n, line in enumerate(lines) if line["kind"] != "progress" or n == last]


def png(picture: Any) -> bytes:
    """A picture as a PNG file: uint8 [H, W, 3], or a matplotlib Figure."""
    buffer = io.BytesIO()
    if isinstance(picture, np.ndarray):
        from PIL import Image

        Image.fromarray(picture).save(buffer, "PNG")
    else:
        picture.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
