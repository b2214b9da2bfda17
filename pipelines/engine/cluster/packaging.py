"""
Packing: the project as one archive, for a cluster that has not seen it.

What git does not track is left at home, .git as well; submodules are sent, and links as what they lead to, if that is
sent. Without a repository what .gitignore names is left at home.
The archive depends on the files' names and bytes alone, so that Ray uploads it once for however many jobs.
"""

import os
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from components.errors import UsageError

LIMIT = 100 * 2**20
"""bytes: Ray's dashboard takes no larger upload"""
SHOWN = 10  # largest files that a refusal names
NEW = ("--others", "--exclude-standard")  # what git has not been told of, less what it ignores
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file can tell


def pack(root: Path, target: Path, extra: Mapping[str, Path] | None = None) -> Path:
    """Writes the files of a project, and others under names of their own, to a zip file."""
    found = {str(name): root / name for name in listed(root)} | dict(extra or {})
    _check({name: path.stat().st_size for name, path in found.items()}, root)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(found.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            archive.writestr(entry, path.read_bytes())
    return target


def listed(root: Path, *, new: bool = False) -> list[Path]:
    """The files below a folder that git keeps, relative to it; with `new` those too that it has not been told of."""
    names = _kept(root) | (set(_by_git(root, *NEW)) if new else set())
    links = {name for name in names if (root / name).is_symlink()}
    files = {name for name in names - links if (root / name).is_file()}  # git lists what is deleted but not committed
    return sorted(files.union(*(_through(root, link, files) for link in links)))


def _kept(root: Path) -> set[Path]:
    """
    Files that git tracks; where it tracks nothing yet, those that it would.

    It knows nothing of a folder without a repository, or that the one around it ignores.
    """
    return set(_by_git(root)) or set(_by_git(root, *NEW)) or set(_by_patterns(root))


def _through(root: Path, link: Path, files: Set[Path]) -> set[Path]:
    """The target of a link under the link's own name: a file, or those of a folder."""
    if not (root / link).exists():
        return set()
    target, top = (root / link).resolve(), root.resolve()
    place = target.relative_to(top) if target.is_relative_to(top) else None
    if place is None or (target.is_file() and place not in files):
        raise UsageError(
            f"A link that is sent to a cluster leads to what is sent as well, but {link} leads to {target}. Put a copy "
            "in its place, or add the link to .gitignore."
        )
    return {link / name.relative_to(place) for name in files if name.is_relative_to(place)}


def _by_git(root: Path, *more: str) -> Iterator[Path]:
    """Files by git's own listing, with those of submodules."""
    command = ["git", "-C", str(root), "ls-files", "--cached", *more, "-z"]
    try:
        said = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git here, no repository, or somebody else's
        return
    for name in (Path(os.fsdecode(name)) for name in said.split(b"\0") if name):
        inside = root / name
        if (inside / ".git").exists() and not inside.is_symlink():  # git names a repository within it, no file of that
            yield from (name / inner for inner in _kept(inside))
        else:
            yield name


def _by_patterns(root: Path) -> Iterator[Path]:
    """The same without git: the .gitignore of each folder speaks for what is below it, the deepest first."""
    from pathspec import GitIgnoreSpec

    specs: dict[Path, GitIgnoreSpec] = {}

    def ignored(path: Path, mark: str = "") -> bool:
        for folder in path.parents:
            spec = specs.get(folder)
            said = spec.check_file(path.relative_to(folder).as_posix() + mark).include if spec else None
            if said is not None:
                return said
        return False

    for here, folders, names in os.walk(root):
        place = Path(here).relative_to(root)
        if ".gitignore" in names:
            specs[place] = GitIgnoreSpec.from_lines(
                (Path(here) / ".gitignore").read_text(encoding="utf-8").splitlines()
            )
        folders[:] = [name for name in folders if name != ".git" and not ignored(place / name, "/")]
        links = [name for name in folders if (Path(here) / name).is_symlink()]  # which the walk does not follow
        yield from (place / name for name in [*names, *links] if name != ".git" and not ignored(place / name))


def _check(sizes: Mapping[str, int], root: Path) -> None:
    total = sum(sizes.values())
    if total <= LIMIT:
        return
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:SHOWN]
    names = ", ".join(f"{name} ({_mib(size)})" for name, size in largest)
    raise UsageError(
        f"What is sent to a cluster is at most {_mib(LIMIT)}, but {root} has {_mib(total)}. Add what the cluster does "
        f"not need to .gitignore. The largest: {names}."
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
