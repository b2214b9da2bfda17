"""
The errors that are somebody's to mend, and how they are worded.

    RayfieldError
      UsageError        what was asked for does not exist or does not fit: exit code 2
      DataError         what was given cannot be used: exit code 1, never retried
      OutOfMemory       it does not fit in memory, and did not fit in pieces: exit code 1, never retried
      Infeasible        it could never be scheduled here: exit code 4

A message is one line: the law, the value, the remedy.
"""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class RayfieldError(Exception):
    """An error that ends in one line and an exit code, never in a traceback."""

    code = 1


class UsageError(RayfieldError):
    """A name, a value or a combination that is not there."""

    code = 2


class DataError(RayfieldError):
    """Data that cannot be used as it is."""


class OutOfMemory(RayfieldError, MemoryError):
    """Work that does not fit in memory, with what would."""


class Infeasible(RayfieldError):
    """Work that the machine or the cluster could never schedule."""

    code = 4


@contextmanager
def no_exit(what: str) -> Iterator[None]:
    """
    Makes an error of a call of sys.exit, which a Ray worker would die of, and be started again.

    Ray itself ends a worker that way, from its handler of SIGTERM: that is let through.
    """
    try:
        yield
    except SystemExit as end:
        *_, (frame, _) = traceback.walk_tb(end.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] == "ray":
            raise
        raise RayfieldError(
            f"{what} ends by returning or raising, but called sys.exit({end.code!r}). Raise an error instead."
        ) from end


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'pointnet'?", or nothing when no name is near."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
