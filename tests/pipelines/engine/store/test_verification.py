"""
Damage: whatever byte of a store a disk changes is found, and what a run can make anew it makes anew.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from components.runtime import objects
from components.runtime.objects import digest_of
from components.training.checkpoint import Checkpoints
from pipelines.cli.main import main
from pipelines.engine.execution import driver
from pipelines.engine.execution.executors import Here
from pipelines.engine.store import store as store_module
from pipelines.engine.store.store import Store
from pipelines.engine.store.verification import ANEW, DRAWN, verify
from tests.pipelines.engine.toys import ran

SAYING = '''
from pipelines.engine.pipeline import pipeline
from tests.pipelines.engine.toys import drawn, keeping, number, read, talk, unread


@pipeline
def saying(value: int = 1):
    """Says everything that a step can say."""
    drawn()
    talk()
    unread()
    number(value)
    read(keeping(words="other words"))
'''


@pytest.fixture
def store(own_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """One in which a pipeline has run, without MLflow."""
    monkeypatch.setattr(driver, "OnRay", Here)
    monkeypatch.setattr(driver.Tracker, "start", lambda self: None)
    monkeypatch.setattr(driver.Tracker, "finish", lambda self: "")
    (tmp_path / "saying.py").write_text(SAYING)
    assert run(tmp_path).exit_code == 0
    return Store(str(own_store))


def run(folder: Path, *words: str) -> Result:
    """The pipeline once more, by a process that remembers nothing."""
    objects._verified.clear()
    store_module._heard.clear()
    return CliRunner().invoke(main, ["run", str(folder / "saying.py"), *words])


def statuses(folder: Path, *words: str) -> dict[str, str]:
    return {row["step"]: row["status"] for row in json.loads(run(folder, "--json", *words).stdout)}


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file, as a disk does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def file_of(store: Store, step: str, pick: Callable[[dict[str, Any]], Any]) -> Path:
    """The object that a step's manifest names."""
    manifests = [store.manifest(name.removesuffix(".json")) for name in store.names("keys")]
    (manifest,) = [one for one in manifests if one and one["title"] == step]
    return Path(store.address) / objects.where(pick(manifest)["digest"])


def kept(store: Store) -> list[Path]:
    """Every file that has a digest or a seal."""
    root = Path(store.address)
    found = [p for folder in ("objects", "keys", "plans", "runs") for p in (root / folder).rglob("*") if p.is_file()]
    return sorted(path for path in found if path.suffix != ".html")


def test_whichever_file_a_disk_has_changed_is_found_and_no_other(store):
    """One after the other, each put back afterwards."""
    assert verify(store).damaged == []
    for path in kept(store):
        whole, name = path.read_bytes(), str(path.relative_to(store.address))
        manifests = {p: p.read_bytes() for p in (Path(store.address) / "keys").iterdir()}
        flip(path)

        assert [one.name for one in verify(store).damaged] == [name]
        for place, data in {**manifests, path: whole}.items():
            place.write_bytes(data)
    assert verify(store).damaged == []
    assert {path.relative_to(store.address).parts[0] for path in kept(store)} == {"objects", "keys", "plans", "runs"}
    for folder in ("events", "logs", "ledger", "files", "spent"):
        assert list((Path(store.address) / "runs").glob(f"*/{folder}/*")), f"the run has no {folder}"


@pytest.mark.parametrize("harm", ["changed", "gone"])
@pytest.mark.parametrize(
    ("step", "pick"),
    [
        ("drawn", lambda manifest: manifest["files"][0]),
        ("talk", lambda manifest: manifest["files"][0]),
        ("unread", lambda manifest: manifest["result"]["quarantine"]),
        ("keeping", lambda manifest: manifest["result"]),
    ],
    ids=["a figure", "a file", "a quarantine list", "a result"],
)
def test_verify_has_the_next_run_make_anew_what_is_damaged_or_gone(store, tmp_path, step, pick, harm):
    path = file_of(store, step, pick)
    whole = path.read_bytes()
    flip(path) if harm == "changed" else path.unlink()
    (damage,) = verify(store).damaged

    assert damage.name == str(path.relative_to(store.address))
    assert damage.what.endswith(f"of {step} is {'damaged' if harm == 'changed' else 'gone'}")
    assert damage.remedy == ANEW
    assert [name for name, status in statuses(tmp_path).items() if status == "done"] == [step]
    assert path.read_bytes() == whole
    assert verify(store).damaged == []


def test_a_damaged_manifest_is_made_anew_and_a_damaged_plan_drawn(store, tmp_path):
    (plan,) = (Path(store.address) / "plans").iterdir()
    (manifest, *_) = sorted((Path(store.address) / "keys").iterdir())
    flip(plan), flip(manifest)

    assert {one.remedy for one in verify(store).damaged} == {ANEW, DRAWN}
    assert list(statuses(tmp_path).values()).count("done") == 1
    assert verify(store).damaged == []


