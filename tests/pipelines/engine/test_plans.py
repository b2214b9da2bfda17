"""
Plans: what is remembered is used while nothing that decided it has changed, and no longer.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.engine import plans
from pipelines.engine.plans import Request, drawn, nodes, remembered, statuses, verdict
from pipelines.engine.store import Store

ROOT = Path(__file__).resolve().parents[3]
MINE = '''
from components.families.voxnet import VoxNet
from components.source import Source
from components.steps.preprocess import preprocess
from pipelines.engine.pipeline import pipeline


@pipeline
def mine(source: Source = "furniture", size: str = "tiny"):
    """A table."""
    preprocess(source, [VoxNet.at(size).representation()])
'''
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    folder = tmp_path / "shapes"
    for label in ("chair", "table"):
        for number in range(3):
            path = folder / label / "deep" / f"{number}.obj"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(TRIANGLE)
    return folder


@pytest.fixture
def request_(tmp_path: Path, shapes: Path) -> Request:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return Request(path, {"source": "folder"}, {}, {"root": str(shapes)})


def test_a_plan_is_drawn_once(request_, store):
    assert remembered(request_, store) is None
    first = nodes(request_, store)

    assert remembered(request_, store) == first


def test_another_command_is_another_plan(request_, store):
    nodes(request_, store)
    other = Request(request_.pipeline, {**request_.texts, "size": "paper"}, {}, request_.source)
    sets = Request(request_.pipeline, request_.texts, {"voxnet": {"lr": "1"}}, request_.source)

    assert remembered(other, store) is None
    assert remembered(sets, store) is None


def test_a_changed_comment_of_the_pipeline_draws_it_anew_with_the_same_keys(request_, store):
    before = nodes(request_, store)
    request_.pipeline.write_text(MINE + "# a remark\n")

    assert remembered(request_, store) is None
    assert [n["key"] for n in nodes(request_, store)] == [n["key"] for n in before]


def test_a_file_that_is_only_touched_leaves_the_plan(request_, store):
    nodes(request_, store)
    os.utime(request_.pipeline, (1, 1))

    assert remembered(request_, store) is not None


@pytest.mark.parametrize(
    "file",
    [
        "components/families/voxnet.py",
        "components/representations/voxels.py",
        "components/kernels/voxels.py",
        "components/sources/folder.py",
        "components/decode.py",
        "components/steps/preprocess.py",
        "pipelines/engine/keys.py",
        "constraints.txt",
    ],
)
def test_every_file_that_decides_a_key_is_watched(request_, store, file):
    """The source is found by its name: no import of the pipeline shows components/sources/folder.py."""
    drawn(request_, store)

    assert file in store.load(f"plans/{request_.digest()}.json")["files"]


def test_data_files_that_ship_are_watched(request_, store):
    request = Request(request_.pipeline, {}, {}, {})
    drawn(request, store)

    assert "components/sources/data/furniture.bin" in store.load(f"plans/{request.digest()}.json")["files"]


def test_a_change_of_a_watched_file_ends_the_plan(request_, store, monkeypatch):
    drawn(request_, store)
    changed = plans._contents
    monkeypatch.setattr(plans, "_stamp", lambda path: [0, 0])
    monkeypatch.setattr(plans, "_contents", lambda path: "other" if path.name == "voxels.py" else changed(path))

    assert remembered(request_, store) is None


def change(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, ns=(time.time_ns(), time.time_ns()))


@pytest.mark.parametrize("what", ["a new shape", "other bytes", "one shape less"])
def test_a_change_deep_in_a_folder_of_shapes_ends_the_plan(request_, store, shapes, what):
    before = nodes(request_, store)
    if what == "a new shape":
        change(shapes / "chair" / "deep" / "new.obj", TRIANGLE)
    elif what == "other bytes":
        change(shapes / "chair" / "deep" / "0.obj", TRIANGLE.replace("1 0 0", "2 0 0"))
    else:
        (shapes / "chair" / "deep" / "0.obj").unlink()

    assert [n["key"] for n in nodes(request_, store)] != [n["key"] for n in before]


def test_the_same_shapes_elsewhere_have_the_same_keys(request_, store, shapes, tmp_path):
    before = nodes(request_, store)
    shutil.copytree(shapes, tmp_path / "elsewhere")
    moved = Request(request_.pipeline, request_.texts, {}, {"root": str(tmp_path / "elsewhere")})

    assert [n["key"] for n in nodes(moved, store)] == [n["key"] for n in before]


def test_an_installed_package_ends_the_plan(request_, store, monkeypatch, tmp_path):
    monkeypatch.setattr(plans, "PACKAGES", str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    drawn(request_, store)
    (tmp_path / "site" / "numpy-9.dist-info").mkdir()

    assert remembered(request_, store) is None


def test_a_drawing_is_the_same_in_another_process(request_, store):
    """Sets have another order there; keys must not."""
    before = [node["key"] for node in nodes(request_, store)]
    code = (
        "import sys, json; from pathlib import Path;"
        "from pipelines.engine.plans import Request, drawn; from pipelines.engine.store import Store;"
        f"r = Request(Path({str(request_.pipeline)!r}), {dict(request_.texts)!r}, {{}}, {dict(request_.source)!r});"
        "print(json.dumps([n['key'] for n in drawn(r, Store(sys.argv[1]))]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(store.address) + "2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )

    assert other.stdout.strip() == str(before).replace("'", '"'), other.stderr


def test_statuses_are_manifests(store):
    store.commit("a", {"result": 1})

    assert statuses([{"key": "a"}, {"key": "b"}], store) == {"a": {"result": 1}, "b": None}


@pytest.mark.parametrize(("said", "code"), [("PROMOTE", 0), ("HOLD", 0), ("REJECT", 3)])
def test_a_gate_that_said_no_is_an_exit_code_of_its_own(said, code):
    assert verdict({"a": {"result": 1}, "b": None, "c": {"result": {"verdict": said}}}) == code


def test_a_source_that_the_pipeline_makes_itself_is_watched_as_well(tmp_path, shapes, store):
    path = tmp_path / "own.py"
    text = MINE.replace('source: Source = "furniture", ', "").replace(
        "preprocess(source", "preprocess(Folder(root=ROOT)"
    )
    path.write_text(f"from components.sources.folder import Folder\nROOT = {str(shapes)!r}\n{text}")
    request = Request(path, {}, {}, {})
    before = nodes(request, store)
    change(shapes / "chair" / "deep" / "0.obj", TRIANGLE.replace("1 0 0", "2 0 0"))

    assert [n["key"] for n in nodes(request, store)] != [n["key"] for n in before]


def test_a_plan_holds_the_code_that_its_steps_share_once(request_, store):
    request_.pipeline.write_text(MINE + "    preprocess(source, [VoxNet(resolution=16).representation()])\n")
    found = drawn(request_, store)

    assert len(found) == 2
    assert len(store.load(f"plans/{request_.digest()}.json")["code"]) == 1
    assert found[0]["ingredients"]["code"] == found[1]["ingredients"]["code"]
    assert "components.steps.preprocess" in found[0]["ingredients"]["code"]


def test_what_a_module_defines_is_kept_for_each_of_its_digests(request_, store):
    code = drawn(request_, store)[0]["ingredients"]["code"]
    defined = store.load(f"code/{code['components.steps.preprocess']}.json")

    assert {"preprocess", "shards", "constant SHARD", "Shard", "field Shard.rows"} <= defined.keys()
