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

from components.errors import UsageError
from components.sources.folder import Folder
from pipelines.engine.graph import plan_cache
from pipelines.engine.graph.plan_cache import Request, drawn, nodes, remembered, statuses, verdict
from pipelines.engine.store.store import Store

ROOT = Path(__file__).resolve().parents[4]
MINE = '''
from components.families.shapes.voxnet import VoxNet
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
        "components/families/shapes/voxnet.py",
        "components/representations/voxels.py",
        "components/kernels/voxels.py",
        "components/sources/folder.py",
        "components/formats/decode.py",
        "components/steps/preprocess.py",
        "pipelines/engine/caching/cache_key.py",
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
    changed = plan_cache._contents
    monkeypatch.setattr(plan_cache, "_whole_stamp", lambda path: [0, 0, 0, 0])
    monkeypatch.setattr(plan_cache, "_contents", lambda path: "other" if path.name == "voxels.py" else changed(path))

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
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    drawn(request_, store)
    (tmp_path / "site" / "numpy-9.dist-info").mkdir()

    assert remembered(request_, store) is None


def test_what_a_package_puts_on_the_path_for_itself_leaves_the_plan(request_, store, monkeypatch, tmp_path):
    """As Ray does when it is imported, after the plan was looked for."""
    own = tmp_path / "site-packages" / "ray" / "thirdparty_files"
    drawn(request_, store)
    monkeypatch.syspath_prepend(str(own))
    (own / "numpy-9.dist-info").mkdir(parents=True)

    assert remembered(request_, store) is not None


def test_a_drawing_is_the_same_in_another_process(request_, store):
    """Sets have another order there; keys must not."""
    before = [node["key"] for node in nodes(request_, store)]
    code = (
        "import sys, json; from pathlib import Path;"
        "from pipelines.engine.graph.plan_cache import Request, drawn; from pipelines.engine.store.store import Store;"
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


def test_what_a_code_consists_of_is_kept_for_each_of_its_digests(request_, store):
    code = drawn(request_, store)[0]["ingredients"]["code"]
    defined = store.load(f"code/{code['code']}.json")["components.steps.preprocess"]

    assert {"preprocess", "shards", "constant SHARD", "Shard", "field Shard.rows"} <= defined.keys()


# What a pipeline of one's own reads

READER = """
import json
import os
from pathlib import Path

{top}
from pipelines.engine.pipeline import pipeline
from tests.benchmarks.trivial import add


@pipeline
def reader():
    add(number={value})
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own files."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def written(home: Path, value: str, top: str = "") -> Request:
    (home / "reader.py").write_text(READER.format(top=top, value=value))
    return Request(home / "reader.py", {}, {}, {})


def given(request: Request, store: Store, path: str = "", cwd: Path = ROOT) -> int:
    """What the step is given, by a process of its own."""
    code = (
        "import sys, json; from pathlib import Path;"
        "from pipelines.engine.graph.plan_cache import Request, nodes; from pipelines.engine.store.store import Store;"
        "found = nodes(Request(Path(sys.argv[1]), {}, {}, {}), Store(sys.argv[2]));"
        "print(found[0]['parameters']['number'])"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code, str(request.pipeline), store.address],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))},
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


@pytest.mark.parametrize("where", ["beside the pipeline", "on Python's path"])
@pytest.mark.parametrize("file", ["helper.py", "helper/__init__.py", "helper/inner.py"])
def test_a_changed_module_of_the_users_own_ends_the_plan(home, store, tmp_path, where, file):
    folder = home if where == "beside the pipeline" else tmp_path / "path"
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    change(folder / file, "VALUE = 1\n")
    request = written(home, "VALUE", f"from {file.removesuffix('.py').replace('/', '.')} import VALUE")
    assert given(request, store, str(folder)) == 1
    change(folder / file, "VALUE = 22\n")

    assert given(request, store, str(folder)) == 22


def test_a_module_that_hides_another_on_pythons_path_ends_the_plan(home, store, tmp_path):
    for folder, value in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helper.py").write_text(f"VALUE = {value}\n")
    request = written(home, "VALUE", "from helper import VALUE")
    both = f"{tmp_path / 'two'}{os.pathsep}{tmp_path / 'one'}"

    assert [given(request, store, path) for path in (str(tmp_path / "one"), both)] == [1, 2]


def test_a_module_that_was_missing_ends_the_plan_when_it_appears(home, store):
    request = written(home, "VALUE", "try:\n    from helper import VALUE\nexcept ImportError:\n    VALUE = 0")
    assert given(request, store) == 0
    (home / "helper.py").write_text("VALUE = 1\n")

    assert given(request, store) == 1


READS = {
    "a file": 'json.loads(Path("conf.json").read_text())',
    "a file in full": 'json.loads(open(Path(__file__).with_name("conf.json")).read())',
    "a file that a helper reads": "VALUE",
    "a folder": 'len(list(Path(".").glob("*.json")))',
    "a folder's names": 'sum(name.endswith(".json") for name in os.listdir())',
}


@pytest.mark.parametrize("what", READS)
def test_what_the_pipeline_reads_while_it_draws_ends_the_plan_when_it_changes(home, store, what):
    change(home / "conf.json", "1")
    (home / "helper.py").write_text("VALUE = int(open('conf.json').read())\n")
    request = written(home, READS[what], "from helper import VALUE" if "helper" in what else "")
    assert given(request, store, cwd=home) == 1
    if "folder" in what:
        (home / "more.json").write_text("1")
        assert given(request, store, cwd=home) == 2
    else:
        change(home / "conf.json", "22")
        assert given(request, store, cwd=home) == 22


def test_a_file_that_was_missing_ends_the_plan_when_it_appears(home, store):
    top = "def read():\n    try:\n        return int(open('conf.json').read())\n    except OSError:\n        return 0\n"
    request = written(home, "read()", top)
    assert given(request, store, cwd=home) == 0
    (home / "conf.json").write_text("1")

    assert given(request, store, cwd=home) == 1


def test_a_file_that_is_named_from_another_folder_is_another_one(home, store, tmp_path):
    for folder, value in ((home, "1"), (tmp_path, "22")):
        (folder / "conf.json").write_text(value)
    request = written(home, READS["a file"])

    assert [given(request, store, cwd=folder) for folder in (home, tmp_path)] == [1, 22]


@pytest.mark.parametrize("read", ['os.environ["SHAPES"]', 'os.environ.get("SHAPES", 0)', 'os.getenv("SHAPES", 0)'])
def test_a_variable_that_the_pipeline_reads_ends_the_plan_when_it_changes(home, store, monkeypatch, read):
    monkeypatch.setenv("SHAPES", "1")
    request = written(home, f"int({read})")
    assert given(request, store) == 1
    monkeypatch.setenv("SHAPES", "2")

    assert given(request, store) == 2


def test_a_secret_that_the_pipeline_reads_is_not_kept_in_any_form(home, store, monkeypatch):
    monkeypatch.setenv("SHAPES_TOKEN", "dearest")
    monkeypatch.setenv("SHAPES", "1")
    request = written(home, 'len(os.environ["SHAPES_TOKEN"] + os.environ["SHAPES"])')
    drawn(request, store)

    assert list(store.load(f"plans/{request.digest()}.json")["variables"]) == ["SHAPES"]


def test_what_the_engine_the_sources_and_packages_read_is_not_taken_for_the_pipelines(request_, store, shapes):
    request_.pipeline.write_text(
        MINE.replace("from components.source ", "import numpy, scipy\nfrom components.source ")
    )
    drawn(request_, store)
    held = store.load(f"plans/{request_.digest()}.json")

    assert held["variables"] == {}
    assert {path for path in held["watch"] if not Path(path).is_relative_to(shapes)} == set()


def test_a_plan_holds_while_nothing_of_it_changes(home, store, monkeypatch):
    monkeypatch.setenv("SHAPES", "1")
    (home / "helper.py").write_text("VALUE = 1\n")
    (home / "conf.json").write_text("1")
    monkeypatch.chdir(home)
    request = written(home, f'VALUE + {READS["a file"]} + int(os.environ["SHAPES"])', "from helper import VALUE")
    first = nodes(request, store)

    assert remembered(request, store) == first


# What its steps import


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, which a test may change."""
    for folder in ("components", "pipelines"):
        shutil.copytree(ROOT / folder, tmp_path / "project" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "constraints.txt", tmp_path / "project")
    step = tmp_path / "project" / "components" / "steps" / "scaled.py"
    step.write_text(SCALED)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine.py").write_text(SCALING)
    return tmp_path / "project"


SCALED = """from components.step import step

try:
    from components.kernels.fastbits import SCALE
except ImportError:
    SCALE = 1
try:
    import mylib
except ImportError:
    mylib = None


@step
def scaled() -> int:
    return SCALE * bool(mylib)
"""
SCALING = """from components.steps.scaled import scaled
from pipelines.engine.pipeline import pipeline


@pipeline
def mine():
    scaled()
"""


def key(project: Path, store: Store, path: str = "") -> str:
    """The key of the step as another process finds it, with this folder first on Python's path."""
    code = (
        "import sys; from pathlib import Path; import pipelines.engine.graph.plan_cache as plans;"
        "from pipelines.engine.store.store import Store; assert sys.argv[3] in plans.__file__;"
        "r = plans.Request(Path(sys.argv[1]), {}, {}, {}); print(plans.nodes(r, Store(sys.argv[2]))[0]['key'])"
    )
    mine = project.parent / "home" / "mine.py"
    ended = subprocess.run(
        [sys.executable, "-P", "-B", "-c", code, str(mine), store.address, str(project)],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, str(project)]))},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.parametrize("file", ["fastbits.py", "fastbits/__init__.py"])
def test_a_module_of_the_project_that_was_missing_changes_the_key_when_it_appears(project, store, file):
    before = key(project, store)
    appears = project / "components" / "kernels" / file
    appears.parent.mkdir(exist_ok=True)
    appears.write_text("SCALE = 2\n")

    assert key(project, store) != before


@pytest.mark.parametrize("file", ["mylib.py", "mylib/__init__.py"])
def test_a_module_of_no_package_that_a_step_imports_changes_the_key(project, store, tmp_path, file):
    """When it appears, and whenever it changes."""
    (tmp_path / "path" / file).parent.mkdir(parents=True)
    without = key(project, store, str(tmp_path / "path"))
    change(tmp_path / "path" / file, "SCALE = 1\n")
    before = key(project, store, str(tmp_path / "path"))
    change(tmp_path / "path" / file, "SCALE = 22\n")

    assert len({without, before, key(project, store, str(tmp_path / "path"))}) == 3


def test_another_environment_on_the_same_store_has_keys_of_its_own_versions(project, store, tmp_path):
    step = project / "components" / "steps" / "scaled.py"
    step.write_text("import numpy\n" + step.read_text().replace("bool(mylib)", "numpy.size(mylib)"))
    (tmp_path / "path" / "numpy-9.9.9.dist-info").mkdir(parents=True)
    (tmp_path / "path" / "numpy-9.9.9.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 9.9.9\n")
    here = key(project, store)

    assert key(project, store, str(tmp_path / "path")) != here
    assert key(project, store) == here


def test_code_that_changes_while_the_plan_is_drawn_is_in_no_plan(tmp_path, store):
    """The key would hold the text that was read first, and the run execute the one that was saved since."""
    (tmp_path / "helper.py").write_text("LIMIT = 1\n")
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\nfrom components.step import step\nfrom helper import LIMIT\n"
        "from pipelines.engine.pipeline import pipeline\n\n\n"
        "@step\ndef limit() -> int:\n    return LIMIT\n\n\n"
        "@pipeline\ndef mine():\n    limit()\n"
        f"    Path({str(tmp_path / 'helper.py')!r}).write_text('LIMIT = 222\\n')\n"
    )

    with pytest.raises(UsageError, match=r"helper.py changed while it was drawn. Run again"):
        drawn(Request(tmp_path / "mine.py", {}, {}, {}), store)


def test_code_of_the_same_size_and_time_is_looked_at_all_the_same(tmp_path, store):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    request = Request(path, {}, {}, {})
    drawn(request, store)
    before = path.stat()
    path.write_text(MINE.replace("a", "e"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert path.stat().st_size == before.st_size and remembered(request, store) is None


def test_a_file_of_ones_own_with_the_name_of_pythons_is_refused(tmp_path, store):
    """Which of the two is imported depends on what was imported before."""
    path = tmp_path / "mine.py"
    path.write_text("import statistics\n" + MINE)
    (tmp_path / "statistics.py").write_text("def mean(values):\n    return 42\n")

    with pytest.raises(UsageError, match=r"imports statistics, and .*statistics.py is beside it. Rename that file"):
        drawn(Request(path, {}, {}, {}), store)


def test_a_file_that_changes_while_the_plan_is_drawn_ends_it(request_, store, monkeypatch):
    """Its stamp is that of the new bytes, and the key that of the old."""
    real = Folder.rows

    def rows(self):
        found = real(self)
        path = Path(found[0].uri)
        path.write_bytes(path.read_bytes() + b"\n")
        return found

    monkeypatch.setattr(Folder, "rows", rows)
    drawn(request_, store)

    assert remembered(request_, store) is None
