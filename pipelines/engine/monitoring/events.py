"""
Events of steps, read back from the store: of light imports, for the commands that only look.
"""

import json
from collections.abc import Iterator
from typing import Any

from pipelines.engine.store.store import Store, unsealed_lines

DAMAGED: dict[str, Any] = {"kind": "damaged", "time": 0.0}
"""what stands for the lines of a file that is not as it was written: they are lost, and this is said"""


def events(store: Store, run: str, key: str, seen: set[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The event files of a step that are not in `seen` yet, each with its lines; a damaged one has DAMAGED alone."""
    folder = f"runs/{run}/events/{key}"
    for name in store.names(folder):
        if name not in seen:
            lines, broken = store.parsed(f"{folder}/{name}", _lines)
            if broken or lines is not None:
                yield name, [DAMAGED] if broken else lines


def _lines(data: bytes) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in unsealed_lines(data).splitlines()]
    if not all(isinstance(line, dict) and "kind" in line for line in lines):
        raise ValueError("each line must say of what kind it is")
    return lines
