"""
preprocess: raw assets to a table, one Parquet set for each representation.

Assets are cut into shards by the hash of the id. A shard of one representation is an entry of the store with a key of
its own, so a killed or extended run makes only the shards that are missing. Each asset is decoded once, for all the
representations that lack its shard. An asset of whose bytes a decoder or a representation says `Unreadable` is put into
quarantine with its reason, and is in no set of the table. Any other error, of a disk, a network or memory, says nothing
of the asset: no shard is kept that met one.
"""

import io
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import DataError
from components.representation import Column, Representation
from components.runtime.crash_points import point
from components.runtime.objects import File, keep
from components.runtime.redaction import redact
from components.runtime.serialization import readable
from components.source import SPLITS, Asset, Changed, Source, Unreadable, chance, content_of, decoders
from components.step import Context, step
from components.steps.ray_workers import spread
from components.table import Set, Table

SHARD = 32  # assets, about


@dataclass(frozen=True)
class Shard:
    """The rows of one representation over the assets of one shard, and the assets that gave none."""

    rows: File | None
    count: int
    rejects: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Job:
    """One decode of a shard's assets, for the representations that lack it."""

    assets: tuple[Asset, ...]
    wanted: tuple[tuple[Representation, str], ...]
    """representation and key"""


@dataclass(frozen=True)
class Streamed:
    """A set whose shards are made while a training already reads them: `preprocess.stream(source, representation)`."""

    source: Source
    representation: Representation


@dataclass(frozen=True)
class Work:
    """All that a table is made of: the shards of a source's assets, and the key of each in each representation."""

    source: Source
    assets: list[Asset]
    declared: list[Representation]
    adapted: list[Representation]
    groups: list[list[Asset]]
    keys: list[list[str]]
    """one for each representation, for each group"""

    @classmethod
    def of(cls, source: Source, representations: Sequence[Representation], context: Context) -> "Work":
        assets = context.listed(source)
        if not assets:
            raise DataError("A source must have assets, but this one is empty. Check its --root.")
        name, count = Counter(asset.id for asset in assets).most_common(1)[0]
        if count > 1:  # rows find their label and their side by it
            raise DataError(f"Each asset of a source has an id of its own, but {count} have {name!r}. Number them.")
        declared = list(dict.fromkeys(representations))
        return cls.cut(source, assets, declared, [_adapt(one, source, assets) for one in declared], context)

    @classmethod
    def cut(
        cls,
        source: Source,
        assets: list[Asset],
        declared: list[Representation],
        adapted: list[Representation],
        context: Context,
    ) -> "Work":
        """The work for some assets of a source, in representations that have learned what they must."""
        groups = shards(assets)
        # an asset's split and label are not in a shard's key: folds share the shards
        keys = [[_key(context, source, one, group) for one in adapted] for group in groups]
        return cls(source, assets, declared, adapted, groups, keys)

    def missing(self, context: Context) -> list[Job]:
        """The jobs whose shards are not in the store."""
        jobs = (self.job(place, context) for place in range(len(self.groups)))
        return [job for job in jobs if job is not None]

    def job(self, place: int, context: Context) -> Job | None:
        """The work for the shards of one group; None if all are in the store."""
        keys = self.keys[place]
        wanted = [(one, key) for one, key in zip(self.adapted, keys, strict=True) if context.recall(key) is None]
        return Job(tuple(self.groups[place]), tuple(wanted)) if wanted else None

    def table(self, context: Context) -> Table:
        """The table of shards that are all in the store."""
        made = [[context.recall(key) for key in row] for row in self.keys]
        return replace(_table(self.assets, self.declared, self.adapted, made), source=self.source)


@step(aside=("on", "after"), spreads=True, strict=True)
def preprocess(
    source: Source,
    representations: Sequence[Representation],
    *,
    on: Literal["auto", "ray", "here"] = "auto",
    after: Any = None,
    context: Context,
) -> Table:
    """
    The table of a source.

    `on` says where the work is done and never what comes of it: "ray" is a Ray Data job, "here" this process; "auto"
    measures the first shard and starts Ray Data when more than a few seconds are left. `after` waits for what a stream
    of the same shards feeds, so that they are not made twice.
    """
    work = Work.of(source, representations, context)
    point("preprocess: before its shards")
    make_missing(work, context, on=on)
    point("preprocess: every shard is remembered, there is no table")
    table = work.table(context)
    context.note({"assets": sum(table.counts[split] for split in SPLITS), **table.counts})
    context.file("quarantine.parquet", table.quarantine.read())
    return table


preprocess.stream = Streamed


