"""
Keys: CPU seconds to fingerprint and to plan each pipeline, and how many commits would have changed a training key.

A training's key holds the code of its step and its family, and of the preprocessing behind it. By module it is the
digest of every module that these import, as it was up to 1ac0f83; by definition, of what they reach by name. Each
commit of this repository's history that touched components/ is compared with the one before it. Of every case in which
the old key changes and the new one does not, the files are listed, for a person to look at.

    python -m tests.benchmarks.keys                      # in a clone with its history
    python -m tests.benchmarks.keys --since HEAD~20 -v   # with what each commit changed, whatever the keys did
"""

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipelines.engine import pipeline
from pipelines.engine.caching import cache_key, definitions, fingerprint
from pipelines.engine.caching import modules as code
from pipelines.engine.caching.definitions import digest_of
from pipelines.engine.caching.fingerprint import Root
from pipelines.engine.graph.plan_cache import Request, drawn, remembered
from pipelines.engine.store.store import Store

FIRST = "31ef678"
MOVED = ("places", "files", "plain", "secrets", "archives", "crash", "figures")
"""files of components/ that lie in runtime/ and plotting/ since 1ac0f83"""
TRAIN, PREPROCESS = ("components.steps.train", "train"), ("components.steps.preprocess", "preprocess")
SOURCE = ("components.sources.furniture", "Furniture")
FAMILIES = {
    "pointnet": ("PointNet", ("components.representations.points", "Points")),
    "voxnet": ("VoxNet", ("components.representations.voxels", "Voxels")),
    "convnet": ("ConvNet", ("components.representations.views", "Views")),
    "gan": ("Gan", ("components.representations.views", "Views")),
    "gaussians": ("Gaussians", ("components.representations.views", "Views")),
    "tsne": ("Tsne", ("components.representations.features", "Features")),
}


# Time


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def planned(name: str, folder: Path) -> list[float]:
    """How many steps a pipeline has; CPU seconds of their fingerprints, of the whole plan, of reading it again."""
    request, store = Request(pipeline.find(name), {}, {}, {}), Store(str(folder / name))
    drawn(request, store)  # what the pipeline imports is imported, what it lists is listed
    definitions.read.cache_clear()
    spent, real = [], cache_key.fingerprint

    def timed(*arguments: Any) -> Any:
        cpu, found = seconds(lambda: real(*arguments))
        spent.append(cpu)
        return found

    with patch.object(cache_key, "fingerprint", timed):
        whole, nodes = seconds(lambda: drawn(request, store))
    again, _ = seconds(lambda: remembered(request, store))
    return [len(nodes), sum(spent), whole, again]


def times() -> None:
    """Prints a line for each pipeline."""
    print(f"{'CPU seconds':12}{'steps':>8}{'fingerprints':>14}{'plan drawn':>12}{'plan read':>11}")
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: planned(name, Path(folder)) for name in pipeline.names()}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for name, (steps, prints, plan, again) in rows.items():
        print(f"{name:12}{steps:8.0f}{prints:14.2f}{plan:12.2f}{again:11.3f}")


# History


@dataclass(frozen=True)
class Code:
    """The digests of each family's training, by both schemes."""

    by_module: Mapping[str, str]
    by_definition: Mapping[str, str]


def git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(code.ROOT), *words], check=True, capture_output=True).stdout


def commits(since: str) -> list[str]:
    """The commits, but merges, that touched components/ or the locked versions; the oldest first."""
    words = ["rev-list", "--no-merges", "--reverse", f"{since}..HEAD", "--", "components", "constraints.txt"]
    return git(*words).decode().split()


@contextmanager
def tree(commit: str) -> Iterator[None]:
    """Code is read as it was at a commit."""
    data = git("archive", commit, "components", "constraints.txt")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with tarfile.open(fileobj=io.BytesIO(data)) as packed:
            packed.extractall(root, filter="data")
        moved = tuple(f"components.{name}" for name in MOVED)
        with (
            patch.object(code, "ROOT", root),
            patch.object(code, "LOCK", root / "constraints.txt"),
            patch.object(fingerprint, "IN_NO_KEY", (*fingerprint.IN_NO_KEY, *moved)),
        ):
            code.forget()
            yield
    code.forget()


@cache
def code_at(commit: str) -> Code:
    with tree(commit):
        return Code(
            {family: by_module(roots) for family, roots in trainings()},
            {family: by_definition(roots) for family, roots in trainings()},
        )


def trainings() -> Iterator[tuple[str, tuple[tuple[Root, ...], ...]]]:
    """Family -> what the steps behind its training begin from."""
    for stem, (name, representation) in FAMILIES.items():
        yield stem, ((TRAIN, (f"components.families.{stem}", name)), (PREPROCESS, SOURCE, representation))


def by_definition(steps: tuple[tuple[Root, ...], ...]) -> str:
    return digest_of(repr([sorted(fingerprint.fingerprint(roots).in_key.items()) for roots in steps]))


def by_module(steps: tuple[tuple[Root, ...], ...]) -> str:
    modules = code.closure(module for roots in steps for module, _ in roots)
    packages = {name for one in modules for name in one.packages}
    return digest_of(repr([*((one.name, text(Path(one.path).read_bytes())) for one in modules), *sorted(packages)]))


@cache
def text(data: bytes) -> str:
    """The digest of a module less comments and strings that stand alone."""
    return digest_of(ast.dump(definitions.without_words(ast.parse(data))))


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {family for family in after if before[family] != after[family]}


def shown(commit: str) -> str:
    subject = git("show", "-s", "--format=%h %s", commit).decode().strip()
    names = git("show", "--format=", "--name-only", commit, "--", "components", "constraints.txt").decode().split()
    return f"{subject}\n      {' '.join(name.removeprefix('components/') for name in names)}"


def history(since: str, verbose: bool) -> None:
    """Prints both shares, and each commit in which they differ."""
    found = {}
    for commit in commits(since):
        before, after = code_at(f"{commit}~"), code_at(commit)
        old, new = changed(before.by_module, after.by_module), changed(before.by_definition, after.by_definition)
        found[commit] = old, new
        if verbose:
            print(f"  by module {len(old)}, by definition {len(new)}: {shown(commit)}", flush=True)
    every = len(git("rev-list", "--no-merges", f"{since}..HEAD").split())
    print(f"\n{every} commits since {since}, {len(found)} of which touched components/ or the locked versions")
    for name, place in {"by module": 0, "by definition": 1}.items():
        hit = sum(bool(pair[place]) for pair in found.values())
        trained = sum(len(pair[place]) for pair in found.values())
        share, part = hit / every, trained / (every * len(FAMILIES))
        print(f"  {name:14}{hit:4} commits change a training key ({share:.0%}), {trained:4} trainings ({part:.0%})")
    for said, differ in {
        "old changes, new stays": [one for one, (old, new) in found.items() if old - new],
        "old stays, new changes": [one for one, (old, new) in found.items() if new - old],
    }.items():
        print(f"\n{said}: {len(differ)} commits")
        for commit in differ:
            old, new = found[commit]
            print(f"  {', '.join(sorted(old ^ new))}: {shown(commit)}")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--since", default=FIRST, help="the commit before the first that counts")
    words.add_argument("-v", "--verbose", action="store_true", help="say of each commit what changed")
    given = words.parse_args()
    times()
    try:
        history(given.since, given.verbose)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"The shares are read from git's history: {error.stderr.decode().strip()}") from error


if __name__ == "__main__":
    main()
