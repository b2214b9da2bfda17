"""
The cache of compiled kernels: what was changed anywhere is compiled anew, and nothing else is.

Each case runs in processes of its own: a process keeps what it has compiled.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from components.kernels.compiled import kernel
from components.runtime import compilation_cache
from components.runtime.compilation_cache import KEPT, folder

ROOT = Path(__file__).resolve().parents[3]
FILES = {
    "rayfield_a.py": """
from components.kernels.compiled import kernel
from rayfield_b import more


@kernel
def scaled(x):
    return more(x) * 2
""",
    "rayfield_b.py": """
from components.kernels.compiled import kernel
from rayfield_c import STEP


@kernel
def more(x):
    return x + STEP
""",
    "rayfield_c.py": "STEP = 1\n",
}
SCRIPT = """
import json, sys
import numpy as np
from rayfield_a import scaled
from rayfield_b import more

arguments = [np.dtype(kind).type(3) for kind in sys.argv[1:]]
if arguments:
    results = [float(scaled(one)) for one in arguments]
    print(json.dumps([results, sum(scaled.stats.cache_hits.values()), sum(scaled.stats.cache_misses.values())]))
"""
COMPILED, LOADED = (0, 1), (1, 0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return written(tmp_path / "home")


def written(home: Path) -> Path:
    home.mkdir()
    for name, text in FILES.items():
        (home / name).write_text(text)
    return home


def begun(home: Path, *kinds: str) -> "subprocess.Popen[str]":
    """A new process that calls the kernel with numbers of these types."""
    path = os.pathsep.join([str(home), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *kinds], env=environment, text=True, stdout=subprocess.PIPE)


def results(process: "subprocess.Popen[str]") -> tuple[list[float], tuple[int, int]]:
    """What the kernel gave, with how many signatures were loaded and how many compiled."""
    said, _ = process.communicate()
    assert process.returncode == 0
    values, hits, misses = json.loads(said)
    return values, (hits, misses)


def run(home: Path, *kinds: str) -> tuple[list[float], tuple[int, int]]:
    return results(begun(home, *kinds))


def test_a_change_in_another_file_is_what_the_next_process_runs(home):
    assert run(home, "f8") == ([8.0], COMPILED)
    (home / "rayfield_b.py").write_text(FILES["rayfield_b.py"].replace("x + STEP", "x - STEP"))
    assert run(home, "f8") == ([4.0], COMPILED)
    (home / "rayfield_c.py").write_text("STEP = 3\n")
    assert run(home, "f8") == ([0.0], COMPILED)


def test_what_is_the_same_is_loaded_from_another_folder_too(home, tmp_path):
    assert run(home, "f8") == ([8.0], COMPILED)
    assert run(home, "f8") == ([8.0], LOADED)
    assert run(written(tmp_path / "other"), "f8") == ([8.0], LOADED)


def test_a_damaged_file_is_compiled_anew(home, tmp_path):
    assert run(home, "f8") == ([8.0], COMPILED)
    for path in (tmp_path / "cache" / "numba" / "kernels").iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    assert run(home, "f8") == ([8.0], COMPILED)
    assert run(home, "f8") == ([8.0], LOADED)


def test_processes_that_compile_other_types_at_once_lose_nothing_and_mix_nothing_up(home):
    kinds = ["f8", "f4", "i8", "i4", "f8"]
    found = [results(one) for one in [begun(home, kind) for kind in kinds]]

    assert [values for values, _ in found] == [[8.0]] * 5
    assert run(home, *kinds[:4]) == ([8.0] * 4, (4, 0))


# Within a process


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(compilation_cache.config, "CACHE_DIR", str(tmp_path / "numba"))
    return tmp_path / "numba" / "kernels"


def test_numbas_own_variable_says_where_the_files_lie(own_folder):
    assert folder() == own_folder


def test_a_kernel_works_where_its_code_cannot_be_kept(own_folder):
    own_folder.parent.mkdir()
    own_folder.write_text("a file")

    @kernel
    def doubled(x):
        return 2 * x

    assert doubled(4) == 8
    assert own_folder.read_text() == "a file"


def test_a_kernel_with_a_constant_that_no_text_describes_is_compiled_in_every_process_and_says_so(own_folder):
    unknown = object()

    @kernel
    def doubled(x):
        return 2 * x

    doubled.py_func.__kwdefaults__ = {"more": unknown}

    with pytest.warns(UserWarning, match=r"compiled once on a machine, but .*doubled is compiled in every process"):
        assert doubled(4) == 8
    assert not own_folder.exists()


def test_files_that_nobody_has_used_for_long_go_when_another_is_written(own_folder):
    own_folder.mkdir(parents=True)
    for name, age in {"old": KEPT + 60, "young": KEPT - 600}.items():
        (own_folder / name).write_text("")
        os.utime(own_folder / name, (time.time() - age,) * 2)

    @kernel
    def doubled(x):
        return 2 * x

    doubled(np.float32(1))
    names = {path.name.partition("-")[0] for path in own_folder.iterdir()}

    assert names == {"young", "doubled"}


def test_a_constant_that_changes_between_two_signatures_is_in_each_as_it_was(own_folder):
    """The second is not kept under the name of the first."""
    factors = np.array([2.0])

    def made():
        @kernel
        def scaled(x):
            return x * factors[0]

        return scaled

    first = made()
    assert first(1.0) == 2.0
    factors[0] = 3.0
    assert first(np.float32(1)) == 3.0

    again = made()
    assert again(np.float32(1)) == 3.0 and again(1.0) == 3.0
    assert (sum(again.stats.cache_hits.values()), sum(again.stats.cache_misses.values())) == (1, 1)
