"""
When a schedule runs: a cron line in a time zone, every so often, or when a source's contents change.

Local time is a matter of cron alone. A local time that a spring change leaves out runs at the next moment that there
is; one that an autumn change repeats runs once; what runs every hour or oftener follows the real time through both.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from components.errors import UsageError, nearest

STAMP = "%Y%m%dT%H%M%SZ"
LONGEST = 3650
"""days of a duration: with longer ones a tick would be after the last year that there is"""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Cron:
    """A cron line in a time zone."""

    line: str
    zone: str
    kind: str = "cron"

    def after(self, moment: float) -> Iterator[float]:
        """The times after a moment, in order."""
        from cronsim import CronSim

        last = moment
        for found in CronSim(_listed(self.line), datetime.fromtimestamp(moment, ZoneInfo(self.zone))):
            if found.timestamp() > last:  # in the hour that autumn repeats, cronsim begins with the first of the two
                last = found.timestamp()
                yield last

    def words(self) -> str:
        return f"{self.line} {self.zone}"


def _listed(line: str) -> str:
    """
    The same line, with a star for every hour and none elsewhere in hours and minutes.

    By such a star cronsim knows what follows the real time: it would take */2 for that, and 0-23 not.
    """
    from cronsim import CronSim

    _, _, *days = line.split()
    found = CronSim(line, datetime.now(UTC))
    hours = "*" if len(found.hours) == 24 else _comma(found.hours)
    return " ".join([_comma(found.minutes), hours, *days])


def _comma(numbers: Iterable[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


@dataclass(frozen=True)
class Every:
    """Every so many seconds, counted from when the schedule was made: a slow run moves none of them."""

    seconds: int
    anchor: int
    kind: str = "every"

    def after(self, moment: float) -> Iterator[float]:
        number = max(0, int((moment - self.anchor) // self.seconds))
        while True:
            number += 1
            yield self.anchor + number * self.seconds

    def words(self) -> str:
        return f"every {spelled(self.seconds)}"


@dataclass(frozen=True)
class Change:
    """Whenever what the sources hold is new: never seen by this schedule, nor there when it was made."""

    sources: tuple[tuple[str, Mapping[str, str]], ...]
    """name and fields"""
    seconds: int
    """how often to look"""
    first: str
    kind: str = "change"

    def after(self, moment: float) -> Iterator[float]:
        return iter(())

    def digest(self) -> str:
        """The digest of the sources' contents now. One of a single source is its own."""
        from components.runtime.objects import digest_of
        from components.source import find

        found = [find(name, settings).digest() for name, settings in self.sources]
        return found[0] if len(found) == 1 else digest_of(" ".join(found).encode())

    def words(self) -> str:
        return f"when {', '.join(name for name, _ in self.sources)} changes"


Trigger = Cron | Every | Change
KINDS: dict[str, Any] = {"cron": Cron, "every": Every, "change": Change}


def between(trigger: Trigger, after: float, until: float) -> Iterator[float]:
    """The ticks of a stretch of time; the end is part of it, the beginning is not."""
    for moment in trigger.after(after):
        if moment > until:
            return
        yield moment


# Names of ticks


def stamp(moment: float) -> str:
    """The name of a tick: its UTC time, so that names are in the order of time."""
    return f"{datetime.fromtimestamp(moment, UTC):{STAMP}}"


def time_of(name: str) -> float | None:
    """The time that a tick is named by; None for one that is named by a digest, or that somebody asked for."""
    if "-" in name or not name.endswith("Z"):
        return None
    return datetime.strptime(name, STAMP).replace(tzinfo=UTC).timestamp()


# Words that people type


def seconds_of(text: str) -> int:
    """90s, 15m, 6h, 1d or 2w as seconds."""
    found = re.fullmatch(r"(\d+)([smhdw])", text.strip())
    if not found or not found[1].strip("0"):
        raise UsageError(f"A duration is a whole number and s, m, h, d or w, but got {text!r}. For example 15m or 6h.")
    if len(found[1]) > 9 or int(found[1]) * UNITS[found[2]] > LONGEST * UNITS["d"]:
        raise UsageError(f"A duration is at most {LONGEST}d, but got {text!r}. For example 15m or 6h.")
    return int(found[1]) * UNITS[found[2]]


def spelled(seconds: int) -> str:
    unit = next(unit for unit in reversed(UNITS) if seconds % UNITS[unit] == 0)
    return f"{seconds // UNITS[unit]}{unit}"


def cron(line: str, zone: str) -> Cron:
    """A cron line that exists, in a time zone that exists."""
    from cronsim import CronSim, CronSimError

    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        from zoneinfo import available_timezones

        raise UsageError(
            f"A time zone has a name of the IANA list, but got {zone!r}.{nearest(zone, available_timezones())} "
            "For example Europe/Berlin or UTC."
        ) from None
    try:
        CronSim(line, datetime.now(UTC))
    except CronSimError as error:
        raise UsageError(
            f"A cron line is minute, hour, day, month and weekday, but got {line!r}: {error}. For example '0 2 * * *'."
        ) from None
    if len(line.split()) != 5:
        raise UsageError(f"A cron line has five fields, but {line!r} has {len(line.split())}. For example '0 2 * * *'.")
    return Cron(line, zone)


def moment_of(text: str, zone: str) -> float:
    """An ISO date or time as seconds since 1970; one without an offset is of the schedule's own time zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"A time is 2026-11-23 or 2026-11-23T02:00, but got {text!r}.") from None
    return (found if found.tzinfo else found.replace(tzinfo=ZoneInfo(zone))).timestamp()


def end_of(text: str, zone: str) -> float:
    """The last moment of what a text names: a day's last second, or the time itself."""
    try:
        return moment_of(f"{date.fromisoformat(text)}T23:59:59", zone)
    except ValueError:
        return moment_of(text, zone)
