"""
What an installed copy does without its repository, and what it says of the rest.
"""

import subprocess
from pathlib import Path

import pytest

from components.errors import UsageError
from pipelines.engine.store import run_record
from pipelines.engine.store.store import Store
from pipelines.zoo import certificate, scaffold
from pipelines.zoo.catalog import exemption


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy without the repository around it."""
    for module in (certificate, run_record, scaffold):
        monkeypatch.setattr(module, "ROOT", tmp_path / "copy")
    (tmp_path / "copy" / "components" / "families").mkdir(parents=True)
    return tmp_path / "copy"


def test_what_is_new_is_a_file_of_ones_own_outside_a_clone(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert scaffold.write("family", "mean_field").paths == ("mean_field.py",)
    assert list(installed.rglob("*.py")) == []


def test_a_family_is_certified_in_a_clone_alone_which_is_said_before_anything_runs(installed, own_store):
    with pytest.raises(UsageError, match="`rayfield certify` works in a clone, .*test_every_family.py"):
        certificate.certify("voxnet", Store.here(), None)
    assert not own_store.exists()


def test_a_family_of_ones_own_has_no_certificate_and_it_is_said_what_measures_it(own_store):
    with pytest.raises(UsageError, match=r"mine.py is your own. `rayfield run certify --family mine.py` measures it"):
        certificate.certify("mine.py", Store.here(), None)
    assert exemption("mynet", 6) == ""


def test_a_run_is_not_of_the_commit_of_a_repository_around_an_installed_copy(installed):
    """A user's own environment often lies in a folder that git knows."""
    git = ["git", "-C", str(installed.parent), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)

    assert run_record.commit() == ""
