"""
The README's commands as they stand there, with the wheel alone: an empty folder, and no clone to be found.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.engine.cluster.packaging import listed
from tests.integration.anywhere import ROOT, environment
from tests.meshes import write_shapes
from tests.readme import README, blocks
from tests.services.servers import free_port

RUN = {  # command -> what it prints
    "rayfield predict models:/furniture@champion chair.obj": "picture: chair.obj.answer.png",
    "rayfield plan quickstart": "13 of 13 steps would run",
    "rayfield explain quickstart": "preprocess",
    "rayfield doctor": "as constraints.txt says",
    "rayfield status": "Nothing runs",
    "rayfield runs": "quickstart",
    "rayfield show last": "train voxnet",
    "rayfield logs last 'train voxnet' -f": "worker 0   | step 20  val_",
    "rayfield diff RUN RUN": "",
    "rayfield report --open": "report.html",
    "rayfield gc --keep 5 --dry-run": "",
    "rayfield verify": "as it was written",
    "rayfield models list": "furniture",
    "rayfield predict models:/furniture@champion --source folder --root DIR --out answers.parquet": "answers.parquet",
}
SERVED = {  # what stands until it is told to end; the last two are tested in test_registry.py
    "rayfield ui",
    'export MLFLOW_TRACKING_URI="sqlite:///$PWD/.rayfield/mlflow.db"',
    "mlflow models serve -m models:/furniture@champion --env-manager local",
}
SMALL = ("pointnet.steps=20", "pointnet.stored=64", "pointnet.points=32", "voxnet.steps=20", "voxnet.resolution=16")


class Installed(NamedTuple):
    """A folder in which quickstart ran, and the environment that has `rayfield`."""

    folder: Path
    variables: dict[str, str]
    quickstart: str
    """the command of its run, but for the name that it registers by"""

    def runs(self, count: int) -> list[str]:
        """The names of one run or two; the second registers the same by another name."""
        runs = self.folder / ".rayfield" / "runs"
        if len(list(runs.iterdir())) < count:
            assert self.shell(f"{self.quickstart} another").returncode == 0
        return sorted(path.name for path in runs.iterdir())[:count]

    def shell(self, command: str) -> "subprocess.CompletedProcess[str]":
        """A line as a person types it."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            encoding="utf-8",
            timeout=500,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of what git keeps."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in listed(ROOT):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    subprocess.run([*command, str(built), str(source)], check=True)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The programs of an environment in which the wheel lies among all packages of this one.

    They are linked into its own site-packages: what takes the folder of the installed code for the project's would take
    every package for a part of the project.
    """
    home = tmp_path_factory.mktemp("a venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([str(python), "-c", find], text=True).strip())
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("rayfield", "__editable__", "__pycache__")) and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True)
    (home / "bin" / "mlflow").write_text(
        f"#!/bin/sh\nexec '{python}' -m mlflow \"$@\"\n", encoding="utf-8"
    )  # as installers write it
    (home / "bin" / "mlflow").chmod(0o755)
    return home / "bin"


@pytest.fixture(scope="module")
def installed(bin_: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An empty folder but for some shapes, after a small quickstart."""
    folder = tmp_path_factory.mktemp("an empty folder")
    variables = environment(tmp_path_factory.mktemp("user"), PYTHONPATH=None, BROWSER="true")
    variables["PATH"] = f"{bin_}{os.pathsep}{variables['PATH']}"
    write_shapes(folder / "shapes", each=8)
    shutil.copy(folder / "shapes" / "flat" / "0.obj", folder / "chair.obj")
    fields = " ".join(f"--set {field}" for field in SMALL)
    made = Installed(
        folder, variables, f"rayfield run quickstart --source folder --root shapes --trials 1 {fields} --name"
    )
    ran = made.shell(f"{made.quickstart} furniture")
    assert ran.returncode == 0, ran.stderr
    assert "is champion" in ran.stdout
    return made


def test_no_clone_is_found(installed):
    told = installed.shell("python -c 'import components, sys; print(components.__file__); print(sys.path)'")

    assert "rayfield_project" in told.stdout
    assert str(ROOT) not in told.stdout


def test_the_wheel_gives_a_step_the_key_that_the_clone_gives_it(installed, tmp_path):
    """What was made with one is kept with the other."""
    words = ["plan", "quickstart", "--store", str(tmp_path / "store"), "--json"]
    command = [sys.executable, "-m", "pipelines", *words]
    clone = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=True).stdout
    wheel = installed.shell(f"rayfield {' '.join(words)}").stdout

    keys = [{step["step"]: step["key"] for step in json.loads(said)["steps"]} for said in (wheel, clone)]
    assert len(keys[0]) == 13
    assert keys[0] == keys[1]


def test_the_wheel_has_the_bundled_furniture(installed):
    code = (
        "from components.sources.furniture import Furniture; s = Furniture(); print(len(s.open(s.rows()[0]).faces) > 9)"
    )

    assert installed.shell(f'python -c "{code}"').stdout == "True\n"


@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_readme_works(installed, command):
    words = command.replace("DIR", "shapes")
    for run in installed.runs(command.count("RUN")):
        words = words.replace("RUN", run, 1)
    told = installed.shell(words)

    assert told.returncode == 0, told.stderr
    assert RUN[command] in told.stdout + told.stderr
    assert "Nothing was printed" not in told.stderr


@pytest.mark.parametrize(
    "command", [c for b in blocks(README.read_text("utf-8")) if "planned" in b.mark for c in b.commands]
)
def test_a_command_of_the_readme_that_takes_minutes_is_planned(installed, command):
    told = installed.shell(command.replace("rayfield run", "rayfield plan").replace("DIR", "shapes"))

    assert command.startswith("rayfield run")
    assert told.returncode == 0, told.stderr
    assert "13 of 13 steps would run" in told.stdout + told.stderr


def test_rayfield_ui_shows_mlflows_pages(installed):
    port = free_port()
    server = subprocess.Popen(
        ["bash", "-c", f"exec rayfield ui --port {port}"], cwd=installed.folder, env=installed.variables
    )
    try:
        assert b"<title>MLflow</title>" in opened(f"http://127.0.0.1:{port}", server)
    finally:
        server.terminate()
        server.wait(60)


def opened(url: str, server: "subprocess.Popen[bytes]") -> bytes:
    """A page, as soon as its server has it."""
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        try:
            return urllib.request.urlopen(url, timeout=30).read()
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not answer")
