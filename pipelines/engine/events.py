"""
What steps say, read back from the store: of light imports, for the commands that only look.
"""

import json
from collections.abc import Iterator
from typing import Any

from pipelines.engine.store import Store


def events(store: Store, run: str, key: str, seen: set[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The event files of a step that are not in `seen` yet, each with its lines."""
    folder = f"runs/{run}/events/{key}"
    for name in store.names(folder):
        if name not in seen:
            data = store.read(f"{folder}/{name}")
            if data is not None:
                yield name, [json.loads(line) for line in data.splitlines()]
