"""
One node in whatever process it is: what it reads is what its key holds, and an error comes with its class.
"""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.errors import DataError
from components.runtime.serialization import decode
from components.sources.folder import Folder
from components.steps.preprocess import preprocess
from components.steps.train import train
from pipelines.engine.execution.context import Running
from pipelines.engine.execution.task import _failed, sentence, work
from pipelines.engine.graph.tracing import draw
from pipelines.engine.store.store import Store
from tests.meshes import shape, small_voxnet, write_shapes
from tests.pipelines.engine.toys import amiss, leave, look, parse, total

FAMILY = small_voxnet(steps=2)


def shaped(source: Folder) -> None:
    preprocess(source, [FAMILY.representation()], on="here")


def streamed(source: Folder) -> None:
    train(FAMILY, preprocess.stream(source, FAMILY.representation()), workers=0)


def part(source: Folder) -> None:
    preprocess(source.only(value="flat/0.obj"), [FAMILY.representation()], on="here")


def by_hand(source: Folder) -> None:
    look(source)


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes", each=4)


def node_of(pipeline: Callable[..., None], root: Path) -> dict[str, Any]:
    (node,) = draw(pipeline, {"source": Folder(root=str(root))}, {}).nodes.values()
    return json.loads(json.dumps(asdict(node)))


def done(node: dict[str, Any], store: Store) -> dict[str, Any]:
    return work(node, "run", store.address, {"CPU": 1})


def save(root: Path) -> None:
    (root / "flat" / "0.obj").write_text(shape("flat", 99))


def add(root: Path) -> None:
    (root / "flat" / "new.obj").write_text(shape("flat", 99))


def remove(root: Path) -> None:
    (root / "flat" / "0.obj").unlink()


@pytest.mark.parametrize("change", [save, add, remove])
@pytest.mark.parametrize("pipeline", [shaped, streamed, by_hand])
def test_a_source_that_changed_since_its_plan_was_drawn_gives_nothing_under_the_old_key(store, root, pipeline, change):
    node = node_of(pipeline, root)
    change(root)
    outcome = done(node, store)

    assert (outcome["ok"], outcome["kind"], outcome["code"]) == (False, "data", 1)
    assert outcome["error"].startswith("A step reads what its source listed when the plan was drawn, but files were")
    assert "Run again" in outcome["error"]
    assert store.manifest(node["key"]) is None
    assert done(node_of(pipeline, root), store)["ok"]


def test_a_part_of_a_source_is_refused_when_it_changed_and_no_other_part(store, root):
    node = node_of(part, root)
    (root / "long" / "0.obj").write_text(shape("long", 99))
    assert done(node, store)["ok"]

    save(root)
    assert done(node, store)["kind"] == "data"


def test_a_file_that_is_another_only_while_a_step_lists_it_is_noticed(store, root, monkeypatch):
    """Saved, listed, and the edit undone: the listings before and after the step are those of the key."""
    node, file, rows = node_of(shaped, root), root / "flat" / "0.obj", Folder.rows

    def rows_of_another(self: Folder) -> Any:
        before = file.read_text()
        save(root)
        try:
            return rows(self)
        finally:
            file.write_text(before)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "rows", rows_of_another)
        assert done(node, store)["kind"] == "data"
    assert done(node, store)["ok"]


