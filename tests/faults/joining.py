"""
Steps that make files and join them.

They import nothing of the faulty bucket: what a step changes in the modules that it has is put back when it ends.
"""

from components.runtime.objects import File, keep
from components.step import step
from pipelines.engine.pipeline import pipeline


@step
def make(number: int) -> File:
    """A file of a made-up size."""
    return keep(f"{number}.txt", f"number {number} ".encode() * (number + 1))


@step
def joined(parts: tuple[File, ...]) -> File:
    return keep("all.txt", b"".join(part.read() for part in parts))


@pipeline
def together(count: int = 4) -> None:
    joined([make(number) for number in range(count)])


EXPECTED = b"".join(f"number {n} ".encode() * (n + 1) for n in range(4))
