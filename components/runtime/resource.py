"""
Data files that ship with the code.
"""

from pathlib import Path

from components.errors import DataError

FOLDER = Path(__file__).resolve().parents[1] / "sources" / "data"


def resource(name: str) -> Path:
    """
    Where the data file `name` lies.

    Always call it with the name in quotes: a step's key holds the bytes of the files that its code names so.
    """
    path = FOLDER / name
    if not path.is_file():
        raise DataError(
            f"The data file {name} belongs to this installation, but {path.parent} has none. Install it again."
        )
    return path
