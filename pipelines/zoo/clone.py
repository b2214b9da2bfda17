"""
The parts that an installed copy lacks: the wheel has what runs need; tests, and room for families, a clone has.
"""

from pathlib import Path

from components.errors import UsageError


def of_clone(path: Path, command: str) -> Path:
    """The same file or folder of the repository, for a command that works in a clone alone."""
    if not path.exists():
        raise UsageError(
            f"`rayfield {command}` works in a clone, but this copy is installed: there is no {path}. Clone the "
            "repository, and run `pip install -e .` in it."
        )
    return path