def shards(assets: Sequence[Asset]) -> list[list[Asset]]:
    """
    The assets by the hash of their ids, each shard in the order of its ids.

    A shard that is too large is its two halves: a new asset makes one shard anew, or two where it halves one.
    """
    hashed = [(chance("shard/" + asset.id), asset) for asset in sorted(assets, key=lambda a: a.id)]
    return list(_halves(hashed, 0.0, 1.0))


def _halves(hashed: Sequence[tuple[float, Asset]], low: float, high: float) -> Iterator[list[Asset]]:
    """The assets whose hashes are from `low` to `high`, in shards."""
    if 2 * len(hashed) <= 3 * SHARD:  # halves of more than this have three quarters of a shard to one and a half
        yield from [[asset for _, asset in hashed]] if hashed else []
        return
    middle = (low + high) / 2
    yield from _halves([pair for pair in hashed if pair[0] < middle], low, middle)
    yield from _halves([pair for pair in hashed if pair[0] >= middle], middle, high)


def _adapt(representation: Representation, source: Source, assets: Sequence[Asset]) -> Representation:
    if type(representation).adapt is Representation.adapt:
        return representation
    return representation.adapt(
        mesh for a in assets if a.split == "train" if (mesh := _try_open(source, a)) is not None
    )


def _try_open(source: Source, asset: Asset) -> Any:
    try:
        return opened(source, asset)
    except Unreadable:  # it will be met again, and put into quarantine with its reason
        return None


def opened(source: Source, asset: Asset) -> Any:
    """A decoded asset that can be used; raises `Unreadable` where its bytes are at fault, and names it in any error."""
    with _naming(asset):
        decoded = source.open(asset)
    if hasattr(decoded, "problem") and (problem := decoded.problem()):
        raise Unreadable(problem)
    return decoded


def represented(representation: Representation, decoded: Any, asset: Asset, seed: int) -> list[Mapping[str, Any]]:
    """The rows of a decoded asset; raises `Unreadable` where it can have none, and names it in any error."""
    with _naming(asset):
        return list(representation.rows(decoded, representation.generator(seed, asset.id)))