def test_a_run_with_nothing_to_do_makes_anew_what_it_shows_and_finds_damaged(store, tmp_path):
    """It reads the list of what is in quarantine, and no other object: all of a store is for `verify`."""
    flip(file_of(store, "unread", lambda manifest: manifest["result"]["quarantine"]))

    assert statuses(tmp_path) == {
        "drawn": "cached",
        "talk": "cached",
        "unread": "done",
        "number": "cached",
        "keeping": "cached",
        "read": "cached",
    }


def test_a_run_makes_anew_the_figure_that_its_report_would_show_damaged(store, tmp_path):
    path = file_of(store, "drawn", lambda manifest: manifest["files"][0])
    whole = path.read_bytes()
    flip(path)
    done = [name for name, status in statuses(tmp_path, "--value", "2").items() if status == "done"]

    assert done == ["drawn", "number"]
    assert path.read_bytes() == whole


def test_a_step_that_needs_what_is_damaged_has_it_made_anew(store, tmp_path):
    """Of the same size, so that no look at the sizes of a step's objects tells."""
    flip(file_of(store, "keeping", lambda manifest: manifest["result"]))
    (manifest,) = [n for n in store.names("keys") if store.manifest(n.removesuffix(".json"))["title"] == "read"]
    store.delete(f"keys/{manifest}")

    assert {name for name, status in statuses(tmp_path).items() if status == "done"} == {"keeping", "read"}
    assert ran("keeping") == 2


def test_a_report_shows_no_damaged_figure_says_so_and_the_next_run_draws_it_anew(store, tmp_path):
    path = file_of(store, "drawn", lambda manifest: manifest["files"][0])
    flip(path)
    damaged = CliRunner().invoke(main, ["report"])
    page = Path(damaged.stdout.strip()).read_text()

    assert damaged.exit_code == 1
    assert f"The object {path.name} (map.png) was damaged in {store.address}" in damaged.stderr
    assert "data:image/png" not in page
    assert path.name in page
    assert [name for name, status in statuses(tmp_path).items() if status == "done"] == ["drawn"]
    again = CliRunner().invoke(main, ["report"])
    assert again.exit_code == 0
    assert "data:image/png" in Path(again.stdout.strip()).read_text()


def test_lines_that_are_damaged_are_left_out_and_this_is_said(store):
    folder = next((Path(store.address) / "runs").iterdir())
    said = [p for p in (folder / "events").rglob("*.jsonl") if '"depth"' in p.read_text()]
    printed = [p for p in (folder / "logs").rglob("*.txt") if "words that are printed" in p.read_text()]
    for path in (*said, *printed):
        flip(path)
    shown = CliRunner().invoke(main, ["logs", "last", "talk"]).stdout
    page = Path(CliRunner().invoke(main, ["report"]).stdout.strip()).read_text()

    assert said and printed
    assert "words that are printed" not in shown
    assert "what was printed here is damaged in the store, and is left out" in shown
    assert "part of what it said is damaged, and is left out" in page


def test_a_checkpoint_of_a_training_under_way_is_looked_at(store):
    folder = Path(store.address) / "scratch" / "some-key"
    Checkpoints(str(folder)).add(3, {"state": ("state-3.safetensors", b"weights"), "log": ("log-3.json", b"{}")})
    assert verify(store).damaged == []
    flip(folder / "state-3.safetensors")

    assert [one.name for one in verify(store).damaged] == ["scratch/some-key/state-3.safetensors"]


def test_an_object_that_no_manifest_names_is_named_all_the_same(store):
    path = Path(store.address) / objects.where(digest_of(b"left by a step that failed"))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"something else")
    (damage,) = verify(store).damaged

    assert damage.what == "it is damaged, and no manifest names it"
    assert not path.exists()


def test_a_store_in_which_nothing_is_is_none(tmp_path):
    said = CliRunner().invoke(main, ["verify", "--store", str(tmp_path / "mistyped")])

    assert said.exit_code == 2 and "nothing was ever written to" in said.stderr


def test_the_command_says_what_is_damaged_and_what_to_do(store):
    whole = CliRunner().invoke(main, ["verify"])
    path = file_of(store, "keeping", lambda manifest: manifest["result"])
    flip(path)
    said = CliRunner().invoke(main, ["verify"])
    after = CliRunner().invoke(main, ["verify", "--json"])

    assert whole.exit_code == 0
    assert "all as it was written" in whole.stdout
    assert said.exit_code == 1
    assert f"objects/{path.parent.name}/{path.name}: words.txt of keeping is damaged; {ANEW}" in said.stdout
    assert after.exit_code == 0, "what is set aside is not found again"
    assert json.loads(after.stdout)["damaged"] == []


def test_it_imports_neither_torch_nor_ray_nor_mlflow(store):
    code = "import sys\nfrom pipelines.engine.store.store import Store\n"
    code += "from pipelines.engine.store.verification import verify\n"
    code += "verify(Store.here())\nprint(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))

    assert ended.stdout == "[]\n", ended.stderr
