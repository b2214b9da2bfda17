"""
The representation: a pure function from a decoded asset to rows of arrays.

    class Points(Representation):
        count: int = 1024

        def columns(self): return {"points": Column((self.count, 3), "float32", "unit sphere")}
        def rows(self, asset, generator): yield {"points": ...}
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, dataclass_transform

import numpy as np

from components.parameters import check_fields


@dataclass(frozen=True)
class Column:
    """
    The declared type of one column.

    A shape whose first entry is None is ragged: its rows differ in length, and it is stored as a list.
    """

    shape: tuple[int | None, ...]
    dtype: str
    unit: str = ""


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Representation:
    """
    A frozen dataclass; its fields decide the rows and nothing else does.

    A row is a dict of arrays, one for each of `columns()`. It may besides hold "split" (a str), where the
    representation assigns its own: every eighth view of a scene is test.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        check_fields(self, f"{self.name}.{{}}", "Give it another `{}`.")

    @property
    def name(self) -> str:
        """The word by which a table calls this set: the class, in lower case."""
        return type(self).__name__.lower()

    def columns(self) -> Mapping[str, Column]:
        """Name -> shape, dtype and unit of what `rows` yields."""
        raise TypeError(f"{type(self).__name__} must define columns()")

    def rows(self, asset: Any, generator: np.random.Generator) -> Iterator[Mapping[str, Any]]:
        """The rows of one decoded asset. Every draw comes from `generator`."""
        raise TypeError(f"{type(self).__name__} must define rows()")

    def adapt(self, assets: Iterable[Any]) -> Self:
        """A copy that holds what it must learn from the training split first; itself by default."""
        return self

    def generator(self, seed: int, asset: str) -> np.random.Generator:
        """The only source of chance for one asset: the same whatever the order, the shards and the workers."""
        text = f"{seed}/{asset}/{self.name}"
        return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))
