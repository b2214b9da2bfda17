"""
Constants, annotations and class attributes do not run, so no tracer sees them: each definition of the project is
changed, one at a time. Those that a training of PointNet reaches change its key, and of the others none does.

Every one of them once in a few dozen runs: the commit draws which. Sources are changed in memory.
"""

import ast
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engine.caching import modules as code
from pipelines.engine.caching.definitions import package_of, read, shown
from pipelines.engine.caching.fingerprint import fingerprint, is_in_no_key
from pipelines.engine.caching.modules import ROOT

ROOTS = (("components.steps.train", "train"), ("components.families.shapes.pointnet", "PointNet"))
DRAWN = 40
"""of each kind"""

Place = tuple[str, int, int]
"""module, statement of it, statement of its class; -1 for the whole of it"""


class Changed:
    """The sources, one of them with a change in a statement."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real, self.texts = code.text_of, dict[str, bytes]()
        monkeypatch.setattr(code, "text_of", self.text_of)

    def text_of(self, name: str, path: Path | None = None) -> object:
        if name not in self.texts:
            return self.real(name, path)
        path = path or code.path_of(name)
        assert path
        return read.__wrapped__(self.texts[name], shown(path, ROOT), package_of(name, path))

    def digest(self, place: Place) -> str:
        self.texts = {place[0]: changed(place)}
        return fingerprint(ROOTS).digest


def changed(place: Place) -> bytes:
    """The text of a module whose statement does something else, or is something else."""
    module, outer, inner = place
    tree = ast.parse(source(module).read_bytes())
    statement = tree.body[outer]
    if inner >= 0:
        assert isinstance(statement, ast.ClassDef)
        statement = statement.body[inner]
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        statement.body.append(ast.parse("odd = 271828").body[0])
    elif isinstance(statement, ast.AnnAssign) and random.Random(str(place)).random() < 0.5:
        statement.annotation = ast.parse(f"({ast.unparse(statement.annotation)}, 271828)", mode="eval").body
    else:
        assert isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign)
        value = ast.unparse(statement.value) if statement.value else "None"
        statement.value = ast.parse(f"({value}, 271828)", mode="eval").body
    return ast.unparse(ast.fix_missing_locations(tree)).encode()


def source(module: str) -> Path:
    path = code.path_of(module)
    assert path
    return path


def places(module: str) -> Iterator[tuple[Place, str]]:
    """Every definition of a module, and every field and method of its classes, with the definition's name."""
    for outer, statement in enumerate(ast.parse(source(module).read_bytes()).body):
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
            continue
        target = getattr(statement, "target", getattr(statement, "targets", [None])[0])
        name = getattr(statement, "name", getattr(target, "id", ""))
        yield (module, outer, -1), name
        for inner, one in enumerate(statement.body if isinstance(statement, ast.ClassDef) else []):
            if isinstance(one, ast.FunctionDef | ast.Assign | ast.AnnAssign):
                yield (module, outer, inner), name


def everything() -> list[tuple[Place, str]]:
    paths = sorted((ROOT / "components").rglob("*.py"))
    modules = (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)
    return [found for module in modules if not is_in_no_key(module) for found in places(module)]


def reached() -> set[tuple[str, str]]:
    listing = fingerprint(ROOTS).listing
    return {(m, label.rpartition(" ")[2].partition(".")[0]) for m, labels in listing.items() for label in labels}


@pytest.fixture(scope="module")
def drawn() -> random.Random:
    said = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    return random.Random(said)


def test_a_change_of_any_definition_that_is_reached_changes_the_key(monkeypatch, drawn):
    before, known = fingerprint(ROOTS).digest, reached()
    candidates = [place for place, name in everything() if (place[0], name) in known]
    project = Changed(monkeypatch)
    chosen = drawn.sample(candidates, DRAWN)

    assert len(candidates) > 300
    assert [place for place in chosen if project.digest(place) == before] == []


def test_a_change_of_any_definition_that_is_not_reached_changes_nothing(monkeypatch, drawn):
    before, known = fingerprint(ROOTS).digest, reached()
    candidates = [place for place, name in everything() if name and (place[0], name) not in known]
    project = Changed(monkeypatch)
    chosen = drawn.sample(candidates, DRAWN)

    assert len(candidates) > 300
    assert [place for place in chosen if project.digest(place) != before] == []
