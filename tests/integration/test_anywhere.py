"""
The whole way on other machines than its makers': other homes, masks, owners and languages, no zone, no network.
"""

import ctypes
import os
import stat
from pathlib import Path

import pytest

from tests.integration.anywhere import environment, laid_out, rayfield, run_and_ask

ALONE = """
import os, socket

def refused(self, address, real=socket.socket.connect):
    near = self.family == socket.AF_UNIX or address[0] in ("localhost", "::1") or address[0].startswith("127.")
    if not near and address[0] not in os.environ["OWN"].split():
        with open(os.environ["ASKED"], "a", encoding="utf-8") as out:
            out.write(f"{address[0]}\\n")
        raise OSError(101, "Network is unreachable")
    return real(self, address)

socket.socket.connect = refused
"""


def test_a_store_is_named_from_a_folder_with_a_space_and_nobody_has_a_home(tmp_path):
    folder = laid_out(tmp_path / "my work")

    run_and_ask(
        folder, environment(tmp_path, HOME=None, RAYFIELD_CACHE=str(tmp_path / "cache")), "a store", folder / "a.png"
    )

    assert (folder / "a store" / "mlflow.db").is_file()
    assert {path.name for path in folder.iterdir()} == {"a store", "a.png", "shapes", "small.py"}


@pytest.mark.parametrize("mask", [0o077, 0o002], ids=["for oneself", "for a group"])
def test_every_file_of_a_store_has_the_mode_that_the_umask_leaves(tmp_path, mask):
    folder = laid_out(tmp_path / "work")
    run_and_ask(folder, environment(tmp_path), "store", folder / "a.png", umask=mask)

    found = [folder / "store", *(folder / "store").rglob("*")]
    wrong = [
        str(path.relative_to(folder)) for path in found if mode(path) != (0o777 if path.is_dir() else 0o666) & ~mask
    ]
    assert wrong == []


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pipeline_and_its_data_may_lie_in_another_users_folder(tmp_path):
    """Nothing is written beside them; the store and the picture go where the user may write."""
    folder = laid_out(tmp_path / "theirs")
    before = sorted(folder.rglob("*"))
    for path in [folder, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    refused = rayfield(["run", "small.py", "--root", "shapes"], folder, environment(tmp_path), before=as_a_user)
    run_and_ask(folder, environment(tmp_path), str(tmp_path / "store"), tmp_path / "a.png", before=as_a_user)

    assert refused.returncode == 1
    assert "must be writable, but Permission denied. Pass --store" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert sorted(folder.rglob("*")) == before


def as_a_user() -> None:
    """Takes from root, if this is root, the right to write where a mode forbids it."""
    if os.geteuid() == 0:
        CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0


def test_the_language_is_c_and_the_clock_has_no_zone(tmp_path):
    folder = laid_out(tmp_path / "work")

    run_and_ask(folder, environment(tmp_path, LANG="C", TZ=None), "store", folder / "a.png")


def test_the_language_is_turkish_whose_small_i_is_another(tmp_path):
    folder = laid_out(tmp_path / "work")

    run_and_ask(folder, environment(tmp_path, LANG="tr_TR.UTF-8"), "store", folder / "a.png")


def test_there_is_no_network(tmp_path):
    """
    Every Python process refuses what is not this machine, and notes it.

    Ray's dashboard asks what cloud this is, whatever it is told of statistics; it goes without an answer.
    """
    import ray.util

    folder, site = laid_out(tmp_path / "work"), tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ALONE, encoding="utf-8")
    variables = environment(tmp_path, OWN=ray.util.get_node_ip_address(), ASKED=str(tmp_path / "asked"))
    variables["PYTHONPATH"] = f"{site}{os.pathsep}{variables['PYTHONPATH']}"

    run_and_ask(folder, variables, "store", folder / "a.png")

    asked = (tmp_path / "asked").read_text(encoding="utf-8").split() if (tmp_path / "asked").exists() else []
    assert set(asked) <= {"169.254.169.254"}
