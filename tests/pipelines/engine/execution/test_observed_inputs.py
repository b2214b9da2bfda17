"""
What a step reads that no key holds is named in its manifest, and a strict step fails on it.
"""

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from pipelines.engine.execution.code_snapshot import take
from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Outcome, Runner
from pipelines.engine.graph.plan_cache import Request, drawn
from pipelines.engine.store.store import Store

MINE = """
import os
from pathlib import Path

from components.step import step
from pipelines.engine.pipeline import pipeline


@step{strict}
def reads(value: int) -> int:
    {what}
    return value


@pipeline
def mine(value: int = 1):
    reads(value)
"""


def run(folder: Path, store: Store, what: str, strict: str = "") -> tuple[Outcome, str, dict]:
    """How a run of one step ended, its key, and its manifest."""
    (folder / "mine.py").write_text(MINE.format(what=what, strict=strict))
    request = Request(folder / "mine.py", {}, {}, {})
    (node,) = drawn(request, store)
    with patch.dict(os.environ, RAYFIELD_CODE=str(take(request, [node], store))):
        outcome = Runner(store, "run", [node], Here)()
    return outcome, node["key"], store.manifest(node["key"]) or {}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file outside the folders that steps may use."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/nowhere")
    (tmp_path / "words").write_text("one two")
    return tmp_path / "words"


def test_a_file_that_is_opened_by_a_path_is_named(tmp_path, own_store, words):
    _, _, manifest = run(tmp_path, Store(str(own_store)), f"Path({str(words)!r}).read_text()")

    assert manifest["also"] == [str(words)]


