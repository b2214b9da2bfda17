"""
`make bench` says which system packages it lacks, before a peer ends in a loader's traceback.
"""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks import lacking

LDD = """
	linux-vdso.so.1 (0x00007ffd)
	libusb-1.0.so.0 => not found
	libGL.so.1 => not found
	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)
"""


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that is installed and cannot be loaded, as Open3D on a bare Debian."""
    words = "libusb-1.0.so.0: cannot open shared object file: No such file or directory"
    (tmp_path / "unloadable").mkdir()
    (tmp_path / "unloadable" / "__init__.py").write_text(f"raise OSError({words!r})\n", encoding="utf-8")
    (tmp_path / "unloadable" / "pybind.so").write_bytes(b"\x7fELF")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lacking.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=LDD))
    return "unloadable"


def test_all_libraries_that_a_peer_lacks_are_found_not_only_the_first(peer):
    assert lacking.lacking(["json", peer]) == {peer: ["libGL.so.1", "libusb-1.0.so.0"]}


def test_the_remedy_is_a_line_that_can_be_typed():
    found = {"open3d": ["libGL.so.1", "libusb-1.0.so.0"], "other": ["libnew.so.7"]}

    assert lacking.remedy(found) == (
        "open3d, other cannot be loaded without libGL.so.1, libnew.so.7, libusb-1.0.so.0. "
        "On Debian: apt-get install libgl1 libusb-1.0-0 and what has libnew.so.7"
    )


def test_it_ends_with_an_error_so_that_make_stops(peer, monkeypatch, capsys):
    monkeypatch.setattr(lacking, "lacking", lambda: {peer: ["libusb-1.0.so.0"]})

    assert lacking.main() == 1
    assert capsys.readouterr().err.startswith("make bench: unloadable cannot be loaded without libusb-1.0.so.0.")


def test_a_peer_that_is_not_installed_is_no_missing_library():
    with pytest.raises(ModuleNotFoundError):
        lacking.lacking(["no_such_peer"])


def test_make_asks_before_it_runs_a_benchmark():
    said = subprocess.run(["make", "-n", "bench"], cwd=Path(__file__).parents[1], capture_output=True, encoding="utf-8")
    lines = said.stdout.splitlines()

    assert said.returncode == 0, said.stderr
    asked = next(n for n, line in enumerate(lines) if line.endswith("-m tests.benchmarks.lacking"))
    assert asked < next(n for n, line in enumerate(lines) if line.startswith("for name in tests/benchmarks/"))
