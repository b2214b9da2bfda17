"""
Packing: what is sent to a cluster, and what stays at home.
"""

import subprocess
import zipfile
from pathlib import Path

import pytest

from components.errors import UsageError
from pipelines.engine.cluster import packaging
from pipelines.engine.cluster.packaging import listed, pack


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Files to keep, and files that two .gitignores leave out."""
    root = tmp_path / "project"
    for name in ("main.py", "data/small.csv", "data/big.bin", "logs/today.log", "deep/keep.log", "deep/other.log"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text("*.log\n/data/*.bin\nlogs/\n")
    (root / "deep" / ".gitignore").write_text("!keep.log\n")
    return root


KEPT = [".gitignore", "data/small.csv", "deep/.gitignore", "deep/keep.log", "main.py"]


def names(root: Path) -> list[str]:
    return [path.as_posix() for path in listed(root)]


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


def test_what_git_ignores_stays_at_home(project):
    git(project, "init")

    assert names(project) == KEPT


def test_the_same_files_are_found_without_git(project):
    assert names(project) == KEPT


def test_what_is_deleted_and_not_committed_is_not_missed(project):
    git(project, "init")
    git(project, "add", "-A")
    (project / "main.py").unlink()

    assert "main.py" not in names(project)


def test_git_itself_is_never_sent(project):
    (project / ".git").mkdir()  # broken: git refuses it
    (project / ".git" / "config").write_text("")

    assert names(project) == KEPT


def test_a_link_to_a_file_is_sent_and_a_link_to_nowhere_is_not(project):
    (project / "linked.py").symlink_to(project / "main.py")
    (project / "lost.py").symlink_to(project / "nowhere.py")

    assert "linked.py" in names(project)
    assert "lost.py" not in names(project)


def test_what_a_repository_around_it_ignores_stays_at_home(tmp_path, project):
    (tmp_path / ".gitignore").write_text("*.csv\nsecrets/\n")
    (project / "secrets").mkdir()
    (project / "secrets" / "k").write_text("k")
    git(tmp_path, "init")

    assert names(project) == [name for name in KEPT if name != "data/small.csv"]


def test_a_project_that_the_repository_around_it_ignores_is_sent(tmp_path, project):
    (tmp_path / ".gitignore").write_text("project/\n")
    git(tmp_path, "init")

    assert names(project) == KEPT


def test_a_submodule_is_sent_without_what_it_ignores(tmp_path, project):
    other = tmp_path / "other"
    other.mkdir()
    (other / "lib.py").write_text("")
    (other / ".gitignore").write_text("*.tmp\n")
    for words in (["init"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "all"]):
        git(other, *words)
    git(project, "init")
    git(project, "-c", "protocol.file.allow=always", "submodule", "add", str(other), "deep/lib")
    (project / "deep" / "lib" / "new.py").write_text("")
    (project / "deep" / "lib" / "a.tmp").write_text("")

    git(project, "add", "-A")

    own = ["deep/lib/.gitignore", "deep/lib/lib.py"]
    assert names(project) == sorted([*KEPT, ".gitmodules", *own])


def test_what_git_does_not_track_stays_at_home_where_it_tracks_anything(project):
    git(project, "init")
    git(project, "add", "-A")
    (project / "notes.txt").write_text("of mine alone")

    assert names(project) == KEPT


@pytest.mark.parametrize("repository", [True, False], ids=["with git", "without"])
def test_a_link_to_a_folder_is_sent_as_what_lies_there(project, tmp_path, repository):
    (project / "linked").symlink_to("data")
    (project / "deep" / "around").symlink_to("..")
    if repository:
        git(project, "init")
    archive = zipfile.ZipFile(pack(project, tmp_path / "a.zip"))

    assert archive.read("linked/small.csv") == b"data/small.csv"
    assert "linked/big.bin" not in archive.namelist()
    assert [name for name in archive.namelist() if name.startswith("deep/around/")] == [
        f"deep/around/{n}" for n in KEPT
    ]


@pytest.mark.parametrize("repository", [True, False], ids=["with git", "without"])
@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "../outside", "data/big.bin"])
def test_a_link_to_what_stays_at_home_is_refused(project, tmp_path, target, repository):
    (tmp_path / "outside").write_text("not ours")
    (project / "pw").symlink_to(target)
    if repository:
        git(project, "init")

    with pytest.raises(UsageError, match="pw leads to /.* Put a copy in its place, or add the link to .gitignore"):
        pack(project, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_link_that_is_ignored_may_lead_anywhere(project):
    (project / "logs" / "all").symlink_to("/etc")
    git(project, "init")

    assert names(project) == KEPT


def test_the_archive_holds_the_files_and_those_given_names_of_their_own(project, tmp_path):
    other = tmp_path / "mine.py"
    other.write_text("print()")

    archive = zipfile.ZipFile(pack(project, tmp_path / "a.zip", {"mine.py": other}))

    assert sorted(archive.namelist()) == sorted([*KEPT, "mine.py"])
    assert archive.read("mine.py") == b"print()"
    assert archive.read("data/small.csv") == b"data/small.csv"


def test_the_same_files_make_the_same_archive_whenever_they_were_written(project, tmp_path):
    first = pack(project, tmp_path / "a.zip").read_bytes()
    (project / "main.py").touch()

    assert pack(project, tmp_path / "b.zip").read_bytes() == first


def test_another_byte_makes_another_archive(project, tmp_path):
    first = pack(project, tmp_path / "a.zip").read_bytes()
    (project / "main.py").write_text("main.pY")

    assert pack(project, tmp_path / "b.zip").read_bytes() != first


def test_too_much_is_refused_with_the_ten_largest_files(project, tmp_path):
    for number in range(12):
        with (project / f"large-{number}").open("wb") as stream:
            stream.truncate((number + 1) * 2**20 * 2)  # sparse: no byte is written

    with pytest.raises(UsageError) as refused:
        pack(project, tmp_path / "a.zip")

    said = str(refused.value)
    assert "at most 100.0 MiB" in said and "156.0 MiB" in said and ".gitignore" in said
    assert "large-11 (24.0 MiB), large-10 (22.0 MiB)" in said
    assert said.count("large-") == 10 and "large-1 " not in said
    assert not (tmp_path / "a.zip").exists()


def test_just_as_much_as_the_cluster_takes_is_packed(project, tmp_path, monkeypatch):
    size = sum((project / name).stat().st_size for name in KEPT)
    monkeypatch.setattr(packaging, "LIMIT", size)

    assert pack(project, tmp_path / "a.zip").exists()