@pytest.mark.parametrize("how", ["os.listdir('.')", "list(os.scandir())", "sorted(Path('.').iterdir())"])
def test_a_folder_that_is_listed_is_named_though_python_looks_for_modules_there(
    tmp_path, own_store, words, monkeypatch, how
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    _, _, manifest = run(tmp_path, Store(str(own_store)), how)

    assert manifest["also"] == [str(tmp_path)]


def test_a_variable_that_is_read_is_named_and_one_that_says_where_things_are_is_not(tmp_path, own_store, monkeypatch):
    monkeypatch.setenv("WORDS", "three")
    what = 'os.environ["WORDS"], os.environ.get("RAYFIELD_STORE")'
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert manifest["also"] == ["the variable WORDS"]


@pytest.mark.parametrize("what", ['os.getenv("WORDS")', 'os.environ.get("WORDS")'])
def test_a_variable_is_named_however_a_step_reads_it(tmp_path, own_store, monkeypatch, what):
    monkeypatch.setenv("WORDS", "three")
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert "the variable WORDS" in manifest["also"]


def test_what_a_library_reads_of_the_environment_for_itself_is_not_named(tmp_path, own_store, monkeypatch):
    """As numba does when it compiles: on a machine that has compiled nothing yet a strict step would fail."""
    monkeypatch.setenv("LOGNAME", "somebody")
    _, _, manifest = run(tmp_path, Store(str(own_store)), "import getpass; getpass.getuser()")

    assert manifest["also"] == []


def test_a_module_that_is_imported_by_a_made_up_name_is_named(tmp_path, own_store, monkeypatch):
    (tmp_path / "late_one.py").write_text("LATE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    what = 'import builtins; getattr(builtins, "__imp" + "ort__")("late_" + "one")'
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert manifest["also"] == ["the module late_one"]


READ = {
    "a script that is executed": "exec(open({path!r}).read())",
    "a script that runpy runs": "import runpy; runpy.run_path({path!r})",
    "a module that is made of a file": "import importlib.util as u; s = u.spec_from_file_location('x', {path!r}); "
    "s.loader.exec_module(u.module_from_spec(s))",
    "a file of a package": "import sys, pkgutil as p; sys.path += [{folder!r}]; p.get_data('late', 'late_one.py')",
    "a file that a thread of a pool reads": "from concurrent.futures import ThreadPoolExecutor as T; "
    "T(1).submit(open, {path!r}).result().close()",
    "a library": "import ctypes, contextlib\n    with contextlib.suppress(OSError): ctypes.CDLL({path!r})",
}


@pytest.mark.parametrize("how", READ)
def test_code_that_is_read_by_its_path_is_named(tmp_path, own_store, words, how):
    path = tmp_path / "elsewhere" / "late" / "late_one.py"
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").write_text("")
    path.write_text("LATE = 1\n")
    what = READ[how].format(path=str(path), folder=str(path.parent.parent))
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert str(path) in manifest["also"]


def test_what_ones_own_module_reads_when_it_is_imported_is_named_and_fails_a_strict_step(
    tmp_path, own_store, words, monkeypatch
):
    monkeypatch.setenv("WORDS", "three")
    (tmp_path / "helper.py").write_text(f"import os\nLIMIT = os.environ['WORDS'] + open({str(words)!r}).read()\n")
    _, _, manifest = run(tmp_path, Store(str(own_store)), "import helper; str(helper.LIMIT)")
    outcome, _, _ = run(tmp_path, Store(str(own_store)), "import helper; str(helper.LIMIT)", strict="(strict=True)")

    assert manifest["also"] == [str(words), "the variable WORDS"]
    assert not outcome.ok


def test_a_variable_that_is_read_by_an_environment_that_was_handed_in_is_named(tmp_path, own_store, monkeypatch):
    monkeypatch.setenv("WORDS", "three")
    what = '(lambda env=os.environ: env.get("WORDS"))()'
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert manifest["also"] == ["the variable WORDS"]


def test_what_is_read_of_a_database_is_named(tmp_path, own_store, words):
    what = f"import sqlite3; sqlite3.connect({str(words)!r}).close()"
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert manifest["also"] == [str(words)]


ALLOWED = {
    "a data file of its own package": "import importlib.resources as r, pkg; str(pkg); "
    "r.files('pkg').joinpath('words.txt').read_text()",
    "the tables of the system": "from zoneinfo import ZoneInfo; ZoneInfo('Europe/Berlin'); "
    "import mimetypes; mimetypes.init()",
    "what it wrote itself": "Path('new').write_text('words'); Path('new').read_text(); Path('new').unlink()",
}


@pytest.mark.parametrize("how", ALLOWED)
def test_a_strict_step_may_read(tmp_path, own_store, words, monkeypatch, how):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "words.txt").write_text("one")
    outcome, _, manifest = run(tmp_path, Store(str(own_store)), ALLOWED[how], strict="(strict=True)")

    assert outcome.ok, outcome.errors
    assert manifest["also"] == []


def test_all_of_the_environment_for_another_program_is_no_variable_that_is_read(tmp_path, own_store, monkeypatch):
    monkeypatch.setenv("WORDS", "three")
    what = 'import subprocess; subprocess.run(["true"], env=dict(os.environ)); os.environ.copy()'
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert manifest["also"] == []


def test_a_variable_that_a_package_asks_for_is_its_own(tmp_path, own_store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    _, _, manifest = run(tmp_path, Store(str(own_store)), "import shutil; shutil.get_terminal_size()")

    assert manifest["also"] == []


def test_a_data_file_of_the_project_that_is_in_no_key_is_named(tmp_path, own_store, words):
    what = 'import importlib.resources as r; r.files("components").joinpath("sources/data/furniture.bin").read_bytes()'
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert [Path(one).name for one in manifest["also"]] == ["furniture.bin"]


def test_a_folder_that_is_removed_is_not_read(tmp_path, own_store, words):
    (words.parent / "old" / "deep").mkdir(parents=True)
    what = f"import shutil; shutil.rmtree({str(words.parent / 'old')!r})"
    _, _, manifest = run(tmp_path, Store(str(own_store)), what)

    assert manifest["also"] == []


def test_a_step_that_reads_nothing_besides_has_nothing_named(tmp_path, own_store):
    _, _, manifest = run(tmp_path, Store(str(own_store)), 'open("/dev/null").close()')

    assert manifest["also"] == []


def test_a_strict_step_fails_on_what_no_key_holds(tmp_path, own_store, words):
    what = f"Path({str(words)!r}).read_text()"
    outcome, key, manifest = run(tmp_path, Store(str(own_store)), what, "(strict=True)")

    assert manifest == {} and not outcome.ok
    assert f"but reads read {words}. Pass it as a parameter" in outcome.errors[key]["error"]