@contextmanager
def _naming(asset: Asset) -> Iterator[None]:
    """Says of an error which asset met it; its class decides whether the work is tried again."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, Unreadable | Changed):
            error.add_note(f"(asset {asset.id})")
        raise


def _key(context: Context, source: Source, representation: Representation, group: Sequence[Asset]) -> str:
    return context.key(
        of=make,
        decoder=decoders(source),
        representation=representation,
        assets=[(asset.id, asset.digest) for asset in group],
    )


def make_missing(work: Work, context: Context, *, on: str) -> None:
    """
    Makes the shards that are missing, here or on Ray Data: the same function either way.

    Steps that need the same shards at the same time, as five folds do, begin each at another one and pass over those
    that another has made meanwhile.
    """
    jobs, total = work.missing(context), len(work.assets)
    first = int(chance(context.scratch.rpartition("/")[2]) * len(jobs))
    jobs = jobs[first:] + jobs[:first]
    done = total - sum(len(job.assets) for job in jobs)
    context.progress(done, total, "assets")
    for job, _ in spread(make, jobs, (work.source, context), on=on, context=context):
        done += len(job.assets)
        context.progress(done, total, "assets")


def make(job: Job, source: Source, context: Context) -> bool:
    """Decodes each asset of a job once, and keeps a shard for each representation that lacks it still."""
    wanted = [(representation, key) for representation, key in job.wanted if context.recall(key) is None]
    if not wanted:
        return True
    rows: dict[str, list[Mapping[str, Any]]] = {key: [] for _, key in wanted}
    rejects: dict[str, list[Mapping[str, str]]] = {key: [] for _, key in wanted}
    for asset in job.assets:
        try:
            decoded = opened(source, asset)
        except Unreadable as error:
            for _, key in wanted:
                rejects[key].append(_reject(asset, error))
            continue
        for representation, key in wanted:
            try:
                made = represented(representation, decoded, asset, context.seed)
            except Unreadable as error:
                rejects[key].append(_reject(asset, error, by=representation.name))
            else:
                rows[key] += [{"id": asset.id, **row} for row in made]
    for representation, key in wanted:
        file = write_rows(rows[key], representation) if rows[key] else None
        point("preprocess: the rows of a shard are kept, not remembered")
        context.remember(key, Shard(file, len(rows[key]), tuple(rejects[key])))
    return True


def _reject(asset: Asset, error: Unreadable, by: str = "") -> dict[str, str]:
    """A line of the quarantine; `by` names the representation that refused what could be decoded."""
    reason, trace = (readable(redact(words)) for words in (str(error), "".join(traceback.format_exception(error))))
    return {"id": asset.id, "uri": redact(asset.uri), "reason": reason, "by": by, "traceback": trace}


def write_rows(rows: Sequence[Mapping[str, Any]], representation: Representation) -> File:
    """Keeps rows as a Parquet file whose tensors pyarrow alone reads with their shapes."""
    columns = {
        "id": pa.array([row["id"] for row in rows], pa.string()),
        "split": pa.array([row.get("split") for row in rows], pa.string()),
    }
    for name, column in representation.columns().items():
        columns[name] = _array([row[name] for row in rows], column)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", store_schema=True)
    return keep(f"{representation.name}.parquet", buffer.getvalue())


def _array(values: Sequence[Any], column: Column) -> pa.Array:
    dtype = np.dtype(column.dtype)
    if column.shape and column.shape[0] is None:
        return _ragged([np.asarray(value, dtype) for value in values], column.shape[1:], dtype)
    stacked = np.ascontiguousarray(np.stack([np.asarray(value, dtype) for value in values]))
    if stacked.shape[1:] != tuple(column.shape):
        raise ValueError(f"a column declared as {column.shape} has rows of {stacked.shape[1:]}")
    if not column.shape:
        return pa.array(stacked)
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(dtype), stacked.shape[1:])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(stacked.reshape(-1)), int(np.prod(stacked.shape[1:])))
    return pa.ExtensionArray.from_storage(kind, flat)


def _ragged(values: Sequence[np.ndarray], inner: Sequence[int | None], dtype: np.dtype) -> pa.Array:
    """Lists of numbers, or of fixed lists of numbers: never an inferred tensor, whose shape would change by file."""
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])])
    flat = pa.array(np.concatenate([value.reshape(-1) for value in values]), pa.from_numpy_dtype(dtype))
    if inner:
        flat = pa.FixedSizeListArray.from_arrays(flat, int(np.prod([int(n or 1) for n in inner])))
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)


def _table(
    assets: Sequence[Asset],
    declared: Sequence[Representation],
    adapted: Sequence[Representation],
    made: list[list[Shard]],
) -> Table:
    rejects = _joined(reject for row in made for shard in row for reject in shard.rejects)
    good = sorted((a for a in assets if a.id not in rejects), key=lambda a: a.id)
    if not good:
        first = next(iter(rejects.values()))
        raise DataError(f"No asset could be read. The first, {first['uri']}: {first['reason']}")
    sets = []
    for place, (one, other) in enumerate(zip(declared, adapted, strict=True)):
        own = [row[place] for row in made]
        files = tuple(shard.rows for shard in own if shard.rows is not None)
        sets.append(Set(one, other, files, sum(_count(shard, rejects) for shard in own)))
    counts = {split: sum(a.split == split for a in good) for split in SPLITS}
    return Table(
        assets=keep("assets.parquet", _records([_record(a) for a in good])),
        labels=tuple(sorted({a.label for a in good})),
        sets=tuple(sets),
        quarantine=keep("quarantine.parquet", _records(list(rejects.values()))),
        counts={**counts, "quarantined": len(rejects)},
    )


def _joined(rejects: Iterable[Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """One line for each asset, with all the representations that refused it."""
    found: dict[str, Mapping[str, str]] = {}
    for reject in rejects:
        first = found.setdefault(reject["id"], reject)
        if reject["by"] not in first["by"].split(", "):
            found[reject["id"]] = {**first, "by": f"{first['by']}, {reject['by']}"}
    return found


def _count(shard: Shard, rejects: Mapping[str, Any]) -> int:
    """The rows of a shard whose assets no other set of the table refused: a shard is shared, a table is not."""
    if shard.rows is None or not rejects:
        return shard.count
    ids = pq.read_table(shard.rows.path(), columns=["id"])["id"].to_pylist()
    return sum(name not in rejects for name in ids)


def _record(asset: Asset) -> dict[str, Any]:
    attributes = dict(asset.attributes)
    return asdict(asset) | {"attributes": attributes, "uri": redact(asset.uri), "content": content_of(asset)}


def _records(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = [{k: sorted(v.items()) if isinstance(v, Mapping) else v for k, v in row.items()} for row in rows]
    attributes = pa.map_(pa.string(), pa.string())
    names = list(text[0]) if text else ["id", "uri", "reason", "by", "traceback"]
    schema = pa.schema([(n, attributes if n == "attributes" else pa.string()) for n in names])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(text, schema), buffer, compression="zstd")
    return buffer.getvalue()
