"""
The README's commands and promises, for the tests and for CI: what is written there is what is run and compared.

A block of commands is run by a test or by CI. One that is not has a comment before it: `<!-- not run: why -->`, or
`<!-- planned: why -->` where its pipelines are drawn and not run.

    python -m tests.readme run 'make quickstart' PROMISE    # runs it; fails above twice the README's CPU seconds
    python -m tests.readme run 'make quickstart' PROMISE --after .venv/.ready     # counted since that file is there
    python -m tests.readme shape chair.obj                  # a bundled chair as a file

The first two need nothing but Python.
"""

import argparse
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.processes import Sampler

README = Path(__file__).resolve().parents[1] / "README.md"
SLACK = 2.0
"""times a promise that CI may take: its machines differ"""


@dataclass(frozen=True)
class Block:
    """Commands that stand together."""

    commands: tuple[str, ...]
    mark: str
    """the comment before it: "not run: needs a cluster"; empty if it is run"""


def blocks(text: str) -> list[Block]:
    """The indented blocks of a text in Markdown, those of its lists too."""
    found, lines, mark = [], list[str](), ""
    for line in [*text.splitlines(), "."]:
        indented, comment = line.startswith("    "), re.fullmatch(r"\s*<!-- (.*) -->", line)
        if indented and not comment:
            lines.append(line)
        elif line.strip():  # a blank line ends no block, and parts no comment from its own
            found += [Block(tuple(_commands(lines)), mark)] if lines else []
            lines, mark = [], comment[1] if comment else ""
    return found


def _commands(lines: list[str]) -> Iterator[str]:
    """Without their comments, with the lines that go on joined."""
    joined = "\n".join(lines).replace("\\\n", " ")
    for line in joined.splitlines():
        if words := shlex.split(line, comments=True, posix=False):
            yield " ".join(words)


def promises(text: str) -> dict[str, float]:
    """What the README says it takes -> CPU seconds: the rows of its tables that begin with a number of them."""
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) CPU seconds", text, re.MULTILINE)
    return {name.replace("`", ""): float(seconds) for name, seconds in rows}


def run(command: str) -> float:
    """CPU seconds of a command and of what it waits for, the least of three turns. One that fails ends this."""
    return min(_turn(command, quiet) for quiet in (False, True, True))


def _turn(command: str, quiet: bool) -> float:
    began, out = resource.getrusage(resource.RUSAGE_CHILDREN), subprocess.DEVNULL if quiet else None
    if code := subprocess.run(["bash", "-c", command], stdout=out, stderr=out).returncode:
        sys.exit(code)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def run_from(after: Path, command: str) -> float:
    """CPU seconds of a command and of all that it starts, Ray's daemons too, from when a file is there."""
    before = None
    with Sampler() as sampler:
        process = subprocess.Popen(["bash", "-c", command])
        while process.poll() is None:
            time.sleep(0.05)
            if before is None and after.exists():
                before = sampler.cpu
    if process.returncode:
        sys.exit(process.returncode)
    return sampler.cpu - (before or 0.0)


def kept(command: str, promise: str, seconds: float) -> bool:
    """Says what a command took, beside what the README says."""
    said = promises(README.read_text(encoding="utf-8"))[promise]
    print(f"  {command}: {seconds:.2f} CPU seconds; the README says {said:g}", flush=True)
    if seconds > SLACK * said:
        print(f"  That is more than {SLACK:g} times the README's. Measure it anew, or make it faster.", file=sys.stderr)
    return seconds <= SLACK * said


def shape(path: Path) -> None:
    """Writes a bundled chair as an OBJ file."""
    from components.sources.furniture import Furniture
    from tests.meshes import obj

    source = Furniture()
    mesh = source.open(next(asset for asset in source.rows() if asset.label == "chair"))
    path.write_text(obj(mesh.vertices, mesh.faces), encoding="utf-8")


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__)
    verbs = words.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("command")
    runs.add_argument("promise")
    runs.add_argument("--after", type=Path)
    verbs.add_parser("shape").add_argument("path", type=Path)
    given = words.parse_args()
    if given.verb == "shape":
        shape(given.path)
        return 0
    seconds = run_from(given.after, given.command) if given.after else run(given.command)
    return 0 if kept(given.command, given.promise, seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
