"""
A clone and an installed copy: the wheel has what a run needs at run time; tests, and room for one's own, a clone has.
"""

from pathlib import Path

from components.errors import UsageError
from pipelines.engine.code import ROOT


def is_clone() -> bool:
    """Whether the code runs from its repository, not from an installed wheel."""
    return (ROOT / "pyproject.toml").is_file()


def of_clone(path: Path, command: str) -> Path:
    """The same file or folder of the repository, for a command that works in a clone alone."""
    if not path.exists():
        raise UsageError(
            f"`rayfield {command}` works in a clone, but this copy is installed: there is no {path}. Clone the "
            "repository, and run `pip install -e .` in it."
        )
    return path
