"""A step that does nothing: what is left is the engine's own cost."""

from components.step import step


@step
def add(*, number: int, to: int = 0) -> int:
    return to + number
