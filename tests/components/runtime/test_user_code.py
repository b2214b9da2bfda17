"""
Code of one's own: files that are asked for by their paths.
"""

import os
import sys
from pathlib import Path

import pytest

from components import family, source
from components.errors import UsageError
from components.family import Family
from components.representations.points import Points
from components.runtime.user_code import importing, in_full, loaded, module_of, written

FAMILY = '''
from components.family import Family
from components.representations.points import Points


class {name}(Family):
    width: int = 2
    """channels"""

    def representation(self):
        return Points()
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(FAMILY.format(name="MyNet"))
    (tmp_path / "two.py").write_text(FAMILY.format(name="First") + FAMILY.format(name="Second"))
    (tmp_path / "none.py").write_text("from components.families.shapes.voxnet import VoxNet\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_family_is_found_by_its_file_and_called_as_its_class(folder):
    found = family.find("nets.py")

    assert issubclass(found, Family) and found.__module__ == "rayfield_nets"
    assert found().name == "mynet" and found().representation() == Points()


def test_two_families_of_a_file_are_told_apart(folder):
    assert family.find("two.py:Second")().name == "second"
    assert family.find(f"{folder}/two.py:First")().name == "first"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere.py", "No file nowhere.py. `rayfield new family NAME` writes a family of your own."),
        ("none.py", "none.py defines no family. `rayfield new family NAME` writes one to begin with."),
        ("two.py", "two.py defines several families, First and Second. Say which: two.py:First."),
        ("two.py:Secnd", "two.py has no family 'Secnd'. Did you mean 'Second'? It has First, Second."),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_the_remedy(folder, text, words):
    with pytest.raises(UsageError) as caught:
        family.find(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("import components.ranges", "CHANGELOG.md says what was moved or renamed."),
        ("from components.source import Sauce", "CHANGELOG.md says what was moved or renamed."),
        ("import no_such_package", "Install it, or put it beside the pipeline or on PYTHONPATH."),
    ],
)
def test_an_import_of_what_is_not_there_is_told_with_its_line_and_the_remedy(folder, text, remedy):
    (folder / "late.py").write_text(f"import os\n{text}\n")
    with pytest.raises(
        UsageError, match="late.py, line 2, imports what is not there: .*No module|.*cannot import"
    ) as it:
        loaded(folder / "late.py")
    assert str(it.value).endswith(remedy)


def test_settings_reach_a_family_by_its_class(folder):
    with family.overriding({"mynet": {"width": "7"}}) as met:
        assert family.find("nets.py")().width == 7
    assert met == {("mynet", "width")}

    with importing(folder / "nets.py"):
        kind = family.find("nets.py")
        assert family.called("mynet") is kind
    with pytest.raises(UsageError, match="Family 'mynet' has no field 'wdth'. Did you mean 'width'?"):
        family.read_field(kind, "wdth", "1")


def test_a_source_is_found_by_its_file_with_the_words_of_its_fields(folder):
    (folder / "my scans.py").write_text(
        "from components.sources.folder import Folder\n\n\nclass Scans(Folder):\n    part: int = 1\n"
    )
    name, words = source.worded("my scans.py --root shapes --part 3")

    assert (name, words) == ("my scans.py", ["--root", "shapes", "--part", "3"])
    assert source.find(name, {"root": "shapes", "part": "3"}).part == 3
    assert source.worded("folder --root scans.py") == ("folder", ["--root", "scans.py"])


def test_a_file_of_the_project_is_its_own_module_under_any_path():
    import components.families.shapes.voxnet as module

    assert family.find(os.path.relpath(module.__file__)) is module.VoxNet


def test_a_file_that_is_called_as_a_library_hides_it_from_nobody(folder):
    (folder / "json.py").write_text("VALUE = 1\n")
    (folder / "my-own.py").write_text("import json\nVALUE = json.dumps([])\n")

    assert loaded(folder / "json.py").VALUE == 1
    assert module_of(folder / "my-own.py") == "rayfield_my_own"
    assert loaded(folder / "my-own.py").VALUE == "[]"


def test_a_process_has_a_file_while_it_is_asked_for_and_not_after(folder):
    path = list(sys.path)
    with importing(folder / "nets.py"):
        first = loaded(folder / "nets.py")
        assert loaded(folder / "nets.py") is first is sys.modules["rayfield_nets"]

    assert "rayfield_nets" not in sys.modules and sys.path == path
    assert loaded(folder / "nets.py") is not first


def test_what_a_file_sets_when_it_is_imported_does_not_stay(folder):
    (folder / "sets.py").write_text("import os\nos.environ['LEFT_BEHIND'] = '1'\nos.chdir('/')\n")
    loaded(folder / "sets.py")

    assert "LEFT_BEHIND" not in os.environ and Path.cwd() == folder


def test_two_files_of_one_name_are_refused_and_two_helpers_too(folder):
    for name in ("one", "other"):
        (folder / name).mkdir()
        (folder / name / "net.py").write_text("import beside_me\n")
        (folder / name / "beside_me.py").write_text(f"NAME = {name!r}\n")
    (folder / "other" / "nets.py").write_text("import beside_me\n")

    with pytest.raises(UsageError, match=r"one/net.py and .*other/net.py are both net.py. Rename one."):
        loaded_with(folder / "one" / "net.py", folder / "other" / "net.py")
    with pytest.raises(UsageError, match=r"one/beside_me.py and .*other/beside_me.py do not. Rename one"):
        loaded_with(folder / "one" / "net.py", folder / "other" / "nets.py")
    assert "beside_me" not in sys.modules


def loaded_with(first: Path, second: Path) -> None:
    with importing(first, second):
        loaded(second)


def test_paths_in_a_text_are_made_absolute_where_they_are_files(folder):
    here = os.path.realpath(folder)

    assert in_full("nets.py:MyNet,voxnet,two.py:First") == f"{here}/nets.py:MyNet,voxnet,{here}/two.py:First"
    assert in_full("nowhere.py") == "nowhere.py"
    assert written("folder --root nets.py") == []
