"""
What strangers send is never run, and what runs here is not offered to strangers.
"""

import ast
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.errors import DataError
from components.runtime import archives
from components.runtime.archives import member_of_ar, read_member, tar_members, unxz
from components.runtime.serialization import decode
from components.sources.furniture import unpack
from components.sources.sweethome3d import catalogue
from pipelines.cli.main import main
from pipelines.engine.execution.executors import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "components/runtime/compilation_cache.py": {"pickle"},  # machine code, in this user's own cache, as numba keeps its
    "pipelines/inference/predict.py": {
        "cloudpickle"
    },  # tells Ray's pickler what to send by value: nothing of it is read
    "components/steps/ray_workers.py": {"cloudpickle"},  # Ray's own, from worker to driver: nothing of it is stored
    "components/metrics/extractors.py": {"torch.load"},  # a pinned package's file, and its tensors alone
}
RUNS_WHAT_IT_READS = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"),
    *("jsonpickle", "pandas.read_pickle", "torch.load", "torch.hub", "mlflow.pytorch", "mlflow.sklearn"),
}


def project() -> Iterator[Path]:
    for folder in ("components", "pipelines", "infra"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# No pickle


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def suspicious(code: str) -> set[str]:
    """What a text of code names that would run what it reads."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names = {dotted(node)}
        elif isinstance(node, ast.Call):
            function = dotted(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            pickles = given.get("allow_pickle")
            if pickles is not None and not (isinstance(pickles, ast.Constant) and pickles.value is False):
                found.add("allow_pickle")
            if function == "torch.load" and ast.dump(given.get("weights_only", node)) != ast.dump(ast.Constant(True)):
                found.add("torch.load of more than weights")
            if function in ("eval", "exec") or function.endswith("Tuner.restore"):
                found.add(function)
        for name in names:
            parts = name.split(".")
            found |= {bad for bad in RUNS_WHAT_IT_READS if bad in parts or f"{name}.".startswith(f"{bad}.")}
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=trusted)",
        "from ray import cloudpickle",
        "from ray import tune\ntune.Tuner.restore('x')",
        "eval('1')",
    ],
)
def test_the_search_finds_what_it_is_for(code):
    assert suspicious(code)


def test_torch_that_loads_more_than_weights_is_found_wherever_it_is():
    assert suspicious("torch.load('x', weights_only=True)") == {"torch.load"}
    assert "torch.load of more than weights" in suspicious("torch.load('x', weights_only=False)")
    assert "torch.load of more than weights" in suspicious("torch.load('x')")


def test_numpy_without_pickle_is_no_find():
    assert not suspicious("import numpy as np\nnp.load('x', allow_pickle=False)\nnet.eval()\ntorch.load_library")


def test_nothing_that_is_read_is_run():
    """Not from a store, not from a registry, not from a data set: JSON, safetensors and Parquet alone."""
    found = {name_of(path): suspicious(path.read_text()) for path in project()}

    assert {path: names for path, names in found.items() if names - ALLOWED.get(path, set())} == {}


def test_mlflow_is_told_to_load_no_pickle():
    assert SETTINGS["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "components.runtime.objects:keep", "components.steps.train:run_worker"]
)
def test_a_manifest_makes_dataclasses_of_this_project_and_calls_nothing(name):
    with pytest.raises(DataError, match="A manifest may name"):
        decode({"@": name, "args": "true"})


# Archives


def ar(members: dict[str, bytes]) -> bytes:
    found = b"!<arch>\n"
    for name, data in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        found += header.encode() + data + b"\n" * (len(data) % 2)
    return found


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def deb(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return ar({"debian-binary": b"2.0\n", "data.tar.xz": lzma.compress(tar(*members))})


def test_a_package_is_unpacked_by_the_last_part_of_its_names(tmp_path):
    unpack(deb((tarfile.TarInfo("./usr/share/Scopia.sh3f"), b"furniture")), tmp_path / "data")

    assert [path.name for path in (tmp_path / "data").iterdir()] == ["Scopia.sh3f"]


@pytest.mark.parametrize(
    "member",
    [
        (tarfile.TarInfo("../../evil.sh3f"), b"x"),
        (tarfile.TarInfo("/etc/evil.sh3f"), b"x"),
        link("usr/evil.sh3f", "/etc/passwd"),
        link("usr/evil.sh3f", "../../../etc/passwd"),
        link("usr/evil.sh3f", "usr/other", tarfile.LNKTYPE),
    ],
    ids=["climbs", "absolute", "symbolic link", "climbing link", "hard link"],
)
def test_a_package_that_reaches_out_of_its_folder_is_refused(tmp_path, member):
    with pytest.raises(DataError, match="evil.sh3f"):
        unpack(deb(member), tmp_path / "data")

    assert list(tmp_path.rglob("*")) == []


def test_a_package_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST", 1 << 20)
    bomb = deb((tarfile.TarInfo("bomb.sh3f"), bytes(8 << 20)))
    assert len(bomb) < 10_000

    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        unpack(bomb, tmp_path / "data")
    assert list(tmp_path.rglob("*")) == []


def test_the_limit_is_reached_before_the_memory_is():
    """Decompressing stops at the limit: what lies behind it is never made."""
    assert len(unxz(lzma.compress(bytes(1000)), most=1000)) == 1000
    with pytest.raises(DataError, match="unpacks to more than"):
        unxz(lzma.compress(bytes(1001)), most=1000)


@pytest.mark.parametrize(
    "package",
    [
        b"",
        b"!<arch>\n",
        b"not an archive at all",
        ar({"debian-binary": b"2.0\n"}),
        ar({"data.tar.xz": b"no xz"}),
        ar({"data.tar.xz": lzma.compress(b"no tar")}),
        ar({"data.tar.xz": lzma.compress(bytes(5000))})[:100],
        ar({"data.tar.xz": b"x"}).replace(b"1         `", b"-60       `"),
        ar({"data.tar.xz": b"x"}).replace(b"1         `", b"many      `"),
    ],
    ids=["empty", "no member", "no ar", "no data", "no xz", "no tar", "cut short", "negative size", "no size"],
)
def test_a_package_that_is_none_is_refused(tmp_path, package):
    with pytest.raises(DataError):
        unpack(package, tmp_path / "data")


def test_a_member_of_a_zip_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.obj", bytes(4 << 20))
        archive.writestr("small.obj", b"v 0 0 0")
    with zipfile.ZipFile(path) as archive:
        assert read_member(archive, "small.obj", most=1 << 20) == b"v 0 0 0"
        with pytest.raises(DataError, match="bomb.obj unpacks to more than 1 MiB"):
            read_member(archive, "bomb.obj", most=1 << 20)


def test_a_zip_that_lies_of_a_members_size_gives_no_more_than_it_says(tmp_path):
    """The size that is checked is the one that reading stops at."""
    path = tmp_path / "lies.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.obj", bytes(4 << 20))
    true, said = (4 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(true, said))
    with zipfile.ZipFile(path) as archive, pytest.raises((DataError, zipfile.BadZipFile)):
        read_member(archive, "bomb.obj", most=1 << 20)


def test_every_archive_is_read_through_the_checks():
    """Whoever opens a zip, a tar or a stream of xz does it in archives.py, or reads members through it."""
    asking = {"extractall", "extract", "unpack_archive", "lzma.decompress", "gzip.decompress", "zlib.decompress"}
    found = {}
    for path in project():
        calls = {dotted(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)}
        found[name_of(path)] = {call for call in calls if call in asking or call.rpartition(".")[2] in asking}

    assert {path: calls for path, calls in found.items() if calls} == {}


def test_ar_and_tar_give_what_is_in_them():
    assert member_of_ar(ar({"a": b"odd", "data.tar.xz": b"xyz"}), "data.tar") == b"xyz"
    inside = (tarfile.TarInfo("usr/a.sh3f"), b"a"), (tarfile.TarInfo("usr/b.txt"), b"b")
    assert dict(tar_members(tar(*inside), ".sh3f")) == {"a.sh3f": b"a"}


def test_a_catalogue_without_its_file_is_refused(tmp_path):
    for name in catalogue.LIBRARIES:
        with zipfile.ZipFile(tmp_path / f"{name}.sh3f", "w") as archive:
            archive.writestr("something.else", b"")

    with pytest.raises(DataError, match="has no PluginFurnitureCatalog.properties"):
        catalogue.pieces(tmp_path)


# Services


def test_pages_are_served_to_this_machine_alone(monkeypatch):
    started: list[list[str]] = []
    monkeypatch.setattr("os.execvp", lambda name, command: started.append(command))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////tmp/none/mlflow.db")
    CliRunner().invoke(main, ["ui"], catch_exceptions=False)

    assert started[0][started[0].index("--host") + 1] == "127.0.0.1"


def test_unless_told_otherwise(monkeypatch):
    started: list[list[str]] = []
    monkeypatch.setattr("os.execvp", lambda name, command: started.append(command))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////tmp/none/mlflow.db")
    result = CliRunner().invoke(main, ["ui", "--host", "0.0.0.0"], catch_exceptions=False)

    assert started[0][started[0].index("--host") + 1] == "0.0.0.0"
    assert "asks nobody who they are" in result.stderr


def test_nothing_listens_on_every_address_by_itself():
    """Neither a default nor a constant of the programs says so; what is written for containers does."""
    places = [p for p in project() if not name_of(p).startswith("infra")]

    assert [name_of(path) for path in places if "0.0.0.0" in path.read_text()] == [
        "pipelines/engine/cluster/kubernetes.py"
    ]


def test_nothing_turns_rays_tokens_off():
    assert "RAY_AUTH_MODE" not in SETTINGS
    assert [name_of(p) for p in project() if "disabled" in p.read_text() and "AUTH" in p.read_text()] == []
