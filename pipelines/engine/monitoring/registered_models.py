"""
Registered models from the command line: the registry's words with a store's leases behind them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from components.step import Printing
from pipelines.engine.store.store import Store


@dataclass
class Asking(Printing):
    """The context of a person who asks: what it makes on the way is forgotten, but it waits for its turn."""

    store: Store = field(default_factory=Store.here)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        with self.store.alone(name):
            yield


def promote(store: Store, name: str, version: str, *, force: bool) -> dict[str, Any]:
    """The evidence of a promotion: it went through only if the verdict is PROMOTE."""
    from components.steps.register import promote

    return promote(name, version, force=force, context=_asking(store))


def rollback(store: Store, name: str) -> dict[str, Any]:
    """The move that made the previous champion the champion again."""
    from components.steps.register import rollback

    return rollback(name, context=_asking(store))


def _asking(store: Store) -> Asking:
    return Asking(resources={"CPU": float(os.cpu_count() or 1)}, store=store)
