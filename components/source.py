"""
What a source is: a listing of assets with labels, splits and digests, and a way to decode one.

    for asset in Furniture().rows():
        mesh = Furniture().open(asset)
"""

import hashlib
import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, dataclass_transform

from components.errors import DataError, UsageError, nearest
from components.parameters import check_fields, read
from components.runtime.secrets import redact

SPLITS = ("train", "val", "test")
ASIDE = {"aside": True}
"""marks a field that is in no key: `field(metadata=ASIDE)`"""


@dataclass(frozen=True)
class Asset:
    """One raw thing: a mesh, a scan, an image, a text."""

    id: str
    uri: str
    label: str
    split: str
    digest: str
    """of all that decides what `open` gives: its bytes, those of the files that it names, and settings of the source"""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Source:
    """A frozen dataclass; its fields say which data, and where."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        check_fields(self, "--{}", "Pass another --{}.")

    def rows(self) -> list[Asset]:
        """Every asset, in an order that does not matter."""
        raise TypeError(f"{type(self).__name__} must define rows()")

    def open(self, asset: Asset) -> Any:
        """
        Decode an asset: the bytes that `asset.digest` is of, and no others.

        Raises `Unreadable` for what the decoder says of these bytes, and `Changed` where the digest of what is there
        now is another. Any other failure to read (a disk, a network, memory) is raised as it is: it says nothing of
        the asset.
        """
        raise TypeError(f"{type(self).__name__} must define open()")

    def watch(self) -> Iterable[Path]:
        """The local files and folders whose change may change the listing."""
        raise TypeError(f"{type(self).__name__} must define watch()")

    def kinds(self) -> tuple[type, ...]:
        """The classes whose code decides what `open` gives: they are in the keys of what is made of it."""
        return (type(self),)

    def groups(self, name: str) -> list[str]:
        """The values that the attribute `name` takes; `id` names the assets themselves."""
        values = {asset.id if name == "id" else asset.attributes.get(name, "") for asset in self.rows()}
        return sorted(values - {""})

    def only(self, *, name: str = "id", value: str) -> "Only":
        """This source, less every asset whose attribute `name` is another."""
        return Only(source=self, name=name, value=value)

    def digest(self) -> str:
        """What a step's key holds of this source: contents, labels and splits; no path."""
        return digest_of(self.rows())


class Only(Source):
    """The part of a source that has one value of an attribute: one scene, one piece."""

    source: Source
    name: str = "id"
    value: str

    def rows(self) -> list[Asset]:
        return [asset for asset in self.source.rows() if self.of(asset) == self.value]

    def of(self, asset: Asset) -> str:
        """What an asset has where this part has `value`."""
        return asset.id if self.name == "id" else asset.attributes.get(self.name, "")

    def open(self, asset: Asset) -> Any:
        return self.source.open(asset)

    def watch(self) -> Iterable[Path]:
        return self.source.watch()

    def kinds(self) -> tuple[type, ...]:
        return self.source.kinds()


def digest_of(assets: Iterable[Asset]) -> str:
    """One digest for a listing: contents, labels, splits and attributes, in any order; no path."""
    lines = sorted(repr((a.id, a.label, a.split, a.digest, sorted(a.attributes.items()))) for a in assets)
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


class Unreadable(Exception):
    """An asset whose bytes cannot be decoded or used. It is quarantined with this reason; nothing else stops."""


class Changed(DataError):
    """Data that are not what the listing says any more: what was made of them would have the wrong key."""


def check_digest(asset: Asset, digest: str) -> None:
    """Refuse to decode bytes whose digest is not the one that the asset was listed with."""
    if digest != asset.digest:
        raise Changed(
            f"What is decoded is what was listed, but {redact(asset.uri)} changed since then. "
            "Run again when nothing writes to it: it is listed anew."
        )


def chance(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) / 2**56


def split_by_hash(assets: Iterable[Asset], *, fold: int, folds: int, val: float) -> list[Asset]:
    """
    Test is one of `folds` parts, dealt within each class by the hash of the id; val is a share of the rest.

    Within a class, so that every fold has every class; by hash, so that no order matters.
    """
    if not 0 <= fold < folds:
        raise UsageError(f"--fold must be below --folds, but got {fold} of {folds}. Pass --fold 0 to {folds - 1}.")
    classes: dict[str, list[Asset]] = defaultdict(list)
    for asset in assets:
        classes[asset.label].append(asset)
    out = []
    for members in classes.values():
        dealt = sorted(members, key=lambda a: chance("fold/" + a.id))
        rest = [a for place, a in enumerate(dealt) if place % folds != fold]
        share = min(max(1, round(val * len(rest))), len(rest) - 1)  # a class of two has one to learn from
        held = {a.id for a in sorted(rest, key=lambda a: chance("val/" + a.id))[: max(0, share)]}
        for place, asset in enumerate(dealt):
            split = "test" if place % folds == fold else "val" if asset.id in held else "train"
            out.append(replace(asset, split=split))
    return out


def names() -> list[str]:
    """Every source: the files of components/sources."""
    import components.sources as folder

    return sorted(m.name for m in pkgutil.iter_modules(folder.__path__))


def kind_of(name: str) -> type[Source]:
    """The source whose file is called `name`."""
    if name not in names():
        raise UsageError(f"No source {name!r}.{nearest(name, names())} There are {', '.join(names())}.")
    module = importlib.import_module(f"components.sources.{name}")
    own = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Source)]
    (kind,) = [c for c in own if c.__module__ == module.__name__]
    return kind


def find(name: str, settings: Mapping[str, str] | None = None) -> Source:
    """The source whose file is called `name`, with these fields."""
    kind = kind_of(name)
    known = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    for field_name in settings or {}:
        if field_name not in known:
            words = f"It has {', '.join(known)}." if known else "It has none."
            raise UsageError(f"Source {name!r} has no field {field_name!r}.{nearest(field_name, known)} {words}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    for field_name in needed:
        if field_name not in (settings or {}):
            raise UsageError(f"Source {name!r} needs --{field_name}, but it was not given.")
    return kind(**{n: read(text, known[n], f"--{n}") for n, text in (settings or {}).items()})
