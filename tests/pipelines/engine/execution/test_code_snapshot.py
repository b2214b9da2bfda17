"""
The copy of the code that a run executes.
"""

import subprocess
from pathlib import Path

import pytest

from components.errors import DataError
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.execution import code_snapshot
from pipelines.engine.execution.code_snapshot import take
from pipelines.engine.graph.plan_cache import Request, drawn
from pipelines.engine.store.store import Store

MINE = """
from components.step import step
from helpers.deep import FACTOR
from pipelines.engine.pipeline import pipeline


@step
def mul(value: int) -> int:
    return value * FACTOR


@pipeline
def mine(value: int = 1):
    mul(value)
"""


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    """A pipeline of one's own with a module beside it, and a file that nobody asked for."""
    folder = tmp_path / "home"
    (folder / "helpers").mkdir(parents=True)
    (folder / "mine.py").write_text(MINE)
    (folder / "helpers" / "__init__.py").write_text("")
    (folder / "helpers" / "deep.py").write_text("FACTOR = 2\n")
    (folder / "helpers" / "table.json").write_text("{}")
    (folder / "notes.py").write_text("private = True\n")
    return Request(folder / "mine.py", {}, {}, {})


def test_a_copy_holds_the_project_and_what_keys_cover_of_ones_own(request_, own_store):
    store = Store(str(own_store))
    folder = take(request_, drawn(request_, store), store)
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert {"rayfield_mine.py", "helpers/__init__.py", "helpers/deep.py", "helpers/table.json"} <= held
    assert {"components/step.py", "pipelines/engine/execution/task.py", "components/sources/data/furniture.bin"} <= held
    assert "notes.py" not in held and not {name for name in held if name.startswith("tests/")}
    assert (folder / "components" / "step.py").read_bytes() == (ROOT / "components" / "step.py").read_bytes()


def test_a_module_that_git_does_not_know_yet_is_in_the_copy(tmp_path, monkeypatch):
    for name in ("components/old.py", "components/table.bin", "pipelines/old.py", ".gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ignored.py\n")
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    for name in ("components/runtime/new.py", "pipelines/ignored.py", "components/__pycache__/old.py", "loose.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(code_snapshot, "ROOT", tmp_path)
    monkeypatch.setattr(code_snapshot, "LOCK", tmp_path / "constraints.txt")

    assert set(code_snapshot.files([])) == {
        "components/old.py", "components/table.bin", "pipelines/old.py", "components/runtime/new.py",
    }  # fmt: skip


def test_the_same_code_is_copied_once(request_, own_store):
    store = Store(str(own_store))
    nodes = drawn(request_, store)
    first = take(request_, nodes, store)
    (first / "mark").touch()

    assert take(request_, nodes, store) == first and (first / "mark").exists()
    (request_.pipeline.parent / "helpers" / "deep.py").write_text("FACTOR = 3\n")
    nodes = drawn(request_, store)
    assert take(request_, nodes, store) != first


def test_code_that_is_edited_after_the_plan_was_drawn_is_not_run_under_its_key(request_, own_store):
    store = Store(str(own_store))
    nodes = drawn(request_, store)
    (request_.pipeline.parent / "helpers" / "deep.py").write_text("FACTOR = 3\n")

    with pytest.raises(DataError, match=r"helpers/deep.py changed since then. Run again"):
        take(request_, nodes, store)