def test_what_is_saved_after_a_step_has_listed_it_is_not_decoded(store, root, monkeypatch):
    node, rows = node_of(shaped, root), Folder.rows

    def rows_then_saved(self: Folder) -> Any:
        found = rows(self)
        save(root)
        return found

    monkeypatch.setattr(Folder, "rows", rows_then_saved)
    outcome = done(node, store)

    assert outcome["kind"] == "data"
    assert outcome["error"].startswith("What is decoded is what was listed, but ")
    assert list(store.names("keys")) == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError("reset by peer"), "transient"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "transient"),
        (MemoryError("no room"), "memory"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "transient"),
        (TypeError("a bug"), "code"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_of_reading_has_its_class_and_leaves_nothing_that_a_healthy_run_would_lack(
    store, root, monkeypatch, error, kind
):
    node, read = node_of(shaped, root), Path.read_bytes

    def broken(path: Path) -> bytes:
        if path == root / "long" / "2.obj":
            raise error
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        patch.setattr("components.sources.folder._is_current", lambda entry: True)  # listed as it was
        outcome = done(node, store)
    assert (outcome["ok"], outcome["kind"]) == (False, kind)
    assert "(asset long/2.obj)" in outcome["error"]

    assert done(node, store)["ok"]
    table = decode(store.manifest(node["key"])["result"])
    assert table.counts["quarantined"] == 0
    assert len(pq.read_table(table.assets.path())) == 12


def test_an_error_is_told_with_what_was_noted_of_it():
    error = DataError("It is torn.")
    error.add_note("(asset chair/a.obj)")

    assert sentence(error) == "It is torn. (asset chair/a.obj)"


def exits() -> None:
    leave()


def exits_deep() -> None:
    parse(["--nope"])


@pytest.mark.parametrize(("pipeline", "title", "code"), [(exits, "leave", "3"), (exits_deep, "parse", "2")])
def test_a_step_that_calls_exit_fails_at_once_with_its_words(store, pipeline, title, code):
    (node,) = draw(pipeline, {}, {}).nodes.values()
    outcome = done(json.loads(json.dumps(asdict(node))), store)

    words = f"Step {title} ends by returning or raising, but called sys.exit({code}). Raise an error instead."
    assert (outcome["ok"], outcome["kind"], outcome["code"], outcome["error"]) == (False, "user", 1, words)
    assert "SystemExit" in outcome["traceback"]
    assert store.manifest(node.key) is None


def test_a_worker_that_ray_ends_is_no_error_of_its_step(store, monkeypatch):
    """Ray's handler of SIGTERM raises from its own code."""
    monkeypatch.setitem(leave.function.__globals__, "sys", SimpleNamespace(exit=rays_exit))
    (node,) = draw(exits, {}, {}).nodes.values()

    with pytest.raises(SystemExit):
        done(json.loads(json.dumps(asdict(node))), store)


def rays_exit(code: int) -> None:
    from ray._raylet import raise_sys_exit_with_custom_error_message

    raise_sys_exit_with_custom_error_message("The process receives a SIGTERM.", exit_code=code)


def short() -> None:
    low, _ = amiss(["one"])
    total([low])


def surrogate() -> None:
    amiss(["one", "two"], spoil=True)


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        (short, "amiss has 2 outputs, low, high, but returned 1 values. Return one value for each"),
        (surrogate, r"Text that is kept is UTF-8, but got '\udcff'. Leave out"),
    ],
)
def test_a_result_that_is_none_is_not_committed(store, pipeline, words):
    node, *_ = draw(pipeline, {}, {}).nodes.values()
    outcome = done(json.loads(json.dumps(asdict(node))), store)

    assert (outcome["ok"], outcome["kind"]) == (False, "data")
    assert outcome["error"].startswith(words)
    assert store.manifest(node.key) is None


@pytest.mark.parametrize(
    "say",
    [
        lambda context: context.note({"name": "\udcff"}),
        lambda context: context.log({"\udcff": 1.0}, 0),
        lambda context: context.progress(1, 2, "\udcff"),
        lambda context: context.file("\udcff", b""),
    ],
    ids=["note", "log", "progress", "file"],
)
def test_what_a_step_says_is_text_that_a_report_can_hold(store, say):
    context = Running(store, "run", "key", (), 0, {})
    with pytest.raises(DataError, match="Text that is kept is UTF-8"):
        say(context)
    assert context.waiting == []


def test_what_an_error_says_is_text_that_a_report_can_hold():
    assert sentence(DataError("no file \udcff")) == r"no file \udcff"
    _failed(ValueError("\udcff"))["traceback"].encode()
