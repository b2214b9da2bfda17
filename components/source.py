"""
The source: a listing of assets with labels, splits and digests, and a way to decode one.

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
from components.runtime.redaction import redact
from components.runtime.serialization import is_utf8
from components.runtime.user_code import WRITTEN, class_in

SPLITS = ("train", "val", "test")
ASIDE = {"aside": True}
"""marks a field that is in no key: `field(metadata=ASIDE)`"""
SMALL = 20
"""contents of a class from which on a side depends on the asset alone: of fewer, chance might put none into test"""


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
    content: str = ""
    """stands for the thing itself, however it is opened: the digest of its bytes; empty where `digest` is no more"""

    def __post_init__(self) -> None:
        if not is_utf8("".join(map(str, (self.id, self.uri, self.label, *self.attributes.values())))):
            raise DataError(
                f"The texts of an asset are UTF-8, but those of {ascii(self.id)}, {ascii(self.uri)}, are not. "
                "Rename its file, or write its name in another way."
            )


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
        """The digest of this source in a step's key: contents, labels and splits; no path."""
        return digest_of(self.rows())


class Only(Source):
    """The part of a source that has one value of an attribute: one scene, one piece."""

    source: Source
    name: str = "id"
    value: str

    def rows(self) -> list[Asset]:
        return [asset for asset in self.source.rows() if self.of(asset) == self.value]

    def of(self, asset: Asset) -> str:
        """An asset's value of the attribute by which this part was taken."""
        return asset.id if self.name == "id" else asset.attributes.get(self.name, "")

    def open(self, asset: Asset) -> Any:
        return self.source.open(asset)

    def watch(self) -> Iterable[Path]:
        return self.source.watch()

    def kinds(self) -> tuple[type, ...]:
        return self.source.kinds()


def decoders(source: Source) -> tuple[type, ...]:
    """The classes whose code decides what a source gives, those of the sources that it is made of too."""
    inner = (value for field in fields(source) if isinstance(value := getattr(source, field.name), Source))
    return tuple(dict.fromkeys([*source.kinds(), *(kind for one in inner for kind in decoders(one))]))


def digest_of(assets: Iterable[Asset]) -> str:
    """One digest for a listing: contents, labels, splits and attributes, in any order; no path."""
    lines = sorted(
        repr((a.id, a.label, a.split, a.digest, content_of(a), sorted(a.attributes.items()))) for a in assets
    )
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


def content_of(asset: Asset) -> str:
    """The digest that stands for an asset itself: its side, and whether a model has seen it, go by this."""
    return asset.content or asset.digest


def split_by_hash(assets: Iterable[Asset], *, fold: int, folds: int, val: float) -> list[Asset]:
    """
    Test is one of `folds` parts, and val a share of the rest, by the hash of an asset's content.

    No name and no order matters, and identical files lie on one side, under whatever label. In a class of `SMALL`
    contents and more an asset's side depends on itself alone: no other file moves it. A fold is then as even as a hash
    makes it: n / folds, with a standard deviation of sqrt(n (folds - 1)) / folds. In a smaller class the smallest
    hashes fill test, then val, so that there are some; there a new file may move others.
    """
    if not 0 <= fold < folds:
        raise UsageError(f"--fold must be below --folds, but got {fold} of {folds}. Pass --fold 0 to {folds - 1}.")
    assets, classes = list(assets), defaultdict[str, set[str]](set)
    for asset in assets:
        classes[asset.label].add(content_of(asset))
    sides: dict[str, str] = {}
    # what several classes hold gets its side from a large one if there is one: then it still depends on itself alone
    for _, contents in sorted(classes.items(), key=lambda pair: (len(pair[1]) < SMALL, pair[0])):
        deal = _ranked if len(contents) < SMALL else _hashed
        if left := contents - sides.keys():
            sides |= deal(left, fold, folds, val)
    return [replace(asset, split=sides[content_of(asset)]) for asset in assets]


def _hashed(contents: Iterable[str], fold: int, folds: int, val: float) -> dict[str, str]:
    """The side of each content by its hash, from the fold's beginning on and around: test, then val, then train."""
    until = 1 + val * (folds - 1)

    def side(content: str) -> str:
        place = (chance("fold/" + content) * folds - fold) % folds
        return "test" if place < 1 else "val" if place < until else "train"

    return {content: side(content) for content in contents}


def _ranked(contents: Iterable[str], fold: int, folds: int, val: float) -> dict[str, str]:
    """The same by the rank of its hash, so that each side that there is room for has some."""
    order = sorted(contents, key=lambda content: (chance("fold/" + content), content))
    count = len(order)
    first, end = (-(-count * place // folds) for place in (fold, fold + 1))
    tested = min(end - first, count - 1)  # what there is one of is learned
    chosen = min(max(1, round(val * (count - tested))), count - tested - 1)
    sides = ["test"] * tested + ["val"] * chosen + ["train"] * (count - tested - chosen)
    return dict(zip(order[first:] + order[:first], sides, strict=True))


def names() -> list[str]:
    """Every source: the files of components/sources; a folder there holds parts of one."""
    import components.sources as folder

    return sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.ispkg)


def kind_of(name: str) -> type[Source]:
    """The source whose file is called `name`; one's own is PATH.py, or PATH.py:Name where the file has several."""
    if WRITTEN.fullmatch(name):
        return class_in(name, Source, "source", "sources")
    if name not in names():
        known = f"{nearest(name, names())} There are {', '.join(names())}; your own is PATH.py."
        raise UsageError(f"No source {name!r}.{known}")
    module = importlib.import_module(f"components.sources.{name}")
    own = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Source)]
    (kind,) = [c for c in own if c.__module__ == module.__name__]
    return kind


def worded(text: str) -> tuple[str, list[str]]:
    """A source's name, and the words of its fields: "furniture --textured" or "my shapes/scans.py --root DIR"."""
    own = WRITTEN.match(text)
    name, *more = (own[0], *text[own.end() :].split()) if own else text.split()
    return name, more


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
